"""A suffix in a conversation, token for token as it will be sent.

The whole prompt is tokenised, never the suffix alone: a token at its seam may merge with its neighbour, and what was
optimised would then not be what the model reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from safety_reminder.errors import ConfigError, ModelError
from safety_reminder.models import VLM
from safety_reminder.types import Example

_MARK = "<<suffix-goes-here>>"


@dataclass(frozen=True)
class Place:
    """Where a suffix stands in the user's turn of a conversation.

    ``head`` and ``tail``: the prompt's text before and after the suffix, template included; ``glue``: what of it stands
    between request and suffix. ``before`` and ``after``: their tokens, an image counted as its placeholder.
    """

    vlm: VLM
    example: Example
    head: str
    tail: str
    glue: str
    before: tuple[int, ...]
    after: tuple[int, ...]

    def texts(self, suffixes: Sequence[Sequence[int]]) -> list[str]:
        """Each suffix as it is appended to the request."""
        return [self.glue + text for text in _decoded(self.vlm.tokenizer, suffixes)]

    def survive(self, suffixes: Sequence[Sequence[int]]) -> list[bool]:
        """Of each, whether its text in this prompt is tokenised into it again, and all else as before."""
        if not suffixes:
            return []
        texts = [self.head + text + self.tail for text in _decoded(self.vlm.tokenizer, suffixes)]
        encoded = _tokens(self.vlm.tokenizer, texts)
        return [ids == [*self.before, *suffix, *self.after] for ids, suffix in zip(encoded, suffixes, strict=True)]

    def sent(self, suffix: Sequence[int]) -> dict[str, Any] | None:
        """The conversation as :meth:`VLM.encode` gives it; None if the template or processor changes the suffix."""
        example = with_suffix(self.example, self.texts([suffix])[0])
        inputs = self.vlm.encode([example.messages()])
        end = [*suffix, *self.after]
        return inputs if inputs["input_ids"][0, -len(end) :].tolist() == end else None


def with_suffix(example: Example, suffix: str) -> Example:
    """The same with ``suffix`` after its prompt; what is asked stays what it was."""
    return replace(example, prompt=example.prompt + suffix, instruction=example.instruction or example.prompt)


def place(vlm: VLM, example: Example, text: str, separator: str) -> tuple[Place, list[int]]:
    """Find the tokens of ``text`` after the request, ``separator`` between them.

    Returns:
        The place, and the token ids of the suffix there.

    Raises:
        ConfigError: in this prompt the text has no tokens of its own.
        ModelError: the model's template or tokenizer does not keep text as it is.
        MessageError: the conversation cannot be encoded.
    """
    head, tail = _around(vlm, example)
    if not vlm.tokenizer.is_fast:
        raise ModelError(f"the tokenizer of {vlm.name} does not say which text its tokens stand for; use a fast one")
    encoded = vlm.tokenizer(head + separator + text + tail, add_special_tokens=False, return_offsets_mapping=True)
    ids, begin = list(encoded["input_ids"]), len(head) + len(separator)
    inside = [n for n, (a, b) in enumerate(encoded["offset_mapping"]) if b > begin and a < begin + len(text)]
    if not inside:
        raise ConfigError("the suffix has no tokens; give attack.init a text")
    first, last = inside[0], inside[-1] + 1
    suffix = ids[first:last]
    [decoded] = _decoded(vlm.tokenizer, [suffix])
    if decoded not in (text, separator + text):
        raise ConfigError(
            f"the suffix {text!r} does not survive tokenisation after {example.prompt[-20:]!r}: its tokens stand for "
            f"{decoded!r}; give another attack.init or attack.separator"
        )
    if {*suffix} & {*vlm.tokenizer.all_special_ids}:
        raise ConfigError(f"attack.init {text!r} holds a special token of {vlm.name}; give plain text")
    glue = "" if decoded != text else separator
    found = Place(vlm, example, head + glue, tail, glue, tuple(ids[:first]), tuple(ids[last:]))
    if found.survive([suffix]) != [True] or found.sent(suffix) is None:
        raise ModelError(f"the tokenizer or chat template of {vlm.name} does not keep the suffix {text!r} as it is")
    return found, suffix


def _around(vlm: VLM, example: Example) -> tuple[str, str]:
    """The prompt's text before and after what follows the request."""
    parts = vlm.render(with_suffix(example, _MARK).messages()).split(_MARK)
    if len(parts) != 2:
        raise ModelError(f"the chat template of {vlm.name} does not hold the request once, as it is")
    return parts[0], parts[1]


def _decoded(tokenizer: Any, suffixes: Sequence[Sequence[int]]) -> list[str]:
    # Spaces stay as they are: cleaning up would change what is encoded again.
    return [
        tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False) for ids in suffixes
    ]


def _tokens(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    return tokenizer(list(texts), add_special_tokens=False, padding=False)["input_ids"]
