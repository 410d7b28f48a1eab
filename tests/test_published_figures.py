"""The figures that README and docs state are those in ``benchmarks/results``."""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import binomtest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
RESULTS = (ROOT / "docs/results.md").read_text(encoding="utf-8")


def results(name: str) -> dict:
    return json.loads((ROOT / f"benchmarks/results/{name}.json").read_text())


def share(value: float, low: float, high: float, digits: int = 0) -> str:
    return f"{100 * value:.{digits}f} % [{100 * low:.{digits}f}, {100 * high:.{digits}f}]"


def mean(value: float, low: float, high: float, digits: int = 2) -> str:
    return f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def interval(metrics: dict, name: str) -> tuple[float, float, float] | None:
    return (metrics[name]["value"], metrics[name]["low"], metrics[name]["high"]) if name in metrics else None


def rows(text: str, first: str) -> dict[str, list[str]]:
    """The cells of the table whose head begins with ``first``, by the first cell."""
    table = text[text.index(f"| {first} |") :].split("\n\n")[0]
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    return {line[0]: line[1:] for line in lines[2:]}


EFFECT = "| unguarded | guarded"


def effect() -> dict[str, list[str]]:
    """The rows of the table of the guard's effect, as they follow from the figures: every set that was measured."""
    figures = results("guard_effect")["figures"]
    counted: dict[str, int] = {
        name: int(found["note"].split("n=")[1]) for name, found in figures.items() if "note" in found
    }

    def cell(name: str, digits: int = 0) -> str:
        # The notes round the intervals, so they are computed anew.
        test = binomtest(round(figures[name]["value"] * counted[name]), counted[name])
        return share(figures[name]["value"], *test.proportion_ci(method="wilson"), digits)

    table: dict[str, list[str]] = {}
    both = {"attack_success_rate": "attack success", "advice_given_rate": "answered", "over_refusal_rate": "refused"}
    guarded = {
        "success_never_fired": "of it, never an alarm",
        "advice_alarm_rate": "alarms",
        "false_alarm_rate": "false alarms",
    }
    for key in figures:
        name, metric = key.split(": ")
        label = f"{name} ({counted.get(key)})"
        if metric in both:
            table[f"{label}: {both[metric]}"] = [cell(key + "_unguarded"), cell(key)]
        elif metric in guarded:
            table[f"{label}: {guarded[metric]}"] = ["", cell(key)]
    return table


def test_the_table_of_the_guards_effect_is_what_was_measured():
    expected = effect()
    assert rows(RESULTS, EFFECT) == expected
    figures = results("guard_effect")["figures"]
    same = figures["all harmless: exact_match_untriggered"]
    count = same["note"].split("n=")[1]
    assert same["value"] == 1.0
    assert f"{count} of {count}" in RESULTS
    assert f"{count} of {count}" in README
    leaked = figures["FigStep-Tiny, 7 topics: leaked_tokens"]
    low, high = map(float, re.findall(r"[\d.]+", leaked["note"])[:2])
    assert f"**{mean(leaked['value'], low, high, 1)}**" in RESULTS
    short = rows(README, EFFECT)
    assert len(short) >= 6
    assert short.items() <= expected.items()


def generality_table(by: str) -> dict[str, list[str]]:
    def cell(metric: dict | None, form) -> str:
        return form(metric["value"], metric["low"], metric["high"]) if metric else ""

    return {
        fold["left_out"]: [
            str(fold["unsafe"]),
            str(fold["harmless"]),
            cell(fold["auc"], mean) + ("" if fold["beside"] == "own" or not fold["auc"] else " *"),
            cell(fold["missed"], share),
            cell(fold["false_alarms"], share),
        ]
        for fold in results("generality")["folds"]
        if fold["by"] == by
    }


@pytest.mark.parametrize("by", ["topic", "attack"])
def test_the_table_of_what_was_left_out_is_what_was_measured(by):
    assert rows(RESULTS, f"without {by} | harmful") == generality_table(by)


def test_the_median_over_topics_is_what_was_measured():
    median = results("generality")["metrics"]["leave_one_topic_out_auc_median"]
    assert f"in the median **{median['value']:.2f}**" in RESULTS


TOGETHER = (
    ("attack_success_rate", share), ("attack_success_rate_on_topic", share), ("over_refusal_rate", share),
    ("false_alarm_rate", share), ("leaked_tokens", mean), ("exact_match_untriggered", share), ("token_ratio", mean),
    ("utility:mmvet_match", share),
)  # fmt: skip
ATTACKED = (
    "figstep", "mm_safetybench", "advbench", "pgd_eps8", "pgd_eps32", "pgd_eps32_adaptive", "gcg", "bap",
)  # fmt: skip
ANSWERED = ("twins", "sensitive_twins", "mmvet", "harmless")


