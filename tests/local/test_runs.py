"""Absorbs of several memories at once: shared steps, own results, own failures."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest
import torch

from templora_memory import Learning
from templora_memory.backends.local.base_model import prefill
from templora_memory.backends.local.lora.batched import (
    LoraLayout,
    choose_targets,
    init_weights,
)
from templora_memory.backends.local.recipes import Example, pack_turns
from templora_memory.backends.local.scheduler import ModelThread
from templora_memory.backends.local.train.runs import TrainingBatcher, TrainingRun
from templora_memory.backends.local.train.step import (
    batch_loss,
    collate,
    prepare_inputs,
)
from templora_memory.errors import Cancelled, Closed, LearningFailed
from tests.local.training_steps import example

RUNS = "templora_memory.backends.local.train.runs"
STEP = "templora_memory.backends.local.train.step"
SETTINGS = Learning(r=4, lora_alpha=8, learning_rate=1e-3, context=16)


def new_run(
    base, examples, settings=SETTINGS, *, seed=0, least=0, cancelled=lambda: False, seen=()
):
    layout = LoraLayout(choose_targets(base.layers, settings.target_modules), settings.r)
    start = init_weights(layout, replace(settings, seed=seed), base.device)
    return TrainingRun(
        start, examples, settings, chunk=32, min_steps=least, resume=None,
        progress=seen.append if seen != () else lambda _: None, cancelled=cancelled,
    )  # fmt: skip


class NoPull:
    """NeutralText text that nobody may be pulled towards."""

    def kl_to_base(self, adapters):  # noqa: ARG002  # as the real one
        return 0.25


def run(base, *own, most=512, short=False):
    batcher = TrainingBatcher(base, lambda _: NoPull(), max_tokens=most)
    for one in own:
        batcher.add(one)
    steps = 0
    while batcher.busy:
        batcher.step(short=short)
        steps += 1
    return steps


TEXTS = [
    [
        example("the red house by the river"),
        example("and its garden", "the red house by the river"),
    ],
    [example("blue birds sing in the rain")],
    [example("five grey cats"), example("and a dog", "five grey cats"), example("slept", "a dog")],
]


def test_memories_that_learn_together_end_where_they_end_alone(base):
    own = [new_run(base, examples, seed=i) for i, examples in enumerate(TEXTS)]
    alone = [new_run(base, examples, seed=i) for i, examples in enumerate(TEXTS)]
    steps = run(base, *own)
    assert steps < sum(run(base, one) for one in alone)
    for one, other in zip(own, alone, strict=True):
        together, single = one.result.result(), other.result.result()
        assert (together.weights.flat - single.weights.flat).abs().max() < 1e-4
        assert [c.tokens for c in together.stats.chunks] == [c.tokens for c in single.stats.chunks]
        for left, right in zip(together.stats.chunks, single.stats.chunks, strict=True):
            assert left.nll_before == pytest.approx(right.nll_before, abs=1e-3)
            assert left.nll_after == pytest.approx(right.nll_after, abs=1e-3)


def test_one_run_at_a_time_while_somebody_waits_for_an_answer(base):
    own = [new_run(base, [example("blue birds sing")], seed=i) for i in range(3)]
    assert run(base, *own, short=True) == 3 * SETTINGS.steps_per_chunk + 1  # the last one hands out


def test_a_batch_has_no_more_tokens_than_it_may(base, monkeypatch):
    sizes = []

    def watch(base, inputs):
        batch = collate(base, inputs)
        sizes.append(batch.input_ids.numel())
        return batch

    monkeypatch.setattr(f"{RUNS}.collate", watch)
    run(base, *[new_run(base, [example("x" * 30)], seed=i) for i in range(5)], most=64)
    assert max(sizes) == 2 * 29


def test_short_and_long_examples_do_not_share_a_batch(base):
    """Most of such a batch would be padding."""
    own = [new_run(base, [example("x" * 90)]), new_run(base, [example("y" * 6)])]
    batcher = TrainingBatcher(base, lambda _: NoPull(), max_tokens=512)
    assert not batcher._can_share(own[1], own[:1])
    assert batcher._can_share(new_run(base, [example("z" * 80)]), own[:1])


def test_dropout_keeps_a_memory_to_itself(base):
    """Its random numbers would depend on the company."""
    batcher = TrainingBatcher(base, lambda _: NoPull(), max_tokens=512)
    plain, dropped = (
        new_run(base, [example("some text")], replace(SETTINGS, lora_dropout=d)) for d in (0.0, 0.3)
    )
    assert not batcher._can_share(dropped, [plain])
    assert not batcher._can_share(plain, [dropped])


def test_other_ranks_learn_in_a_batch_of_their_own(base):
    own = [new_run(base, [example("some text")], replace(SETTINGS, r=rank)) for rank in (2, 4)]
    run(base, *own)
    assert [one.result.result().weights.layout.r for one in own] == [2, 4]


def test_one_that_is_cancelled_leaves_and_the_others_go_on(base):
    stop = threading.Event()
    gone = new_run(base, TEXTS[0], cancelled=stop.is_set)
    stays = new_run(base, TEXTS[2], seed=1)
    batcher = TrainingBatcher(base, lambda _: NoPull(), max_tokens=512)
    batcher.add(gone)
    batcher.add(stays)
    batcher.step(short=False)
    stop.set()
    while batcher.busy:
        batcher.step(short=False)
    with pytest.raises(Cancelled):
        gone.result.result()
    assert len(stays.result.result().stats.chunks) == 3


def test_one_that_diverges_leaves_and_the_others_go_on(base):
    wild = new_run(base, TEXTS[0], replace(SETTINGS, learning_rate=80.0, steps_per_chunk=6))
    calm = new_run(base, TEXTS[2], seed=1)
    run(base, wild, calm)
    with pytest.raises(LearningFailed, match=r"learning\.learning_rate"):
        wild.result.result()
    assert len(calm.result.result().stats.chunks) == 3


def test_a_batch_that_fails_is_tried_one_by_one(base, monkeypatch):
    """Two together may be too much for the memory, each of them is not."""

    def narrow(base, batch, rows, cache=None, below=None):
        if len(batch.input_ids) > 1:
            raise torch.OutOfMemoryError("too much")
        return batch_loss(base, batch, rows, cache, below)

    alone = new_run(base, TEXTS[1])
    run(base, alone)
    monkeypatch.setattr(f"{RUNS}.batch_loss", narrow)
    own = [new_run(base, TEXTS[1]), new_run(base, TEXTS[1], replace(SETTINGS, measure=False))]
    run(base, *own)
    assert torch.equal(own[0].result.result().weights.flat, alone.result.result().weights.flat)
    assert own[1].result.result()


def test_an_error_goes_to_the_one_whose_example_caused_it(base, monkeypatch):
    def picky(base, batch, rows, cache=None, below=None):
        if (batch.input_ids == ord("#")).any():
            raise RuntimeError("this text breaks the model")
        return batch_loss(base, batch, rows, cache, below)

    monkeypatch.setattr(f"{RUNS}.batch_loss", picky)
    bad, good = new_run(base, [example("some # text")]), new_run(base, [example("other texts")])
    run(base, bad, good)
    with pytest.raises(RuntimeError, match="breaks the model"):
        bad.result.result()
    assert good.result.result().stats.tokens == 10


def test_an_error_of_a_listener_ends_its_own_run_alone(base):
    class Listener(list):
        def append(self, _):
            raise ValueError("the listener is gone")

    bad, good = new_run(base, TEXTS[0], seen=Listener([0])), new_run(base, TEXTS[1])
    run(base, bad, good)
    with pytest.raises(ValueError, match="listener"):
        bad.result.result()
    assert good.result.result()


def test_a_closed_thread_ends_runs_with_an_error(base):
    class NoAnswers:
        busy = False

        def step(self): ...

        def fail(self, error): ...

    batcher = TrainingBatcher(base, lambda _: NoPull(), max_tokens=512)
    thread = ModelThread(NoAnswers(), NoAnswers(), batcher)
    long = new_run(base, [example("x" * 100)], replace(SETTINGS, kl_weight=0.0), least=10_000)
    thread.learn(long)
    thread.close()
    with pytest.raises(Closed):
        long.result.result(timeout=10)


def following(text, size, context):
    cuts = range(0, len(text), size)
    return [example(text[at : at + size], text[max(0, at - context) : at]) for at in cuts]


def test_the_chunk_before_is_not_run_again_as_context(base, monkeypatch):
    runs = []
    monkeypatch.setattr(f"{STEP}.prefill", lambda *given: runs.append(1) or prefill(*given))
    examples = following("a long story about a house by the sea, " * 3, 32, 32)
    run(base, new_run(base, examples))
    assert not runs
    run(base, new_run(base, examples, replace(SETTINGS, reuse_context=False)))
    assert len(runs) == len(examples) - 1


def test_context_taken_over_is_what_running_it_would_give(base):
    """Two chunks: everything before the second is the first, with the newest adapter."""
    examples = following("a long story about a house by the sea", 24, 24)
    reused, again = (
        new_run(base, examples, replace(SETTINGS, reuse_context=reuse)) for reuse in (True, False)
    )
    run(base, reused)
    run(base, again)
    difference = reused.result.result().weights.flat - again.result.result().weights.flat
    assert difference.abs().max() < 1e-5


def test_context_is_run_again_when_the_models_positions_are_used_up(base, monkeypatch):
    ends = []

    def watch(*given):
        inputs = prepare_inputs(*given)
        ends.append(inputs.prefix.end + len(inputs.input_ids))
        return inputs

    monkeypatch.setattr(f"{RUNS}.prepare_inputs", watch)
    run(base, new_run(base, following("once upon a time " * 60, 60, 60)))
    assert max(ends) <= base.max_length
    assert len(ends) > base.max_length // 60 + 2


def test_only_additional_passes_are_held_back(base):
    settings = replace(SETTINGS, kl_weight=0.5)
    assert new_run(base, TEXTS[0], settings, least=20).kl_weight == settings.kl_weight
    assert not new_run(base, TEXTS[0], settings).kl_weight
    assert not new_run(base, TEXTS[0], replace(SETTINGS, kl_weight=0), least=20).kl_weight


def test_one_chunk_in_four_of_a_long_text_is_measured(base):
    long = [example(f"number {i} came home") for i in range(6)]
    once, rounds, never = (
        new_run(base, long),
        new_run(base, long, replace(SETTINGS, kl_weight=0.0), least=20),
        new_run(base, long, replace(SETTINGS, measure=False)),
    )
    for one in (once, rounds, never):
        run(base, one)
    measured = [
        [chunk.nll_after is not None for chunk in one.result.result().stats.chunks]
        for one in (once, rounds, never)
    ]
    assert measured == [[True, False, False, False, True, False], [True] * 6, [False] * 6]


def test_a_context_is_taken_over_from_the_last_pass_or_run_again_the_same_way(base):
    ids = tuple(b"the red house by the river and its garden, where five grey cats slept")
    parts = [
        Example(ids[max(0, at - 16) : at], ids[at : at + 16], (1.0,) * 16) for at in (0, 16, 32)
    ]
    found = []
    for reuse, every in ((True, 1), (True, 4), (False, 1)):
        own = new_run(base, parts, replace(SETTINGS, reuse_context=reuse, measure_every=every))
        run(base, own)
        found.append(own.result.result().weights.flat)
    start = new_run(base, parts).adapter.start.flat
    moved = (found[2] - start).norm()
    assert (found[0] - found[1]).norm() < 0.2 * moved
    assert (found[0] - found[2]).norm() < 0.2 * moved


def test_the_receipt_says_how_much_other_text_changed(base):
    whole, unmeasured = (
        new_run(base, TEXTS[1], replace(SETTINGS, measure=measure)) for measure in (True, False)
    )
    run(base, whole, unmeasured)
    assert whole.result.result().stats.kl == 0.25
    assert unmeasured.result.result().stats.kl is None


# --- until it is learned -----------------------------------------------------------------------


QUICK = {"learning_rate": 1e-2, "scale_short": False, "kl_weight": 0.0}


def stopped(base, examples, *, least=60, **settings):
    seen = []
    one = new_run(
        base, examples, replace(SETTINGS, **{**QUICK, **settings}), least=least, seen=seen
    )
    run(base, one)
    return one.result.result(), seen


def test_what_is_learned_stops_before_all_steps_are_taken(base):
    found, seen = stopped(base, [example("blue birds")], stop_loss=4.5)
    assert 1 < found.counters.steps < 60
    assert seen[-1].chunk == seen[-1].chunks
    (chunk,) = found.stats.chunks
    assert chunk.nll_after < 4.5 < chunk.nll_before


def test_without_a_stop_every_step_is_taken(base):
    found, _ = stopped(base, [example("blue birds")], stop_loss=0.0)
    assert found.counters.steps == 60


def test_what_is_known_from_the_first_gets_one_further_pass(base):
    found, _ = stopped(base, [example("blue birds"), example("red cats")], stop_loss=100.0)
    assert found.counters.steps == 4


def test_all_examples_of_a_pass_decide_together(base):
    """One that is learned waits for one that is not."""
    easy, hard = example("blue birds"), example("grey cats, x7")
    one = new_run(base, [easy, hard], replace(SETTINGS, stop_loss=1.0), least=20)
    planned = one._rounds
    one._pass_losses = [0.1, 3.0]
    one._stop_when_learned()
    assert one._rounds == planned
    one._pass_losses = [0.1, 1.5]
    one._stop_when_learned()
    assert one._rounds < planned


def test_one_that_stops_leaves_the_others_their_steps(base):
    quick = new_run(
        base, [example("blue birds")], replace(SETTINGS, stop_loss=100.0, kl_weight=0.0), least=20
    )
    slow = new_run(
        base, [example("red cats")], replace(SETTINGS, stop_loss=0.0, kl_weight=0.0), least=20
    )
    run(base, quick, slow)
    assert quick.result.result().counters.steps == 2
    assert slow.result.result().counters.steps == 20


def test_later_passes_train_on_variants_and_the_last_on_the_example(base, monkeypatch):
    first = replace(example("blue birds"), variants=(example("red cats"), example("grey dogs")))
    trained = []

    def watched(model, one, *rest):
        trained.append(bytes(one.ids).decode())
        return prepare_inputs(model, one, *rest)

    monkeypatch.setattr(f"{RUNS}.prepare_inputs", watched)
    stopped(base, [first], least=5, stop_loss=0.0)
    assert trained == ["blue birds", "red cats", "grey dogs", "red cats", "blue birds"]


def test_a_receipt_compares_the_same_tokens_however_the_passes_differ(base):
    other = example("a good deal more of text than that")
    found, _ = stopped(base, [replace(example("blue birds"), variants=(other,))], least=20,
                       stop_loss=0.0)  # fmt: skip
    (chunk,) = found.stats.chunks
    plain, _ = stopped(base, [example("blue birds")], least=20, stop_loss=0.0)
    assert chunk.tokens == plain.stats.chunks[0].tokens
    assert chunk.nll_before == pytest.approx(plain.stats.chunks[0].nll_before, abs=1e-5)
    assert chunk.nll_after < chunk.nll_before


def test_packed_examples_share_no_batch_with_plain_text(base, text, monkeypatch):
    packed = pack_turns([("Who?", "Ada.")] * 2, text)
    sizes = []

    def watched(model, inputs):
        sizes.append(len(inputs))
        return collate(model, inputs)

    monkeypatch.setattr(f"{RUNS}.collate", watched)
    plain = example("x" * len(packed.ids))
    settings = replace(SETTINGS, steps_per_chunk=1, measure=False)
    run(base, new_run(base, [packed], settings), new_run(base, [plain], settings))
    assert sizes == [1, 1]
    sizes.clear()
    run(base, *(new_run(base, [packed], settings, seed=seed) for seed in range(2)))
    assert sizes == [2]
