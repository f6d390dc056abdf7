"""Absorbs of several memories at once: shared steps, own results, own failures."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest
import torch

from templora_memory import Document, Learning
from templora_memory.backends.local.lora import batched
from templora_memory.backends.local.recipes import Example
from templora_memory.backends.local.scheduler import Worker
from templora_memory.backends.local.train import runs as runs_module, step as step_module
from templora_memory.backends.local.train.kl_regularizer import (
    WINDOW,
    Neutral,
    bundled_talk,
    bundled_text,
)
from templora_memory.backends.local.train.runs import Lesson, Lessons
from templora_memory.errors import Cancelled, Closed, LearningFailed

SETTINGS = Learning(r=4, lora_alpha=8, learning_rate=1e-3, context=16)


@pytest.fixture
def base(make_backend):
    return make_backend()._now.base


def example(text, context=""):
    return Example(tuple(context.encode()), tuple(text.encode()), (1.0,) * len(text.encode()))


def lesson(base, examples, settings=SETTINGS, *, seed=0, least=0, cancelled=lambda: False, seen=()):
    layout = batched.Layout(
        batched.choose_targets(base.layers, settings.target_modules), settings.r
    )
    start = batched.fresh_weights(layout, replace(settings, seed=seed), base.device)
    return Lesson(
        start, examples, settings, chunk=32, min_steps=least, resume=None,
        progress=seen.append if seen != () else lambda _: None, cancelled=cancelled,
    )  # fmt: skip


class NoPull:
    """Neutral text that nobody may be pulled towards."""

    def drift(self, rows):  # noqa: ARG002  # as the real one
        return 0.25


def run(base, *own, most=512, short=False):
    lessons = Lessons(base, NoPull, most_tokens=most)
    for one in own:
        lessons.add(one)
    steps = 0
    while lessons.busy:
        lessons.step(short=short)
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
    own = [lesson(base, examples, seed=i) for i, examples in enumerate(TEXTS)]
    alone = [lesson(base, examples, seed=i) for i, examples in enumerate(TEXTS)]
    steps = run(base, *own)
    assert steps < sum(run(base, one) for one in alone)
    for one, other in zip(own, alone, strict=True):
        together, single = one.result.result(), other.result.result()
        assert (together.weights.flat - single.weights.flat).abs().max() < 1e-4
        assert [c.tokens for c in together.stats.chunks] == [c.tokens for c in single.stats.chunks]
        for left, right in zip(together.stats.chunks, single.stats.chunks, strict=True):
            assert left.nll_before == pytest.approx(right.nll_before, abs=1e-3)
            assert left.nll_after == pytest.approx(right.nll_after, abs=1e-3)


def test_one_lesson_at_a_time_while_somebody_waits_for_an_answer(base):
    own = [lesson(base, [example("blue birds sing")], seed=i) for i in range(3)]
    assert run(base, *own, short=True) == 3 * SETTINGS.steps_per_chunk + 1  # the last one hands out


def test_a_batch_has_no_more_tokens_than_it_may(base, monkeypatch):
    sizes = []
    whole = step_module.collate

    def collate(base, rows):
        batch = whole(base, rows)
        sizes.append(batch.ids.numel())
        return batch

    monkeypatch.setattr(step_module, "collate", collate)
    run(base, *[lesson(base, [example("x" * 30)], seed=i) for i in range(5)], most=64)
    assert max(sizes) == 2 * 29


def test_short_and_long_examples_do_not_share_a_batch(base):
    """Most of such a batch would be padding."""
    own = [lesson(base, [example("x" * 90)]), lesson(base, [example("y" * 6)])]
    lessons = Lessons(base, NoPull, most_tokens=512)
    assert not lessons._fits(own[1], own[:1])
    assert lessons._fits(lesson(base, [example("z" * 80)]), own[:1])


def test_dropout_keeps_a_memory_to_itself(base):
    """Its random numbers would depend on the company."""
    lessons = Lessons(base, NoPull, most_tokens=512)
    plain, dropped = (
        lesson(base, [example("some text")], replace(SETTINGS, lora_dropout=d)) for d in (0.0, 0.3)
    )
    assert not lessons._fits(dropped, [plain])
    assert not lessons._fits(plain, [dropped])


def test_other_ranks_learn_in_a_batch_of_their_own(base):
    own = [lesson(base, [example("some text")], replace(SETTINGS, r=rank)) for rank in (2, 4)]
    run(base, *own)
    assert [one.result.result().weights.layout.rank for one in own] == [2, 4]


def test_one_that_is_cancelled_leaves_and_the_others_go_on(base):
    stop = threading.Event()
    gone = lesson(base, TEXTS[0], cancelled=stop.is_set)
    stays = lesson(base, TEXTS[2], seed=1)
    lessons = Lessons(base, NoPull, most_tokens=512)
    lessons.add(gone)
    lessons.add(stays)
    lessons.step(short=False)
    stop.set()
    while lessons.busy:
        lessons.step(short=False)
    with pytest.raises(Cancelled):
        gone.result.result()
    assert len(stays.result.result().stats.chunks) == 3


def test_one_that_diverges_leaves_and_the_others_go_on(base):
    wild = lesson(base, TEXTS[0], replace(SETTINGS, learning_rate=80.0, steps_per_chunk=6))
    calm = lesson(base, TEXTS[2], seed=1)
    run(base, wild, calm)
    with pytest.raises(LearningFailed, match=r"learning\.rate"):
        wild.result.result()
    assert len(calm.result.result().stats.chunks) == 3


def test_a_batch_that_fails_is_tried_one_by_one(base, monkeypatch):
    """Two together may be too much for the memory, each of them is not."""
    loss = step_module.batch_loss

    def narrow(base, batch, rows, cache=None):
        if len(batch.ids) > 1:
            raise torch.OutOfMemoryError("too much")
        return loss(base, batch, rows, cache)

    alone = lesson(base, TEXTS[1])
    run(base, alone)
    monkeypatch.setattr(step_module, "batch_loss", narrow)
    own = [lesson(base, TEXTS[1]), lesson(base, TEXTS[1], replace(SETTINGS, measure=False))]
    run(base, *own)
    assert torch.equal(own[0].result.result().weights.flat, alone.result.result().weights.flat)
    assert own[1].result.result()


def test_an_error_goes_to_the_one_whose_example_caused_it(base, monkeypatch):
    loss = step_module.batch_loss

    def picky(base, batch, rows, cache=None):
        if (batch.ids == ord("#")).any():
            raise RuntimeError("this text breaks the model")
        return loss(base, batch, rows, cache)

    monkeypatch.setattr(step_module, "batch_loss", picky)
    bad, good = lesson(base, [example("some # text")]), lesson(base, [example("other texts")])
    run(base, bad, good)
    with pytest.raises(RuntimeError, match="breaks the model"):
        bad.result.result()
    assert good.result.result().stats.tokens == 10


def test_an_error_of_a_listener_ends_its_own_lesson_alone(base):
    class Listener(list):
        def append(self, _):
            raise ValueError("the listener is gone")

    bad, good = lesson(base, TEXTS[0], seen=Listener([0])), lesson(base, TEXTS[1])
    run(base, bad, good)
    with pytest.raises(ValueError, match="listener"):
        bad.result.result()
    assert good.result.result()


def test_a_closed_worker_ends_lessons_with_an_error(base):
    class NoAnswers:
        busy = False

        def step(self): ...

        def fail(self, error): ...

    lessons = Lessons(base, NoPull, most_tokens=512)
    worker = Worker(NoAnswers(), NoAnswers(), lessons)
    long = lesson(base, [example("x" * 100)], least=10_000)
    worker.learn(long)
    worker.close()
    with pytest.raises(Closed):
        long.result.result(timeout=10)


# --- context taken over ------------------------------------------------------------------------


def following(text, size, context):
    cuts = range(0, len(text), size)
    return [example(text[at : at + size], text[max(0, at - context) : at]) for at in cuts]


def test_the_chunk_before_is_not_run_again_as_context(base, monkeypatch):
    runs, again = [], step_module._run
    monkeypatch.setattr(step_module, "_run", lambda *given: runs.append(1) or again(*given))
    examples = following("a long story about a house by the sea, " * 3, 32, 32)
    run(base, lesson(base, examples))
    assert not runs
    run(base, lesson(base, examples, replace(SETTINGS, reuse_context=False)))
    assert len(runs) == len(examples) - 1


def test_context_taken_over_is_what_running_it_would_give(base):
    """Two chunks: everything before the second is the first, with the newest adapter."""
    examples = following("a long story about a house by the sea", 24, 24)
    reused, again = (
        lesson(base, examples, replace(SETTINGS, reuse_context=reuse)) for reuse in (True, False)
    )
    run(base, reused)
    run(base, again)
    difference = reused.result.result().weights.flat - again.result.result().weights.flat
    assert difference.abs().max() < 1e-5


def test_context_is_run_again_when_the_models_positions_are_used_up(base, monkeypatch):
    ends, prepare = [], step_module.prepare

    def watch(*given):
        found = prepare(*given)
        ends.append(found.seen.end + len(found.ids))
        return found

    monkeypatch.setattr(step_module, "prepare", watch)
    run(base, lesson(base, following("once upon a time " * 60, 60, 60)))
    assert max(ends) <= base.context
    assert len(ends) > base.context // 60 + 2


def test_other_text_in_between_is_never_taken_for_context():
    keys = torch.zeros(1, 1, 4, 2)
    seen = step_module.Seen((1, 2, 3, 4), 10, [(keys, keys)])
    assert seen.last((3, 4), room=100).first == 12
    assert seen.last((3, 4), room=100).pairs[0][0].shape[2] == 2
    assert seen.last((2, 4), room=100) is None
    assert seen.last((0, 1, 2, 3, 4), room=100) is None
    assert seen.last((3, 4), room=13) is None


# --- neutral text ------------------------------------------------------------------------------


@pytest.fixture
def neutral(make_backend):
    loaded = make_backend()._now
    return loaded.base, Neutral(loaded.base, loaded.text, bundled_text()[:1000])


def loud(base):
    """An adapter that changes a lot."""
    layout = batched.Layout(batched.choose_targets(base.layers, "all-linear"), 4)
    flat = torch.randn(layout.size, generator=torch.Generator().manual_seed(0)) * 0.1
    return step_module.TrainingRow(
        batched.Weights(layout, flat, 8.0, rank_stabilised=False), SETTINGS
    )


def test_an_adapter_that_changes_nothing_diverges_by_nothing(neutral):
    base, text = neutral
    state = loud(base)
    assert text.pull([0], step_module.rows_of([state])).item() > 1e-3
    with torch.no_grad():
        state._flat.zero_()
    assert text.pull([0], step_module.rows_of([state])).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_the_divergence_is_that_of_the_models_own_logits(make_backend, family):
    """Also of a model that changes its logits after the head."""
    loaded = make_backend(family)._now
    text = Neutral(loaded.base, loaded.text, bundled_text()[:1000])
    state = loud(loaded.base)
    found = text.pull([1], step_module.rows_of([state]))
    found.backward()
    gradient = state._grad.clone()
    state.clear()
    ids = text._ids[text._read[1]][None]
    with torch.no_grad():
        wanted = loaded.base.model(ids).logits.log_softmax(-1)
    with batched.using(step_module.rows_of([state])):
        got = loaded.base.model(ids).logits.log_softmax(-1)
    own = (wanted.exp() * (wanted - got)).sum(-1).mean()
    own.backward()
    assert found.item() == pytest.approx(own.item(), rel=1e-3)
    assert torch.allclose(gradient, state._grad, atol=1e-5)


def test_only_additional_passes_are_held_back(base):
    settings = replace(SETTINGS, kl_weight=0.5)
    assert lesson(base, TEXTS[0], settings, least=20).pull == settings.kl_weight
    assert not lesson(base, TEXTS[0], settings).pull
    assert not lesson(base, TEXTS[0], replace(SETTINGS, kl_weight=0), least=20).pull


def test_one_chunk_in_four_of_a_long_text_is_measured(base):
    long = [example(f"number {i} came home") for i in range(6)]
    once, rounds, never = (
        lesson(base, long),
        lesson(base, long, replace(SETTINGS, kl_weight=0.0), least=20),
        lesson(base, long, replace(SETTINGS, measure=False)),
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
        own = lesson(base, parts, replace(SETTINGS, reuse_context=reuse, measure_every=every))
        run(base, own)
        found.append(own.result.result().weights.flat)
    start = lesson(base, parts).state.start.flat
    moved = (found[2] - start).norm()
    assert (found[0] - found[1]).norm() < 0.2 * moved
    assert (found[0] - found[2]).norm() < 0.2 * moved


def test_neutral_text_stays_likely_while_a_short_one_is_learned(
    make_backend, learn, score, tmp_path
):
    backend, drift = make_backend(), {}
    other = bundled_text()[300:420]
    for weight in (0.0, 2.0):
        adapter, _ = learn(
            backend, tmp_path / str(weight), min_steps=30, kl_weight=weight, learning_rate=3e-3
        )
        drift[weight] = (score(backend, adapter, other) - score(backend, None, other)).mean()
        assert score(backend, adapter).mean() > score(backend, None).mean()
    assert drift[2.0].abs() < drift[0.0].abs() / 2


def test_the_bundled_text_fills_several_pieces(make_backend):
    loaded = make_backend()._now
    pieces = Neutral(loaded.base, loaded.text, bundled_text())._ids
    assert pieces.shape[1] == WINDOW
    assert len(pieces) > 8


def test_a_chat_model_reads_a_conversation_too(make_backend):
    loaded = make_backend()._now
    prose = Neutral(loaded.base, loaded.text, bundled_text())._ids
    mixed = Neutral(loaded.base, loaded.text, bundled_text(), bundled_talk())._ids
    marked = (mixed >= 256).any(dim=1)  # control tokens of the template
    assert 0 < marked.sum() == len(mixed) - len(prose)
    assert not marked[0]
    assert not marked[-1]  # they come in between
    said = [loaded.text.decode(row.tolist()) for row in mixed[marked]]
    assert any("How are you today?" in text for text in said)


def test_a_model_without_a_chat_template_reads_prose_alone(make_backend):
    loaded = make_backend(template=None)._now
    prose = Neutral(loaded.base, loaded.text, bundled_text())._ids
    assert torch.equal(
        Neutral(loaded.base, loaded.text, bundled_text(), bundled_talk())._ids, prose
    )


def test_the_bundled_conversation_goes_by_turns():
    roles = [message.role for message in bundled_talk()]
    assert roles == ["user", "assistant"] * (len(roles) // 2)
    assert len(roles) > 40


def test_a_short_text_is_one_piece(make_backend):
    loaded = make_backend()._now
    assert Neutral(loaded.base, loaded.text, "A few words.")._ids.shape[0] == 1


def test_nobody_reads_neutral_text_before_it_is_needed(make_backend, learn, tmp_path, monkeypatch):
    monkeypatch.setattr(runs_module, "Neutral", lambda *_: pytest.fail("read too early"))
    learn(make_backend(), tmp_path / "a", measure=False)


def test_the_items_of_a_request_are_learned_beside_others(make_backend, learn, score, tmp_path):
    """Through the backend, from several threads."""
    backend, done = make_backend(), {}
    texts = [
        f"The {name} is number {n}." for n, name in enumerate(["goose", "lamp", "boat", "hat"])
    ]

    def absorb(n):
        done[n] = learn(backend, tmp_path / str(n), items=(Document(texts[n]),), steps_per_chunk=8)[
            0
        ]

    threads = [threading.Thread(target=absorb, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for n, text in enumerate(texts):
        own = score(backend, done[n], text).mean()
        assert own > score(backend, None, text).mean()
        assert own > score(backend, done[(n + 1) % 4], text).mean()


def test_receipts_are_measured_on_pieces_that_are_never_read(make_backend):
    loaded = make_backend()._now
    text = Neutral(loaded.base, loaded.text, bundled_text(), bundled_talk())
    assert len(text._kept) >= 3
    assert not set(text._kept) & set(text._read)
    assert len(text._kept) + len(text._read) == len(text._ids)
    state = loud(loaded.base)
    wanted = [
        text._divergence([piece], step_module.rows_of([state])).item() for piece in text._kept
    ]
    assert text.drift(step_module.rows_of([state])) == pytest.approx(sum(wanted) / len(wanted))


def test_the_receipt_says_how_much_other_text_changed(base):
    whole, unmeasured = (
        lesson(base, TEXTS[1], replace(SETTINGS, measure=measure)) for measure in (True, False)
    )
    run(base, whole, unmeasured)
    assert whole.result.result().stats.kl == 0.25
    assert unmeasured.result.result().stats.kl is None
