"""JailBreakV-28K (Luo et al., arXiv:2404.03027): jailbreaks of language models and of images, as text-image pairs.

Upstream's folder holds ``JailBreakV_28K.csv`` and its sample of 280, ``mini_JailBreakV_28K.csv``, with the columns
``id``, ``jailbreak_query``, ``redteam_query``, ``format``, ``policy``, ``image_path``, ``from``, ``selected_mini`` and
``transfer_from_llm``, beside the folders ``image_path`` leads into: ``figstep``, ``llm_transfer_attack``,
``query_related``. The hub's copy has a hundred images of each; all of them are in the archive its card links to.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from safety_reminder.data.files import existing_root, first_existing, image_at, need_columns, one_of, selection
from safety_reminder.data.tables import read_rows, text_of
from safety_reminder.types import Example

SUBSETS = ("JailBreakV_28K", "mini_JailBreakV_28K")
COLUMNS = ("id", "jailbreak_query", "redteam_query", "format", "policy", "image_path")


def load(
    root: str | Path,
    *,
    subset: str | None = None,
    formats: Sequence[str] | str | None = None,
    policies: Sequence[str] | str | None = None,
) -> list[Example]:
    """The jailbreaks, in upstream's order; ``category`` is the policy, ``instruction`` the bare request.

    Args:
        root: the folder of the CSV files, or the one above ``JailBreakV_28K``.
        subset: ``JailBreakV_28K`` or ``mini_JailBreakV_28K``; by default the larger one that is there.
        formats: keep these kinds of attack only (``Template``, ``Persuade``, ``Logic``, ``figstep``, ``SD`` and so on).
        policies: keep these safety policies only.

    Raises:
        DataError: a file is not where it should be, or an image cannot be read; says which.
        ConfigError: unknown subset, format or policy.
    """
    if subset is not None:
        one_of("JailBreakV subset", subset, SUBSETS)
    folder = existing_root(root, "jailbreakv", "JailBreakV-28K's folder")
    names = [f"{name}.csv" for name in ([subset] if subset else SUBSETS)]
    path = first_existing([place / name for name in names for place in (folder, folder / SUBSETS[0])], "jailbreakv")
    rows = read_rows(path)
    need_columns(rows, COLUMNS, path)
    kinds = [
        tuple(text_of(row, name, f"{path}, row {number}") for name in ("format", "policy"))
        for number, row in enumerate(rows, 1)
    ]
    wanted_formats = selection("JailBreakV format", formats, dict.fromkeys(kind for kind, _ in kinds))
    wanted_policies = selection("JailBreakV policy", policies, dict.fromkeys(policy for _, policy in kinds))
    seen: dict[str, Path] = {}  # an image goes with many rows; opening it once is enough
    examples = []
    for number, (row, (kind, policy)) in enumerate(zip(rows, kinds, strict=True), 1):
        if kind not in wanted_formats or policy not in wanted_policies:
            continue
        where = f"{path}, row {number}"
        name = text_of(row, "image_path", where)
        if name not in seen:
            seen[name] = image_at(path.parent / name, where)
        examples.append(
            Example(
                id=f"{path.stem}/{text_of(row, 'id', where)}",
                prompt=text_of(row, "jailbreak_query", where),
                image=seen[name],
                harmful=True,
                category=policy,
                instruction=text_of(row, "redteam_query", where),
            )
        )
    return examples
