"""A control: the same probe, but words in the place of the learned vectors.

The field's reference is SafeThink (Ghosal et al., arXiv:2602.11096): a reward model scores each step of a reasoning
trace, and below a threshold a short corrective prefix follows the step before. Here the pack's probe decides, after the
pack's vectors and at its checks, so that what differs from ``reminder`` is what stays in the context and nothing else.
The paper's prefix was searched for and stands in the visible trace; this one was written for the project, and like the
vectors it is not part of the answer.
"""

from __future__ import annotations

from safety_reminder.defenses.base import Guarding, keeping
from safety_reminder.errors import ConfigError
from safety_reminder.guard import GuardedVLM

TEXT = "\nWait. I should think about safety first: could this do harm? If so, I must decline.\n"


class TextReminder(Guarding):
    """The guard that ``guarded`` has; after an unsafe verdict the tokens of ``text`` stay, not the vectors.

    Args:
        text: what the model is to have said to itself. It is put in as it is, line breaks included.

    Raises:
        ConfigError: an empty text, one that spells special tokens, or a policy that leaves nothing in.
    """

    name = "text_reminder"

    def __init__(self, guarded: GuardedVLM, text: str = TEXT) -> None:
        if not text.strip():
            raise ConfigError("defense=text_reminder needs a text")
        tokenizer = guarded.vlm.tokenizer
        ids = tuple(tokenizer(text, add_special_tokens=False)["input_ids"])
        if special := sorted({*ids} & {*tokenizer.all_special_ids}):
            raise ConfigError(
                f"defense=text_reminder: the text spells special tokens ({tokenizer.decode(special)}); give plain words"
            )
        super().__init__(keeping(guarded, ids, self.name))
