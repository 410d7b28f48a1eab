"""Options of training that make no sense."""

from __future__ import annotations

import math

import pytest

from safety_reminder.errors import ConfigError
from safety_reminder.training import TrainingConfig


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"k": 0}, "training.k must be at least 1"),
        ({"k": "four"}, "training.k must be a whole number, got 'four'"),
        ({"k": True}, "training.k must be a whole number, got True"),
        ({"epochs": 2.5}, "training.epochs must be a whole number, got 2.5"),
        ({"refit": 1}, "training.refit must be true or false, got 1"),
        ({"weight_decay": "none"}, "training.weight_decay must be a number, got 'none'"),
        ({"epohcs": 2}, "unknown training option 'epohcs'; did you mean 'epochs'"),
        ({"false_alarm_budget": 0}, "training.false_alarm_budget must be above 0, got 0"),
        ({"validation": 1.0}, "training.validation must be below 1, got 1.0"),
        ({"test": -0.1}, "training.test must be at least 0, got -0.1"),
        ({"test": 0.8}, "leave nothing to train on"),
        ({"empty_prob": 1.5}, "training.empty_prob must be at most 1, got 1.5"),
        ({"threshold": 1.0}, "training.threshold must be below 1, got 1.0"),
        ({"min_chars": -1}, "training.min_chars must be at least 0, got -1"),
        ({"turn_rows": "all"}, "training.turn_rows must be a whole number, got 'all'"),
        ({"learning_rate": 0}, "training.learning_rate must be above 0, got 0"),
        ({"learning_rate": math.nan}, "training.learning_rate must be above 0, got nan"),
        ({"prefix_cache_gb": -1.0}, "training.prefix_cache_gb must be at least 0, got -1.0"),
        ({"policy": "rewnd"}, "unknown training.policy 'rewnd'; did you mean 'rewind'"),
        ({"prefix_cache": "gpu"}, "unknown training.prefix_cache 'gpu'; did you mean 'cpu'? known: cpu, device, disk"),
    ],
)
def test_options_that_make_no_sense_are_refused_before_training(values, message):
    with pytest.raises(ConfigError) as caught:
        TrainingConfig.parse(values, "training")
    assert message in str(caught.value)
