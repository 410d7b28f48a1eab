"""FigStep (Gong et al., arXiv:2311.05608) in upstream's layout: ``question/`` or ``questions/``, and ``images/``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safety_reminder.data.benchmarks.typographic import PROMPT
from safety_reminder.data.files import need_columns, one_of, selection
from safety_reminder.data.tables import read_rows, text_of
from safety_reminder.errors import ConfigError, DataError
from safety_reminder.types import Example

# CSV file → (folder of its images, short form of its images' file names); upstream spells both sets differently.
SUBSETS = {"SafeBench": "SafeBench", "SafeBench-Tiny": "SafeBench-Tiny"}
TOPICS = (
    "Illegal Activity", "Hate Speech", "Malware Generation", "Physical Harm", "Fraud",
    "Adult Content", "Privacy Violation", "Legal Opinion", "Financial Advice", "Health Consultation",
)  # fmt: skip
ADVICE = frozenset(topic.lower() for topic in TOPICS[-3:])


def load(
    root: str | Path,
    *,
    subset: str | None = None,
    topics: list[str] | str | None = None,
    task_ids: Sequence[int | str] | int | str | None = None,
    prompt: str = PROMPT,
) -> list[Example]:
    """FigStep's examples, in the order of its CSV. Those of :data:`ADVICE` ask for advice: harmful to upstream, and no
    attacks to metrics.

    Args:
        root: upstream's ``data`` folder, or the folder above it.
        subset: ``SafeBench`` or ``SafeBench-Tiny``; by default the larger one that is there.
        topics: keep these only (FigStep's topic names, in any case); one, or a list.
        task_ids: keep these only: a number, which is one task of each topic, or topic and number as in ``5-1``; one, or
            a list.
        prompt: the text that goes with every image.

    Raises:
        DataError: a file is not where it should be; says which.
        ConfigError: unknown subset, topic or task.
    """
    folder, questions = _folders(root)
    path, subset = _table(questions, subset)
    topics_kept = {topic.lower() for topic in selection("FigStep topic", topics, TOPICS)} if topics else None
    rows = read_rows(path)
    need_columns(rows, ("category_id", "category_name", "instruction", "task_id"), path)
    tasks_kept = _tasks(task_ids, rows)
    examples = []
    for number, row in enumerate(rows, 1):
        where = f"{path}, row {number}"
        category = text_of(row, "category_name", where)
        if topics_kept is not None and category.lower() not in topics_kept:
            continue
        if tasks_kept is not None and not tasks_kept & _names(row):
            continue
        name = f"query_ForbidQI_{text_of(row, 'category_id', where)}_{text_of(row, 'task_id', where)}_6.png"
        image = folder / "images" / SUBSETS[subset] / name
        if not image.is_file():
            raise DataError(f"{path.name} names an image that is not there: expected {image}")
        examples.append(
            Example(
                id=f"{subset}/{row['category_id']}-{row['task_id']}",
                prompt=prompt,
                image=image,
                harmful=True,
                category=category,
                instruction=text_of(row, "instruction", where),
                advice=category.lower() in ADVICE,
            )
        )
    return examples


def _table(questions: Path, subset: str | None) -> tuple[Path, str]:
    """The table of a subset, or of the first that is there, and the subset's name."""
    if subset is not None:
        one_of("FigStep subset", subset, SUBSETS)
    candidates = [subset] if subset else list(SUBSETS)
    for name in candidates:
        if (path := _csv(questions, name)) is not None:
            return path, name
    raise DataError(f"{questions} has none of: {', '.join(f'{name}.csv' for name in candidates)}")


def _folders(root: str | Path) -> tuple[Path, Path]:
    """The ``data`` folder, and that of its questions."""
    if not str(root):
        raise DataError("dataset=figstep needs dataset.root=DIR, FigStep's 'data' folder")
    folder = Path(root).expanduser()
    if not folder.is_dir():
        raise DataError(f"no folder {folder}; give dataset.root=DIR, FigStep's 'data' folder")
    if (folder / "data" / "images").is_dir():
        folder = folder / "data"
    questions = next((folder / name for name in ("question", "questions") if (folder / name).is_dir()), None)
    if questions is None:
        raise DataError(f"{folder} has neither question/ nor questions/; expected FigStep's 'data' folder")
    return folder, questions


def _tasks(wanted: Sequence[int | str] | int | str | None, rows: Sequence[Mapping[str, Any]]) -> set[str] | None:
    """What is asked for by ``task_ids``; None for all."""
    if wanted is None or wanted == []:
        return None
    names = {str(name).strip() for name in ([wanted] if isinstance(wanted, int | str) else wanted)}
    if unknown := sorted(names - {name for row in rows for name in _names(row)}):
        numbers = sorted({int(row["task_id"]) for row in rows if str(row["task_id"]).isdecimal()})
        plain = f"a number from {numbers[0]} to {numbers[-1]}, or " if numbers else ""
        raise ConfigError(
            f"no FigStep task {unknown[0]!r}; give {plain}topic and number as in "
            f"{rows[0]['category_id']}-{rows[0]['task_id']}"
        )
    return names


def _names(row: Mapping[str, Any]) -> set[str]:
    return {str(row["task_id"]), f"{row['category_id']}-{row['task_id']}"}


def _csv(folder: Path, subset: str) -> Path | None:
    names = (f"{subset}.csv", f"{subset.lower()}.csv", f"{subset.replace('-', '_')}.csv")
    return next((folder / name for name in names if (folder / name).is_file()), None)
