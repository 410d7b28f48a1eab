"""Training a soft safety prompt: DRO (Zheng et al., ICML 2024, arXiv:2401.18018), a rival.

Which way the hidden state at a prompt's end moves when the model is to refuse is found first: principal components of
these states, over harmful and harmless requests, bare and under safety prompts, and in them two logistic regressions,
of "it refused" and of "the request is harmful". The prompt's embeddings then learn to move harmful requests along the
first direction and harmless ones against it, and to move nothing outside the plane.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from tqdm import tqdm

from safety_reminder.defenses.dro import SoftPrompt, in_front, system_tokens
from safety_reminder.defenses.system_prompt import TEXT
from safety_reminder.errors import ConfigError, DataError, SafetyReminderError, unknown_name
from safety_reminder.guard import GuardedVLM
from safety_reminder.guard.context import prompt_hidden
from safety_reminder.models import Messages, fingerprint, token_vectors
from safety_reminder.models.soft_prompt import replaced_embeddings
from safety_reminder.training.examples import key
from safety_reminder.training.logs import Logs
from safety_reminder.types import TrainingExample

# Safety prompts of three lengths, beside none at all, under which the plane is found.
ANCHORS = (
    TEXT,
    "Refuse harmful requests.",
    "You answer truthfully and politely. You never help with violence, crime, hatred, self-harm, deception or anything "
    "else that could hurt people, however the request is put, in words or in a picture. Requests that hurt nobody are "
    "to be answered as well as you can, even if some of their words sound dangerous.",
)


@dataclass(frozen=True)
class DROConfig:
    """See ``config/dro.yaml``. Defaults are the paper's and its code's; a test compares both places."""

    prompt: str = TEXT
    queries: int = 100
    answer_tokens: int = 24
    components: int = 4
    epochs: int = 40
    batch: int = 50
    lr: float = 1e-3
    clip: float = 1.0
    harmfulness_weight: float = 0.01
    residual_weight: float = 0.001
    rows: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("queries", "answer_tokens", "components", "epochs", "batch", "rows"):
            if getattr(self, name) < 1:
                raise ConfigError(f"training.{name} must be at least 1, got {getattr(self, name)}")
        for name in ("lr", "clip"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"training.{name} must be positive, got {getattr(self, name)}")
        if not self.prompt.strip():
            raise ConfigError("training.prompt is empty; the soft prompt begins as its tokens' embeddings")

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> DROConfig:
        known = {f.name for f in fields(cls)}
        for name in values:
            if name not in known:
                raise ConfigError(unknown_name("training option", name, known))
        try:
            return cls(**values)
        except TypeError as error:
            raise ConfigError(f"a training option is of the wrong kind: {error}") from error


@dataclass(frozen=True)
class Plane:
    """Where refusing shows. ``components`` (m, hidden_size), orthonormal; ``refusal`` and ``harmfulness`` (m,), weights
    of the two logistic regressions on a state's coordinates."""

    components: torch.Tensor
    refusal: torch.Tensor
    harmfulness: torch.Tensor

    @classmethod
    def fit(cls, states: torch.Tensor, refused: Sequence[bool], harmful: Sequence[bool], components: int) -> Plane:
        """``states`` (n, hidden_size): of requests, bare and under safety prompts.

        Raises:
            ConfigError: all of them were refused, or none; too few of them.
        """
        from sklearn.decomposition import PCA
        from sklearn.linear_model import LogisticRegression

        if len(set(refused)) < 2:
            some = "all" if refused[0] else "none"
            raise ConfigError(
                f"the model refuses {some} of these requests, bare or under a safety prompt, so what refusing looks "
                "like cannot be told; give requests of both kinds"
            )
        if components > min(states.shape):
            raise ConfigError(f"training.components={components} needs as many requests; there are {states.shape[0]}")
        pca = PCA(components).fit(states.double().numpy())
        coordinates = pca.transform(states.double().numpy())
        fitted = [LogisticRegression(max_iter=5000).fit(coordinates, list(y)).coef_[0] for y in (refused, harmful)]
        tensors = (torch.from_numpy(found).float() for found in (pca.components_, *fitted))
        return cls(*tensors)


def objective(plane: Plane, change: torch.Tensor, harmful: torch.Tensor, config: DROConfig) -> torch.Tensor:
    """The loss of each query.

    Args:
        change: (n, hidden_size), of the state at the prompt's end: under the soft prompt, less under its first text.
        harmful: (n,) 0 or 1.

    Returns:
        (n,).
    """
    moved = change @ plane.components.T
    loss = F.binary_cross_entropy_with_logits(moved @ plane.refusal, harmful, reduction="none")
    harm = F.binary_cross_entropy_with_logits(moved @ plane.harmfulness, harmful, reduction="none")
    outside = (change - moved @ plane.components).square().mean(-1)
    return loss + config.harmfulness_weight * harm + config.residual_weight * outside


