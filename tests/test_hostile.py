"""Hostile input, at random: whatever is in a pack, a message, an image, a table, a record or a run's configuration, it
is read as it stands, or refused with one clear line. Never a traceback, a hang, or a silently weaker guard.

``HOSTILE_CASES=9996`` runs so many cases in all; without it there are few.
"""

from __future__ import annotations

import base64
import copy
import io
import json
import os
import random
import shutil
import struct
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save

from checkpoints import random_reminder, tiny_vlm
from safety_reminder.data import load_dataset
from safety_reminder.data.training_sets.loading import read_training_file
from safety_reminder.errors import SafetyReminderError, in_a_line
from safety_reminder.evaluation.records import RecordFile, make_record, to_json
from safety_reminder.evaluation.runner import open_run
from safety_reminder.guard import GuardedVLM, SafetyReminder
from safety_reminder.models import fingerprint
from safety_reminder.models.messages import load_image
from safety_reminder.outside import can_be_written
from safety_reminder.types import Check, Example, Response

pytestmark = pytest.mark.slow

CASES = int(os.environ.get("HOSTILE_CASES", "240"))
KINDS = 6
OF_EACH = max(10, -(-CASES // KINDS))
MEMORY = 256  # MiB that the process may grow by, however many cases
hostile = settings(
    max_examples=OF_EACH,
    deadline=60_000,
    derandomize=True,
    database=None,
    phases=(Phase.generate,),
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)

TEXTS = st.one_of(
    st.text(max_size=12),
    st.sampled_from(["", "false", "true", "1", "NaN", "monitor", "\ud800", "\0", "a" * 5000, "<image>", "../..", "=5"]),
)
NUMBERS = st.one_of(
    st.integers(-3, 3),
    st.sampled_from([0.5, float("nan"), float("inf"), -float("inf"), 1e308, 10**400, 2**63, -1e-9, True, False, None]),
)


def deep(levels: int) -> Any:
    value: Any = []
    for _ in range(levels):
        value = [value]
    return value


ANYTHING = st.recursive(
    TEXTS | NUMBERS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=8,
) | st.sampled_from([deep(90), deep(400)])


@contextmanager
def one_line() -> Iterator[None]:
    """What is raised is ours, in one line that any terminal takes."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except SafetyReminderError as error:
        line = in_a_line(error)
        assert line
        assert can_be_written(line)
        assert "\n" not in line
        assert len(line) < 3000


@contextmanager
def folder() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="hostile-"))
    try:
        yield path
    finally:
        shutil.rmtree(path)


@pytest.fixture(scope="module", autouse=True)
def memory():
    """Flat: no kind of case keeps anything."""
    before = resident()
    yield
    grown = resident() - before
    print(f"{OF_EACH} cases of each kind; memory grew by {grown:.0f} MiB")
    assert grown < MEMORY


def resident() -> float:
    """MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def mutated(data, value: Any) -> Any:
    """A copy of a JSON value with a few places deleted, replaced or added to."""
    value = json.loads(json.dumps(value))
    for _ in range(data.draw(st.integers(1, 3))):
        place = value
        while True:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            key = data.draw(st.sampled_from(keys)) if keys else None
            inner = None if key is None else place[key]
            if not isinstance(inner, dict | list) or not inner or data.draw(st.booleans()):
                break
            place = inner
        change = data.draw(st.sampled_from(["delete", "replace", "add"]))
        if key is None:
            continue
        if change == "delete":
            del place[key]
        elif change == "replace" or isinstance(place, list):
            place[key] = copy.deepcopy(data.draw(ANYTHING))  # or the next change would be to what is drawn from
        else:
            place[data.draw(TEXTS)] = copy.deepcopy(data.draw(ANYTHING))
        if not value:
            break
    return value


def flipped(data, content: bytes) -> bytes:
    """A few bytes changed, cut off or doubled."""
    chaos = random.Random(data.draw(st.integers(0, 2**32)))
    out = bytearray(content)
    for _ in range(chaos.randint(1, 6)):
        if not out:
            break
        at = chaos.randrange(len(out))
        match chaos.randrange(4):
            case 0:
                out[at] = chaos.randrange(256)
            case 1:
                del out[at : at + chaos.randrange(1, 40)]
            case 2:
                out[at:at] = out[at : at + chaos.randrange(1, 40)]
            case _:
                out[at:at] = chaos.choice([b'"', b"\n", b",", b"\xff", b"\0", b"{", b"\\ud800", b"1e999"])
    return bytes(out)


def dumped(value: Any) -> bytes:
    """JSON as Python writes it, NaN and all."""
    return json.dumps(value).encode()


@cache  # here and below: nothing is made before a test asks for it
def pack() -> SafetyReminder:
    return random_reminder(
        fingerprint=fingerprint(tiny_vlm().model),
        base_model="org/model",
        calibration={"prompt_check": True, "n": 3},
        policy="stop",
        interval=4,
        threshold=0.25,
    )


@cache
def pack_config() -> dict[str, Any]:
    with folder() as path:
        return json.loads((pack().save_pretrained(path) / "config.json").read_text())


def pack_tensors() -> dict[str, torch.Tensor]:
    probe = pack().probe
    return {"reminder": pack().vectors, "probe.weight": probe.weight, "probe.bias": torch.tensor(probe.bias)}


def tensors(data) -> bytes:
    made = pack_tensors()
    name = data.draw(st.sampled_from(sorted(made)))
    kind = data.draw(st.sampled_from([torch.float16, torch.int64, torch.float64, torch.uint8, None]))
    if kind is not None:
        made[name] = made[name].to(kind)
    elif data.draw(st.booleans()):
        made[name] = torch.full_like(made[name], data.draw(st.sampled_from([float("nan"), float("inf"), 1e38])))
    else:
        made[name] = torch.zeros(data.draw(st.lists(st.integers(0, 3), max_size=3)))
    return save({key: value.contiguous() for key, value in made.items()})


@hostile
@given(st.data())
def test_a_pack_is_read_as_it_stands_or_refused(data):
    config, weights = dumped(pack_config()), save(pack_tensors())
    match data.draw(st.sampled_from(["config", "config", "bytes", "weights", "tensors"])):
        case "config":
            config = dumped(mutated(data, pack_config()))
        case "bytes":
            config = flipped(data, config)
        case "weights":
            weights = flipped(data, weights)
        case _:
            weights = tensors(data)
    with folder() as path, one_line():
        (path / "config.json").write_bytes(config)
        (path / "reminder.safetensors").write_bytes(weights)
        reminder = SafetyReminder.from_pretrained(path)
        guard = GuardedVLM(tiny_vlm(), reminder).guard
        assert guard is not None
        says = json.loads(config)
        for name in ("threshold", "interval", "policy"):
            value = getattr(guard.config, name)
            assert value == says[name]
            assert not isinstance(says[name], bool)
        assert guard.config.policy != "monitor"
        assert guard.config.prompt_check is says["calibration"].get("prompt_check", False)
        assert (
            not says["fingerprint"]
            or reminder.fingerprint["projections"].keys() == pack().fingerprint["projections"].keys()
        )
        assert torch.isfinite(reminder.vectors).all()
        assert torch.isfinite(reminder.probe.weight).all()


PARTS = st.one_of(
    st.fixed_dictionaries({"type": st.just("text"), "text": TEXTS}),
    st.fixed_dictionaries({"type": st.just("image"), "image": TEXTS}),
    st.fixed_dictionaries({"type": st.just("image_url"), "image_url": st.fixed_dictionaries({"url": TEXTS})}),
    ANYTHING,
)
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {
            "role": st.sampled_from(["user", "user", "assistant", "system"]) | ANYTHING,
            "content": TEXTS | st.lists(PARTS, max_size=3) | ANYTHING,
        }
    )
    | ANYTHING,
    max_size=3,
)


