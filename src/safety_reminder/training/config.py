"""The options of training, written once: names, types, limits, defaults and what each is for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import field_validator, model_validator
from pydantic.config import JsonDict

from safety_reminder.config.guard import MOST_INTERVAL, Policy
from safety_reminder.config.options import Field, Options
from safety_reminder.config.prompts import SAFETY_PROMPT
from safety_reminder.training.leave_out import parse

INIT_TEXT = "Refuse if partial output is unsafe; else, continue helpfully."

# Names in packs of earlier versions → today's.
RENAMED = {
    "batch": "batch_size",
    "rows": "micro_batch_size",
    "lr": "learning_rate",
    "warmup": "warmup_ratio",
    "clip": "max_grad_norm",
    "patience": "early_stopping_patience",
    "pca": "pca_components",
    "budget": "false_alarm_budget",
    "keep": "prefix_cache",
    "keep_gb": "prefix_cache_gb",
}


def current_names(values: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a pack, written by this version or an earlier one, under today's names."""
    return {RENAMED.get(name, name): value for name, value in values.items()}


# Metadata: may change between two runs into one folder, since it only matters after the last step, or says whether a
# row that cannot be used stops the run; is also an option of ``calibrate``; puts reminders where no check of a plain
# answer is.
LATER: JsonDict = {"later": True}
LATER_AND_CALIBRATION: JsonDict = {"later": True, "calibration": True}
CALIBRATION: JsonDict = {"calibration": True}
FURTHER_PLACE: JsonDict = {"further_place": True}

ThresholdsBy = Literal["one", "prompt", "image"]
Probability = Annotated[float, Field(ge=0, le=1)]
Share = Annotated[float, Field(ge=0, lt=1)]


