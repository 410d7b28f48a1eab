"""What the commands ``generate`` and ``demo`` do with their configuration, and those that train and judge answers."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from safety_reminder.commands import console
from safety_reminder.commands import train as training
from safety_reminder.commands.train import named_datasets
from safety_reminder.data import load_dataset
from safety_reminder.errors import ConfigError
from safety_reminder.evaluation.metrics import summarise
from safety_reminder.evaluation.pages.demo import write_page
from safety_reminder.evaluation.refusal import judge_refusal
from safety_reminder.evaluation.runner import open_run, run, write_summary
from safety_reminder.guard import GuardedVLM, load
from safety_reminder.models import VLM, weights_digest
from safety_reminder.run_files import write_json
from safety_reminder.training.dro import DROConfig, train_soft_prompt
from safety_reminder.types import Example, Record


def generate(values: dict[str, Any], output: Path) -> None:
    """Answer a data set into ``output``; with ``compare``, also unguarded."""
    examples = load_examples(values)
    guarded, unguarded, _ = answer(values, output, examples)
    metrics = write_summary(output, guarded or unguarded, unguarded if guarded else (), values)
    console.print_metrics(metrics)
    print(f"wrote {output / 'records.jsonl'} and {output / 'summary.json'}")


def train(values: dict[str, Any], output: Path) -> None:
    """Learn a reminder; with ``test_on``, also answer those data sets, and put what came out into its summary."""
    tests = named_datasets("test_on", values["test_on"])
    vlm, reminder = training.train(values, output)
    examples = [replace(e, id=f"{name}/{e.id}") for name, rows in tests.items() for e in rows]
    if not examples or not training.is_main_process():
        return
    config = {"weights": _weights(vlm), "reminder_digest": reminder.digest, **values["test"]}
    records = open_run(output / "answers", config, restart=True)
    answers = run(GuardedVLM(vlm, reminder), examples, records, guard=True, do_sample=False, **values["test"])
    metrics = summarise(answers)
    path = output / "summary.json"
    summary = json.loads(path.read_text(encoding="utf-8"))
    summary["metrics"] |= {name: metric.as_json() for name, metric in metrics.items()}
    summary["config"]["test_on"] = list(tests)
    write_json(path, summary)
    console.print_metrics(metrics)


def dro(values: dict[str, Any], output: Path) -> None:
    """Train a soft safety prompt, for the defence of this name."""
    config = DROConfig.parse(values["training"], "training")
    examples = training.load_rows(values)
    guarded = load(values["model"], device=values["device"], dtype=values["dtype"])
    prompt = train_soft_prompt(
        guarded, examples, config, output,
        refuses=lambda text: judge_refusal(text).where == "start", source=values["data"]["sets"],
    )  # fmt: skip
    for text, shares in prompt.training["refused"].items():
        under = f"under {text[:40]!r}" if text else "without a safety prompt"
        print(f"refused {under}: {shares['harmful']:.0%} of harmful, {shares['harmless']:.0%} of harmless requests")
    change = prompt.training["refusal_logit_change"]
    moved = f"{change['harmful']:+.2f} (harmful) and {change['harmless']:+.2f} (harmless)"
    print(f"on these requests, refusal's logit moved by {moved}")
    print(f"wrote {output / 'prompt'}")


def demo(values: dict[str, Any], output: Path) -> None:
    """Answer a data set unguarded and guarded, show both, and write ``demo.html``."""
    if values["reminder"] in (None, "none"):
        raise ConfigError("the demo compares with and without the reminder; reminder=none leaves nothing to compare")
    values = {**values, "compare": True}
    examples = load_examples(values)
    if values["dataset"]["name"] == "figstep":
        # FigStep has no harmless images; the shipped twins ride along, so that false alarms can be seen too.
        from safety_reminder.data import DEMO_REQUESTS

        twins = load_dataset("typographic", DEMO_REQUESTS)
        examples += [example for example in twins if not example.harmful]
    guarded, unguarded, model = answer(values, output, examples, restart=True)
    metrics = write_summary(output, guarded, unguarded, values)
    console.print_side_by_side(examples, guarded, unguarded)
    console.print_metrics(metrics)
    assert model.guard is not None
    threshold = model.guard.config.threshold
    page = write_page(output / "demo.html", examples, guarded, unguarded, metrics, values, threshold)
    print(f"open {page}")


def load_examples(values: dict[str, Any]) -> list[Example]:
    """The data set that ``dataset`` names."""
    options = {k: v for k, v in values["dataset"].items() if v is not None}
    return load_dataset(options.pop("name"), options.pop("root", ""), **options)


def _weights(vlm: VLM) -> str:
    """The last part of a model's folder or hub id, and a digest of what is in it, which may be replaced in place."""
    return f"{Path(vlm.model.name_or_path or '').name} {weights_digest(vlm.model)}"


def answer(
    values: dict[str, Any], output: Path, examples: list[Example], *, restart: bool = False
) -> tuple[list[Record], list[Record], GuardedVLM]:
    """Answer into ``output``, or go on where it broke off: guarded and unguarded records, and the model."""
    for name in ("compare", "check_base"):
        if not isinstance(values[name], bool):
            raise ConfigError(f"{name} must be true or false, got {values[name]!r}")
    with_guard = values["reminder"] not in (None, "none")
    changes = {k: v for k, v in values["guard"].items() if v is not None}
    if changes and not with_guard:
        raise ConfigError(f"guard options ({', '.join(changes)}) need a reminder; reminder={values['reminder']}")
    print(f"loading {values['model']} ...", file=sys.stderr)
    model: GuardedVLM = load(
        values["model"],
        values["reminder"] if with_guard else None,
        device=values["device"],
        dtype=values["dtype"],
        check_base=values["check_base"],
        **changes,
    )
    # A pack that was retrained in place is another configuration, though its name is the same; so is another pocket.
    digest = model.reminder.digest if model.reminder else None
    records = open_run(output, {**values, "weights": _weights(model.vlm), "reminder_digest": digest}, restart=restart)
    options = {k: v for k, v in values["generation"].items() if v is not None}
    for name in ("guard", "batch_size", "seed", "show"):
        if name in options:
            raise ConfigError(f"unknown generation option {name!r}; --help lists the options")
    options |= {"batch_size": values["batch_size"], "seed": values["seed"]}
    unguarded = run(model, examples, records, guard=False, **options) if values["compare"] or not with_guard else []
    guarded = run(model, examples, records, guard=True, **options) if with_guard else []
    return guarded, unguarded, model
