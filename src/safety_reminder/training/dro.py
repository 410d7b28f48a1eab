"""Training a soft safety prompt: DRO (Zheng et al., ICML 2024, arXiv:2401.18018), a rival.

First, it looks for the way the hidden state at a prompt's end moves when the model refuses: principal components of
these states, over harmful and harmless requests, bare and under safety prompts, and in them two logistic regressions,
of "it refused" and of "the request is harmful". The prompt's embeddings then learn to move harmful requests along the
first direction and harmless ones against it, and to move nothing outside the plane.

What differs from the paper's code: requests may have images; the caller judges whether one greedy answer is a refusal,
not a rate over sampled ones; the anchors are prompts of our own; and the regressions are scikit-learn's, with its
default penalty, on all requests, not averaged over splits.
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from tqdm import tqdm

from safety_reminder.config.prompts import SAFETY_PROMPT
from safety_reminder.defenses.dro import SoftPrompt, in_front, system_tokens
from safety_reminder.errors import ConfigError, DataError, MissingExtraError, SafetyReminderError
from safety_reminder.guard import GuardedVLM
from safety_reminder.models import Messages, fingerprint, token_vectors
from safety_reminder.models.scoring import prompt_hidden
from safety_reminder.models.soft_prompt import replaced_embeddings
from safety_reminder.run_files import provenance, write_json
from safety_reminder.training.config import DROConfig
from safety_reminder.training.logs import LossFile
from safety_reminder.training.prefixes import slices
from safety_reminder.training.probing.regression import auc as area
from safety_reminder.training.samples import key
from safety_reminder.training.state import frozen
from safety_reminder.types import TrainingExample

log = logging.getLogger(__name__)
ENOUGH = 10  # refusals, and answers, from which on the fit is not warned of

# Safety prompts for fitting the plane, besides none at all and the one that is trained.
ANCHORS = (
    SAFETY_PROMPT,
    "Refuse harmful requests.",
    "You answer truthfully and politely. You never help with violence, crime, hatred, self-harm, deception or anything "
    "else that could hurt people, however the request is put, in words or in a picture. Requests that hurt nobody are "
    "to be answered as well as you can, even if some of their words sound dangerous.",
)


@dataclass(frozen=True)
class Plane:
    """Where refusing shows. ``components`` (m, hidden_size), orthonormal; ``refusal`` and ``harmfulness`` (m,), weights
    of the two logistic regressions on a state's coordinates; ``auc``: how well these tell what they were fitted to."""

    components: torch.Tensor
    refusal: torch.Tensor
    harmfulness: torch.Tensor
    auc: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def fit(cls, states: torch.Tensor, refused: Sequence[bool], harmful: Sequence[bool], components: int) -> Plane:
        """``states`` (n, hidden_size): of requests, bare and under safety prompts.

        Raises:
            ConfigError: all of them were refused, or none; too few of them.
        """
        from sklearn.decomposition import PCA
        from sklearn.linear_model import LogisticRegression

        few = min(sum(refused), len(refused) - sum(refused))
        if not few:
            which = "all" if refused[0] else "none"
            raise ConfigError(
                f"the model refuses {which} of these requests, bare or under a safety prompt, so what refusing looks "
                "like cannot be told; give requests of both kinds"
            )
        if few < ENOUGH:
            kind = "refused" if sum(refused) == few else "answered"
            log.warning(
                "only %d of %d requests were %s; which way a refusal lies is uncertain", few, len(refused), kind
            )
        if components > min(states.shape):
            raise ConfigError(f"training.components={components} needs as many requests; there are {states.shape[0]}")
        # Exact: the solver that sklearn picks for many rows is random.
        pca = PCA(components, svd_solver="full").fit(states.double().numpy())
        coordinates = pca.transform(states.double().numpy())
        weights, auc = {}, {}
        for name, labels in (("refusal", refused), ("harmfulness", harmful)):
            weights[name] = LogisticRegression(max_iter=5000).fit(coordinates, list(labels)).coef_[0]
            auc[name] = area(torch.from_numpy(coordinates @ weights[name]), torch.tensor(list(labels)))
        tensors = [torch.from_numpy(x).float() for x in (pca.components_, weights["refusal"], weights["harmfulness"])]
        return cls(*tensors, auc=auc)

    def to(self, device: torch.device) -> Plane:
        moved = {name: getattr(self, name).to(device) for name in ("components", "refusal", "harmfulness")}
        return replace(self, **moved)


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
    outside = (change - moved @ plane.components).square().sum(-1) / (change.shape[-1] - moved.shape[-1])
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
        examples: only their requests matter, and whether these are harmful.
        refuses: whether an answer is a refusal.
        source: what to call ``examples``.

    Raises:
        DataError: no harmful, or no harmless requests.
        ConfigError: the model refuses all of them, or none.
    """
    if importlib.util.find_spec("sklearn") is None:  # later, it would cost a whole run to notice
        raise MissingExtraError("sklearn", "train")
    vlm, model = guarded.vlm, guarded.vlm.model
    ids = system_tokens(vlm, config.prompt)
    queries = draw_queries(examples, config)
    output.mkdir(parents=True, exist_ok=True)
    plane, refused = _find_plane(guarded, queries, config, refuses)
    plane = plane.to(model.device)
    batches = _Batches(guarded, queries, config, ids)
    vectors = torch.nn.Parameter(token_vectors(model, ids))
    with frozen(model):
        _learn(vectors, plane, batches, config, LossFile(output))
        with torch.no_grad():
            changes = [batches.change(rows, vectors) for rows in slices(range(len(queries)), config.micro_batch_size)]
            moved = torch.cat(changes) @ plane.components.T @ plane.refusal
    harmful = batches.harmful.bool()
    prompt = SoftPrompt(
        config.prompt,
        vectors.detach().cpu(),
        base_model=vlm.name,
        fingerprint=fingerprint(model),
        training={
            "config": config.model_dump(),
            "data": manifest(queries, source),
            "refused": refused,
            "fit_auc": dict(plane.auc),
            # On the requests that it was trained on.
            "refusal_logit_change": {
                "harmful": float(moved[harmful].mean()),
                "harmless": float(moved[~harmful].mean()),
            },
        },
    )
    write_json(output / "summary.json", {"training": prompt.training, "provenance": provenance()})
    prompt.save_pretrained(output / "prompt")
    return prompt


def _learn(
    vectors: torch.nn.Parameter, plane: Plane, batches: _Batches, config: DROConfig, loss_file: LossFile
) -> None:
    """Move ``vectors`` (tokens, hidden_size); the mean loss of every epoch goes to ``loss_file``."""
    optimiser = torch.optim.AdamW([vectors], lr=config.learning_rate)
    progress = tqdm(range(config.epochs), desc="training", unit="epoch", dynamic_ncols=True)
    for epoch in progress:
        total = 0.0
        for batch in batches.of(epoch):
            optimiser.zero_grad()
            for rows in slices(batch, config.micro_batch_size):
                loss = objective(plane, batches.change(rows, vectors), batches.harmful[rows], config).sum()
                (loss / len(batch)).backward()
                total += float(loss.detach())
            norm = torch.nn.utils.clip_grad_norm_([vectors], config.max_grad_norm)
            if not torch.isfinite(norm):
                raise SafetyReminderError(
                    f"the gradient is not finite in epoch {epoch + 1}; lower training.learning_rate"
                )
            optimiser.step()
        loss_file.write(epoch + 1, {"loss": total / len(batches.messages)})
        progress.set_postfix(loss=f"{total / len(batches.messages):.4f}")


@dataclass(frozen=True)
class Query:
    """A request, and whether it is harmful."""

    messages: Messages
    harmful: bool
    key: str


def draw_queries(examples: Sequence[TrainingExample], config: DROConfig) -> list[Query]:
    """``config.queries`` different requests of each kind, or all there are; shuffled. A request that is harmful in one
    row is harmful.

    Raises:
        DataError: none of one kind.
    """
    rng = random.Random(config.seed)
    by_key: dict[str, Query] = {}
    for example in examples:
        name, harmful = key(example), not example.safe or example.harmful_prompt
        if name not in by_key or harmful:
            by_key[name] = Query(example.conversation(), harmful, name)
    queries: list[Query] = []
    for harmful in (True, False):
        of_kind = sorted((query for query in by_key.values() if query.harmful is harmful), key=lambda query: query.key)
        if not of_kind:
            raise DataError(f"there are no {'harmful' if harmful else 'harmless'} requests to train on")
        rng.shuffle(of_kind)
        queries += of_kind[: config.queries]
    rng.shuffle(queries)
    return queries


def manifest(queries: Sequence[Query], source: str) -> dict[str, Any]:
    """What the soft prompt's configuration says about its data."""
    harmful = sum(query.harmful for query in queries)
    return {
        "source": source,
        "sha256": hashlib.sha256("".join(sorted(query.key for query in queries)).encode()).hexdigest(),
        "harmful": harmful,
        "harmless": len(queries) - harmful,
    }


