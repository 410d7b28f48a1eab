"""MME (Fu et al., arXiv:2306.13394): harmless questions on images, to be answered by yes or no.

Upstream's folder has one folder a task. In some, an image and the text file of its questions lie side by side; in
others, in ``images/`` and ``questions_answers_YN/``. A line of a text file is a question, a tab, and ``Yes`` or ``No``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from safety_reminder.data.files import existing_root, image_of_stem, selection
from safety_reminder.errors import DataError
from safety_reminder.types import Example

TASKS = (
    "existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark", "artwork", "OCR",
    "commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning",
)  # fmt: skip


def load(root: str | Path, *, tasks: Sequence[str] | str | None = None) -> list[Example]:
    """The questions of the tasks that are there, in upstream's order of tasks; ``category`` is the task.

    ``target`` is ``Yes`` or ``No``. Upstream's questions themselves ask for one of the two.

    Args:
        root: the folder of the tasks' folders, or the one above ``MME_Benchmark``, or where upstream's
            archive was unpacked.
        tasks: these only; by default all that are there.

    Raises:
        DataError: a task is not there, a line does not fit, or an image is missing or cannot be read; says which.
        ConfigError: unknown task.
    """
    task_names = selection("MME task", tasks, TASKS)
    folder = existing_root(root, "mme", "MME's folder, with one folder a task")
    nested = (folder / name for name in ("MME_Benchmark", "MME_Benchmark_release_version/MME_Benchmark"))
    folder = next((place for place in nested if place.is_dir()), folder)
    if not tasks:
        task_names = [task for task in task_names if (folder / task).is_dir()]
        if not task_names:
            raise DataError(f"{folder} has no task; expected {folder / TASKS[0]} and others")
    examples = []
    for task in task_names:
        split = (folder / task / "questions_answers_YN").is_dir()
        questions = folder / task / "questions_answers_YN" if split else folder / task
        images = folder / task / "images" if split else folder / task
        texts = sorted(questions.glob("*.txt"))
        if not texts:
            raise DataError(f"dataset=mme: expected {questions / '*.txt'}")
        for path in texts:
            examples += _examples(path, images, task)
    return examples


def _examples(path: Path, images: Path, task: str) -> list[Example]:
    try:
        lines = path.read_bytes().decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8") from error
    image = image_of_stem(images, path.stem, str(path))
    examples = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        question, tab, answer = line.rpartition("\t")
        target = answer.strip().capitalize()
        if not tab or not question.strip() or target not in ("Yes", "No"):
            raise DataError(f"{path}, line {number}: expected a question, a tab, and Yes or No")
        examples.append(
            Example(
                id=f"mme/{task}/{path.stem}/{number}",
                prompt=question.strip(),
                image=image,
                harmful=False,
                category=task,
                instruction=question.strip(),
                target=target,
            )
        )
    return examples