def tables_of_defences() -> list[dict[str, list[str]]]:
    """All sets together, attack success on each, and over-refusal on each: a row for every defence."""
    defenses = {label: found for label, found in results("evaluate_full")["defenses"].items() if label != "monitor"}

    def cells(places: list[tuple[dict, str, Any]]) -> list[str]:
        found = [(interval(metrics, name), form) for metrics, name, form in places]
        return [form(*values) if values else "" for values, form in found]

    return [
        {label: cells([(found["all"], name, form) for name, form in TOGETHER]) for label, found in defenses.items()},
        *(
            {label: cells([(found[one], metric, share) for one in sets]) for label, found in defenses.items()}
            for metric, sets in (("attack_success_rate", ATTACKED), ("over_refusal_rate", ANSWERED))
        ),
    ]


def test_the_tables_of_defences_are_what_was_measured():
    heads = ("all sets: defence", "attack success: defence", "over-refusal: defence")
    for head, table in zip(heads, tables_of_defences(), strict=True):
        assert rows(RESULTS, head) == table


def test_the_table_of_attacks_is_what_was_measured():
    figures = results("attacks")["figures"]
    table = rows((ROOT / "docs/attacks.md").read_text(encoding="utf-8"), "attack | engaged, unguarded")
    fronts = {
        "PGD, ε = 8/255": "pgd/eps8/",
        "PGD, ε = 32/255": "pgd/eps32/",
        "PGD, ε = 32/255, adaptive": "pgd/eps32/adaptive_",
        "GCG, a suffix without an image": "gcg/",
        "BAP, the image alone": "bap/",
        "BAP, the prompts alone": "bap/prompts/",
        "BAP, both": "bap/both/",
        "prefill, 4 tokens": "prefill/depth4/",
        "prefill, 16 tokens": "prefill/depth16/",
        "prefill, 64 tokens": "prefill/depth64/",
        "another system prompt": "system_override/",
        "earlier turns": "multi_turn/",
    }
    assert {label for label in table if not label.startswith("none")} == {
        label for label, front in fronts.items() if f"{front}guarded" in figures
    }
    kinds = ("unguarded", "guarded", "unguarded_on_topic", "guarded_on_topic")
    for label in table:
        if label in fronts:
            found = (interval(figures, fronts[label] + kind) for kind in kinds)
            assert table[label] == [share(*one) for one in found if one is not None], label
    for label, front in {"none: the grey image": "pgd/eps32/", "none: no image": "prefill/depth4/"}.items():
        clean = [interval(figures, front + kind) for kind in ("clean", "clean_on_topic")]
        assert [cell for cell in table[label] if cell] == [share(*one) for one in clean if one is not None], label


def test_what_is_said_of_attacks_and_rivals_beside_the_tables_is_what_was_measured():
    figures = results("attacks")["figures"]
    static = {n: round(100 * found["value"]) for n, found in figures.items() if n.endswith("/guarded_on_topic")}
    images, most = static["pgd/eps32/guarded_on_topic"], static["bap/prompts/guarded_on_topic"]
    assert static["pgd/eps8/guarded_on_topic"] == images
    assert most == max(static.values())
    said = f"PGD's images get {images} % through on topic and rewritten prompts, the most, {most} %"
    assert said in README
    defenses = results("evaluate_full")["defenses"]

    def through(label: str, sets: Collection[str]) -> tuple[int, int]:
        found = [defenses[label][one]["attack_success_rate"] for one in sets]
        return sum(round(one["value"] * one["n"]) for one in found), sum(one["n"] for one in found)

    others = set(ATTACKED) - {"pgd_eps32_adaptive"}
    (header, n), (reminder, m) = through("header_probe", others), through("reminder", others)
    said = f"it lets {100 * header / n:.0f} % of attacks through, and the reminder {100 * reminder / m:.0f} % ("
    assert f"{said}{header} and {reminder}\n  of {n})" in RESULTS
    assert f"({100 * header / n:.0f} % of {n} attacks, the reminder {100 * reminder / m:.0f} %)" in README
    late = [results("controls")["figures"][f"{label}/late/success"]["value"] for label in ("header probe", "reminder")]
    assert "({:.0f} and {:.0f} %)".format(*(100 * share for share in late)) in README
    adaptive = {"pgd_eps32_adaptive"}
    (header, n), (reminder, m) = through("header_probe", adaptive), through("reminder", adaptive)
    assert m == n
    assert f"past it for {header} of {n} requests, and past the reminder for {reminder};" in RESULTS
    topics = [fold["seen"] for fold in results("generality")["folds"] if fold["by"] == "topic"]
    assert f"the pack saw {sum(topics)} of them" in RESULTS


