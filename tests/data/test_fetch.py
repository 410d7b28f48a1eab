"""Fetching from a server of one's own that can be told to misbehave."""

from __future__ import annotations

import hashlib
import io
import threading
import zipfile
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from safety_reminder.data import DATASETS
from safety_reminder.data.fetch import SUMS, fetch
from safety_reminder.data.sources import SOURCES, RemoteFile, Source
from safety_reminder.errors import ConfigError, DataError

CONTENT = bytes(range(256)) * 40


@dataclass
class Site:
    """What the server holds and how it behaves; ``requests`` records (path, Range header, bytes sent)."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    etag: str | None = '"one"'
    ranges: bool = True
    cut_after: int | None = None  # bytes of the body, then the connection ends
    wrong_range: bool = False
    requests: list[tuple[str, str | None, int]] = field(default_factory=list)


@pytest.fixture
def site(monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("no_proxy", "*")
    state = Site()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            body, asked = state.files.get(self.path), self.headers.get("Range")
            if body is None:
                self.send_error(404)
                return
            start = 0
            if asked and state.ranges and self.headers.get("If-Range") in (None, state.etag):
                start = int(asked.removeprefix("bytes=").removesuffix("-"))
                if start >= len(body):
                    state.requests.append((self.path, asked, 0))
                    self.send_error(416)
                    return
                self.send_response(206)
                shown = start + 1 if state.wrong_range else start
                self.send_header("Content-Range", f"bytes {shown}-{len(body) - 1}/{len(body)}")
            else:
                self.send_response(200)
            if state.etag:
                self.send_header("ETag", state.etag)
            self.send_header("Content-Length", str(len(body) - start))
            self.end_headers()
            sent = body[start:][: state.cut_after]
            # Before the last byte: the client may be done, and the test look, as soon as it has that.
            state.requests.append((self.path, asked, len(sent)))
            self.wfile.write(sent)

        def log_message(self, format, *args):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_port}"
    yield state
    server.shutdown()
    server.server_close()
    thread.join()


def source(site: Site, sha256: str | None = None, **options) -> dict[str, Source]:
    file = RemoteFile(f"{site.url}/a.bin", "sub/a.bin", sha256, **options)
    return {"mine": Source((file,), licence="CC BY 4.0", note="the images are elsewhere")}


def get(site: Site, folder, sha256: str | None = None):
    return fetch("mine", folder, sources=source(site, sha256), timeout=5, tell=lambda _: None)


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file() and path.name != SUMS)


def test_a_file_is_fetched_once_and_its_licence_told(site, tmp_path):
    site.files["/a.bin"] = CONTENT
    told: list[str] = []
    digest = hashlib.sha256(CONTENT).hexdigest()
    for _ in range(2):
        (path,) = fetch("mine", tmp_path, sources=source(site, digest), timeout=5, tell=told.append)
        assert path == tmp_path / "sub" / "a.bin"
        assert path.read_bytes() == CONTENT
    assert names(tmp_path) == ["a.bin"]
    assert told == [
        "mine: licence CC BY 4.0",
        f"fetching {site.url}/a.bin",
        "mine: the images are elsewhere",
        "mine: licence CC BY 4.0",
        "mine: the images are elsewhere",
    ]
    assert len(site.requests) == 1


@pytest.mark.parametrize("ranges", [True, False])
def test_what_was_cut_off_is_gone_on_with_or_begun_anew(site, tmp_path, ranges):
    site.files["/a.bin"], site.ranges, site.cut_after = CONTENT, ranges, 1000
    with pytest.raises(DataError, match=r"it ended after 1000 of 10240 bytes; fetch again to go on"):
        get(site, tmp_path)
    assert names(tmp_path) == ["a.bin.part", "a.bin.part.tag"]
    site.cut_after = None
    assert get(site, tmp_path)[0].read_bytes() == CONTENT
    assert names(tmp_path) == ["a.bin"]
    assert site.requests[1] == ("/a.bin", "bytes=1000-", len(CONTENT) - (1000 if ranges else 0))


def test_a_part_of_another_version_is_not_gone_on_with(site, tmp_path):
    site.files["/a.bin"], site.cut_after = CONTENT, 1000
    with pytest.raises(DataError, match="it ended after"):
        get(site, tmp_path)
    site.files["/a.bin"], site.etag, site.cut_after = CONTENT[::-1], '"two"', None
    assert get(site, tmp_path)[0].read_bytes() == CONTENT[::-1]


@pytest.mark.parametrize("etag", [None, 'W/"weak"'])
def test_without_a_version_nothing_is_gone_on_with(site, tmp_path, etag):
    site.files["/a.bin"], site.etag, site.cut_after = CONTENT, etag, 1000
    with pytest.raises(DataError, match="it ended after"):
        get(site, tmp_path)
    site.cut_after = None
    assert get(site, tmp_path)[0].read_bytes() == CONTENT
    assert [asked for _, asked, _ in site.requests] == [None, None]


def test_a_part_that_was_already_whole_is_fetched_anew(site, tmp_path):
    site.files["/a.bin"] = CONTENT
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.bin.part").write_bytes(CONTENT)
    (tmp_path / "sub" / "a.bin.part.tag").write_text('"one"')
    assert get(site, tmp_path)[0].read_bytes() == CONTENT
    assert [asked for _, asked, _ in site.requests] == ["bytes=10240-", None]


def test_a_server_that_sends_another_range_is_refused(site, tmp_path):
    site.files["/a.bin"], site.cut_after = CONTENT, 1000
    with pytest.raises(DataError, match="it ended after"):
        get(site, tmp_path)
    site.cut_after, site.wrong_range = None, True
    with pytest.raises(DataError, match="asked for the bytes from 1000, got bytes 1001-10239/10240"):
        get(site, tmp_path)
    assert not (tmp_path / "sub" / "a.bin").exists()


def test_a_wrong_checksum_leaves_nothing(site, tmp_path):
    site.files["/a.bin"] = CONTENT
    with pytest.raises(DataError, match=f"sha256 is {hashlib.sha256(CONTENT).hexdigest()}, expected {'0' * 64}"):
        get(site, tmp_path, "0" * 64)
    assert names(tmp_path) == []


def test_a_file_that_is_there_but_is_another_is_not_overwritten(site, tmp_path):
    site.files["/a.bin"] = CONTENT
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.bin").write_bytes(b"mine")
    with pytest.raises(DataError, match=r"sub/a\.bin is not the published file \(sha256 differs\); move it away"):
        get(site, tmp_path, hashlib.sha256(CONTENT).hexdigest())
    assert (tmp_path / "sub" / "a.bin").read_bytes() == b"mine"
    assert site.requests == []


def test_what_was_fetched_without_a_published_checksum_is_held_against_its_own(site, tmp_path):
    site.files = {"/a.bin": CONTENT, "/b.bin": b"b"}
    source = Source((RemoteFile(f"{site.url}/a.bin", "in/a.bin"), RemoteFile(f"{site.url}/b.bin", "b.bin")), "none")
    fetch("some", tmp_path, sources={"some": source}, tell=lambda line: None)
    sums = (tmp_path / "SHA256SUMS").read_text()
    assert sums == f"{hashlib.sha256(b'b').hexdigest()}  b.bin\n{hashlib.sha256(CONTENT).hexdigest()}  in/a.bin\n"
    fetch("some", tmp_path, sources={"some": source}, tell=lambda line: None)
    assert len(site.requests) == 2
    (tmp_path / "in/a.bin").write_bytes(CONTENT[:-1])
    with pytest.raises(DataError, match="is not what was fetched"):
        fetch("some", tmp_path, sources={"some": source}, tell=lambda line: None)


def test_refusals_and_a_missing_network_say_what_to_do(site, tmp_path):
    with pytest.raises(DataError, match=r"a\.bin: the server answered 404 Not Found"):
        get(site, tmp_path)
    nobody = {"mine": Source((RemoteFile("http://127.0.0.1:9/a.bin", "a.bin"),), licence="MIT")}
    with pytest.raises(DataError, match=r"could not be fetched .*; check the network, or download it to .*/a\.bin"):
        fetch("mine", tmp_path, sources=nobody, timeout=5, tell=lambda _: None)
    with pytest.raises(ConfigError, match="unknown data set to fetch 'xtest'; did you mean 'xstest'"):
        fetch("xtest", tmp_path)


@pytest.mark.parametrize("value", ["1", "true", "ON"])
def test_offline_is_heeded_and_what_is_there_is_enough(site, tmp_path, monkeypatch, value):
    site.files["/a.bin"] = CONTENT
    monkeypatch.setenv("HF_HUB_OFFLINE", value)
    with pytest.raises(DataError, match=r"HF_HUB_OFFLINE is set, and .*sub/a\.bin is not there; unset it, or download"):
        get(site, tmp_path)
    assert site.requests == []
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    get(site, tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", value)
    assert get(site, tmp_path)[0].read_bytes() == CONTENT


def zipped(*members: tuple[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in members:
            archive.writestr(name, content)
    return stream.getvalue()


def test_an_archive_is_unpacked_and_mended(site, tmp_path):
    site.files["/a.bin"] = zipped(("set/rows.json", b"[]"), ("set/images/1.png", b"png"))
    for _ in range(2):
        fetch("mine", tmp_path, sources=source(site, unpack=True), timeout=5, tell=lambda _: None)
        assert (tmp_path / "sub" / "set" / "images" / "1.png").read_bytes() == b"png"
        (tmp_path / "sub" / "set" / "images" / "1.png").write_bytes(b"p")
    assert len(site.requests) == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no archive", "is not a zip archive that can be read"),
        (zipped(("../../outside.txt", b"x")), "'../../outside.txt' would be written outside of"),
    ],
)
def test_an_archive_that_cannot_be_trusted_is_refused(site, tmp_path, content, message):
    site.files["/a.bin"] = content
    with pytest.raises(DataError, match=message):
        fetch("mine", tmp_path / "in", sources=source(site, unpack=True), timeout=5, tell=lambda _: None)
    assert not (tmp_path / "outside.txt").exists()


def test_the_table_of_sources_is_sound():
    assert set(SOURCES) <= set(DATASETS)
    for name, one in SOURCES.items():
        paths = [file.path for file in one.files]
        assert len(set(paths)) == len(paths) > 0, name
        assert one.licence
        for file in one.files:
            assert file.url.startswith("https://")
            assert file.sha256 is None or len(bytes.fromhex(file.sha256)) == 32
            assert file.unpack == file.path.endswith(".zip")