class TrainingConfig(Options):
    """The options of training a reminder."""

    # the reminder
    k: Annotated[int, Field(ge=1, description="vectors")] = 4
    init: Annotated[
        Literal["text", "random"],
        Field(description="text: the embeddings of init_text's first tokens; random"),
    ] = "text"
    init_text: Annotated[str, Field(description="for init=text")] = INIT_TEXT

    # the loop
    epochs: Annotated[int, Field(ge=1, description="visits to every row")] = 8
    batch_size: Annotated[int, Field(ge=1, description="rows a step")] = 8
    cuts: Annotated[int, Field(ge=1, description="cuts of an answer per visit; they share one prefix")] = 4
    learning_rate: Annotated[float, Field(gt=0, description="of AdamW; linear warm-up, then a cosine to 0")] = 0.02
    warmup_ratio: Annotated[Probability, Field(description="share of the steps")] = 0.05
    weight_decay: Annotated[float, Field(ge=0, description="of the vectors")] = 0.0
    max_grad_norm: Annotated[float, Field(gt=0, description="a longer gradient is cut to it")] = 1.0
    early_stopping_patience: Annotated[
        int,
        Field(
            ge=0,
            description="stop after so many epochs without a lower validation loss; 0: never. The best epoch is kept "
            "in any case",
        ),
    ] = 0

    # the objective
    empty_prob: Annotated[
        Probability | None,
        Field(
            description="how often an answer is cut to nothing: trains the prompt check, and the place where policies "
            "begin anew. null: 0.5 where the policy goes back there (rewind, restart), 0.3333 elsewhere"
        ),
    ] = None
    min_tokens: Annotated[int, Field(ge=1, description="kept by any other cut")] = 1
    min_chars: Annotated[int, Field(ge=0, description="and characters, which the paper counts (20)")] = 0
    target_tokens: Annotated[
        int, Field(ge=1, description="learn at most this many tokens after a cut: few, for the weight is on the turn")
    ] = 6
    answer_tokens: Annotated[
        int, Field(ge=1, description="answers are cut off here", json_schema_extra=CALIBRATION)
    ] = 96
    probe_weight: Annotated[float, Field(ge=0, description="of the probe's loss beside the language model's")] = 0.05
    kl_weight: Annotated[
        float,
        Field(
            ge=0,
            description="keeps next tokens of safe answers as they are, should the reminder stay: for policy=continue",
        ),
    ] = 0.0
    repeat_prob: Annotated[
        Probability,
        Field(
            description="a second check in the middle of the refusal: for models that are caught again while they "
            "refuse",
            json_schema_extra=FURTHER_PLACE,
        ),
    ] = 0.0
    unheeded_prob: Annotated[
        Probability,
        Field(
            description="a second check after a reminder that stayed without effect: for models that go on all the "
            "same",
            json_schema_extra=FURTHER_PLACE,
        ),
    ] = 0.0
    correction_prob: Annotated[
        Probability,
        Field(
            description="cuts where a refusal has begun by itself: for models that often back off late",
            json_schema_extra=FURTHER_PLACE,
        ),
    ] = 0.0

    # the probe
    probe: Annotated[
        Literal["logistic", "pca"],
        Field(description="logistic, or pca: on principal components, as in the paper", json_schema_extra=LATER),
    ] = "logistic"
    pca_components: Annotated[int, Field(ge=1, description="how many of them", json_schema_extra=LATER)] = 32
    refit: Annotated[
        bool,
        Field(
            description="fit it anew after the finished reminder; false: keep the one trained along",
            json_schema_extra=LATER,
        ),
    ] = True
    rivals: Annotated[
        bool,
        Field(
            description="also fit one after the assistant's header, and one on the last token, and judge the three "
            "alike",
            json_schema_extra=LATER,
        ),
    ] = False

    # the splits, by what is asked: shares of the prompts
    validation: Annotated[float, Field(gt=0, lt=1, description="for early stopping and the best epoch")] = 0.1
    calibration: Annotated[Share, Field(description="its safe rows give the threshold; 0: the validation rows do")] = (
        0.15
    )
    test: Annotated[Share, Field(description="for the report")] = 0.1
    false_alarm_budget: Annotated[
        float,
        Field(
            gt=0,
            lt=1,
            description="false alarms per safe response, over all its checks",
            json_schema_extra=LATER_AND_CALIBRATION,
        ),
    ] = 0.005
    threshold: Annotated[
        float | None,
        Field(
            gt=0,
            lt=1,
            description="this one in place of a calibrated one, without a guarantee: 0.8 is the paper's p_safe < 0.2",
            json_schema_extra=LATER,
        ),
    ] = None
    thresholds: Annotated[
        ThresholdsBy,
        Field(
            description="one; prompt: one for the check of the bare prompt and one for those after it, which share the "
            "budget; image: one with and one without an image in the conversation, each with the whole budget",
            json_schema_extra=LATER_AND_CALIBRATION,
        ),
    ] = "one"
    prompt_check: Annotated[
        bool | None,
        Field(
            description="the guard will also check the bare prompt (guard.prompt_check), so the threshold counts that. "
            "null: as the reminder has it; a new one does not",
            json_schema_extra=LATER_AND_CALIBRATION,
        ),
    ] = None

    turn_rows: Annotated[
        int,
        Field(
            ge=0,
            description="test rows of each kind after whose beginnings the finished reminder is put in, to see how "
            "often it turns them into a refusal; 0: none",
            json_schema_extra=LATER,
        ),
    ] = 40

    # written into the pack
    interval: Annotated[
        int, Field(ge=1, le=MOST_INTERVAL, description="tokens between checks", json_schema_extra=LATER)
    ] = 16
    policy: Annotated[
        Policy, Field(description="what the guard does after an unsafe verdict", json_schema_extra=LATER)
    ] = "rewind"
    hold_back_checks: Annotated[
        int | None,
        Field(ge=1, description="passed checks after which a token is shown; null: 1", json_schema_extra=LATER),
    ] = None

    # the machine
    micro_batch_size: Annotated[int, Field(ge=1, description="cuts in one forward pass")] = 16
    prefix_cache: Annotated[
        Literal["device", "cpu", "disk"],
        Field(
            description="where prefixes are kept: device, cpu (pinned, if there is a GPU) or disk",
            json_schema_extra=LATER,
        ),
    ] = "device"
    prefix_cache_gb: Annotated[
        float,
        Field(
            ge=0,
            allow_inf_nan=False,
            description="room for them; those beyond it are run again on every visit",
            json_schema_extra=LATER,
        ),
    ] = 8.0
    mixed_precision: Annotated[
        Literal["none", "bf16"], Field(description="of the steps: none (as the model is loaded), bf16")
    ] = "none"
    on_error: Annotated[
        Literal["stop", "skip"],
        Field(
            description="stop or skip, on a broken image or a loss that is not finite; either way the row is named",
            json_schema_extra=LATER_AND_CALIBRATION,
        ),
    ] = "stop"
    log_with: Annotated[
        str,
        Field(
            description="beside losses.csv: tensorboard, wandb or another of accelerate's trackers, several with a "
            "comma, or none",
            json_schema_extra=LATER,
        ),
    ] = "tensorboard"
    leave_out: Annotated[
        list[str] | str | None,
        Field(
            description="learn nothing from these rows, and test on them: topic:VALUE, source:VALUE or attack:VALUE; "
            "one, or a list",
            json_schema_extra=CALIBRATION,
        ),
    ] = None
    seed: Annotated[int, Field(description="of the splits, the order of rows, their cuts, and init=random")] = 0

    @property
    def left_out(self) -> list[str]:
        """The entries of ``leave_out``."""
        return [self.leave_out] if isinstance(self.leave_out, str) else list(self.leave_out or ())

    @field_validator("leave_out")
    @classmethod
    def _labels(cls, entries: list[str] | str | None) -> list[str] | str | None:
        for entry in [entries] if isinstance(entries, str) else entries or ():
            parse(entry)
        return entries

    @field_validator("policy")
    @classmethod
    def _guards(cls, policy: Policy) -> Policy:
        if policy == "monitor":
            advice = "give guard.policy=monitor where it is used"
            raise ValueError(f"training.policy=monitor would make a pack that guards nobody; {advice}")
        return policy

    @model_validator(mode="after")
    def _one_threshold(self) -> Self:
        if self.threshold is not None and self.thresholds != "one":
            raise ValueError("training.threshold is one for all checks; give it without training.thresholds")
        return self

    @model_validator(mode="after")
    def _something_is_left(self) -> Self:
        if self.validation + self.calibration + self.test >= 1:
            raise ValueError("training.validation, training.calibration and training.test leave nothing to train on")
        return self

    @property
    def emptied(self) -> float:
        """How often an answer is cut to nothing: ``empty_prob``, or what it is for the policy."""
        if self.empty_prob is not None:
            return self.empty_prob
        return 0.5 if self.policy in ("rewind", "restart") else 1 / 3

    @classmethod
    def of_record(cls, values: Mapping[str, Any]) -> Self:
        """The options that a pack's ``training["config"]`` says it was trained with, by whatever version.

        Raises:
            ConfigError: they are not options of this version, nor of an earlier one.
        """
        return cls.parse(current_names(values), "training")


