"""A conversation as the decode loop would see it: prompt and partial answer in the cache, ready for the reminder.

Training stands on this, so that what it optimises is what inference runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import PreTrainedModel

from safety_reminder.guard.lane import Lane, Row, Stepper
from safety_reminder.guard.placement import next_positions
from safety_reminder.guard.text import Transcript
from safety_reminder.models import hidden_size


class Context:
    """One prompt (batch of 1) in the KV cache, and behind it as much of its answer as was asked for.

    Args:
        model: its parameters get no gradient here.
        inputs: of one conversation, as :meth:`VLM.encode` gives them.
        answer: token ids.
    """

    def __init__(self, model: PreTrainedModel, inputs: Mapping[str, Any], answer: Sequence[int]) -> None:
        self.model: Any = model
        self.answer = list(answer)
        self.kept = 0
        with torch.no_grad():
            input_ids, kwargs = prepare(model, inputs)
            # The vectors are given per call below; these only tell the stepper that there will be roll-backs.
            nothing = torch.zeros(1, hidden_size(model))
            self.lane: Lane = Stepper(model, nothing, kwargs).prefill(input_ids, [Row(0, Transcript(None, 0))], kwargs)

    @torch.no_grad()
    def keep(self, tokens: int) -> None:
        """Bring the cache to the answer's first ``tokens`` tokens. They can only grow: a layer with a sliding window
        forgets what came before it, so cuts are visited from the shortest to the longest.
        """
        if tokens < self.kept:
            raise ValueError(f"cuts must be visited in ascending order; at {self.kept}, asked for {tokens}")
        if tokens > self.kept:
            new = self.answer[self.kept : tokens]
            self._forward(input_ids=torch.tensor([new], device=self.lane.ids.device))
            self.kept = tokens

    def follow(self, vectors: torch.Tensor, target: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Behind the cut, the reminder ``vectors`` (k, hidden) and then ``target``, with gradient; the cache is left
        as it was.

        Returns:
            Logits (len(target), vocabulary) for the target's tokens, and the final hidden state (hidden_size,) at the
            last reminder vector, where the probe reads.
        """
        embedding = self.model.get_input_embeddings()
        tokens = torch.tensor([list(target)], device=self.lane.ids.device, dtype=torch.long)
        embeds = vectors.to(embedding.weight.dtype)[None]
        if len(target) > 1:
            embeds = torch.cat([embeds, embedding(tokens[:, :-1])], dim=1)
        k = vectors.shape[0]
        outputs = self._forward(inputs_embeds=embeds, output_hidden_states=True)
        hidden = outputs.hidden_states[-1][0, k - 1]
        self.lane.crop(embeds.shape[1])
        # What is left of the cache still hangs on the graph of what was cropped; the next cut must not reach into it.
        layers: Any = self.lane.cache.layers
        for layer in layers:
            if layer.keys is not None:
                layer.keys, layer.values = layer.keys.detach(), layer.values.detach()
        return outputs.logits[0, k - 1 :][: len(target)], hidden

    def _forward(self, **inputs: Any) -> Any:
        lane = self.lane
        width = next(iter(inputs.values())).shape[1]
        positions = next_positions(lane.position, width)
        outputs = self.model(
            **inputs,
            position_ids=positions,
            past_key_values=lane.cache,
            use_cache=True,
            return_dict=True,
        )
        lane.position = positions[..., -1:]
        lane.entries += width
        return outputs


def prepare(model: Any, inputs: Mapping[str, Any]) -> tuple[torch.Tensor, dict[str, Any]]:
    """What ``generate`` would hand to a decoding method for ``inputs``: ids, positions, mask and image inputs."""

    def capture(model, input_ids, logits_processor, stopping_criteria, generation_config, **model_kwargs):
        return input_ids, {k: v for k, v in model_kwargs.items() if k not in ("synced_gpus", "streamer")}

    return model.generate(**inputs, custom_generate=capture, max_new_tokens=1, do_sample=False)
