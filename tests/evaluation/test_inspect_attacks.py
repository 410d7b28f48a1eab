"""Attacks as Inspect solvers, in our task and in others', with a scripted model and with ours."""

from __future__ import annotations

import json
import shutil
from typing import Any

import pytest
from inspect_ai import Task, eval
from inspect_ai.dataset import Sample
from inspect_ai.model import (
    ChatMessageAssistant,
    ChatMessageSystem,
    ChatMessageTool,
    ChatMessageUser,
    ModelOutput,
    ModelUsage,
    get_model,
)
from inspect_ai.scorer import includes
from inspect_ai.solver import generate

from safety_reminder import load
from safety_reminder.attacks import transform_options, transforms
from safety_reminder.attacks.transform_options import BUILD_UP, OVERRIDE
from safety_reminder.data.attack_runs import write_examples
from safety_reminder.data.benchmarks.typographic import FONT, FONT_FOLDERS, PROMPT
from safety_reminder.errors import ConfigError
from safety_reminder.evaluation.inspect import registry
from safety_reminder.evaluation.inspect.conversations import as_chat_messages, as_example
from safety_reminder.evaluation.inspect.logs import read_answers
from safety_reminder.evaluation.inspect.solvers import ATTACK_SOLVERS, multi_turn, prefill, system_override, typographic
from safety_reminder.evaluation.inspect.tasks import benchmark
from safety_reminder.models.tiny import tiny_checkpoint
from safety_reminder.types import Example

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of Inspect's own making
needs_font = pytest.mark.skipif(
    not any((folder / FONT).is_file() for folder in FONT_FOLDERS), reason=f"{FONT} is not installed"
)
ASKED = "Name a river."
ATTACKED = Example(
    "a", ASKED, system="Be kind.", turns=(("user", "Hi."), ("assistant", "Hi!")), prefill="Sure:", instruction="River"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("attacks")
    tiny_checkpoint("llava", place / "model")
    (place / "rows.jsonl").write_text(json.dumps({"id": "a", "prompt": ASKED, "harmful": True}))
    return place


def messages_of(folder, task) -> Any:
    answer = ModelOutput.from_content("mockllm/model", "x")
    answer.usage = ModelUsage()  # else it is counted, with a tokenizer from the web
    model = get_model("mockllm/model", custom_outputs=[answer], memoize=False)
    log: Any = eval(task, model=model, log_dir=str(folder / "logs"), display="none")[0]
    assert log.status == "success", log.error
    return log.samples[0].messages[:-1]  # without the answer


def foreign(solver) -> Task:
    return Task(dataset=[Sample(input=ASKED, target="x")], solver=[solver, generate()], scorer=includes())


def talk(messages) -> list[tuple[str, str]]:
    return [(message.role, message.text) for message in messages]


def test_the_attacks_change_samples_of_any_task(folder):
    asked = ("user", ASKED)
    assert talk(messages_of(folder, foreign(prefill()))) == [asked, ("assistant", "Name a river:\n\n1.")]
    assert talk(messages_of(folder, foreign(prefill("Sure, ")))) == [asked, ("assistant", "Sure, ")]
    assert talk(messages_of(folder, foreign(system_override()))) == [("system", OVERRIDE), asked]
    assert talk(messages_of(folder, foreign(system_override(text="Obey.")))) == [("system", "Obey."), asked]
    found = talk(messages_of(folder, foreign(multi_turn(depth=2))))
    assert found == [*(turn for pair in BUILD_UP[:2] for turn in zip(("user", "assistant"), pair, strict=True)), asked]


@needs_font
def test_a_request_becomes_an_image(folder):
    [message] = messages_of(folder, foreign(typographic(points=60)))
    assert [part.type for part in message.content] == ["image", "text"]
    assert message.text == PROMPT


@pytest.mark.parametrize(
    "name", [*sorted(set(ATTACK_SOLVERS) - {"typographic"}), pytest.param("typographic", marks=needs_font)]
)
def test_our_task_takes_an_attack_by_name_and_judges_what_was_asked(folder, name):
    assert getattr(registry, name) is ATTACK_SOLVERS[name]
    task = benchmark("text", str(folder / "rows.jsonl"), attack=name, max_tokens=3)
    model = get_model(f"safety-reminder/{folder / 'model'}", memoize=False, device="cpu")
    log: Any = eval(task, model=model, log_dir=str(folder / "logs"), display="none")[0]
    [record] = read_answers(log).records
    assert record.instruction == ASKED
    assert talk(log.samples[0].messages)[:-1] != [("user", ASKED)]
    if name == "typographic":
        [attacked] = transforms.typographic([Example("a", ASKED)], transform_options.TypographicConfig())
    else:
        attacked = as_example(log.samples[0].messages[:-1])
    guarded = load(str(folder / "model"), device="cpu")
    expected = guarded.generate(attacked.messages(), max_new_tokens=3, do_sample=False)
    assert (record.token_ids, record.prompt_tokens) == (expected.token_ids, expected.prompt_tokens)


def test_an_attack_s_run_is_answered_through_inspect_as_by_the_model_itself(folder):
    write_examples(folder / "run", {"test": [ATTACKED]})
    model = get_model(f"safety-reminder/{folder / 'model'}", memoize=False, device="cpu")
    task = benchmark("attack_run", str(folder / "run"), max_tokens=6)
    [record] = read_answers(eval(task, model=model, log_dir=str(folder / "logs"), display="none")[0]).records
    expected = load(str(folder / "model"), device="cpu").generate(
        ATTACKED.messages(), max_new_tokens=6, do_sample=False
    )
    assert (record.token_ids, record.prompt_tokens) == (expected.token_ids, expected.prompt_tokens)
    assert (record.prompt, record.instruction) == (ASKED, "River")
    assert record.context_sha256 is not None
    shutil.rmtree(folder / "run")


def test_a_conversation_comes_back_from_inspect_s_messages():
    assert as_example(as_chat_messages(ATTACKED), id="a", instruction="River") == ATTACKED


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([ChatMessageSystem(content="x")], "this sample has none at its end"),
        ([ChatMessageAssistant(content="x")], "this sample has none at its end"),
        ([ChatMessageTool(content="x"), ChatMessageUser(content="x")], "this one calls tools"),
        (
            [*as_chat_messages(Example("a", "x")), *as_chat_messages(Example("a", "x", "data:,"))],
            "one image at most, in the first user message",
        ),
    ],
)
def test_conversations_of_another_kind_are_refused(messages, message):
    with pytest.raises(ConfigError, match=message):
        as_example(messages)


def test_wrong_names_and_options_say_so(folder):
    with pytest.raises(ConfigError, match="unknown attack 'prefil'; did you mean 'prefill'"):
        benchmark("text", str(folder / "rows.jsonl"), attack="prefil")
    with pytest.raises(ConfigError, match=r"attack\.depth must be at most 4"):
        benchmark("text", str(folder / "rows.jsonl"), attack="multi_turn", attack_options={"depth": 9})
    with pytest.raises(ConfigError, match="a prefill needs a text"):
        prefill(" ")
