"""What tests of defences share: conversations, and a model that keeps what it was asked."""

from __future__ import annotations

import copy

from PIL import Image

from checkpoints import tiny_vlm
from safety_reminder.guard import GuardedVLM
from safety_reminder.types import Example, Request, Sampling

OPTIONS = {"max_new_tokens": 9, "do_sample": False}
IMAGE = Image.new("RGB", (28, 28), "red")
BATCH = [
    [{"role": "user", "content": "Name a river."}],
    [{"role": "user", "content": [{"type": "image", "image": IMAGE}, {"type": "text", "text": "What is this?"}]}],
    [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello."},
        {"role": "assistant", "content": "Good day."},
        {"role": "user", "content": "Name a lake."},
    ],
]
DETECTOR_ROWS = [Example(id=str(n), prompt=f"Tell me {n * n} things.", harmful=n < 2) for n in range(12)]


class Recorder(GuardedVLM):
    """Keeps what it was asked."""

    def __init__(self) -> None:
        super().__init__(tiny_vlm())
        self.asked: list = []

    def respond(self, requests, watch=None):
        self.asked += [copy.deepcopy(list(request.messages)) for request in requests]
        assert all(request.guard is False for request in requests)
        return super().respond(requests, watch)


def asking(*conversations, **changes) -> list[Request]:
    return [Request(messages, Sampling(**OPTIONS), **changes) for messages in conversations]


def options_of(name, header, soft_prompt):
    options = {
        "header_probe": {"probe": header},
        "dro": {"prompt": soft_prompt},
        "hidden_detect": {"rows": DETECTOR_ROWS, "false_alarm_budget": 0.3},
        "post_hoc": {"judge": lambda asked: [False] * len(asked)},
    }
    return options.get(name, {})
