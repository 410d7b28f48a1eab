"""Distinct-n: how varied answers are, as the share of different n-grams among all of theirs (Li et al.,
arXiv:1510.03055). Answers that are all alike, such as one refusal for everything, have a low one."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

from safety_reminder.evaluation.statistics import Metric

ORDERS = range(1, 6)
# Words and numbers in any script, without case; characters of scripts without spaces between words one by one.
_NO_SPACES = r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_NO_SPACES}]|[^\W_{_NO_SPACES}]+(?:['’][^\W_{_NO_SPACES}]+)*")


def distinct(texts: Sequence[str], n: int) -> Metric | None:
    """Different n-grams of words over all n-grams of ``texts``; None where no text has ``n`` words.

    It falls with the number and the length of texts, so that only sets of the same requests and lengths compare. The
    interval is the jackknife's, which leaves out one text at a time; ``n`` of the metric counts texts.
    """
    each = [_ngrams(text, n) for text in texts]
    together = sum(each, Counter())
    total, kinds = together.total(), len(together)
    if not total:
        return None
    value = kinds / total
    without = []
    for own in each:
        if rest := total - own.total():
            lost = sum(together[gram] == count for gram, count in own.items())
            without.append((kinds - lost) / rest)
    middle = sum(without) / max(len(without), 1)
    spread = 1.96 * math.sqrt(sum((x - middle) ** 2 for x in without) * (len(texts) - 1) / len(texts))
    return Metric(value, max(value - spread, 0.0), min(value + spread, 1.0), len(texts), "score")


def _ngrams(text: str, n: int) -> Counter[tuple[str, ...]]:
    words = [word.casefold().replace("’", "'") for word in _WORD.findall(text)]
    return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))