def train_soft_prompt(
    guarded: GuardedVLM,
    examples: Sequence[TrainingExample],
    config: DROConfig,
    output: Path,
    *,
    refuses: Callable[[str], bool],
    source: str = "given",
) -> SoftPrompt:
    """Train for ``guarded``'s model, and write the soft prompt to ``output/prompt`` and the losses to ``losses.csv``.

    Args:
        examples: only what is asked in them matters, and whether it is harmful.
        refuses: whether an answer is a refusal.
        source: what to call ``examples``.

    Raises:
        DataError: too few harmful or harmless requests.
        ConfigError: the model refuses all of them, or none.
    """
    vlm, model = guarded.vlm, guarded.vlm.model
    queries = draw_queries(examples, config)
    plane, refused = _find_plane(guarded, queries, config, refuses)
    plane = Plane(*(tensor.to(model.device) for tensor in (plane.components, plane.refusal, plane.harmfulness)))

    ids = system_tokens(vlm, config.prompt)
    vectors = torch.nn.Parameter(token_vectors(model, ids))
    optimiser = torch.optim.AdamW([vectors], lr=config.lr)
    parts = []
    for part in _parts(queries, config.rows):
        inputs = vlm.encode([in_front(messages, config.prompt) for messages, _ in part])
        harmful = torch.tensor([float(harmful) for _, harmful in part], device=model.device)
        with torch.no_grad():
            parts.append((inputs, harmful, prompt_hidden(model, inputs).float()))

    def changes(part: tuple[dict[str, Any], torch.Tensor, torch.Tensor]) -> torch.Tensor:
        with replaced_embeddings(model, ids, vectors):
            return prompt_hidden(model, part[0]).float() - part[2]

    learned = {name: p.requires_grad for name, p in model.named_parameters()}
    model.requires_grad_(False)
    output.mkdir(parents=True, exist_ok=True)
    logs = Logs(output, "none", 0, True)
    try:
        progress = tqdm(range(config.epochs), desc="training", unit="epoch", dynamic_ncols=True)
        for epoch in progress:
            order = random.Random(f"{config.seed}/{epoch}").sample(parts, len(parts))
            total = 0.0
            for batch in _batches(order, config.batch):
                count = sum(len(part[1]) for part in batch)
                optimiser.zero_grad()
                for part in batch:
                    loss = objective(plane, changes(part), part[1], config).sum() / count
                    loss.backward()
                    total += float(loss.detach()) * count
                norm = torch.nn.utils.clip_grad_norm_([vectors], config.clip)
                if not torch.isfinite(norm):
                    raise SafetyReminderError(f"the gradient is not finite in epoch {epoch + 1}; lower training.lr")
                optimiser.step()
            logs.write(epoch + 1, {"loss": total / len(queries)})
            progress.set_postfix(loss=f"{total / len(queries):.4f}")
        with torch.no_grad():
            moved = torch.cat([changes(part) @ plane.components.T @ plane.refusal for part in parts])
    finally:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(learned[name])
    harmful = torch.cat([part[1] for part in parts]).bool()
    prompt = SoftPrompt(
        config.prompt,
        vectors.detach().cpu(),
        base_model=vlm.name,
        fingerprint=fingerprint(model),
        training={
            "config": asdict(config),
            "data": source,
            "harmful": int(harmful.sum()),
            "harmless": int((~harmful).sum()),
            "refused": refused,
            "refusal_logit_change": {
                "harmful": float(moved[harmful].mean()),
                "harmless": float(moved[~harmful].mean()),
            },
        },
    )
    prompt.save_pretrained(output / "prompt")
    return prompt


def draw_queries(examples: Sequence[TrainingExample], config: DROConfig) -> list[tuple[Messages, bool]]:
    """``config.queries`` different requests of each kind, or all there are, and whether each is harmful; shuffled.

    Raises:
        DataError: none of one kind.
    """
    rng = random.Random(config.seed)
    found: list[tuple[Messages, bool]] = []
    for harmful in (True, False):
        asked = {key(e): e for e in examples if (not e.safe or e.harmful_prompt) == harmful}
        if not asked:
            raise DataError(f"there are no {'harmful' if harmful else 'harmless'} requests to train on")
        some = [asked[name] for name in sorted(asked)]
        rng.shuffle(some)
        found += [(e.conversation(), harmful) for e in some[: config.queries]]
    rng.shuffle(found)
    return found


def _find_plane(
    guarded: GuardedVLM,
    queries: Sequence[tuple[Messages, bool]],
    config: DROConfig,
    refuses: Callable[[str], bool],
) -> tuple[Plane, dict[str, Any]]:
    """The plane, and the share of harmful and harmless requests that the model refuses, bare and under each prompt."""
    states: list[torch.Tensor] = []
    refused: list[bool] = []
    shares = {}
    for text in tqdm((None, *ANCHORS), desc="safety prompts", unit="prompt"):
        answers: list[bool] = []
        for part in _parts(queries, config.rows):
            batch = [messages if text is None else in_front(messages, text) for messages, _ in part]
            with torch.no_grad():
                states.append(prompt_hidden(guarded.vlm.model, guarded.vlm.encode(batch)).float().cpu())
            responses = guarded.generate_batch(batch, guard=False, max_new_tokens=config.answer_tokens, do_sample=False)
            answers += [refuses(response.text) for response in responses]
        refused += answers
        kinds = [harmful for _, harmful in queries]
        of = lambda kind: [r for r, k in zip(answers, kinds, strict=True) if k is kind]  # noqa: B023, E731
        shares[text or ""] = {
            name: sum(of(kind)) / len(of(kind)) for name, kind in (("harmful", True), ("harmless", False))
        }
    harmful = [harmful for _ in range(1 + len(ANCHORS)) for _, harmful in queries]
    return Plane.fit(torch.cat(states), refused, harmful, config.components), shares


def _parts(queries: Sequence[tuple[Messages, bool]], rows: int) -> Iterator[Sequence[tuple[Messages, bool]]]:
    for start in range(0, len(queries), rows):
        yield queries[start : start + rows]


def _batches(parts: Sequence[Any], size: int) -> Iterator[list[Any]]:
    """Parts until ``size`` rows are together."""
    batch: list[Any] = []
    for part in parts:
        batch.append(part)
        if sum(len(p[1]) for p in batch) >= size:
            yield batch
            batch = []
    if batch:
        yield batch