def test_the_table_of_controls_is_what_was_measured():
    figures = results("controls")["figures"]
    [head] = re.findall(r"^\| defence \| (pages .*) \|$", RESULTS, flags=re.MULTILINE)
    kinds, table = head.split(" | "), rows(RESULTS, "defence | pages")
    measured = {tuple(name.split("/")[:2]) for name in figures if name.endswith("/alarms")}
    assert {(label, kind) for label in table for kind in kinds} == measured

    def cell(front: str) -> str:
        found = interval(figures, f"{front}/success") or interval(figures, f"{front}/refused")
        assert found is not None
        return share(*found)

    for label in table:
        assert table[label] == [cell(f"{label}/{kind}") for kind in kinds], label
    for label in ("text", "random vectors", "probe only"):  # the reminder's verdicts, and something else in the context
        pairs = {kind: figures[f"{label}/{kind}/success"] for kind in kinds if f"{label}/{kind}/success" in figures}
        differ = {kind: found["only_here"] for kind, found in pairs.items() if found["only_here"]}
        assert not any(found["only_reminder"] for found in pairs.values())
        assert differ == {
            "text": {"pages": 1}, "random vectors": {"pages": 1, "pgd adaptive": 1}, "probe only": {}
        }[label]  # fmt: skip
    p = {name: found["p"] for name, found in figures.items() if name.endswith("/success")}
    assert min(p[f"random vectors, own probe/{kind}/success"] for kind in kinds if f"none/{kind}/success" in p) > 0.05
    for text, name in {
        "(p = 0.25 in the exact sign test": "random vectors, own probe/pages",
        "(90 against 50 %, p = 0.008,": "header probe/late",
    }.items():
        assert text in RESULTS
        assert f"p = {round(p[f'{name}/success'], 3)}" in text


def test_the_table_of_a_real_model_is_what_was_measured():
    page = (ROOT / "recipes/real/README.md").read_text(encoding="utf-8")
    turned, found = results("real_turns")["figures"], results("real_evaluate")["defenses"]
    for kind, line in (
        ("harmful", "harmful beginnings of `test.jsonl`"),
        ("harmless", "harmless ones of `test.jsonl`"),
    ):
        one = turned[f"{kind} beginnings turned into a refusal"]
        low, high = (100 * float(end) for end in re.findall(r"0\.\d+", one["note"]))
        n = one["note"].split("n=")[1]
        [cells] = [row for row in page.splitlines() if line in row]
        assert f"({n}) | {100 * one['value']:.0f} % [{low:.0f}, {high:.0f}] |" in cells
    trained = results("real_train")["metrics"]
    assert f"| {trained['probe_auc']['value']:.2f} |" in page
    for kind, line in (("harmful", "harmful beginnings of these rows"), ("harmless", "harmless ones")):
        one = trained[f"turned_{kind}"]
        assert f"turned, {line} ({one['n']}) | {share(one['value'], one['low'], one['high'])} |" in page
    before, after = (found[label]["held_out"]["attack_success_rate"] for label in ("none", "reminder"))
    said = f"({after['n']}) | {100 * before['value']:.0f} → {share(after['value'], after['low'], after['high'])} |"
    assert said in page
    alarms = found["reminder"]["all"]["false_alarm_rate"]
    assert f"({alarms['n']}) | {share(alarms['value'], alarms['low'], alarms['high'], 1)} |" in page


def test_what_helps_against_the_image_made_against_the_guard_is_what_was_measured():
    page = (ROOT / "docs/attacks.md").read_text(encoding="utf-8").replace("\n", " ")
    figures = results("guard_variants")["figures"]
    on_topic = {name.removesuffix("/on_topic"): interval(figures, name) for name in figures if "/on_topic" in name}
    told = {
        "threshold 0.1": "forbid, ",
        "header probe": "of which the attack knew nothing, ",
        "image as JPEG": "it gets ",
    }
    for name, before in told.items():
        found = on_topic.pop(name)
        assert found is not None
        assert before + share(*found) in page, name
    others = [round(100 * found[0]) for found in on_topic.values() if found is not None]
    assert f"{min(others)} to {max(others)} % stay on topic" in page


def test_what_recompressing_does_to_an_image_is_what_was_measured():
    page, figures = (ROOT / "docs/attacks.md").read_text(encoding="utf-8"), results("transfer")["figures"]

    def on_topic(name: str) -> str:
        found = interval(figures, f"{name}/on_topic")
        assert found is not None
        return share(*found)

    as_it_is, jpeg, resized = (on_topic(f"image/{name}") for name in ("as it is", "jpeg", "resized"))
    assert f"on topic for {as_it_is.split(' [')[0]} as it is, for {jpeg}\nafter a JPEG" in page
    assert f"and for {resized} shrunk" in page
    with_it, without = (on_topic(f"suffix/SmolLM2{n}").split(" [")[0] for n in ("", ", without it"))
    assert f"on topic {without} without it, {with_it} with it" in page


def test_the_cost_of_checks_is_what_was_measured():
    fused = results("guard_overhead")["figures"]["pocket: fused / unguarded"]
    low, high = min(fused["runs"]), max(fused["runs"])
    assert f"{fused['value']:.2f}, the median of three pairs of runs ({low:.3f} to {high:.2f})" in RESULTS
    steps = results("guard_overhead_steps")["figures"]
    fused = steps["pocket: fused / unguarded, from single steps"]
    n, low, high = len(fused["runs"]), min(fused["runs"]), max(fused["runs"])
    said = f"{fused['value']:.2f} for checks every 16 tokens (medians of {n} pairs: {low:.2f} to {high:.2f})"
    assert said in RESULTS.replace("\n", " ")
    assert f"{steps['pocket: step with check / plain step']['value']:.2f} times a" in RESULTS
    assert f"{fused['value']:.2f} ({n} pairs: {low:.2f} to {high:.2f})" in README
