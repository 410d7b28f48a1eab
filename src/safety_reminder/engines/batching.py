"""A thread that gathers requests into batches and answers them with a model in this process."""

from __future__ import annotations

import atexit
import functools
import queue
import threading
import time
import uuid
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from safety_reminder.errors import ConfigError

Asked = TypeVar("Asked")
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Answered(Generic[Answer]):
    """A response, the ``batch`` it was answered in (an id that no other batch has), and how many ``rows`` that had:
    they share its time."""

    response: Answer
    rows: int
    batch: str


@dataclass
class _Waiting(Generic[Asked, Answer]):
    asked: Asked
    future: Future[Answered[Answer]] = field(default_factory=Future)


# A thread that is in the middle of a model's arithmetic when the interpreter goes away takes the process down with it.
_LIVE: weakref.WeakSet[BatchingEngine[Any, Any]] = weakref.WeakSet()


@functools.cache
def _end_all_at_exit() -> None:
    atexit.register(lambda: [engine.abandon() for engine in list(_LIVE)])


class BatchingEngine(Generic[Asked, Answer]):
    """Answers what is submitted from any thread, up to ``batch_size`` requests that are alike at a time.

    Args:
        answer: ``batch -> responses``, such as ``GuardedVLM.respond``, or a judge's ``judge``. Only the engine's own
            thread calls it.
        alike: request → what must be equal for two to share a batch; without it, any two may.
        batch_size: rows of a batch, at most.
        wait: seconds to wait for more requests once there is one. While a batch is answered others gather anyway, so
            this matters for the first only.
    """

    def __init__(
        self,
        answer: Callable[[list[Asked]], list[Answer]],
        *,
        alike: Callable[[Asked], object] = lambda asked: None,
        batch_size: int = 8,
        wait: float = 0.05,
    ) -> None:
        if not isinstance(batch_size, int) or isinstance(batch_size, bool) or batch_size < 1:
            raise ConfigError(f"batch_size must be a whole number from 1, got {batch_size!r}")
        self._answer, self._alike, self._batch_size, self._wait = answer, alike, batch_size, wait
        self._requests: queue.SimpleQueue[_Waiting[Asked, Answer] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()  # a request is either in front of the end mark or refused
        self._closed, self._abandoned = False, False
        _LIVE.add(self)
        _end_all_at_exit()
        self._thread = threading.Thread(target=self._work, name="batching-engine", daemon=True)
        self._thread.start()

    def submit(self, asked: Asked) -> Future[Answered[Answer]]:
        """The response to come. Only a request's own future raises what goes wrong with it.

        Raises:
            ConfigError: the engine is closed.
        """
        request: _Waiting[Asked, Answer] = _Waiting(asked)
        with self._lock:
            if self._closed:
                raise ConfigError("this engine is closed")
            self._requests.put(request)
        return request.future

    def close(self) -> None:
        """Answer what was submitted, then end the thread."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._requests.put(None)
        self._thread.join()

    def abandon(self) -> None:
        """End the thread after the batch that it is at; nobody waits for the answers any more."""
        self._abandoned = True
        self.close()

    def _work(self) -> None:
        waiting: list[_Waiting[Asked, Answer]] = []
        ended = False
        while waiting or not ended:
            if not waiting:
                first = self._requests.get()
                if first is None:
                    return
                waiting.append(first)
            if self._abandoned:
                return
            until = time.monotonic() + self._wait
            while not ended and len(self._like_the_first(waiting)) < self._batch_size:
                try:
                    request = self._requests.get(timeout=max(0.0, until - time.monotonic()))
                except queue.Empty:
                    break
                if request is None:
                    ended = True
                else:
                    waiting.append(request)
            batch = self._like_the_first(waiting)[: self._batch_size]
            taken = {id(r) for r in batch}
            waiting = [r for r in waiting if id(r) not in taken]
            # A request that was cancelled while it waited is not answered.
            self._finish([r for r in batch if r.future.set_running_or_notify_cancel()])

    def _like_the_first(self, waiting: list[_Waiting[Asked, Answer]]) -> list[_Waiting[Asked, Answer]]:
        kind = self._alike(waiting[0].asked)
        return [request for request in waiting if self._alike(request.asked) == kind]

    def _finish(self, batch: list[_Waiting[Asked, Answer]]) -> None:
        if not batch or self._abandoned:
            return
        try:
            responses = self._answer([r.asked for r in batch])
            pairs = list(zip(batch, responses, strict=True))
        except BaseException as error:
            if self._abandoned:
                return
            if len(batch) == 1:
                batch[0].future.set_exception(error)
                return
            # Asking each alone shows whose fault it was.
            for request in batch:
                self._finish([request])
            return
        if self._abandoned:
            return
        name = uuid.uuid4().hex
        for request, response in pairs:
            request.future.set_result(Answered(response, len(batch), name))
