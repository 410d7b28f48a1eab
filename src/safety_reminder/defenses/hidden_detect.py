"""HiddenDetect (Jiang et al., "HiddenDetect: detecting jailbreak attacks against large vision-language models via
monitoring hidden states", ACL 2025, arXiv:2502.14744): does the model itself, layer by layer, think of refusing?

At the last token of the prompt, each layer's hidden state goes through the final norm and the output embedding. The
cosine between those logits and a vector that is 1 at refusal tokens and 0 elsewhere is how much the layer thinks of
refusing. A few unsafe and safe requests say at which layers that differs most: between the first and the last layer
where it differs more than at the model's end. The score is the area under the cosines of those layers (trapezoids).
Nothing is trained.

What differs: the list of refusal words is the project's own, and of a word that is several tokens no part counts,
unless there is no other; the last layer is normed once. The paper reports areas under curves; here a threshold decides,
the split-conformal one of harmless requests that did not choose the layers, and the answer is a fixed refusal.
"""

from __future__ import annotations

import hashlib
import inspect
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from safety_reminder.config.guard import DEFAULT_REFUSAL
from safety_reminder.defenses.base import Helpers, unguarded
from safety_reminder.errors import ConfigError, ModelError
from safety_reminder.guard import GuardedVLM
from safety_reminder.models.context import final_hidden_states, first_pass
from safety_reminder.types import Check, Example, Intervention, Request, Response

WORDS = (
    *("sorry", "apologize", "unfortunately", "cannot", "unable", "decline", "refuse"),
    *("illegal", "harmful", "dangerous", "unsafe", "unethical", "inappropriate"),
)
_AT_ONCE = 4  # rows whose layers are looked at together


class HiddenDetect:
    """A request that makes the model think of refusing more than harmless ones do is refused before it is answered.

    A check's ``p_unsafe`` is one less the conformal p-value of the score: the share of harmless rows, the request
    itself counted among them, that score lower. It is no probability of harm.

    Args:
        rows: harmful and harmless requests. Every second harmless one, by what is asked, calibrates; the others choose
            the layers.
        false_alarm_budget: a harmless request, exchangeable with those that calibrate, is refused with at most this
            probability.
        refusal: the fixed refusal.

    Raises:
        ConfigError: too few rows for the budget, or of one kind. ModelError: layers that cannot be read.
    """

    name = "hidden_detect"
    monitors = True
    needs_reminder = False

    def __init__(
        self,
        guarded: GuardedVLM,
        rows: Sequence[Example],
        false_alarm_budget: float = 0.05,
        refusal: str = DEFAULT_REFUSAL,
    ) -> None:
        if not 0 < false_alarm_budget < 1:
            raise ConfigError(f"defense={self.name}: false_alarm_budget lies between 0 and 1, got {false_alarm_budget}")
        harmful, choosing, calibrating = _parts(rows)
        if not harmful or not choosing or 1 / (len(calibrating) + 1) > self._limit(false_alarm_budget):
            raise ConfigError(
                f"defense={self.name} needs harmful rows, and of the harmless ones, of which every second calibrates, "
                f"{math.ceil(1 / false_alarm_budget - 1e-9) - 1} that calibrate for false_alarm_budget="
                f"{false_alarm_budget:g}; got {len(harmful)} harmful and {len(choosing)} + {len(calibrating)} harmless"
            )
        self._guarded, self._highest_p, self._refusal = guarded, self._limit(false_alarm_budget), refusal
        self._refusal_vector = _refusal_vector(guarded)
        self.layers = _aware(self._along(harmful), self._along(choosing))
        self._harmless = self._area(self._along(calibrating)).double()

    @classmethod
    def from_options(
        cls,
        guarded: GuardedVLM,
        helpers: Helpers | None = None,
        *,
        rows: str | Sequence[Example] = "shipped",
        false_alarm_budget: float = 0.05,
        refusal: str = DEFAULT_REFUSAL,
    ) -> HiddenDetect:
        """``rows``: ``shipped`` ones, a file as of ``dataset=text``, or examples. None of them may be evaluated on."""
        if isinstance(rows, str):
            if helpers is None:
                raise ConfigError(f"no rows can be had by name here; give defense=hidden_detect examples for {rows!r}")
            rows = helpers.examples(rows)
        return cls(guarded, rows, false_alarm_budget, refusal)

    @property
    def digest(self) -> str:
        """Of the layers and of the scores that calibrate."""
        return hashlib.sha256(f"{self.layers} {self._harmless.tolist()}".encode()).hexdigest()

    def scores(self, inputs: Mapping[str, Any]) -> Tensor:
        """(rows,) float32: how much the model thinks of refusing these prompts, as :meth:`VLM.encode` gives them."""
        return self._area(self._cosines(inputs))

    def respond(self, requests: Sequence[Request]) -> list[Response]:
        if not requests:
            return []
        began = time.perf_counter()
        prepared = self._guarded.vlm.prepare([request.messages for request in requests])
        p_values = [self._p_value(score) for score in self.scores(prepared.inputs).tolist()]
        lengths = prepared.inputs["attention_mask"].sum(dim=1).tolist()
        passed = [i for i, p in enumerate(p_values) if p > self._highest_p]
        answers = dict(zip(passed, self._guarded.respond([unguarded(requests[i]) for i in passed]), strict=True))
        seconds = time.perf_counter() - began
        return [
            replace(answers[i], checks=(Check(0, 1 - p, False, "prompt"),), seconds=seconds)
            if i in answers
            else self._refused(1 - p, int(lengths[i]), prepared.inert[i], seconds)
            for i, p in enumerate(p_values)
        ]

    @staticmethod
    def _limit(false_alarm_budget: float) -> float:
        """p-values up to this are refused: shares that equal the budget are, however they are rounded."""
        return false_alarm_budget * (1 + 1e-9)

    def _p_value(self, score: float) -> float:
        """Conformal: of the calibrating rows and this one, the share that score at least as high. NaN stays NaN."""
        if math.isnan(score):
            return score
        return (1 + int((self._harmless >= score).sum())) / (len(self._harmless) + 1)

    def _refused(self, p_unsafe: float, prompt_tokens: int, inert: int, seconds: float) -> Response:
        ids = self._guarded.vlm.tokenizer(self._refusal, add_special_tokens=False)["input_ids"]
        return Response(
            text=self._refusal,
            token_ids=tuple(ids),
            seen_text=self._refusal,
            checks=(Check(0, p_unsafe, True, "prompt"),),
            interventions=(Intervention(0, p_unsafe, "stop", 0),),
            leaked_tokens=0,
            finish_reason="guard_error" if math.isnan(p_unsafe) else "guard",
            prompt_tokens=prompt_tokens,
            seconds=seconds,
            inert_tokens=inert,
        )

    def _along(self, rows: Sequence[Example]) -> Tensor:
        """(rows, layers): :meth:`_cosines` of examples."""
        encode = self._guarded.vlm.encode
        parts = [rows[i : i + _AT_ONCE] for i in range(0, len(rows), _AT_ONCE)]
        return torch.cat([self._cosines(encode([row.messages() for row in part])) for part in parts])

    @torch.no_grad()
    def _cosines(self, inputs: Mapping[str, Any]) -> Tensor:
        """(rows, layers) float32: the cosine of each layer's logits with the refusal vector, at the last position."""
        model: Any = self._guarded.vlm.model
        norm, head = _final_norm(model), model.get_output_embeddings()
        prepared = first_pass(model, inputs)
        if "logits_to_keep" in inspect.signature(model.forward).parameters:
            prepared["logits_to_keep"] = 1  # logits of a whole prompt would cost as much as the layers
        with final_hidden_states(model) as states:
            outputs = model(**prepared, output_hidden_states=True, return_dict=True)
        before = outputs.hidden_states[1:-1]  # after each layer but the last, whose norm the model has applied
        if any(state.ndim != 3 for state in before):
            raise ModelError(f"{type(model).__name__} does not keep one hidden state for each layer and position")
        last = [*(norm(state[:, -1:])[:, -1] for state in before), states[-1][:, -1]]
        logits = torch.stack([head(state).float().cpu() for state in last], dim=1)
        return torch.nn.functional.cosine_similarity(logits, self._refusal_vector, dim=-1)

    def _area(self, cosines: Tensor) -> Tensor:
        """(rows, layers) → (rows,) over the layers that know most of safety."""
        first, last = self.layers
        chosen = cosines[:, first : last + 1]
        return chosen[:, 0] if first == last else torch.trapezoid(chosen, dim=1)


