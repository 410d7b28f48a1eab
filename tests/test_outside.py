"""JSON that two readers would take for different things, and texts that no file takes, are refused."""

from __future__ import annotations

import pytest

from safety_reminder.errors import ConfigError, PackError, SafetyReminderError, in_a_line
from safety_reminder.outside import DEPTH, can_be_written, read_object, require_writable, strict_json


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"a": 1, "b": 2, "a": 3}', "it gives 'a' twice in one object"),
        ('[{"deep": {"x": 1, "x": 1}}]', "it gives 'x' twice in one object"),
        ("[NaN]", "NaN is no number of JSON"),
        ('{"a": -Infinity}', "-Infinity is no number of JSON"),
        ('"\\ud800"', "half of a character"),
        ('{"\\udfff": 1}', "half of a character"),
        ('["\\ud83d and \\ude00"]', "half of a character"),
        ("[" * (DEPTH + 1) + "]" * (DEPTH + 1), "nested more than 64 levels deep"),
        ('{"a":' * 5000 + "1" + "}" * 5000, "nested more than 64 levels deep"),
        ("[" * 10**5, "nested more than 64 levels deep"),
        ("9" * 5000, "4300 digits"),
        ("", "Expecting value"),
    ],
)
def test_what_has_no_one_meaning_is_refused(text, reason):
    with pytest.raises(ValueError, match=reason) as caught:
        strict_json(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ['{"a": [1, 2.5, null, "ü"], "b": {}}', '"\\ud83d\\ude00"', "[" * DEPTH + "]" * DEPTH])
def test_everything_else_is_what_python_reads(text):
    import json

    assert strict_json(text) == strict_json(text.encode()) == json.loads(text)


@pytest.mark.parametrize("data", [b"\xff", b"{", b"[1]", b"null", b'{"a":NaN}'])
def test_a_file_that_holds_no_object_is_named(tmp_path, data):
    (tmp_path / "config.json").write_bytes(data)
    with pytest.raises(PackError, match=r"config\.json is not .*; do this"):
        read_object(tmp_path / "config.json", PackError, "a config", "do this")


def test_a_text_with_half_of_a_character_is_named():
    require_writable("whole 😀", "here", ConfigError)
    assert can_be_written("\N{GRINNING FACE}")
    with pytest.raises(ConfigError, match="here has half of a character"):
        require_writable("\ud83d", "here", ConfigError)


def test_whatever_an_error_says_can_be_printed():
    assert in_a_line(SafetyReminderError("no file \udcff")) == "no file \\udcff"
    long = in_a_line(SafetyReminderError(f"unknown {'x' * 10**6}; do this"))
    assert long.startswith("unknown x")
    assert long.endswith("; do this")
    assert len(long) < 2000
    assert in_a_line(OSError(28, "No space left on device", "a\ud800")) == "a\\ud800: No space left on device"
