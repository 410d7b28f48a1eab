"""What must hold for every family, whatever the model says (DESIGN: invariants)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from helpers import (
    OPTIONS,
    REMINDER_IDS,
    Recorder,
    answer,
    extended,
    outcomes,
    plain,
    random_probe,
    recomputed_hidden,
    reminder_of_tokens,
    run_events,
    scripted,
    silent_probe,
    single,
)
from safety_reminder.guard import guarded_decoding
from safety_reminder.models.context import Runner, prepare
from safety_reminder.models.prefix import Prefix
from safety_reminder.models.scoring import Place, follow, go_on, score
from safety_reminder.models.tiny import tiny_inputs, tiny_model

MODES = ["exact", "fused"]
MANY_EOS = list(range(1, 12))  # ends rows of a random model at different times


@pytest.mark.parametrize("mode", MODES)
def test_a_guard_that_never_fires_leaves_greedy_answers_as_they_are(model, mode):
    inputs = tiny_inputs(model, (9, 14, 5))
    method = guarded_decoding(reminder_of_tokens(model, silent_probe(model)), interval=4, mode=mode)
    expected = plain(model, inputs, eos_token_id=MANY_EOS)
    ids = model.generate(**inputs, custom_generate=method, **OPTIONS, eos_token_id=MANY_EOS)
    assert ids[:, inputs["input_ids"].shape[1] :].tolist() == expected.tolist()


def test_a_guard_that_never_fires_leaves_sampled_answers_as_they_are(model):
    inputs = tiny_inputs(model, (9, 14, 5))
    options = {"do_sample": True, "top_k": 30, "temperature": 1.3, "eos_token_id": MANY_EOS}
    torch.manual_seed(3)
    expected = plain(model, inputs, **options)
    torch.manual_seed(3)
    method = guarded_decoding(reminder_of_tokens(model, silent_probe(model)), interval=4, mode="exact")
    ids = model.generate(**inputs, custom_generate=method, **(OPTIONS | options))
    assert ids[:, inputs["input_ids"].shape[1] :].tolist() == expected.tolist()


def test_in_exact_mode_the_logits_of_an_untriggered_answer_are_bit_identical(model):
    inputs = tiny_inputs(model, (9, 14))
    unguarded, guarded = Recorder(), Recorder()
    plain(model, inputs, logits_processor=[unguarded], eos_token_id=None)
    reminder = reminder_of_tokens(model, silent_probe(model))
    run_events(model, inputs, reminder, mode="exact", logits_processor=[guarded], eos_token_id=None)
    assert len(unguarded.logits) == len(guarded.logits) == 23
    assert all(torch.equal(a, b) for a, b in zip(unguarded.logits, guarded.logits, strict=True))


@pytest.mark.parametrize("mode", MODES)
def test_a_check_on_the_cache_equals_one_computed_from_scratch(model, mode):
    inputs = single(model)
    reminder = reminder_of_tokens(model, random_probe(model))
    # Never unsafe, so that every check stands on the unchanged answer.
    events = run_events(model, inputs, reminder, mode=mode, threshold=1.0, prompt_check=True, eos_token_id=None)
    row = outcomes(events)[0]
    assert [check.token_index for check in row.checks] == [0, 5, 10, 15, 20, 23]
    for check in row.checks:
        hidden = recomputed_hidden(model, inputs, row.tokens[: check.token_index] + REMINDER_IDS)
        assert check.p_unsafe == pytest.approx(reminder.probe(hidden).item(), abs=1e-4)


def test_after_roll_back_the_cache_is_one_that_never_saw_the_reminder(model):
    inputs = tiny_inputs(model, (9, 14))
    tokens = torch.randint(3, 110, (20, 2), generator=torch.Generator().manual_seed(1))

    def walk(vectors):
        runner = Runner(model)
        context, _ = runner.prefill(*prepare(model, inputs), roll_back=vectors is not None)
        for number, pair in enumerate(tokens):
            runner.append(context, pair[:, None])
            if vectors is not None and number % 3 == 2:
                runner.append(context, None, vectors)
                context.crop(len(vectors))
        return context

    with torch.no_grad():
        clean, rolled = walk(None), walk(reminder_of_tokens(model).vectors)
    assert torch.equal(clean.position, rolled.position)
    assert torch.equal(clean.ids, rolled.ids)
    assert clean.cache.get_seq_length() == rolled.cache.get_seq_length()
    layers: list[list[Any]] = [list(context.cache.layers) for context in (clean, rolled)]
    for a, b in zip(*layers, strict=True):
        # A layer with a sliding window keeps what it may still need to roll back; beyond that both hold the same.
        common = min(a.keys.shape[-2], b.keys.shape[-2])
        assert torch.equal(a.keys[..., -common:, :], b.keys[..., -common:, :])
        assert torch.equal(a.values[..., -common:, :], b.values[..., -common:, :])


@pytest.mark.parametrize("policy", ["continue", "rewind", "restart", "stop"])
def test_a_batch_gives_every_row_what_it_gets_alone(model, policy):
    lengths = (9, 16, 6, 12)
    inputs = tiny_inputs(model, lengths)
    options = {
        "policy": policy,
        "mode": "exact",
        "interval": 4,
        "threshold": 0.5,  # one check in two, however wide the probe's numbers are
        "max_interventions": 2,
        "eos_token_id": MANY_EOS,
        "do_sample": True,
        "temperature": 1.2,
    }
    reminder = reminder_of_tokens(model, random_probe(model, scale=0.4))
    batch = outcomes(run_events(model, inputs, reminder, seed=7, **options))
    kinds = set()
    for row, length in enumerate(lengths):
        alone_inputs = tiny_inputs(model, (length,), seed=row)
        alone = outcomes(run_events(model, alone_inputs, reminder, seed=7 + row, **options))[0]
        together = batch[row]
        assert together.tokens == alone.tokens
        assert together.reasons == alone.reasons
        assert [c.token_index for c in together.checks] == [c.token_index for c in alone.checks]
        assert [c.p_unsafe for c in together.checks] == pytest.approx([c.p_unsafe for c in alone.checks], abs=1e-4)
        assert [i.token_index for i in together.interventions] == [i.token_index for i in alone.interventions]
        kinds.add(bool(alone.interventions))
    assert True in kinds


@pytest.mark.parametrize("policy", ["continue", "rewind", "restart"])
def test_after_an_intervention_the_model_goes_on_as_from_the_same_text_with_the_reminder_in_it(model, policy):
    inputs = single(model, 12)
    before = plain(model, inputs, eos_token_id=None)[0].tolist()
    kept = {"continue": before[:10], "rewind": before[:5], "restart": []}[policy]
    # Passes after 5 tokens, fires after 10, silent from then on.
    events = run_events(
        model, inputs, scripted(model, 0.1, 0.9), policy=policy, eos_token_id=None, max_new_tokens=20, mode="exact"
    )
    tokens = answer(events)
    expected = plain(model, extended(inputs, kept + REMINDER_IDS), eos_token_id=None, max_new_tokens=20 - len(kept))[
        0
    ].tolist()
    assert tokens == kept + expected


def test_positions_of_the_reminder_and_of_what_follows_are_the_model_s_own(model):
    """For M-RoPE, ``get_rope_index`` on the whole sequence; for the rest, plain counting."""
    inputs = single(model)
    runner = Runner(model)
    with torch.no_grad():
        context, _ = runner.prefill(*prepare(model, inputs), roll_back=True)
        runner.append(context, torch.tensor([[17]]), reminder_of_tokens(model).vectors)
        runner.append(context, torch.tensor([[23]]))
    _, whole = prepare(model, extended(inputs, [17, *REMINDER_IDS, 23]))
    assert torch.equal(context.position, whole["position_ids"][..., -1:])


def test_training_reads_the_reminder_exactly_where_decoding_does(model):
    inputs = single(model)
    reminder = reminder_of_tokens(model, random_probe(model))
    row = outcomes(run_events(model, inputs, reminder, mode="exact", threshold=1.0, eos_token_id=None))[0]
    prefix = Prefix.read(model, inputs, row.tokens)
    # All at once, so that short prefixes are padded beside long ones, and short targets beside long ones.
    targets = [[5, 6, 7][: 1 + number % 3] for number in range(len(row.checks))]
    places = [Place(prefix, c.token_index, [None, target]) for c, target in zip(row.checks, targets, strict=True)]
    with torch.no_grad():
        found = follow(model, places, reminder.vectors)
    for check, target, continuation in zip(row.checks, targets, found, strict=True):
        assert reminder.probe(continuation.hidden).item() == pytest.approx(check.p_unsafe, abs=1e-4)
        whole = extended(inputs, row.tokens[: check.token_index] + REMINDER_IDS + target[:-1])
        with torch.no_grad():
            expected = model(**whole, use_cache=False).logits[0, -len(target) :]
        assert torch.allclose(continuation.logits[0], expected, atol=1e-3)


def test_tokens_and_several_reminders_follow_a_cut_as_in_the_whole_sequence(model):
    inputs = single(model)
    answer = plain(model, inputs, eos_token_id=None)[0].tolist()
    vectors = reminder_of_tokens(model).vectors
    prefix = Prefix.read(model, inputs, answer)
    scripts = [[None, [5, 6], None, [7, 8, 9]], [[11, 12, 13]], [[answer[3], 5], None]]
    kept = [4, 9, 3]
    with torch.no_grad():
        found = follow(model, [Place(prefix, n, s) for n, s in zip(kept, scripts, strict=True)], vectors)
    for n, script, continuation in zip(kept, scripts, found, strict=True):
        following = [token for part in script for token in (REMINDER_IDS if part is None else part)]
        with torch.no_grad():
            outputs = model(**extended(inputs, answer[:n] + following), use_cache=False, output_hidden_states=True)
        logits, hidden = outputs.logits[0, -len(following) :], outputs.hidden_states[-1][0, -len(following) :]
        at, reminders, runs = 0, [], []
        for part in script:
            length = len(REMINDER_IDS if part is None else part)
            if part is None:
                reminders.append(at + length - 1)
            else:
                runs.append(logits[max(at - 1, 0) : at + length - 1])
            at += length
        assert torch.allclose(continuation.hidden, hidden[reminders], atol=1e-3)
        assert torch.allclose(continuation.last, hidden[-1], atol=1e-3)
        assert all(torch.allclose(a, b, atol=1e-3) for a, b in zip(continuation.logits, runs, strict=True))


def test_a_script_over_a_prefix_and_over_the_whole_sequence_is_the_same(model):
    """Prompts of several lengths, scripts of several widths, in one pass each."""
    lengths, kept = (9, 14, 5), (4, 0, 7)
    inputs = tiny_inputs(model, lengths)
    alone = [tiny_inputs(model, (length,), seed=row) for row, length in enumerate(lengths)]
    answers = [plain(model, one, eos_token_id=None)[0].tolist() for one in alone]
    vectors = torch.randn(4, model.get_input_embeddings().weight.shape[1], generator=torch.Generator().manual_seed(2))
    scripts = [[None, [5, 6], None, [7, 8, 9]], [None, [11]], [None]]
    prefixes = [Prefix.read(model, one, answer) for one, answer in zip(alone, answers, strict=True)]
    with torch.no_grad():
        cached = follow(model, [Place(*place) for place in zip(prefixes, kept, scripts, strict=True)], vectors)
        begun = [[answer[:n], *script] for answer, n, script in zip(answers, kept, scripts, strict=True)]
        whole = score(model, inputs, begun, vectors)
    for over_prefix, over_all, n in zip(cached, whole, kept, strict=True):
        assert torch.allclose(over_prefix.hidden, over_all.hidden, atol=1e-3)
        assert torch.allclose(over_prefix.last, over_all.last, atol=1e-3)
        assert over_all.logits[0].shape[0] == n  # the beginning itself, its first token included
        pairs = zip(over_prefix.logits, over_all.logits[1:], strict=True)
        assert all(torch.allclose(a, b, atol=1e-3) for a, b in pairs)


def test_a_whole_sequence_predicts_what_decoding_writes(model):
    inputs = single(model)
    answer = plain(model, inputs, eos_token_id=None)[0].tolist()
    with torch.no_grad():
        (found,) = score(model, inputs, [[answer]], torch.zeros(1, model.get_input_embeddings().weight.shape[1]))
    logits = found.logits[0]
    logits[:, OPTIONS["suppress_tokens"]] = -torch.inf
    chosen = logits.gather(-1, torch.tensor(answer)[:, None])[:, 0]
    assert torch.allclose(chosen, logits.max(-1).values, atol=1e-3)


def test_the_gradient_of_a_whole_sequence_reaches_pixels_and_embeddings(model):
    """Against finite differences, along the gradient itself."""
    inputs, vectors = single(model), torch.zeros(1, model.get_input_embeddings().weight.shape[1])
    names = [name for name in ("pixel_values",) if name in inputs]
    if model.config.model_type == "gemma3":
        # Zero at initialisation: no pixel would count.
        torch.nn.init.normal_(model.model.multi_modal_projector.mm_input_projection_weight, std=0.2)
    column = 2
    embedded = model.get_input_embeddings()(inputs["input_ids"][:, column]).detach()

    def loss(inputs, embedded):
        (found,) = score(model, inputs, [[[5, 6, 7]]], vectors, embeddings={column: embedded})
        return F.cross_entropy(found.logits[0], torch.tensor([5, 6, 7]))

    model.requires_grad_(False)
    given = {name: inputs[name].clone().requires_grad_() for name in names}
    wanted = embedded.clone().requires_grad_()
    loss({**inputs, **given}, wanted).backward()
    model.requires_grad_(True)
    for name, tensor in [*given.items(), ("embedding", wanted)]:
        direction = tensor.grad / tensor.grad.norm()
        assert tensor.grad.norm() > 1e-6
        step, sides = 3e-3, []
        for sign in (1, -1):
            moved = tensor.detach() + sign * step * direction
            with torch.no_grad():
                at = loss({**inputs, name: moved}, embedded) if name in inputs else loss(inputs, moved)
            sides.append(at.item())
        assert (sides[0] - sides[1]) / (2 * step) == pytest.approx(tensor.grad.norm().item(), rel=0.05)


def test_what_is_written_after_cuts_is_what_is_likeliest_there(model):
    inputs = single(model)
    answer = plain(model, inputs, eos_token_id=None)[0].tolist()
    vectors = reminder_of_tokens(model).vectors
    prefix = Prefix.read(model, inputs, answer)
    for kept in ([4, 9, 3], [6]):  # padded, and not
        for n, written in zip(kept, go_on(model, [(prefix, n) for n in kept], vectors, 5), strict=True):
            assert len(written) == 5
            with torch.no_grad():
                logits = follow(model, [Place(prefix, n, [None, written])], vectors)[0].logits[0]
            # What was chosen may only be second to what is as good to within rounding.
            chosen = logits.gather(-1, torch.tensor(written)[:, None])[:, 0]
            assert torch.allclose(chosen, logits.max(-1).values, atol=1e-3)


def test_the_prompt_s_last_token_can_be_read_again(model):
    inputs = single(model)
    prefix = Prefix.read(model, inputs, [5])
    vectors = reminder_of_tokens(model).vectors
    with torch.no_grad():
        again = follow(model, [Place(prefix, -1, [[prefix.tokens[0]]])], vectors)[0].last
        whole = model(**inputs, use_cache=False, output_hidden_states=True).hidden_states[-1][0, -1]
    assert torch.allclose(again, whole, atol=1e-3)


def test_the_reminder_s_gradient_over_a_reused_prefix_is_that_of_the_whole_sequence(model):
    inputs = single(model)
    answer, target = plain(model, inputs, eos_token_id=None)[0].tolist(), [5, 6, 7]
    model.requires_grad_(False)
    start = reminder_of_tokens(model).vectors
    prefix = Prefix.read(model, inputs, answer)
    reused, whole = (torch.nn.Parameter(start.clone()) for _ in range(2))
    cuts = (0, 7, 20)
    found = follow(model, [Place(prefix, cut, [None, target]) for cut in cuts], reused)
    torch.stack([F.cross_entropy(each.logits[0], torch.tensor(target)) for each in found]).sum().backward()
    for cut in cuts:
        (scored,) = score(model, inputs, [[answer[:cut], None, target]], whole)
        F.cross_entropy(scored.logits[-1], torch.tensor(target)).backward()
    model.requires_grad_(True)
    assert reused.grad is not None
    assert whole.grad is not None
    assert torch.linalg.norm(reused.grad - whole.grad) < 1e-4 * torch.linalg.norm(whole.grad)


def test_rows_that_have_finished_are_not_checked_again(model):
    inputs = tiny_inputs(model, (9, 14, 5))
    events = run_events(
        model, inputs, reminder_of_tokens(model, silent_probe(model)), interval=3, eos_token_id=MANY_EOS
    )
    finished: set[int] = set()
    for event in events:
        assert event.row not in finished
        if type(event).__name__ == "Done":
            finished.add(event.row)
    assert finished == {0, 1, 2}


def test_bfloat16_gives_the_verdicts_of_float32(family):
    exact, rounded = tiny_model(family), tiny_model(family, dtype=torch.bfloat16)
    # The same weights: those of float32, rounded.
    rounded.load_state_dict({k: v.to(torch.bfloat16) for k, v in exact.state_dict().items()})
    inputs = single(exact)
    forced = plain(exact, inputs, eos_token_id=None)[0].tolist()
    reminder = reminder_of_tokens(exact, random_probe(exact, scale=0.1))
    p = []
    for model in (exact, rounded):
        prefix = Prefix.read(model, _as(inputs, model.dtype), forced)
        with torch.no_grad():
            found = follow(model, [Place(prefix, cut, [None]) for cut in (0, 10, 20)], reminder.vectors)
        p.append(reminder.probe(torch.cat([each.hidden for each in found])))
    assert torch.allclose(p[0], p[1], atol=0.1)


def _as(inputs, dtype):
    return {k: v.to(dtype) if torch.is_floating_point(v) else v for k, v in inputs.items()}