class _Batches:
    """The queries under the prompt that is trained, and how far it moves them from where its text put them."""

    def __init__(self, guarded: GuardedVLM, queries: Sequence[Query], config: DROConfig, ids: Sequence[int]) -> None:
        self.vlm, self.config, self.ids = guarded.vlm, config, ids
        self.messages = [in_front(query.messages, config.prompt) for query in queries]
        self.harmful = torch.tensor([float(query.harmful) for query in queries], device=self.vlm.model.device)
        with torch.no_grad():
            passes = slices(range(len(queries)), config.micro_batch_size)
            self.before = torch.cat([self._hidden(rows) for rows in passes])

    def of(self, epoch: int) -> Iterator[Sequence[int]]:
        """The epoch's batches, as places in the queries."""
        order = random.Random(f"{self.config.seed}/{epoch}").sample(range(len(self.messages)), len(self.messages))
        return slices(order, self.config.batch_size)

    def change(self, rows: Sequence[int], vectors: torch.Tensor) -> torch.Tensor:
        """(rows, hidden_size)."""
        with replaced_embeddings(self.vlm.model, self.ids, vectors):
            return self._hidden(rows) - self.before[list(rows)]

    def _hidden(self, rows: Sequence[int]) -> torch.Tensor:
        return prompt_hidden(self.vlm.model, self.vlm.encode([self.messages[row] for row in rows])).float()


