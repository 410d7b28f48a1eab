"""What the guard costs when it never fires, against the same answers unguarded, paired in one run.

    python benchmarks/guard_overhead.py                            # pocket, and check cost by context on a tiny model
    python benchmarks/guard_overhead.py --architectures steps      # pocket, single steps: for machines that scatter
    python benchmarks/guard_overhead.py --architectures settings   # pocket, by number of vectors and by interval
    python benchmarks/guard_overhead.py --architectures 7b         # LLaVA-1.5-7B and Qwen2-VL-7B, random weights (GPU)

``original style``: like the method's published code, every 16 tokens a forward pass over everything so far, without
the cache and with the hidden states of all layers.
"""

from __future__ import annotations

import gc
import statistics

import torch
from common import figure, finish, paired, parser, ratio
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, LlamaConfig, LlavaConfig, Qwen2VLConfig

from safety_reminder.config import GuardConfig
from safety_reminder.guard import Probe, SafetyReminder, guarded_decoding
from safety_reminder.models.context import Runner, prepare

INTERVAL, K = 16, 4


def silent_reminder(model, k: int = K) -> SafetyReminder:
    size = model.get_input_embeddings().weight.shape[1]
    vectors = 0.02 * torch.randn(k, size, generator=torch.Generator().manual_seed(0))
    return SafetyReminder(vectors, Probe(torch.zeros(size), -20.0))


def measure(model, inputs, *, tokens: int, runs: int, original: bool) -> dict[str, list[float]]:
    options = {"max_new_tokens": tokens, "do_sample": False, "eos_token_id": None}
    reminder = silent_reminder(model)

    def generate(**guard):
        method = (
            guarded_decoding(reminder, GuardConfig(interval=INTERVAL, **guard)) if guard else guarded_decoding(None)
        )
        return lambda: model.generate(**inputs, custom_generate=method, **options)

    def in_the_original_style():
        ids = generate()()
        length = inputs["input_ids"].shape[1]
        # The image is read again too. The reminder's own positions are left out, which only favours this side.
        images = {k: v for k, v in inputs.items() if k not in ("input_ids", "attention_mask", "mm_token_type_ids")}
        with torch.no_grad():
            for end in range(length + INTERVAL, length + tokens + 1, INTERVAL):
                model(input_ids=ids[:, :end], use_cache=False, output_hidden_states=True, logits_to_keep=1, **images)

    tasks = {
        "unguarded": generate(),
        "fused": generate(mode="fused"),
        "with a prompt check": generate(mode="fused", prompt_check=True),
        "exact": generate(mode="exact"),
    }
    if original:
        tasks["original style"] = in_the_original_style
    return paired(tasks, runs)


def report(name: str, seconds: dict[str, list[float]], figures: dict) -> None:
    for mode in list(seconds)[1:]:
        figures[f"{name}: {mode} / unguarded"] = ratio(seconds, mode, "unguarded")
    figures[f"{name}: unguarded seconds"] = figure(statistics.median(seconds["unguarded"]), seconds["unguarded"])


def pocket_inputs():
    """Pocket, and one harmless request of about 300 tokens."""
    from safety_reminder.data.benchmarks.typographic import PROMPT, render
    from safety_reminder.models import load_vlm

    vlm = load_vlm("pocket")
    padding = " Please answer in a friendly and helpful way, and keep every item short and clear." * 5
    messages = [
        {
            "role": "user",
            "content": [
                {"type": "image", "image": render("Steps to bake bread.")},
                {"type": "text", "text": PROMPT + padding},
            ],
        }
    ]
    return vlm.model, vlm.encode([messages])


def pocket(figures: dict, runs: int, tokens: int) -> None:
    model, inputs = pocket_inputs()
    print(f"pocket: prompt of {inputs['input_ids'].shape[1]} tokens, {tokens} new ones")
    report("pocket", measure(model, inputs, tokens=tokens, runs=runs, original=True), figures)


def settings(figures: dict, runs: int, tokens: int) -> None:
    """Fused checks, by number of vectors and by interval, all in one paired run."""
    model, inputs = pocket_inputs()
    options = {"max_new_tokens": tokens, "do_sample": False, "eos_token_id": None}
    methods = {"unguarded": guarded_decoding(None)}
    for k, interval in ((1, 16), (2, 16), (4, 16), (8, 16), (4, 8), (4, 32)):
        guard = GuardConfig(interval=interval, mode="fused")
        methods[f"k {k}, interval {interval}"] = guarded_decoding(silent_reminder(model, k), guard)
    seconds = paired(
        {n: lambda m=m: model.generate(**inputs, custom_generate=m, **options) for n, m in methods.items()}, runs
    )
    for name in list(methods)[1:]:
        figures[f"pocket, {name}: fused / unguarded"] = ratio(seconds, name, "unguarded")


