"""Requests are gathered into batches, answered each with its own response, and fail each for itself."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from safety_reminder.engines import BatchingEngine
from safety_reminder.errors import ConfigError, MessageError
from safety_reminder.types import Response


def say(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


class Echo:
    """Answers with the request's text, and remembers the batches."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.go = threading.Event()
        self.go.set()

    def __call__(self, batch):
        self.go.wait(10)
        texts = [messages[0]["content"] for messages in batch]
        self.batches.append(texts)
        if "bad" in texts:
            raise MessageError("a bad request")
        return [Response(text, (), text, (), (), 0, "stop") for text in texts]


@pytest.fixture
def echo():
    return Echo()


def test_everyone_gets_the_answer_to_his_own_request(echo):
    engine = BatchingEngine(echo, batch_size=3)
    futures = [engine.submit(say(str(i))) for i in range(10)]
    assert [f.result(10).response.text for f in futures] == [str(i) for i in range(10)]
    engine.close()


def test_requests_that_wait_are_answered_together_up_to_the_batch_size(echo):
    echo.go.clear()
    engine = BatchingEngine(echo, batch_size=4, wait=0)
    futures = [engine.submit(say(str(i))) for i in range(9)]
    echo.go.set()
    for future in futures:
        future.result(10)
    engine.close()
    assert max(map(len, echo.batches)) == 4
    assert sum(map(len, echo.batches)) == 9


def test_what_is_answered_together_has_one_batch_that_no_other_has(echo):
    echo.go.clear()
    engine = BatchingEngine(echo, batch_size=4, wait=0.2)
    texts = [*map(str, range(6)), "bad"]
    futures = [engine.submit(say(text)) for text in texts]
    echo.go.set()
    found = {text: future.result(10) for text, future in zip(texts, futures, strict=True) if text != "bad"}
    with pytest.raises(MessageError):
        futures[-1].result(10)
    engine.close()
    names = [found[text].batch for text in texts[:-1]]
    assert names[:4] == names[:1] * 4
    # Those that were with a bad one were answered anew, each alone.
    assert len(set(names)) == 3
    assert all(isinstance(name, str) and name for name in names)


def test_the_rows_of_a_batch_are_told(echo):
    engine = BatchingEngine(echo, batch_size=8)
    assert engine.submit(say("alone")).result(10).rows == 1
    echo.go.clear()
    futures = [engine.submit(say(str(i))) for i in range(3)]
    echo.go.set()
    assert sorted(f.result(10).rows for f in futures) == sorted(len(b) for b in echo.batches[1:] for _ in b)
    engine.close()


def test_a_model_that_forgets_a_row_is_an_error_and_not_a_wait():
    engine = BatchingEngine(lambda batch: [], batch_size=1)
    with pytest.raises(ValueError, match="zip"):
        engine.submit(say("lost")).result(10)
    engine.close()


def test_requests_that_are_not_alike_are_not_mixed(echo):
    echo.go.clear()
    engine = BatchingEngine(echo, alike=lambda messages: int(messages[0]["content"]) % 2, batch_size=8)
    futures = [engine.submit(say(str(i))) for i in range(6)]
    echo.go.set()
    assert [f.result(10).response.text for f in futures] == [str(i) for i in range(6)]
    engine.close()
    assert all(len({int(t) % 2 for t in batch}) == 1 for batch in echo.batches)


def test_a_bad_request_does_not_spoil_its_batch_mates(echo):
    echo.go.clear()
    engine = BatchingEngine(echo, batch_size=3)
    futures = {text: engine.submit(say(text)) for text in ("a", "bad", "b")}
    echo.go.set()
    with pytest.raises(MessageError, match="a bad request"):
        futures["bad"].result(10)
    assert futures["a"].result(10).response.text == "a"
    assert futures["b"].result(10).response.text == "b"
    engine.close()


def test_closing_answers_what_was_submitted_and_takes_no_more(echo):
    engine = BatchingEngine(echo, batch_size=2)
    futures = [engine.submit(say(str(i))) for i in range(5)]
    engine.close()
    assert all(f.done() for f in futures)
    with pytest.raises(ConfigError, match="closed"):
        engine.submit(say("late"))


def test_a_cancelled_request_is_not_answered(echo):
    echo.go.clear()
    engine = BatchingEngine(echo, batch_size=1, wait=0)
    futures = [engine.submit(say(str(i))) for i in range(3)]
    assert futures[2].cancel()
    echo.go.set()
    engine.close()
    assert echo.batches == [["0"], ["1"]]


LEAVES = """
import sys, threading, time
from safety_reminder.engines import BatchingEngine

begun = threading.Event()

def answer(batch):
    begun.set()
    time.sleep(0.3)
    print("ended", flush=True)
    return batch

engine = BatchingEngine(answer, batch_size=1)
for number in range(3):
    engine.submit(number)
begun.wait(10)
sys.exit(2)
"""


def test_a_process_that_leaves_ends_its_threads_first_and_leaves_the_rest_unanswered():
    done = subprocess.run([sys.executable, "-c", LEAVES], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (2, "ended\n", "")


@pytest.mark.parametrize("size", [0, "8", True, 2.0, None])
def test_an_impossible_batch_size_is_refused(echo, size):
    with pytest.raises(ConfigError, match="batch_size must be a whole number from 1, got"):
        BatchingEngine(echo, batch_size=size)
