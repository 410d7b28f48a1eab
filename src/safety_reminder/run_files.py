"""What every command leaves in its folder: files written whole or not at all, one writer, and where they come from."""

from __future__ import annotations

import errno
import json
import logging
import os
import platform
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from safety_reminder.errors import ConfigError

log = logging.getLogger(__name__)
LOCK = ".safety-reminder.lock"  # in every run folder; held by the process that writes there
_PARTS = ("pack", "prompt")  # folders that commands write into a run folder, of the kind that they also read
_OF_DISKS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EIO}
_DEBRIS = {".DS_Store", ".gitignore", ".gitkeep", "multirun.yaml"}  # may lie beside the run folders of a sweep


@contextmanager
def run_folder(output: str | Path, *, reads: Iterable[str | Path | None] = ()) -> Iterator[Path]:
    """The folder of a run, made if new, for this process alone as long as the context lasts.

    The lock of a process that was killed is free again: the system holds it, and a lock file alone does not lock.

    Args:
        output, reads: as for :func:`claim_folder`.

    Raises:
        ConfigError: as :func:`claim_folder` raises it; or another run is writing there.
    """
    folder = claim_folder(output, reads=reads)
    lock = FileLock(folder / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise ConfigError(f"another run is writing to {folder}; wait for its end, or give another output=DIR") from None
    except NotImplementedError:  # some network file systems; refusing them would leave no place to write to
        log.warning("%s cannot be locked there: let only one run write to it", folder)
    try:
        with _naming_what_has_no_name(folder):
            yield folder
    finally:
        lock.release()


@contextmanager
def _naming_what_has_no_name(folder: Path) -> Iterator[None]:
    """An error of the system that names no file, such as a full disk, is one of the folder that is written to."""
    try:
        yield
    except OSError as error:
        if error.filename is not None or error.errno not in _OF_DISKS:
            raise
        raise OSError(error.errno, error.strerror, str(folder)) from error


def claim_folder(output: str | Path, *, reads: Iterable[str | Path | None] = ()) -> Path:
    """The folder of a run, made if new and marked as one, so that nobody else's files are ever written over.

    A folder that is there must be empty, or a run's: marked, or with a file in it that only a run of this package
    leaves, or with nothing but such folders in it, as a sweep leaves them.

    Args:
        output: a folder; ``~`` stands for the home folder. An empty name does not stand for the current folder.
        reads: what the run reads, such as packs and models. Names and hub ids, which are not paths here, do not matter.

    Raises:
        ConfigError: there is no name, or what is there is a file, somebody else's folder, or one of ``reads``; or the
            folder's ``pack`` or ``prompt``, which the run may write, is one of ``reads``, or leads elsewhere.
    """
    if not str(output).strip() or Path(output) == Path():
        raise ConfigError("output names no folder; give output=DIR (the current folder by its full path)")
    folder = Path(output).expanduser()
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is a file, not a folder; give another output=DIR")
    if folder.is_symlink() and not folder.exists():
        raise ConfigError(f"{folder} is a link to nothing; give another output=DIR")
    _require_apart(folder, [Path(read).expanduser() for read in reads if read is not None and str(read)])
    if folder.is_dir():
        _require_ours(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise ConfigError(f"{folder} cannot be made, since {error.filename} is no folder") from error
    (folder / LOCK).touch()
    return folder


def _require_apart(folder: Path, reads: Iterable[Path]) -> None:
    for read in reads:
        if not read.exists():
            continue
        if _same(folder, read):
            raise ConfigError(f"{folder} is what the run reads, and would be written over; give another output=DIR")
        for part in (folder / name for name in _PARTS):
            if _same(part, read) or read.resolve().is_relative_to(part.resolve()):
                raise ConfigError(f"{part} is what the run reads, and would be written over; give another output=DIR")
    for part in (folder / name for name in _PARTS):
        if part.is_symlink():
            raise ConfigError(f"{part} is a link to {part.resolve()}, which a run would write over; remove the link")


def _same(path: Path, other: Path) -> bool:
    return path.exists() and path.samefile(other)


def _require_ours(folder: Path) -> None:
    names = sorted(path.name for path in folder.iterdir() if path.name not in _DEBRIS)
    kind = _foreign_config(folder / "config.json")
    if kind is not None:
        raise ConfigError(f"{folder} holds {kind} (config.json), not a run; give another output=DIR")
    if not names or _is_run(folder) or all((folder / name).is_dir() and _is_run(folder / name) for name in names):
        return
    listed = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    raise ConfigError(f"{folder} is not empty, and holds no run of safety-reminder ({listed}); give another output=DIR")


def _foreign_config(path: Path) -> str | None:
    """Whose ``config.json`` it is, if plainly not a run's."""
    config = _read_object(path)
    if "fingerprint" in config:
        return "a pack or a soft prompt"
    if config.keys() & {"architectures", "auto_map", "model_type", "_class_name"}:
        return "a model"
    return None


def _is_run(folder: Path) -> bool:
    return (folder / LOCK).is_file() or any(sign(folder / name) for name, sign in _SIGNS.items())


def _read_object(path: Path) -> dict[str, Any]:
    """Empty if the file is not there, or not a JSON object."""
    try:
        value = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _first_line(path: Path) -> str:
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        return file.readline(1 << 24).decode("utf-8", errors="replace").strip()


def _has_keys(*alternatives: set[str]) -> Callable[[Path], bool]:
    """Of a JSON object."""
    return lambda path: any(keys <= _read_object(path).keys() for keys in alternatives)


def _has_row_with(keys: set[str]) -> Callable[[Path], bool]:
    """Of JSON lines."""

    def sign(path: Path) -> bool:
        try:
            row = json.loads(_first_line(path))
        except (ValueError, RecursionError):
            return False
        return isinstance(row, dict) and keys <= row.keys()

    return sign


def _has_columns(*names: str) -> Callable[[Path], bool]:
    """Of a CSV file."""
    return lambda path: {*names} <= {*_first_line(path).split(",")}


def _has_provenance(path: Path) -> bool:
    value = _read_object(path).get("provenance")
    return isinstance(value, dict) and "safety-reminder" in value


# By which files a run folder is known that was written before run folders were marked, or copied without the mark.
# Names alone would not do: others write a config.json, summary.json or losses.csv too.
_SIGNS: dict[str, Callable[[Path], bool]] = {
    "config.json": _has_keys({"weights", "reminder_digest"}, {"model", "reminder", "output"}),
    "records.jsonl": _has_row_with({"id", "seen_text", "checks"}),
    "summary.json": _has_provenance,
    "results.json": _has_provenance,
    "verdicts.jsonl": _has_row_with({"key", "unsafe", "score", "label"}),
    "splits.json": _has_keys({"training", "validation", "calibration", "test"}),
    "losses.csv": _has_columns("step", "language", "probe"),
    "auc.csv": _has_columns("probe", "by", "of", "auc"),
    "awareness.csv": _has_columns("engaged", "correction", "depth", "p_unsafe"),
}


def differing(now: Mapping[str, Any], before: Mapping[str, Any]) -> list[str]:
    """Names whose values are not the same. Where a run goes on, a null is as good as none: an earlier version may not
    have had the option."""
    return sorted(k for k in now.keys() | before.keys() if _without_nulls(now.get(k)) != _without_nulls(before.get(k)))


def _without_nulls(value: Any) -> Any:
    return {k: _without_nulls(v) for k, v in value.items() if v is not None} if isinstance(value, dict) else value


def write_json(path: Path, value: Any) -> None:
    """Write atomically: a reader sees the old file or the new one, never half of it."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write atomically, as :func:`write_json`. Raises OSError as :func:`write_bytes`."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, data: bytes | memoryview) -> None:
    """Write atomically, as :func:`write_json`.

    Raises:
        OSError: it cannot be written, on a full disk for example; it names ``path``, and the old file is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with naming(path):
        handle, scratch = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())  # a full disk may be told of only here
            Path(scratch).chmod(0o644)
            os.replace(scratch, path)
        except BaseException:
            Path(scratch).unlink(missing_ok=True)
            raise


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """What cannot be written is named ``path``: the system names the scratch file, or on a full disk none."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def whole_lines(path: Path) -> list[bytes]:
    """Lines of a file that is appended to; none if it is not there. A last line that was cut off by a kill is dropped
    from it."""
    if not path.is_file():
        return []
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if len(whole) < len(data):
        with path.open("r+b") as file:
            file.truncate(len(whole))
    return whole.split(b"\n")[:-1]


def append_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """JSON, one line a row; they are on disk when this returns.

    Raises:
        OSError: they cannot be written, on a full disk for example; it names ``path``, and the file is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    before = path.stat().st_size if path.exists() else 0
    try:
        with naming(path), path.open("a", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        # Half a line would spoil the next one, were this process to go on.
        with suppress(OSError):
            os.truncate(path, before)
        raise


def provenance() -> dict[str, Any]:
    """Versions, machine and, inside a git checkout, the revision and whether it was changed."""
    import torch

    info: dict[str, Any] = {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "torch": torch.__version__,
        **{name: version(name) for name in ("transformers", "safety-reminder")},
    }
    here = Path(__file__).parent
    try:
        git = lambda *words: subprocess.run(  # noqa: E731
            ["git", *words], cwd=here, capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()
        git("ls-files", "--error-unmatch", Path(__file__).name)  # else it is installed in somebody's own repository
        info["git_revision"] = git("rev-parse", "HEAD")
        info["git_dirty"] = bool(git("status", "--porcelain"))
    except (OSError, subprocess.SubprocessError):
        info["git_revision"] = None  # installed, not checked out
    return info
