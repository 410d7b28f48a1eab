"""Does guarded decoding drive a model as the model drives itself? Tried on the loaded weights, property by property.

What must come out is what the model's own ``generate`` says when it is made to write an answer with vectors in it, one
entry after the other: its own cache, its own masks and positions. A family of the table is held to the same in tests.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor

from safety_reminder.errors import ModelError
from safety_reminder.models import caches
from safety_reminder.models.context import STAND_IN, Context, Runner, final_hidden_states, prepare

PROPERTIES = {
    "cache": "the cache keeps an entry for every token, and entries can be taken back from it",
    "image": "another image gives another answer",
    "silent": "checks that pass leave every prediction as the model's own generate makes it",
    "check": "a check reads what generate reads when it is made to say the answer and the reminder",
    "roll-back": "after a check that passed, fused with a token, the answer goes on as if nothing had been there",
    "restart": "the reminder after the bare prompt, once a check has passed, is read as generate reads it",
    "batch": "two rows of different lengths get what each gets alone, also after they have parted",
}
_K = 3
_TOKENS = 6
# Of the spread of a row's logits, by how much they may differ: rounding, in the precision that the model runs in.
_LIMITS = {torch.float32: 1e-3, torch.float64: 1e-3, torch.float16: 2e-2, torch.bfloat16: 8e-2}
_SEEN = 1e-6


@dataclass(frozen=True)
class Trial:
    """What a model is tried with.

    Args:
        batch: inputs of two rows of different lengths, left padded, as :meth:`VLM.encode` gives them.
        alone: the inputs of each row by itself.
        tokens: six ordinary token ids, which the answers consist of.
        sees: the rows have images.
    """

    batch: Mapping[str, Tensor]
    alone: Sequence[Mapping[str, Tensor]]
    tokens: Sequence[int]
    sees: bool = True


@dataclass(frozen=True)
class Finding:
    """Of one property. ``error``: how far predictions were off, as a share of their spread, and ``limit``, how far they
    may be; ``reason``: why it does not hold, "" if it does."""

    name: str
    error: float
    limit: float
    reason: str = ""

    @property
    def holds(self) -> bool:
        return not self.reason


def self_check(model: Any, trial: Trial, names: Sequence[str] = tuple(PROPERTIES)) -> list[Finding]:
    """Try every property, or those of ``names``. Where the cache cannot be taken back, nothing else is tried."""
    tried = _Tried(model, trial)
    findings: list[Finding] = []
    for name in names:
        if name == "image" and not trial.sees:
            continue
        findings.append(tried.finding(name))
        if name == "cache" and not findings[0].holds:
            break
    return findings


def require_holds(findings: Sequence[Finding], name: str) -> None:
    """Raises: ModelError: a property does not hold; the first is named."""
    for finding in findings:
        if not finding.holds:
            raise ModelError(f"{name} cannot be guarded: {finding.reason}")


class _Tried:
    """One model's trials. References, what its own ``generate`` says, are made once."""

    def __init__(self, model: Any, trial: Trial) -> None:
        self.model, self.trial = model, trial
        self.limit = _LIMITS.get(model.dtype, 1e-3)
        weight = model.get_input_embeddings().weight
        device = weight.device
        with torch.no_grad():
            near = model.get_input_embeddings()(torch.tensor(list(trial.tokens), device=device)).float()
        scale = near.pow(2).mean().sqrt().item()
        vectors = torch.randn(_K, near.shape[-1], generator=torch.Generator().manual_seed(0)) * scale
        self.vectors = vectors.to(device, weight.dtype)
        self.tokens = list(trial.tokens)[:_TOKENS]
        self.spoken: dict[str, tuple[Tensor, Tensor]] = {}

    @torch.no_grad()
    def finding(self, name: str) -> Finding:
        """Raises nothing: an error of the model's is what was found."""
        methods: dict[str, Callable[[], float]] = {
            "cache": self.cache,
            "image": self.image,
            "silent": self.silent,
            "check": self.check,
            "roll-back": self.roll_back,
            "restart": self.restart,
            "batch": self.batch,
        }
        try:
            error = methods[name]()
        except ModelError as refused:
            return Finding(name, float("nan"), self.limit, str(refused))
        except Exception as raised:  # a model of any family: what it raises is not a closed list
            what = " ".join(str(raised).split())[:200] or type(raised).__name__
            return Finding(name, float("nan"), self.limit, f"it does not hold that {PROPERTIES[name]} ({what})")
        if name == "image":
            seen = error > _SEEN
            return Finding(name, error, _SEEN, "" if seen else "its images do not change what it says")
        if error <= self.limit:
            return Finding(name, error, self.limit)
        return Finding(
            name, error, self.limit, f"it does not hold that {PROPERTIES[name]} (off by {error:.2g} of {self.limit:g})"
        )

    def cache(self) -> float:
        if reason := caches.obstacle(type(self.model), self.model.config):
            raise ModelError(reason)
        self.opened(self.trial.alone[0])
        return 0.0

    def image(self) -> float:
        inputs = self.trial.alone[0]
        pixels = [name for name, value in inputs.items() if value.is_floating_point()]
        if not pixels:
            return 0.0
        other = {**inputs, **{name: -inputs[name] for name in pixels}}
        return _distance(self.opened(other)[2], self.opened(inputs)[2])

    def silent(self) -> float:
        """Unfused, as in exact mode."""
        expected, _ = self.said("plain", [*self.tokens])
        runner, context, logits = self.opened(self.trial.alone[0])
        off = [_distance(logits, expected[0])]
        for at, token in enumerate(self.tokens):
            logits = runner.append(context, self.column(token)).last
            off.append(_distance(logits, expected[at + 1]))
            if at % 2 == 1:
                runner.append(context, None, self.vectors)
                context.crop(_K)
        return max(off)

    def check(self) -> float:
        before, after = self.tokens[:3], self.tokens[3:5]
        expected, hidden = self.said("check", [*before, *[None] * _K, *after])
        runner, context, _ = self.opened(self.trial.alone[0])
        for token in before[:-1]:
            runner.append(context, self.column(token))
        found = runner.append(context, self.column(before[-1]), self.vectors)
        assert found.hidden is not None
        end = len(before) + _K
        off = [
            _distance(found.first, expected[len(before)]),
            _distance(found.last, expected[end]),
            _distance(found.hidden, hidden[end]),
        ]
        for at, token in enumerate(after, end + 1):
            off.append(_distance(runner.append(context, self.column(token)).last, expected[at]))
        return max(off)

    def roll_back(self) -> float:
        expected, _ = self.said("plain", [*self.tokens])
        runner, context, _ = self.opened(self.trial.alone[0])
        off = []
        for at, token in enumerate(self.tokens):
            if at in (2, 3):
                off.append(_distance(runner.append(context, self.column(token), self.vectors).first, expected[at + 1]))
                context.crop(_K)
            else:
                off.append(_distance(runner.append(context, self.column(token)).last, expected[at + 1]))
        return max(off)

    def restart(self) -> float:
        expected, hidden = self.said("restart", [*[None] * _K, self.tokens[0]])
        runner, context, _ = self.opened(self.trial.alone[0])
        prompt = context.entries
        for token in self.tokens[:2]:
            runner.append(context, self.column(token), self.vectors)
            context.crop(_K)
        if context.reaches(prompt):
            context.crop(context.entries - prompt)
        else:
            runner, context, _ = self.opened(self.trial.alone[0])
        found = runner.append(context, None, self.vectors)
        assert found.hidden is not None
        following = runner.append(context, self.column(self.tokens[0]))
        return max(
            _distance(found.last, expected[_K]),
            _distance(found.hidden, hidden[_K]),
            _distance(following.last, expected[_K + 1]),
        )

    def batch(self) -> float:
        """Row 0, the shorter one, is padded. After a check that passed, the rows part and say different things."""
        runner, context, _ = self.opened(self.trial.batch)
        if context.rows != 2:
            raise ModelError(f"two conversations became {context.rows} rows")
        together = self.walked(runner, context, self.tokens[:2])
        halves = [context.select([row]) for row in range(2)]
        tails = [self.walked(runner, half, self.tokens[2 + row : 4 + row]) for row, half in enumerate(halves)]
        off = []
        for row, inputs in enumerate(self.trial.alone):
            runner, context, _ = self.opened(inputs)
            alone = self.walked(runner, context, self.tokens[:2])
            off += [_distance(a[row : row + 1], b) for a, b in zip(together, alone, strict=True)]
            tail = self.walked(runner, context, self.tokens[2 + row : 4 + row])
            off += [_distance(a, b) for a, b in zip(tails[row], tail, strict=True)]
        return max(off)

    def walked(self, runner: Runner, context: Context, tokens: Sequence[int]) -> list[Tensor]:
        """What is predicted after each token, and what a check at the last one reads, which passes."""
        found = []
        for token in tokens[:-1]:
            found.append(runner.append(context, self.column(token, context.rows)).last)
        last = runner.append(context, self.column(tokens[-1], context.rows), self.vectors)
        context.crop(_K)
        assert last.hidden is not None
        return [*found, last.first, last.last, last.hidden]

    def opened(self, inputs: Mapping[str, Tensor]) -> tuple[Runner, Context, Tensor]:
        runner = Runner(self.model)
        return runner, *runner.prefill(*prepare(self.model, inputs), roll_back=True)

    def column(self, token: int, rows: int = 1) -> Tensor:
        return torch.full((rows, 1), token, device=self.vectors.device)

    def said(self, name: str, script: list[int | None]) -> tuple[Tensor, Tensor]:
        if name not in self.spoken:
            self.spoken[name] = _spoken(self.model, self.trial.alone[0], script, self.vectors)
        return self.spoken[name]