@hostile
@given(MESSAGES | ANYTHING)
def test_messages_are_encoded_or_refused(messages):
    with one_line():
        inputs = tiny_vlm().encode([messages])
        assert inputs["input_ids"].shape[0] == 1


@cache
def pictures() -> list[bytes]:
    made = []
    for mode, kind in (
        ("RGB", "PNG"), ("RGBA", "PNG"), ("P", "PNG"), ("I;16", "PNG"), ("RGB", "JPEG"), ("L", "GIF"), ("RGB", "BMP"),
        ("RGB", "WEBP"), ("RGB", "TIFF"),
    ):  # fmt: skip
        buffer = io.BytesIO()
        Image.new(mode, (9, 7)).save(buffer, kind)
        made.append(buffer.getvalue())
    return made


@hostile
@given(st.data())
def test_an_image_is_opened_or_refused(data):
    content = flipped(data, data.draw(st.sampled_from(pictures())))
    if data.draw(st.booleans()) and content[:4] == b"\x89PNG":
        content = content[:16] + struct.pack(">II", *data.draw(st.tuples(*[st.integers(0, 2**31)] * 2))) + content[24:]
    with folder() as path, one_line():
        if data.draw(st.booleans()):
            source: Any = path / "image.png"
            source.write_bytes(content)
        else:
            source = "data:image/png;base64," + base64.b64encode(content).decode()
        image = load_image(source)
        assert image.mode == "RGB"
        assert min(image.size) > 0


