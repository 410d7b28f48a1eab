"""What happened to one answer, in a few words."""

from __future__ import annotations

import math

from safety_reminder.types import Record


def outcome(record: Record) -> str:
    """What happened, in a few words."""
    refusal = {"start": "refused", "late": "engaged, then backed off", "none": "answered"}[record.verdicts["refusal"]]
    if not record.interventions:
        return refusal
    peak = max((check.p_unsafe for check in record.checks), default=math.nan)
    return f"{refusal}; intervened (p_unsafe {peak:.2f}), {record.leaked_tokens} tokens leaked"
