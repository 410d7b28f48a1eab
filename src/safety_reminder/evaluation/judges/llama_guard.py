"""Llama Guard: Meta's safety classifiers of a conversation, by the hazards S1 to S14 of MLCommons (arXiv:2312.06674).

The checkpoint's own chat template holds the prompt: the task, the categories, the conversation as ``User:`` and
``Agent:``, and what to answer. It asks about the last message's role, so that with a request and its answer the answer
is judged. Llama Guard 3 8B takes a message's text as it is and lists S1 to S14; Llama Guard 3 Vision takes parts, an
image ahead of the task, and lists S1 to S13. The answer is ``safe``, or ``unsafe`` and a second line of categories.
"""

from __future__ import annotations

from collections.abc import Sequence

from safety_reminder.evaluation.judges.base import Item, Judgement, unreadable
from safety_reminder.evaluation.judges.grammar import codes_reader
from safety_reminder.evaluation.judges.local import Generation, LocalJudge, exchange

read_verdict = codes_reader("S")


class LlamaGuard3(LocalJudge):
    """Llama Guard 3 8B (text). It may begin with an empty line, since its template ends at the header of its turn.

    Args:
        model: a hub id or a folder.
        device, dtype, batch_size: as for :class:`~safety_reminder.evaluation.judges.local.LocalModel`.
    """

    name = "llama_guard_3"
    default_model = "meta-llama/Llama-Guard-3-8B"
    max_new_tokens = 64  # an empty line, the verdict, and up to all categories
    sees = False

    def ask(self, items: Sequence[Item]) -> list[Generation]:
        conversations = [exchange(item, image=self.sees) for item in items]
        return self.model.chat(conversations, max_new_tokens=self.max_new_tokens, logits=True)

    def read(self, generation: Generation) -> Judgement:
        return read_verdict(generation.text, self.model.preference(generation.logits, "unsafe", "safe"))


class LlamaGuard4(LlamaGuard3):
    """Llama Guard 4 12B: text, or text with an image."""

    name = "llama_guard_4"
    default_model = "meta-llama/Llama-Guard-4-12B"
    sees = True


class LlamaGuard3Vision(LlamaGuard3):
    """Llama Guard 3 Vision 11B (arXiv:2411.10414): a request with one image, and the answer to it. It was not made for
    text alone: an item without an image is not judged."""

    name = "llama_guard_3_vision"
    default_model = "meta-llama/Llama-Guard-3-11B-Vision"
    sees = True

    def judge(self, items: Sequence[Item]) -> list[Judgement]:
        verdicts = iter(super().judge([item for item in items if item.image is not None]))
        return [
            unreadable("not judged: this judge reads a request with an image") if item.image is None else next(verdicts)
            for item in items
        ]