def _spoken(
    model: Any, inputs: Mapping[str, Tensor], script: Sequence[int | None], vectors: Tensor
) -> tuple[Tensor, Tensor]:
    """What the model's own ``generate`` predicts, (entries + 1, 1, vocabulary) float32, and its final hidden states,
    (entries + 1, 1, hidden_size), after the prompt and after each entry of ``script``, None of which is the next of
    ``vectors``."""
    ids = [STAND_IN if entry is None else entry for entry in script]
    config = GenerationConfig(
        max_new_tokens=len(ids) + 1,
        do_sample=False,
        num_beams=1,
        output_logits=True,
        return_dict_in_generate=True,
        pad_token_id=model.generation_config.pad_token_id,
    )
    forced = [_Forced(inputs["input_ids"].shape[1], [*ids, ids[0] or 1])]
    with _spoken_vectors(model, vectors), final_hidden_states(model) as states:
        out = model.generate(**inputs, generation_config=config, logits_processor=forced)
    if len(out.logits) != len(ids) + 1 or len(states) != len(ids) + 1:
        raise ModelError(f"{type(model).__name__} ended an answer that it was made to go on with")
    return torch.stack([each.float() for each in out.logits]), torch.stack([each[:, -1] for each in states])


class _Forced(LogitsProcessor):
    """Leaves one token to choose."""

    def __init__(self, prompt: int, ids: Sequence[int]) -> None:
        self.prompt, self.ids = prompt, ids

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        forced = torch.full_like(scores, -torch.inf)
        forced[:, self.ids[input_ids.shape[1] - self.prompt]] = 0
        return forced


@contextmanager
def _spoken_vectors(model: Any, vectors: Tensor) -> Iterator[None]:
    """While this is open, stand-ins that are embedded one by one become the ``vectors``, in their order."""
    following = iter(vectors)

    def replace(module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        if inputs[0].shape[-1] != 1 or int(inputs[0].flatten()[0]) != STAND_IN:
            return None
        return next(following).to(output).expand_as(output)

    handle = model.get_input_embeddings().register_forward_hook(replace)
    try:
        yield
    finally:
        handle.remove()


def _distance(found: Tensor, expected: Tensor) -> float:
    """Of what was found from what was expected, (1, n) each, as a share of how far the latter is spread; infinite where
    either is no number."""
    found, expected = found.float().flatten(), expected.to(found.device).float().flatten()
    if not (torch.isfinite(found) | (found == expected)).all():
        return float("inf")
    real = torch.isfinite(expected)
    found, expected = found[real], expected[real]
    spread = (expected - expected.mean()).norm().item()
    return (found - expected).norm().item() / max(spread, 1e-12)