def _find_plane(
    guarded: GuardedVLM, queries: Sequence[Query], config: DROConfig, refuses: Callable[[str], bool]
) -> tuple[Plane, dict[str, Any]]:
    """The plane, and the share of harmful and harmless requests that the model refuses, bare and under each prompt."""
    states: list[torch.Tensor] = []
    refused: list[bool] = []
    shares = {}
    harmful = [query.harmful for query in queries]
    prompts = (None, *dict.fromkeys((config.prompt, *ANCHORS)))
    for text in tqdm(prompts, desc="safety prompts", unit="prompt"):
        answers: list[bool] = []
        for part in slices(queries, config.micro_batch_size):
            batch = [query.messages if text is None else in_front(query.messages, text) for query in part]
            with torch.no_grad():
                states.append(prompt_hidden(guarded.vlm.model, guarded.vlm.encode(batch)).float().cpu())
            responses = guarded.generate_batch(
                batch, guard=False, max_new_tokens=config.max_new_tokens, do_sample=False
            )
            answers += [refuses(response.text) for response in responses]
        refused += answers
        shares[text or ""] = {
            name: _share([said for said, kind in zip(answers, harmful, strict=True) if kind is is_harmful])
            for name, is_harmful in (("harmful", True), ("harmless", False))
        }
    return Plane.fit(torch.cat(states), refused, harmful * len(prompts), config.components), shares


def _share(outcomes: Sequence[bool]) -> float:
    return sum(outcomes) / len(outcomes)