def paired_steps(model, inputs, runs: int) -> dict[str, list[float]]:
    """Decode steps that carry a check, and plain ones, in turn over one cache."""
    runner, vectors, token = Runner(model), silent_reminder(model).vectors, torch.tensor([[7]])
    with torch.no_grad():
        context, _ = runner.prefill(*prepare(model, inputs), roll_back=True)

        def step(*, reminder: bool) -> None:
            runner.append(context, token, vectors if reminder else None)
            context.crop(1 + K * reminder)

        return paired({"checked": lambda: step(reminder=True), "plain": lambda: step(reminder=False)}, runs)


def pocket_steps(figures: dict, runs: int) -> None:
    """What checks every 16 tokens cost, from pairs of single steps, which leave a noisy machine less time to change."""
    seconds = paired_steps(*pocket_inputs(), 20 * runs)
    both = ratio(seconds, "checked", "plain")
    figures["pocket: step with check / plain step"] = both
    every = [(INTERVAL - 1 + pair) / INTERVAL for pair in both["runs"]]
    figures["pocket: fused / unguarded, from single steps"] = figure(statistics.median(every), every)
    figures["pocket: plain step, ms"] = figure(1000 * statistics.median(seconds["plain"]))


def context_lengths(figures: dict, lengths: list[int], runs: int) -> None:
    """A decode step that carries a check, against a plain one, by context length, on a small Llama.

    Any step attends to the whole context and so costs more in a longer one; what a check adds must not.
    """
    config = LlamaConfig(
        hidden_size=256, intermediate_size=688, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=4,
        vocab_size=1024, max_position_embeddings=32_768,
    )  # fmt: skip
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    first = None
    for length in lengths:
        ids = torch.randint(3, 1000, (1, length), generator=torch.Generator().manual_seed(0))
        seconds = paired_steps(model, {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, 10 * runs)
        both = ratio(seconds, "checked", "plain")
        first = first or both["value"]
        figures[f"step with check / plain step, {length} tokens"] = both
        figures[f"... relative to {lengths[0]} tokens, {length}"] = figure(both["value"] / first)
        figures[f"plain step, {length} tokens: ms"] = figure(1000 * statistics.median(seconds["plain"]))


def large(figures: dict, runs: int, tokens: int, device: str) -> None:
    """The 7B architectures with random weights: speed does not depend on what they say."""
    for name, config in (("LLaVA-1.5-7B", LlavaConfig()), ("Qwen2-VL-7B", qwen2_vl_7b())):
        with torch.device(device):
            model = AutoModelForImageTextToText.from_config(config, dtype=torch.bfloat16).eval()
        for batch in (1, 16):
            ids = torch.randint(3, 1000, (batch, 600), device=device)
            inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
            seconds = measure(model, inputs, tokens=tokens, runs=runs, original=True)
            report(f"{name}, batch {batch}", seconds, figures)
        del model
        gc.collect()
        torch.cuda.empty_cache()


def qwen2_vl_7b() -> Qwen2VLConfig:
    # The published model's sizes; the configuration class's own defaults are those of the 72B model.
    text = {
        "hidden_size": 3584, "intermediate_size": 18_944, "num_hidden_layers": 28, "num_attention_heads": 28,
        "num_key_value_heads": 4, "vocab_size": 152_064,
        "rope_parameters": {"rope_type": "default", "mrope_section": [16, 24, 24], "rope_theta": 1_000_000.0},
    }  # fmt: skip
    return Qwen2VLConfig(text_config=text, vision_config={"hidden_size": 3584})


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--architectures", choices=["small", "steps", "settings", "7b"], default="small")
    options.add_argument("--runs", type=int, default=5)
    options.add_argument("--tokens", type=int, default=128)
    options.add_argument("--contexts", type=int, nargs="+", default=[256, 1024, 4096, 16_384])
    arguments = options.parse_args()
    torch.set_num_threads(arguments.threads)
    figures: dict = {}
    if arguments.architectures == "small":
        pocket(figures, arguments.runs, arguments.tokens)
        context_lengths(figures, arguments.contexts, arguments.runs)
    elif arguments.architectures == "steps":
        pocket_steps(figures, arguments.runs)
    elif arguments.architectures == "settings":
        settings(figures, arguments.runs, arguments.tokens)
    else:
        large(figures, arguments.runs, arguments.tokens, arguments.device or "cuda")
    finish(figures, arguments)


if __name__ == "__main__":
    main()
