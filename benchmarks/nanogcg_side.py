"""nanoGCG's side of ``gcg_speed.py``, which runs it in an environment of its own: options in, steps out, as JSON.

Seconds are of the processor, from the first line of ``GCG.run``; what its constructor does is not counted.
"""

from __future__ import annotations

import importlib
import json
import logging
import sys
import time
from contextlib import suppress
from typing import Any

import torch


class Over(Exception):
    """The time is over."""


def run(options: dict[str, Any]) -> dict[str, Any]:
    transformers = importlib.import_module("transformers")
    nanogcg = importlib.import_module("nanogcg.gcg")
    torch.set_num_threads(options["threads"])
    tokenizer = transformers.AutoTokenizer.from_pretrained(options["model"])
    tokenizer.bos_token = None  # else it is taken out of the template, where it opens every turn
    model = transformers.AutoModelForCausalLM.from_pretrained(options["model"], torch_dtype=torch.float32).eval()
    steps: list[dict[str, Any]] = []
    counted = {"candidates": 0, "began": 0.0}

    class Counting(nanogcg.GCG):
        def _compute_candidates_loss_original(self, search_batch_size: int, input_embeds: Any) -> Any:
            counted["candidates"] += input_embeds.shape[0]
            return super()._compute_candidates_loss_original(search_batch_size, input_embeds)

    def record(buffer: Any, tokenizer: Any) -> None:
        """Called at the end of every step, and once before the first."""
        seconds = time.process_time() - counted["began"]
        suffix = tokenizer.decode(buffer.get_best_ids()[0])
        row = {"loss": float(buffer.get_lowest_loss()), "suffix": suffix, "candidates": counted["candidates"] - 1}
        steps.append({"seconds": seconds, **row})
        if seconds > options["seconds"]:
            raise Over

    nanogcg.AttackBuffer.log_buffer = record
    given = {"seed": options["seed"], "num_steps": options["steps"], "verbosity": "ERROR"}
    config = nanogcg.GCGConfig(
        search_width=options["width"], batch_size=options["batch"], topk=options["top_k"], **given
    )
    attack = Counting(model, tokenizer, config)
    counted["began"] = time.process_time()
    with suppress(Over):
        attack.run(options["request"], options["target"])
    return {"steps": steps, "transformers": transformers.__version__}


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    print(json.dumps(run(json.loads(sys.argv[1]))))
