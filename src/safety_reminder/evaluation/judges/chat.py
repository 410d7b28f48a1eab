"""Any chat model as a judge's voice: a local one, or one at an OpenAI-compatible address."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

from safety_reminder.errors import ConfigError, MissingExtraError, ModelError
from safety_reminder.evaluation.judges.base import NoAnswer

_BUSY = frozenset({408, 409, 429})  # beside the server's own errors, from 500


# What servers say of one question, which has nothing to do with the next: their filter refuses it, or it is too long.
_OF_THE_QUESTION = re.compile(
    r"content.?(filter|management|policy|moderation)|flagged|moderation|context.?(length|window|size)|maximum context"
    r"|string_above_max_length|(prompt|input|request|message)s? (is|are) too long|too many tokens",
    re.IGNORECASE,
)


class ChatModel(Protocol):
    """Answers questions, each a conversation of its own. A question that it cannot or will not answer has
    :class:`~safety_reminder.evaluation.judges.base.NoAnswer`, and the others have theirs."""

    @property
    def version(self) -> str: ...

    def ask(self, questions: Sequence[str], *, max_new_tokens: int) -> list[str]: ...


class LocalChat:
    """A chat model run with transformers; arguments as for
    :class:`~safety_reminder.evaluation.judges.local.LocalModel`.

    A question that it has no room for has :class:`NoAnswer`.
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
        generations = self.model.chat(conversations, max_new_tokens=max_new_tokens)
        return [NoAnswer(made.problem) if made.problem else made.text for made in generations]


class RemoteChat:
    """A chat model at an OpenAI-compatible address, at temperature 0. The key is in ``OPENAI_API_KEY``, if it needs
    one.

    Args:
        model: its name there.
        url: up to and with ``/v1``.
        timeout: seconds for one answer.
        retries: how often to try again where the server is busy or cannot be reached, after pauses that grow, or as
            long as it asks for, up to two minutes.
        workers: questions under way at once.

    Raises:
        ConfigError: an invalid address.
        MissingExtraError: without the package ``openai``.
    """

    def __init__(self, model: str, url: str, *, timeout: float = 120.0, retries: int = 5, workers: int = 8) -> None:
        if not url.startswith(("http://", "https://")):
            raise ConfigError(f"url must begin with http:// or https://, got {url!r}")
        try:
            import openai
        except ImportError as error:
            raise MissingExtraError("openai", "eval") from error
        self.model, self.url = model, url.rstrip("/") + "/chat/completions"
        self.workers = workers
        self._errors = openai.APIStatusError, openai.APIConnectionError
        key = os.environ.get("OPENAI_API_KEY")
        # The client insists on a key; where there is none, none is sent.
        self._headers = {} if key else {"Authorization": openai.Omit()}
        self._client = openai.OpenAI(base_url=url, api_key=key or "none", timeout=timeout, max_retries=retries)

    @property
    def version(self) -> str:
        return f"{self.model}@{self.url}"

    def ask(self, questions: Sequence[str], *, max_new_tokens: int) -> list[str]:
        """Raises:
        ModelError: the server refuses whatever is asked, stays busy, or gives something that is no answer.
        """
        with ThreadPoolExecutor(self.workers) as pool:
            return list(pool.map(lambda question: self._one(question, max_new_tokens), questions))

    def _one(self, question: str, max_new_tokens: int) -> str:
        try:
            # The raw answer: the client takes anything for a completion, with None for what is missing.
            completion = self._client.chat.completions.with_raw_response.create(
                model=self.model,
                messages=[{"role": "user", "content": question}],
                temperature=0,
                max_tokens=max_new_tokens,
                extra_headers=self._headers,
            ).http_response.text
        except self._errors as error:
            if reason := self._of_the_question(error):
                return NoAnswer(reason)
            raise ModelError(self._explain(error)) from error
        try:
            return _content(json.loads(completion))
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise ModelError(f"the judge at {self.url} gave no chat completion: {completion[:200]!r}") from error

    def _of_the_question(self, error: Any) -> str:
        """Why this one question is refused; empty where the server would refuse others too, or is not there."""
        status = getattr(error, "status_code", None)
        if status not in (400, 413, 422):
            return ""
        text = " ".join(error.response.text.split())
        known = status == 413 or _OF_THE_QUESTION.search(text)
        return f"the server refuses it: HTTP {status} {text[:200]}" if known else ""

    def _explain(self, error: Any) -> str:
        status = getattr(error, "status_code", None)
        if status is None:
            problem = str(error.__cause__ or error)
        else:
            answer = error.response
            problem = f"HTTP {status} {answer.reason_phrase}: {' '.join(answer.text.split())[:200]}"
            if status not in _BUSY and status < 500:
                hint = "; is OPENAI_API_KEY right?" if status in (401, 403) else ""
                return f"the judge at {self.url} refuses: {problem}{hint}"
            if pause := answer.headers.get("Retry-After"):  # too long a one is not waited for
                problem += f" (Retry-After: {pause})"
        tries = int(error.request.headers.get("x-stainless-retry-count", 0)) + 1
        return f"no answer from the judge at {self.url} in {tries} {'try' if tries == 1 else 'tries'}: {problem}"


def _content(completion: Any) -> str:
    """What was written; half of a character, where an answer was cut off in one, is a question mark.

    Raises:
        ValueError, LookupError, TypeError, AttributeError: it is no chat completion.
    """
    choices = completion["choices"]
    if not isinstance(choices, list):
        raise TypeError("choices is no list")
    if not choices:
        return NoAnswer("the server gave no choices")
    content, reason = choices[0]["message"].get("content"), choices[0].get("finish_reason")
    if reason == "content_filter":
        return NoAnswer("the server's content filter took the answer out")
    if content is None:
        return NoAnswer(f"the server gave an empty answer (finish_reason {reason!r})")
    if not isinstance(content, str):
        raise TypeError("content is no text")
    return content.encode("utf-8", "replace").decode("utf-8")


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