ROWS: list[dict[str, Any]] = [
    {"id": "a", "prompt": "Name a river.", "harmful": False, "category": "c", "image": None, "target": "Rhine"},
    {"id": 0, "prompt": 'Bake bread, "well".', "harmful": True, "category": "", "image": "", "target": ""},
    {"id": "c", "prompt": "Steps to manufacture illegal drugs.", "harmful": True, "category": "d"},
]
TRAINING: list[dict[str, Any]] = [
    {"prompt": "Name a river.", "safe": True, "chosen": "The Rhine."},
    {"messages": [{"role": "user", "content": "Hi."}], "safe": False, "chosen": "No.", "rejected": "Placeholder."},
]
TABLE = (
    b'id,prompt,harmful,category\na,Name a river.,false,c\nb,"Two, ""lines""\nof text",1,d\nc,Bake bread.,true,\n'
    b"d,Steps to manufacture illegal drugs.,,e\n"
)


@hostile
@given(st.data())
def test_a_table_is_read_or_refused_with_the_row(data):
    name, content = data.draw(st.sampled_from(["rows.csv", "rows.json", "rows.jsonl", "training.jsonl"])), TABLE
    if name != "rows.csv":
        rows = mutated(data, TRAINING if name.startswith("training") else ROWS)
        content = dumped(rows) if name == "rows.json" else b"".join(dumped(row) + b"\n" for row in rows)
    if name == "rows.csv" or data.draw(st.booleans()):
        content = flipped(data, content)
    with folder() as path, one_line():
        (path / name).write_bytes(content)
        if name.startswith("training"):
            for row in read_training_file(path / name):
                assert isinstance(row.safe, bool)
                assert can_be_written(row.prompt + row.chosen + row.rejected)
            return
        examples = load_dataset("text", path / name)
        assert len({example.id for example in examples}) == len(examples)
        for example in examples:
            assert isinstance(example.harmful, bool)
            assert example.prompt.strip()
            assert can_be_written(json.dumps([example.id, example.prompt, example.category], ensure_ascii=False))


@cache
def record_line() -> dict[str, Any]:
    response = Response("Fine", (5, 6), "Fine", (Check(4, 0.25, False, "periodic"),), (), 0, "stop")
    example = Example("a", "Hello?", category="c")
    return to_json(make_record(example, response, guard=True, batch=["a"], verdicts={"refusal": "none"}))


@hostile
@given(st.data())
def test_a_record_is_read_as_it_stands_or_refused_with_the_line(data):
    row = mutated(data, record_line())
    line = dumped(row) if data.draw(st.booleans()) else flipped(data, dumped(record_line()))
    with folder() as path, one_line():
        (path / "records.jsonl").write_bytes(line.replace(b"\n", b" ") + b"\n")
        [record] = RecordFile(path / "records.jsonl").records
        says = json.loads(line)
        assert to_json(record) | says == to_json(record)


@hostile
@given(st.data())
def test_the_configuration_of_a_run_is_compared_or_refused(data):
    config = {"model": "tiny", "guard": {"interval": 4, "refusal": None}, "seed": 1, "output": "here"}
    text = dumped(mutated(data, config))
    text = text if data.draw(st.booleans()) else flipped(data, text)
    with folder() as path, one_line():
        (path / "records.jsonl").write_bytes(dumped(record_line()) + b"\n")
        (path / "config.json").write_bytes(text)
        open_run(path, config)
        says = json.loads(text)
        assert {k: v for k, v in says.items() if k != "output"} == {k: v for k, v in config.items() if k != "output"}