class DROConfig(Options):
    """The options of training a soft safety prompt. ``queries``, and ``components`` to ``residual_weight``, are as in
    the paper's code."""

    prompt: Annotated[str, Field(description="the text whose tokens' embeddings it begins as")] = SAFETY_PROMPT
    queries: Annotated[int, Field(ge=1, description="of each kind, harmful and harmless")] = 100
    max_new_tokens: Annotated[int, Field(ge=1, description="of the answers in which refusals are counted")] = 24
    components: Annotated[int, Field(ge=1, description="principal components of the hidden states")] = 4
    epochs: Annotated[int, Field(ge=1, description="visits to every request")] = 40
    batch_size: Annotated[int, Field(ge=1, description="requests a step")] = 50
    learning_rate: Annotated[float, Field(gt=0, description="of AdamW")] = 1e-3
    max_grad_norm: Annotated[float, Field(gt=0, description="a longer gradient is cut to it")] = 1.0
    harmfulness_weight: Annotated[
        float, Field(description="of the second loss: that harmful requests also look more harmful")
    ] = 0.01
    residual_weight: Annotated[float, Field(description="of the third: what moves outside the components")] = 0.001
    micro_batch_size: Annotated[int, Field(ge=1, description="requests in one forward pass")] = 10
    seed: Annotated[int, Field(description="of the requests that are taken, and their order")] = 0

    @model_validator(mode="after")
    def _begins_as_a_text(self) -> Self:
        if not self.prompt.strip():
            raise ValueError("training.prompt is empty; the soft prompt begins as its tokens' embeddings")
        return self
