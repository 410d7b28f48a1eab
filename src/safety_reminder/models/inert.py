"""Text that cannot write turns: what a user types is never read as one of the tokenizer's special or added tokens.

A chat template writes ``<|im_end|>`` and its like around the texts of a conversation, and the tokenizer then looks for
them in the whole. Where a text spells one, it would end its own turn and begin another: the system's, say. Here the
special tokens of the rendered conversation are compared with those that the template writes around harmless words. If
they differ, the texts are cut within each such spelling by a token that only a copy of the tokenizer knows and that is
taken out of the ids again. All else is tokenised as it always is, so that a conversation without such spellings has the
same ids with and without this module. The system message is the operator's, and stays free.
"""

from __future__ import annotations

import copy
import re
import secrets
from bisect import bisect_left
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise
from typing import Any

import torch
from tokenizers import AddedToken

from safety_reminder.config.reading import SpecialText
from safety_reminder.errors import MessageError

# A model's own answer, given back to it as an earlier turn, may hold these; templates look for them there.
_THINKING = frozenset({"<think>", "</think>", "◁think▷", "◁/think▷"})
_THOUGHTS = re.compile(f"({'|'.join(map(re.escape, sorted(_THINKING)))})")
_PASSES = 8  # a cut may uncover a shorter special token, which the next pass finds
_KEPT = 256  # structures of conversations that are remembered


@dataclass(frozen=True)
class Cut:
    """``conversation`` with ``count`` spellings cut; the copy's processor must encode it if there are any."""

    conversation: list[dict[str, Any]]
    count: int = 0


@dataclass(frozen=True)
class _Twin:
    """A processor, or tokenizer, that knows the token ``number`` besides: it separates text, and stands for nothing."""

    processor: Any
    tokenizer: Any
    number: int


def special_texts(tokenizer: Any) -> dict[int, str]:
    """The ids that text must not be read as, and how they are spelled: of special tokens and of added ones. Added ones
    that are blank (Gemma's line breaks), one character, or what the tokenizer makes of their text anyway are words like
    others."""
    return {
        number: token.content
        for number, token in tokenizer.added_tokens_decoder.items()
        if token.content and (token.special or not _is_word(tokenizer, number, token.content))
    }