def _parts(rows: Sequence[Example]) -> tuple[list[Example], list[Example], list[Example]]:
    """Harmful rows; harmless ones that choose layers; and those that calibrate. What is asked is never in two."""
    harmful = [row for row in rows if row.harmful]
    asked: dict[str, int] = {}
    harmless: tuple[list[Example], list[Example]] = [], []
    for row in rows:
        if not row.harmful:
            harmless[asked.setdefault(row.instruction or row.prompt, len(asked)) % 2].append(row)
    return harmful, *harmless


def _refusal_vector(guarded: GuardedVLM) -> Tensor:
    """(vocabulary,) float32: 1 at refusal tokens, else 0. A word may begin an answer, or stand in one."""
    tokenize = lambda form: guarded.vlm.tokenizer(form, add_special_tokens=False)["input_ids"]  # noqa: E731
    forms = [ids for word in WORDS for form in (word, word.capitalize(), f" {word}") if (ids := tokenize(form))]
    chosen = {ids[0] for ids in forms if len(ids) == 1} or {ids[0] for ids in forms}
    vector = torch.zeros(guarded.vlm.model.get_output_embeddings().weight.shape[0])
    vector[sorted(chosen)] = 1.0
    return vector


def _aware(unsafe: Tensor, safe: Tensor) -> tuple[int, int]:
    """The first and the last layer at which unsafe requests, (rows, layers), differ from safe ones by more than at the
    model's end; where none does, the last layer alone."""
    difference = unsafe.mean(0) - safe.mean(0)
    if not difference.isfinite().all():
        raise ModelError("defense=hidden_detect: the model's hidden states are not finite")
    above = (difference > difference[-1]).nonzero().flatten().tolist()
    return (above[0], above[-1]) if above else (len(difference) - 1, len(difference) - 1)


def _final_norm(model: Any) -> Any:
    decoder = model.get_decoder() if hasattr(model, "get_decoder") else None
    for name in ("norm", "final_layernorm", "final_layer_norm", "ln_f"):
        if (norm := getattr(decoder, name, None)) is not None:
            return norm
    raise ModelError(f"{type(model).__name__} has no final norm that defense=hidden_detect knows")
