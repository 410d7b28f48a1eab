"""Getting a benchmark's published files: whole or not at all, checked, and resumed where a download was cut off.

Written by hand because of resuming: pooch 1.9 and huggingface_hub 2.4 both throw away what came before a connection
broke, and archives here have up to a gigabyte. Pooch also overwrites a file of one's own that is not the published one,
and does not unpack files again that were cut short in an archive's folder.
"""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections.abc import Callable, Mapping
from http.client import HTTPException, HTTPMessage
from pathlib import Path
from typing import IO
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from safety_reminder.data.sources import SOURCES, RemoteFile, Source
from safety_reminder.errors import ConfigError, DataError, unknown_name
from safety_reminder.run_files import write_text

CHUNK = 1 << 20  # bytes
AGENT = "safety-reminder"
SUMS = "SHA256SUMS"


def fetch(
    name: str,
    folder: str | Path,
    *,
    sources: Mapping[str, Source] = SOURCES,
    timeout: float = 60.0,
    tell: Callable[[str], None] = print,
) -> list[Path]:
    """Fetch the files of a data set that are not in ``folder`` yet.

    A file is written under another name, checked against its published checksum where that is known, and only then
    renamed. What was fetched before a connection broke is kept, and the next call goes on from there if the server can.
    The checksums of all files are kept in ``folder/SHA256SUMS``, which ``sha256sum --check`` reads, and the next call
    compares files that are there with it.

    Args:
        name: of the data set, as in :data:`~safety_reminder.data.sources.SOURCES`.
        folder: what to give the loader as ``root`` afterwards.
        timeout: seconds to wait for the server.
        tell: called with the licence, with what is fetched, and with what the source leaves out.

    Returns:
        The paths of the files; of an archive, its own.

    Raises:
        ConfigError: unknown name.
        DataError: no network (or ``HF_HUB_OFFLINE`` is set), the server's refusal, a file cut short or not as expected.
    """
    if name not in sources:
        raise ConfigError(unknown_name("data set to fetch", name, sources))
    source = sources[name]
    folder = Path(folder).expanduser()
    tell(f"{name}: licence {source.licence}")
    sums = _read_sums(folder / SUMS)
    missing = [file for file in source.files if not _is_there(folder / file.path, file, sums.get(file.path))]
    if missing and _offline():
        raise DataError(
            f"HF_HUB_OFFLINE is set, and {folder / missing[0].path} is not there; unset it, or download "
            f"{missing[0].url} to that path yourself"
        )
    for file in missing:
        tell(f"fetching {file.url}")
        sums[file.path] = _download(file, folder / file.path, timeout)
        write_text(folder / SUMS, "".join(f"{digest}  {path}\n" for path, digest in sorted(sums.items())))
    for file in source.files:
        if file.unpack:
            _unpack(folder / file.path)
    if source.note:
        tell(f"{name}: {source.note}")
    return [folder / file.path for file in source.files]


def _offline() -> bool:
    return os.environ.get("HF_HUB_OFFLINE", "").strip().upper() in {"1", "ON", "YES", "TRUE"}


def _is_there(path: Path, file: RemoteFile, fetched: str | None) -> bool:
    if not path.is_file():
        return False
    if (expected := file.sha256 or fetched) is not None and _sha256(path) != expected:
        which = "the published file" if file.sha256 else "what was fetched"
        raise DataError(f"{path} is not {which} (sha256 differs); move it away and fetch again")
    return True


def _read_sums(path: Path) -> dict[str, str]:
    lines = path.read_text("utf-8").splitlines() if path.is_file() else []
    return {name: digest for digest, _, name in (line.partition("  ") for line in lines) if name}


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _download(file: RemoteFile, path: Path, timeout: float) -> str:
    """Returns the file's SHA-256."""
    part = path.with_name(path.name + ".part")
    tag = path.with_name(path.name + ".part.tag")  # the version of the file that the part comes from
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _receive(file.url, part, tag, timeout)
    except HTTPError as error:
        error.close()
        raise DataError(f"{file.url}: the server answered {error.code} {error.reason}") from error
    except (OSError, HTTPException) as error:
        raise DataError(
            f"{file.url} could not be fetched ({error}); check the network, or download it to {path} yourself"
        ) from error
    sha256 = _sha256(part)
    tag.unlink(missing_ok=True)
    if file.sha256 not in (None, sha256):
        part.unlink()
        raise DataError(
            f"{file.url}: sha256 is {sha256}, expected {file.sha256}; fetch again, or report it if it stays so"
        )
    os.replace(part, path)
    return sha256


def _receive(url: str, part: Path, tag: Path, timeout: float) -> None:
    """Write the file at ``url`` to ``part``, going on after what is there if it is of the same version."""
    headers = {"User-Agent": AGENT}
    have = part.stat().st_size if part.is_file() and tag.is_file() else 0
    if have:
        headers |= {"Range": f"bytes={have}-", "If-Range": tag.read_text("utf-8")}
    try:
        response = urlopen(Request(url, headers=headers), timeout=timeout)
    except HTTPError as error:
        if error.code != 416 or not have:
            raise
        error.close()  # nothing follows what is there, which may or may not be the whole file: begin anew
        tag.unlink()
        _receive(url, part, tag, timeout)
        return
    with response:
        resumed = response.status == 206
        if resumed and not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            raise HTTPException(f"asked for the bytes from {have}, got {response.headers.get('Content-Range')}")
        if not resumed:
            have = 0
            part.unlink(missing_ok=True)  # before its tag is replaced, or it would be taken for the new version
            _write_tag(tag, response.headers)
        total = _total(response.headers, have)
        with part.open("ab" if resumed else "wb") as stream:
            _copy(response, stream)
    size = part.stat().st_size
    if total is not None and size != total:
        raise HTTPException(f"it ended after {size} of {total} bytes; fetch again to go on")


def _write_tag(tag: Path, headers: HTTPMessage) -> None:
    """Write what names the version: a strong ETag, else the time of the last change. Without either, there is no
    resuming."""
    name = headers.get("ETag", "")
    version = name if name.startswith('"') else headers.get("Last-Modified", "")
    if version:
        tag.write_text(version, "utf-8")
    else:
        tag.unlink(missing_ok=True)


def _total(headers: HTTPMessage, have: int) -> int | None:
    length = headers.get("Content-Length", "")
    return have + int(length) if length.isdigit() else None


def _copy(response: IO[bytes], stream: IO[bytes]) -> None:
    while chunk := response.read(CHUNK):
        stream.write(chunk)


def _unpack(path: Path) -> None:
    """Unpack a zip archive beside itself; files that are there in their full size are left as they are."""
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                target = (path.parent / member.filename).resolve()
                if not target.is_relative_to(path.parent.resolve()):
                    raise DataError(f"{path}: {member.filename!r} would be written outside of {path.parent}")
                if not (target.is_file() and target.stat().st_size == member.file_size):
                    archive.extract(member, path.parent)
    except zipfile.BadZipFile as error:
        raise DataError(
            f"{path} is not a zip archive that can be read ({error}); move it away and fetch again"
        ) from error
