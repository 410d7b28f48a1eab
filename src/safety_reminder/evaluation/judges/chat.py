"""Any chat model as a judge's voice: a local one, or one behind an OpenAI-compatible address."""

from __future__ import annotations

import http.client
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

from safety_reminder.errors import ConfigError, ModelError

_AGAIN = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
_LONGEST_WAIT = 60.0


class ChatModel(Protocol):
    """Answers questions, each a conversation of its own."""

    @property
    def version(self) -> str: ...

    def ask(self, questions: Sequence[str], *, max_new_tokens: int) -> list[str]: ...


class LocalChat:
    """A chat model run with transformers; arguments as of :class:`~safety_reminder.evaluation.judges.local.LocalModel`.

    A question that it has no room for comes back as the note that says so, which is no verdict.
    """

    def __init__(self, model: str, device: str | None, dtype: str, batch_size: int) -> None:
        from safety_reminder.evaluation.judges.local import LocalModel

        self.model = LocalModel(model, device=device, dtype=dtype, batch_size=batch_size)

    @property
    def version(self) -> str:
        return self.model.version

    def ask(self, questions: Sequence[str], *, max_new_tokens: int) -> list[str]:
        from safety_reminder.evaluation.judges.local import Turn

        conversations = [[Turn("user", question)] for question in questions]
        found = self.model.chat(conversations, max_new_tokens=max_new_tokens)
        return [generation.problem or generation.text for generation in found]


class RemoteChat:
    """A chat model behind an OpenAI-compatible address, at temperature 0. The key is in ``OPENAI_API_KEY``, if it needs
    one.

    Args:
        model: its name there.
        url: up to and with ``/v1``.
        timeout: seconds for one answer.
        retries: how often to try again where the server is busy or cannot be reached, after 1, 2, 4, ... seconds, or
            as long as it asks for.
        workers: questions under way at once.
    """

    def __init__(
        self, model: str, url: str, *, timeout: float = 120.0, retries: int = 5, workers: int = 8, pause: float = 1.0
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise ConfigError(f"url must begin with http:// or https://, got {url!r}")
        self.model, self.url = model, url.rstrip("/") + "/chat/completions"
        self.timeout, self.retries, self.workers, self.pause = timeout, retries, workers, pause

    @property
    def version(self) -> str:
        return f"{self.model}@{self.url}"

    def ask(self, questions: Sequence[str], *, max_new_tokens: int) -> list[str]:
        """Raises:
        ModelError: the server refuses, stays busy, or gives something that is no answer.
        """
        with ThreadPoolExecutor(self.workers) as pool:
            return list(pool.map(lambda question: self._one(question, max_new_tokens), questions))

    def _one(self, question: str, max_new_tokens: int) -> str:
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": question}],
            "temperature": 0,
            "max_tokens": max_new_tokens,
        }
        found = self._post(json.dumps(body).encode())
        try:
            content = json.loads(found)["choices"][0]["message"]["content"]
        except (ValueError, LookupError, TypeError) as error:
            raise ModelError(f"the judge at {self.url} gave no chat completion: {found[:200]!r}") from error
        return content or ""

    def _post(self, body: bytes) -> bytes:
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get("OPENAI_API_KEY"):
            headers["Authorization"] = f"Bearer {key}"
        request = urllib.request.Request(self.url, data=body, headers=headers, method="POST")
        for attempt in range(self.retries + 1):
            wait = min(self.pause * 2**attempt, _LONGEST_WAIT)
            try:
                with urllib.request.urlopen(request, timeout=self.timeout) as response:
                    return response.read()
            except urllib.error.HTTPError as error:
                problem = f"HTTP {error.code} {error.reason}: {error.read(200).decode(errors='replace')}"
                asked = (error.headers or {}).get("Retry-After") or ""
                error.close()
                if error.code not in _AGAIN:
                    hint = "; is OPENAI_API_KEY right?" if error.code in (401, 403) else ""
                    raise ModelError(f"the judge at {self.url} refuses: {problem}{hint}") from error
                wait = min(float(asked), _LONGEST_WAIT) if asked.isdigit() else wait
            except (urllib.error.URLError, TimeoutError, ConnectionError, http.client.HTTPException) as error:
                problem = str(getattr(error, "reason", error)) or type(error).__name__
            if attempt < self.retries:
                time.sleep(wait)
        raise ModelError(f"no answer from the judge at {self.url} in {self.retries + 1} tries: {problem}")


def chat_model(
    model: str | None, url: str | None, device: str | None, dtype: str, batch_size: int, **remote: Any
) -> ChatModel:
    """The model at ``url``, else a local one.

    Raises:
        ConfigError: no model is named.
    """
    if not model:
        raise ConfigError("this judge asks a chat model; give the option model=NAME, and url=URL for one on a server")
    if url:
        return RemoteChat(model, url, workers=batch_size, **remote)
    return LocalChat(model, device, dtype, batch_size)
