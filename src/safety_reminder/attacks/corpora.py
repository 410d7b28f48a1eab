"""Short texts that an attack on no request in particular is optimised with.

What BAP's image (Ying et al., arXiv:2406.04031) makes likelier, and what it makes less likely, are openings of answers
that fit any question. The paper's are not published; these are this project's own.
"""

from __future__ import annotations

from pathlib import Path

from safety_reminder.errors import ConfigError, DataError, unknown_name

CORPORA = {
    "affirmative": "openings of answers that do what was asked",
    "refusals": "openings of answers that decline",
    "benign": "harmless requests, to stand in a batch in the place of real ones",
}


def load_corpus(name: str) -> tuple[str, ...]:
    """The texts of a corpus that ships, or of a file of one's own.

    Args:
        name: one of ``CORPORA``, or the path of a text file, which has a suffix or a folder in it.

    Raises:
        ConfigError: no such corpus.
        DataError: the file cannot be read, or there is no text in it.
    """
    if name in CORPORA:
        return read_corpus(Path(__file__).parent / "corpora" / f"{name}.txt")
    path = Path(name)
    if not path.suffix and len(path.parts) < 2:
        raise ConfigError(f"{unknown_name('corpus', name, CORPORA)}; or give the path of a text file")
    return read_corpus(path.expanduser())


def read_corpus(path: Path) -> tuple[str, ...]:
    """The lines of a UTF-8 text file, without the blank ones.

    Raises:
        DataError: there is no such file, it is not UTF-8, or there is no text in it.
    """
    if not path.is_file():
        raise DataError(f"no file at {path}; give a text file with one text a line")
    try:
        lines = path.read_bytes().decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8") from error
    texts = tuple(line.strip() for line in lines if line.strip())
    if not texts:
        raise DataError(f"{path} has no text in it; write one text a line")
    return texts
