"""Requests that come one by one → batches that a model answers, through one interface."""

from safety_reminder.engines.batching import Answered, BatchingEngine

__all__ = ["Answered", "BatchingEngine"]
