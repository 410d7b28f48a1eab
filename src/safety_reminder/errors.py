"""Exceptions that say what was wrong and what to do about it.

The command line prints the message of any :class:`SafetyReminderError` as one line and exits with code 2.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class SafetyReminderError(Exception):
    """Base of every error this package raises for input or files that cannot be used."""


class ConfigError(SafetyReminderError, ValueError):
    """An option, name or combination of options that does not make sense."""


class ModelError(SafetyReminderError):
    """A model or processor that cannot be loaded, or that cannot be guarded."""


class MessageError(SafetyReminderError, ValueError):
    """Chat messages or images that cannot be read."""


class PackError(SafetyReminderError):
    """A reminder pack that is missing, damaged, or made for another model."""


class DataError(SafetyReminderError):
    """A data set that is missing or not laid out as expected."""


class ImageError(DataError):
    """An image of a data set is missing or cannot be read; the row is named."""


class GuardFailure(SafetyReminderError):
    """The guard could not give a verdict (NaN, wrong shape). Decoding treats it as unsafe."""


class MissingExtraError(SafetyReminderError, ImportError):
    """An optional dependency is not installed."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"{package} is not installed; run: pip install 'safety-reminder[{extra}]'")


_MOST = 2000  # characters of a message


def in_a_line(error: Exception) -> str:
    """What to tell somebody at a terminal. Of the system's errors, which file and why: a full disk, a folder that may
    not be written, a file in a folder's place."""
    if isinstance(error, OSError) and error.filename and error.strerror:
        text = f"{error.filename}: {error.strerror}"
    else:
        text = " ".join(str(error).split())
    if len(text) > _MOST:  # what is quoted may be of any length; what it is about stands first, what to do last
        text = f"{text[: _MOST // 2]} ... {text[-_MOST // 4 :]}"
    return text.encode("utf-8", "backslashreplace").decode("utf-8")  # a file's name may hold what no terminal takes


def shortened(text: str, most: int) -> str:
    """``text``, cut off where it is longer than so many characters: a message is a line."""
    return text if len(text) <= most else f"{text[: most - 3]}..."


def unknown_name(kind: str, name: str, known: Iterable[str]) -> str:
    """``unknown attack 'gcq'; did you mean 'gcg'? known: bap, gcg, pgd``. A long list is left out."""
    known = sorted(known)
    name = shortened(name, 100)
    close = difflib.get_close_matches(name, known, n=1)
    hints = [f"did you mean {close[0]!r}?"] if close else []
    if len(known) <= 30:
        hints.append(f"known: {', '.join(known)}")
    return "; ".join([f"unknown {kind} {name!r}", " ".join(hints)]) if hints else f"unknown {kind} {name!r}"
