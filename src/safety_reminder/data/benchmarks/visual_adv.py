"""Visual adversarial examples (Qi et al., arXiv:2306.13213): harmful instructions, all with one optimised image.

Upstream's folder has ``adversarial_images/{name}`` and ``harmful_corpus/manual_harmful_instructions.csv``, 40
instructions in its first column, without a header. The images were optimised on MiniGPT-4 and serve on other models as
transfer attacks.
"""

from __future__ import annotations

from pathlib import Path

from safety_reminder.data.benchmarks.text import load as load_text
from safety_reminder.data.files import existing_root, first_existing, image_at
from safety_reminder.data.tables import read_cells
from safety_reminder.errors import ConfigError, DataError, unknown_name
from safety_reminder.types import Example

CORPUS = "manual_harmful_instructions.csv"


def load(
    root: str | Path,
    *,
    image: str = "prompt_constrained_16",
    instructions: str | Path | None = None,
    column: str | None = None,
) -> list[Example]:
    """Every instruction with the image; all harmful.

    Args:
        root: upstream's folder, or ``adversarial_images``.
        image: name of the image, with or without its suffix: ``prompt_constrained_16``, ``_32`` and ``_64`` (of 255),
            ``prompt_unconstrained``, or ``clean``, the image all began from, to compare with.
        instructions: another list of instructions, such as AdvBench's: a ``.csv`` with a header, ``.json`` or
            ``.jsonl``. By default upstream's.
        column: of the text in ``instructions``; by default ``prompt``, ``instruction``, ``question`` or ``goal``.

    Raises:
        DataError: a file is not where it should be, or the image cannot be read; says which.
        ConfigError: no image of that name.
    """
    folder = existing_root(root, "visual_adv", "the folder of adversarial_images/")
    images = folder / "adversarial_images" if (folder / "adversarial_images").is_dir() else folder
    files = sorted(path for path in images.iterdir() if path.is_file()) if images.is_dir() else []
    image_file = next((path for path in files if image in (path.name, path.stem)), None)
    if image_file is None:
        if not files:
            raise DataError(f"dataset=visual_adv: expected images in {folder / 'adversarial_images'}")
        raise ConfigError(unknown_name("adversarial image", image, [path.stem for path in files]))
    image_at(image_file, f"dataset.image={image}")
    if instructions is None or Path(instructions).name == CORPUS:
        places = [images.parent / "harmful_corpus" / CORPUS, images.parent / CORPUS]
        path = first_existing([Path(instructions).expanduser()] if instructions else places, "visual_adv")
        rows = [(f"{path.stem}-{number:04d}", text) for number, text in enumerate(_corpus(path))]
    else:
        rows = [(example.id, example.prompt) for example in load_text(instructions, column=column)]
    return [
        Example(id=f"{image_file.stem}/{key}", prompt=text, image=image_file, harmful=True, instruction=text)
        for key, text in rows
    ]


def _corpus(path: Path) -> list[str]:
    return [cells[0].strip() for cells in read_cells(path) if cells[0].strip()]