class InertText:
    """Makes the texts of conversations inert.

    Args:
        processor: applies the chat template; the tokenizer itself where the model reads text only.
        placeholders: what the processor replaces with an image, whether or not it is a token.
        policy: ``inert``, or ``refuse``: a text that spells a special token is an error that names it.
        name: the model's, for messages.
    """

    def __init__(
        self, processor: Any, tokenizer: Any, placeholders: Collection[str], policy: SpecialText, name: str
    ) -> None:
        self.processor, self.tokenizer, self.policy, self.name = processor, tokenizer, policy, name
        self._placeholders = frozenset(placeholders)
        self._mark = f"cut{secrets.token_hex(16)}"
        self._structures: dict[Any, list[int]] = {}

    def cut(self, conversation: list[dict[str, Any]], *, begins: bool) -> Cut:
        """The conversation, in the template's form, with the spellings in its texts cut.

        Args:
            begins: with the header of the assistant's turn at its end.

        Raises:
            MessageError: under ``refuse``, or where a spelling cannot be cut.
        """
        texts = [text for message in conversation if message["role"] != "system" for text in _texts(message)]
        if not any(map(self._may_spell, texts)):
            return Cut(conversation)
        expected = self._expected(conversation, begins)
        named = any(self._others.search(text) for text in texts)
        if not named and self._structure(self.processor, self.tokenizer, conversation, begins) == expected:
            return Cut(conversation)
        cut, found = [], 0
        for number, message in enumerate(conversation):
            after, spelled = message, 0
            if message["role"] != "system":
                texts, spelled = self._cut_texts(_texts(message), message["role"], f"messages[{number}]")
                after = _with_texts(message, texts)
            cut.append(after)
            found += spelled
        # The second: a text and what the template writes next to it may spell a token together.
        for attempt in (cut, [self._fenced(message) for message in cut]):
            if self.policy != "inert":
                break
            if self._structure(self._twin.processor, self._twin.tokenizer, attempt, begins) == expected:
                return Cut(attempt, max(found, 1))
        raise MessageError(
            f"a text of this conversation changes which special tokens {self.name} reads around it, and cannot be kept "
            "from it; take out what looks like one"
        )

    def answer_ids(self, text: str) -> tuple[list[int], int]:
        """The token ids of a text of the assistant's by itself, and how many spellings were cut in it.

        Raises:
            MessageError: as :meth:`cut` raises it.
        """
        if not text:
            return [], 0
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        if self._forbidden("assistant").isdisjoint(ids):
            return ids, 0
        texts, spelled = self._cut_texts([text], "assistant", "the answer that was begun")
        ids = self._twin.tokenizer(texts[0], add_special_tokens=False)["input_ids"]
        return [number for number in ids if number != self._twin.number], spelled

    @property
    def copy(self) -> Any:
        """The processor that encodes what was cut."""
        return self._twin.processor

    def without_cuts(self, inputs: Mapping[str, Any], pad: int) -> dict[str, Any]:
        """Model inputs without the tokens that cut; (batch, length, ...) tensors are left-padded anew."""
        keep = (inputs["input_ids"] != self._twin.number) & inputs["attention_mask"].bool()
        width = int(keep.sum(dim=1).max())

        def without(name: str, value: torch.Tensor) -> torch.Tensor:
            if value.shape[:2] != keep.shape or value.is_floating_point():
                return value
            rows = value.new_full((len(keep), width, *value.shape[2:]), pad if name == "input_ids" else 0)
            for row, kept, old in zip(rows, keep, value, strict=True):
                row[width - int(kept.sum()) :] = old[kept]
            return rows

        return {name: without(name, value) for name, value in inputs.items()}

    @cached_property
    def _special(self) -> dict[int, str]:
        return special_texts(self.tokenizer)

    @cached_property
    def _others(self) -> re.Pattern[str]:
        """Spellings that are looked for as text: where the tokenizer cannot say where its tokens come from, all."""
        known = frozenset(self._special.values())
        spellings = self._placeholders - known if self.tokenizer.is_fast else self._placeholders | known
        return re.compile("|".join(map(re.escape, sorted(spellings, key=len, reverse=True))) or "(?!)")

    @cached_property
    def _signs(self) -> frozenset[str]:
        """Characters without which a text spells no part of a special token; none where that cannot be said."""
        signs = [{c for c in text if not c.isalnum()} for text in {*self._special.values(), *self._placeholders}]
        return frozenset().union(*signs) if all(signs) else frozenset()

    @cached_property
    def _changes_text(self) -> bool:
        """Whether the tokenizer may make a sign of another character, as a full-width one."""
        return not self.tokenizer.is_fast or self.tokenizer.backend_tokenizer.normalizer is not None

    @cached_property
    def _twin(self) -> _Twin:
        tokenizer = copy.deepcopy(self.tokenizer)
        tokenizer.add_tokens([AddedToken(self._mark, special=True, normalized=False)])
        number = tokenizer.convert_tokens_to_ids(self._mark)
        if number in self.tokenizer.get_vocab().values() or number == tokenizer.unk_token_id:
            raise MessageError(
                f"special tokens in texts cannot be made plain text for {self.name}, whose tokenizer takes no token "
                "besides its own; take them out"
            )
        processor = tokenizer
        if self.processor is not self.tokenizer:
            processor = copy.copy(self.processor)
            processor.tokenizer = tokenizer
        return _Twin(processor, tokenizer, number)

    def _may_spell(self, text: str) -> bool:
        if not self._signs or (self._changes_text and not text.isascii()):
            return True
        return not self._signs.isdisjoint(text)

    def _forbidden(self, role: str) -> frozenset[int]:
        return self._forbidden_to[role == "assistant"]

    @cached_property
    def _forbidden_to(self) -> tuple[frozenset[int], frozenset[int]]:
        """Ids that no user's text may have, and no assistant's."""
        thinking = {number for number, text in self._special.items() if text in _THINKING}
        return frozenset(self._special), frozenset(self._special.keys() - thinking)

    def _structure(self, processor: Any, tokenizer: Any, conversation: Sequence[Any], begins: bool) -> list[int]:
        """The special tokens of the rendered conversation, an image counted as what stands for it."""
        text = processor.apply_chat_template(conversation, add_generation_prompt=begins, tokenize=False)
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        return [number for number in ids if number in self._special]

    def _expected(self, conversation: Sequence[Any], begins: bool) -> list[int]:
        """As :meth:`_structure` is with harmless words in the place of users' and assistants' texts."""
        plain = [
            message
            if message["role"] == "system"
            else _with_texts(message, [_words(text, message["role"]) for text in _texts(message)])
            for message in conversation
        ]
        key = begins, *((message["role"], _shape(message)) for message in plain)
        expected = self._structures.get(key)
        if expected is None:
            # Another thread may forget them at any time.
            if len(self._structures) >= _KEPT:
                self._structures.clear()
            expected = self._structures[key] = self._structure(self.processor, self.tokenizer, plain, begins)
        return expected

    def _cut_texts(self, texts: list[str], role: str, where: str) -> tuple[list[str], int]:
        """The texts of a message with every spelling in them, or across them, cut; and how many there were."""
        found = 0
        for _ in range(_PASSES):
            tokenizer = self._twin.tokenizer if found else self.tokenizer
            whole = "".join(texts)
            spans = self._spans(tokenizer, whole, role)
            if not spans:
                return texts, found
            if self.policy == "refuse":
                begin, end = spans[0]
                raise MessageError(
                    f"{where}: the text has {whole[begin:end].strip()!r}, a special token of {self.name}; take it out, "
                    "or let it be read as plain text, with special_text=inert"
                )
            found += len(spans)
            places = sorted({self._place(whole, begin, end, where) for begin, end in spans})
            texts = _inserted(texts, places, self._mark)
        raise MessageError(f"{where}: the text has special tokens of {self.name} within one another; take them out")

    def _spans(self, tokenizer: Any, text: str, role: str) -> list[tuple[int, int]]:
        """Where in the text a special token is spelled, in order."""
        spans = {match.span() for match in self._others.finditer(text)}
        if tokenizer.is_fast:
            encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
            forbidden = self._forbidden(role)
            pairs = zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
            spans |= {(begin, end) for number, (begin, end) in pairs if number in forbidden}
        return sorted(spans)

    def _place(self, text: str, begin: int, end: int, where: str) -> int:
        """Where to cut: within the spelling, not the spaces that some tokens take along."""
        inner = text[begin:end].strip()
        if len(inner) < 2:
            raise MessageError(f"{where}: {inner!r} is a special token of {self.name}; take it out")
        return text.index(inner, begin) + (1 if inner.isascii() else len(inner) // 2)

    def _fenced(self, message: dict[str, Any]) -> dict[str, Any]:
        """With a cut before and after every text, inside the white space around it, which templates may strip."""
        if message["role"] == "system":
            return message
        mark = self._mark
        return _with_texts(
            message,
            [re.sub(r"\S(?:.*\S)?", lambda m: mark + m[0] + mark, t, count=1, flags=re.S) for t in _texts(message)],
        )


def _is_word(tokenizer: Any, number: int, text: str) -> bool:
    if len(text) == 1 or not text.replace("▁", " ").strip():
        return True
    if not tokenizer.is_fast:
        return False
    # The tokenizer's own steps without the one that looks for added tokens.
    backend = tokenizer.backend_tokenizer
    if backend.normalizer is not None:
        text = backend.normalizer.normalize_str(text)
    pieces = [text] if backend.pre_tokenizer is None else [p for p, _ in backend.pre_tokenizer.pre_tokenize_str(text)]
    return [token.id for piece in pieces for token in backend.model.tokenize(piece)] == [number]


def _texts(message: Mapping[str, Any]) -> list[str]:
    content = message["content"]
    return [content] if isinstance(content, str) else [part["text"] for part in content if part["type"] == "text"]


def _with_texts(message: Mapping[str, Any], texts: Sequence[str]) -> dict[str, Any]:
    if isinstance(message["content"], str):
        return {**message, "content": texts[0]}
    following = iter(texts)
    return {
        **message,
        "content": [
            {**part, "text": next(following)} if part["type"] == "text" else part for part in message["content"]
        ],
    }


def _shape(message: Mapping[str, Any]) -> Any:
    content = message["content"]
    return content if isinstance(content, str) else tuple(part.get("text") for part in content)


def _words(text: str, role: str) -> str:
    """A word in the place of text; of an assistant's, between its marks of thinking."""
    pieces = _THOUGHTS.split(text) if role == "assistant" else [text]
    return "".join(piece if i % 2 or not piece.strip() else "word" for i, piece in enumerate(pieces))


def _inserted(texts: Sequence[str], places: Sequence[int], mark: str) -> list[str]:
    """The texts with ``mark`` at these places of the whole that they make."""
    out = []
    for begin, end in pairwise([0, *accumulate(map(len, texts))]):
        text = texts[len(out)]
        inner = [place - begin for place in places[bisect_left(places, begin) : bisect_left(places, end)]]
        out.append(mark.join(text[a:b] for a, b in pairwise([0, *inner, len(text)])))
    return out
