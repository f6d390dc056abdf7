"""The training step: exact rows, the published form, no leaks between chunks or memories."""

from __future__ import annotations

import json
import math
import threading
from dataclasses import replace

import pytest
import torch
from peft import PeftModel

from templora_memory import Document, Learning, Message
from templora_memory.backends.local.base_model import pairs_of, stored_cache
from templora_memory.backends.local.lora import batched
from templora_memory.backends.local.priority_queue import never
from templora_memory.backends.local.recipes import Example, Soft
from templora_memory.backends.local.train import loss as loss_module, step as step_module
from templora_memory.errors import Cancelled, InvalidSetting, LearningFailed, StoreDamaged
from templora_memory.ports import LearningControl, LearnRequest

SETTINGS = Learning(r=4, lora_alpha=8, learning_rate=1e-2, context=16)
TARGET_NAMES = "all-linear"


@pytest.fixture
def base(make_backend):
    return make_backend()._now.base


def fresh(base, settings=SETTINGS):
    targets = batched.choose_targets(base.layers, settings.target_modules)
    return batched.fresh_weights(batched.Layout(targets, settings.r), settings, base.device)


def example(text, context=""):
    return Example(tuple(context.encode()), tuple(text.encode()), (1.0,) * len(text.encode()))


def prepared(base, states, examples):
    return [step_module.prepare(base, e, s) for e, s in zip(examples, states, strict=True)]


def gradients(base, states, examples):
    """Backward for every row of one batch; returns the batch and its losses."""
    batch = step_module.collate(base, prepared(base, states, examples))
    loss, nll = step_module.batch_loss(base, batch, step_module.rows_of(states))
    loss.backward()
    return batch, loss, nll


def step(base, states, examples, *, factor=1.0):
    _, _, nll = gradients(base, states, examples)
    for state in states:
        state.step(factor)
    return nll


def flat(state):
    return state.weights().flat


# --- rows of a batch ---------------------------------------------------------------------------


def test_memories_learn_together_exactly_what_they_learn_alone(base):
    """Also when they have taken different numbers of steps before (L5, T9, X3)."""
    texts = ["the red house by the river", "blue birds sing", "five grey cats in the rain"]
    ready = []
    for index in range(3):  # different step counts: 2, 1, 0
        ready.append(step_module.TrainingRow(fresh(base, replace(SETTINGS, seed=index)), SETTINGS))
        for _ in range(2 - index):
            step(base, ready[-1:], [example(texts[index])])
    together = [step_module.TrainingRow(state.weights(), SETTINGS) for state in ready]
    for new, old in zip(together, ready, strict=True):
        kept = old.optimizer.state[old.parameter]
        new.optimizer.state[new.parameter] = {key: value.clone() for key, value in kept.items()}
    for _ in range(3):
        for state, text in zip(ready, texts, strict=True):
            step(base, [state], [example(text)])
        step(base, together, [example(text) for text in texts])
    for one, other in zip(together, ready, strict=True):
        assert (flat(one) - flat(other)).abs().max() < 2e-6


def test_contexts_of_different_length_share_a_batch(base):
    """Padding before a prefix is masked: gradients are those of each memory alone."""
    states = [
        step_module.TrainingRow(fresh(base, replace(SETTINGS, seed=seed)), SETTINGS)
        for seed in range(3)
    ]
    examples = [
        example("the chunk", "what stood before it, at some length"),
        example("another chunk of text"),
        example("a third", "short"),
    ]
    for state, own in zip(states, examples, strict=True):
        step(base, [state], [own])  # B is not zero any more
    batch, _, together = gradients(base, states, examples)
    assert batch.mask is not None
    found = [state._grad.clone() for state in states]
    for state in states:
        state.clear()
    alone = [gradients(base, [s], [e])[2] for s, e in zip(states, examples, strict=True)]
    assert torch.allclose(together, torch.cat(alone), atol=1e-4)
    for state, grad in zip(states, found, strict=True):
        assert torch.allclose(state._grad, grad, atol=1e-5)
        assert grad.any()


def test_gradients_land_in_one_buffer_in_every_step(base):
    """L1 and T8: leaves are views made outside the graph, their gradients views of one tensor."""
    state = step_module.TrainingRow(fresh(base), SETTINGS)
    grad = state._grad
    for _ in range(2):
        gradients(base, [state], [example("some text")])
        begin, end = grad.data_ptr(), grad.data_ptr() + grad.nbytes
        for pair in state.leaves.values():
            for leaf in pair:
                assert begin <= leaf.grad.data_ptr() < end
        assert grad.any()
        state.step(1.0)
        assert not grad.any()


def test_a_label_of_one_memory_moves_no_gradient_of_another(base):
    states = [
        step_module.TrainingRow(fresh(base, replace(SETTINGS, seed=seed)), SETTINGS)
        for seed in range(2)
    ]
    batch = step_module.collate(
        base, prepared(base, states, [example("red"), example("blue birds")])
    )
    weight = torch.where(torch.arange(len(batch.targets.labels)) < 2, 1.0, 0.0)
    silent = replace(batch, targets=replace(batch.targets, weight=weight))
    loss, _ = step_module.batch_loss(base, silent, step_module.rows_of(states))
    loss.backward()
    assert states[0]._grad.any()
    assert not states[1]._grad.any()


# --- context before the chunk ------------------------------------------------------------------


def test_the_stored_prefix_neither_grows_nor_wants_gradients(base):
    state = step_module.TrainingRow(fresh(base), SETTINGS)
    batch = step_module.collate(
        base, prepared(base, [state], [example("the chunk", "what stood before")])
    )
    for _ in range(2):
        loss, _ = step_module.batch_loss(base, batch, step_module.rows_of([state]))
        loss.backward()
        assert all(k.shape[2] == v.shape[2] == 16 for k, v in batch.prefix)
        assert not any(t.requires_grad for pair in batch.prefix for t in pair)


def test_the_prefix_is_seen_in_the_exact_training_configuration(base):
    """P10: a prefix that is silently dropped would give the loss without it."""
    state = step_module.TrainingRow(fresh(base), SETTINGS)

    def first_losses(context):
        return gradients(base, [state], [example("the chunk", context)])[2]

    seen, other = first_losses("what stood before"), first_losses("something different")
    assert (seen - other).abs().max() > 1e-3


def test_a_context_in_the_graph_gives_the_gradients_of_masked_labels(base, make_model, tmp_path):
    """T3: the published form equals a plain model with -100 on the context."""
    settings = replace(SETTINGS, context_gradient=True)
    start = fresh(base)
    state = step_module.TrainingRow(start, settings)
    step(base, [state], [example("warm up, so that B is not zero")])
    batched.save_weights(state.weights(), tmp_path, layers=base.layers, base="x", dropout=0.0)
    peft = PeftModel.from_pretrained(make_model(), tmp_path, is_trainable=True)
    context, chunk = b"what stood before", b"the chunk itself"
    ids = torch.tensor([list(context + chunk)])
    labels = torch.tensor([[-100] * len(context) + list(chunk)])
    loss = peft(input_ids=ids, labels=labels).loss
    loss.backward()
    batch, own, _ = gradients(base, [state], [example(chunk.decode(), context.decode())])
    assert not batch.prefix
    assert own.item() == pytest.approx(loss.item(), abs=1e-5)
    theirs = dict(peft.named_parameters())
    for name, pair in state.leaves.items():
        for leaf, part in zip(pair, "AB", strict=True):
            grad = theirs[f"base_model.model.{name}.lora_{part}.default.weight"].grad
            assert (leaf.grad[0] - grad).abs().max() < 1e-5


def test_a_chunk_and_its_context_never_exceed_the_model(base):
    long = example("x" * 200, "y" * 200)
    (row,) = prepared(base, [step_module.TrainingRow(fresh(base), SETTINGS)], [long])
    assert row.seen.end + len(row.ids) <= base.context


# --- loss --------------------------------------------------------------------------------------


def test_the_loss_in_pieces_is_the_models_loss_with_the_same_gradient():
    torch.manual_seed(0)
    hidden = torch.randn(700, 16, requires_grad=True)
    head = torch.nn.Linear(16, 50)
    head.requires_grad_(requires_grad=False)
    labels = torch.randint(50, (700,))
    weight = torch.rand(700)
    targets = loss_module.Targets(labels, weight, labels[:, None], torch.ones(700, 1))
    loss, nll = loss_module.weighted_loss(hidden, head, targets, [300, 400])
    loss.backward()
    again = hidden.detach().requires_grad_()
    plain = torch.nn.functional.cross_entropy(head(again), labels, reduction="none")
    (plain * weight).sum().backward()
    assert torch.allclose(nll, plain.detach(), atol=1e-5)
    assert torch.allclose(hidden.grad, again.grad, atol=1e-6)


def test_expectations_give_the_cross_entropy_with_them_and_its_gradient():
    torch.manual_seed(0)
    hidden = torch.randn(300, 16, requires_grad=True)
    head = torch.nn.Linear(16, 50)
    head.requires_grad_(requires_grad=False)
    ids = torch.stack([torch.randperm(50)[:5] for _ in range(300)])
    p = torch.rand(300, 5).softmax(-1)
    weight = torch.rand(300)
    targets = loss_module.Targets(ids[:, 0], weight, ids, p)
    loss, nll = loss_module.weighted_loss(hidden, head, targets, [300])
    loss.backward()
    again = hidden.detach().requires_grad_()
    whole = torch.zeros(300, 50).scatter(1, ids, p)
    plain = torch.nn.functional.cross_entropy(head(again), whole, reduction="none")
    (plain * weight).sum().backward()
    assert loss.item() == pytest.approx((plain * weight).sum().item(), rel=1e-5)
    assert torch.allclose(hidden.grad, again.grad, atol=1e-5)
    bare = torch.nn.functional.cross_entropy(head(again), ids[:, 0], reduction="none")
    assert torch.allclose(nll, bare.detach(), atol=1e-5)


def test_expectations_of_one_memory_change_no_gradient_of_another(base):
    states = [
        step_module.TrainingRow(fresh(base, replace(SETTINGS, seed=seed)), SETTINGS)
        for seed in range(2)
    ]
    hard, other = example("red birds"), example("a blue cup")
    count = len(other.ids)
    ids = torch.arange(4)[None].repeat(count, 1) + 97
    soft = replace(other, soft=Soft(ids, torch.full((count, 4), 0.25)))
    alone = gradients(base, states[:1], [hard])[2]
    single = states[0]._grad.clone()
    states[0].clear()
    _, _, both = gradients(base, states, [hard, soft])
    assert torch.allclose(both[: len(alone)], alone, atol=1e-5)
    assert torch.allclose(states[0]._grad, single, atol=1e-5)
    soft_grad = states[1]._grad.clone()
    states[1].clear()
    gradients(base, states[1:], [other])
    assert not torch.allclose(soft_grad, states[1]._grad, atol=1e-4)


def test_one_certain_expectation_is_a_label(base):
    state = step_module.TrainingRow(fresh(base), SETTINGS)
    hard = example("a blue cup", "before it ")
    count = len(hard.ids)
    ids = torch.tensor(hard.ids)[:, None].repeat(1, 3)
    p = torch.tensor([[1.0, 0.0, 0.0]]).repeat(count, 1)
    _, loss, _ = gradients(base, [state], [hard])
    grad = state._grad.clone()
    state.clear()
    _, same, _ = gradients(base, [state], [replace(hard, soft=Soft(ids, p))])
    assert same.item() == pytest.approx(loss.item(), rel=1e-6)
    assert torch.allclose(state._grad, grad, atol=1e-7)


def test_pieces_never_span_two_rows():
    cuts = loss_module._pieces([300, 10, 256])
    assert [(cut.start, cut.stop) for cut in cuts] == [(0, 256), (256, 300), (300, 310), (310, 566)]


def test_nothing_labelled_gives_no_loss_and_no_gradient(base):
    state = step_module.TrainingRow(fresh(base), SETTINGS)
    masked = Example((), tuple(b"seen only"), (0.0,) * 9)
    batch, loss, nll = gradients(base, [state], [masked])
    assert len(batch.targets.labels) == 0
    assert loss.item() == 0.0
    assert len(nll) == 0
    assert not state._grad.any()


# --- whole absorbs -----------------------------------------------------------------------------


def test_the_same_request_gives_the_same_bytes(make_backend, learn, tmp_path):
    one, _ = learn(make_backend(), tmp_path / "one")
    two, _ = learn(make_backend(), tmp_path / "two")
    for path in one.folder.iterdir():
        assert path.read_bytes() == (two.folder / path.name).read_bytes()


def test_dropout_is_the_same_again_for_the_same_seed(make_backend, learn, tmp_path):
    backend = make_backend()
    one, _ = learn(backend, tmp_path / "one", lora_dropout=0.3)
    torch.rand(5)  # somebody else draws in between
    two, _ = learn(backend, tmp_path / "two", lora_dropout=0.3)
    three, _ = learn(backend, tmp_path / "three", lora_dropout=0.3, seed=1)
    name = batched.WEIGHTS
    assert (one.folder / name).read_bytes() == (two.folder / name).read_bytes()
    assert (one.folder / name).read_bytes() != (three.folder / name).read_bytes()


def test_a_carried_optimizer_goes_on_as_if_it_had_never_stopped(make_backend, learn, tmp_path):
    backend = make_backend()
    text = "a" * 32 + "b" * 32
    same = {
        "carry_optimizer": True,
        "lr_scheduler_type": "released",
        "context": 32,
        "even_chunks": False,
    }
    whole, _ = learn(backend, tmp_path / "whole", text, **same)
    first, _ = learn(backend, tmp_path / "first", "a" * 32, **same)
    second, _ = learn(
        backend,
        tmp_path / "second",
        items=(Document("b" * 32, continues=True),),
        before=(Document("a" * 32),),
        start=first,
        **same,
    )
    assert torch.equal(backend._weights(second).flat, backend._weights(whole).flat)
    counted = json.loads((second.folder / "training.json").read_text())
    assert counted == {"steps": 4, "chunks": 2}


def test_only_the_preset_that_says_so_keeps_optimizer_state(make_backend, learn, tmp_path):
    adapter, _ = learn(make_backend(), tmp_path / "a")
    assert not (adapter.folder / step_module.OPTIMIZER).exists()


def test_damaged_optimizer_state_is_refused(make_backend, learn, tmp_path):
    backend = make_backend()
    first, _ = learn(backend, tmp_path / "first", carry_optimizer=True)
    (first.folder / step_module.OPTIMIZER).write_bytes(b"nonsense")
    with pytest.raises(StoreDamaged, match="optimizer"):
        learn(backend, tmp_path / "second", start=first, carry_optimizer=True)


def test_the_released_schedule_leaves_the_first_chunk_unlearned(
    make_backend, learn, score, tmp_path
):
    backend = make_backend()
    adapter, _ = learn(backend, tmp_path / "a", "x" * 30, lr_scheduler_type="released")
    assert torch.equal(score(backend, adapter), score(backend, None))
    assert [
        step_module.rate_factor(Learning(lr_scheduler_type="released"), n) for n in range(4)
    ] == [
        0,
        0.5,
        1,
        1,
    ]
    assert step_module.rate_factor(Learning(), 0) == 1


def test_a_short_chunk_moves_the_adapter_by_its_share(base):
    moved = []
    for share in (1.0, 0.25):
        state = step_module.TrainingRow(fresh(base), SETTINGS)
        step(base, [state], [example("some text")], factor=share)
        moved.append((flat(state) - fresh(base).flat).abs().max().item())
    assert moved[1] == pytest.approx(moved[0] / 4, rel=1e-3)


def test_a_short_document_is_passed_over_until_it_had_its_steps(
    make_backend, learn, score, tmp_path
):
    backend = make_backend()
    few, _ = learn(backend, tmp_path / "few", "x" * 30)
    many, _ = learn(backend, tmp_path / "many", "x" * 30, min_steps=20)
    text = "x" * 30
    assert score(backend, many, text).mean() > score(backend, few, text).mean() + 0.05


def test_system_and_tool_messages_are_seen_but_never_learned(make_backend):
    text = make_backend()._now.text
    marked = text.dialogue(
        [
            Message("user", "What is the weather?"),
            Message("assistant", ""),
            Message("tool", "SECRET rain"),
            Message("assistant", "It rains."),
        ],
        lead=True,
    )
    learned = text.decode([i for i, w in zip(marked.ids, marked.weights, strict=True) if w])
    seen = text.decode(marked.ids)
    assert "SECRET" in seen
    assert "SECRET" not in learned
    assert "What is the weather?" in learned
    assert "It rains." in learned


def test_only_tool_text_cannot_be_learned(make_backend, learn, tmp_path):
    with pytest.raises(LearningFailed, match="nothing to train on"):
        learn(make_backend(), tmp_path / "a", items=(Message("tool", "rain"),))


def test_a_loss_that_is_no_number_stops_learning(make_backend, learn, tmp_path):
    backend = make_backend()
    with torch.no_grad():
        backend._now.base.head.weight.fill_(float("nan"))
    with pytest.raises(LearningFailed, match=r"learning\.rate"):
        learn(backend, tmp_path / "a")
    assert not list((tmp_path / "a").iterdir())


def test_a_diverging_loss_stops_learning(make_backend, learn, tmp_path):
    with pytest.raises(LearningFailed, match=r"Lower learning\.rate"):
        learn(make_backend(), tmp_path / "a", learning_rate=50.0, steps_per_chunk=8)


def test_an_adapter_with_a_value_that_is_not_finite_is_never_written(make_backend, learn, tmp_path):
    with pytest.raises(LearningFailed, match="not finite"):
        learn(
            make_backend(),
            tmp_path / "a",
            "short",
            learning_rate=1e39,
            steps_per_chunk=1,
            measure=False,
        )
    assert not list((tmp_path / "a").iterdir())


def test_a_chunk_longer_than_the_model_is_refused(make_backend, learn, tmp_path):
    with pytest.raises(InvalidSetting, match="256"):
        learn(make_backend("gpt2"), tmp_path / "a", "word " * 100, chunk=300)


def test_cancelling_takes_effect_between_steps(make_backend, tmp_path):
    backend = make_backend()
    asked = []
    request = LearnRequest(
        items=(Document("word " * 100),), before=(), start=None, chunk=32, recipe="continue",
        settings=SETTINGS,
    )  # fmt: skip
    with pytest.raises(Cancelled):
        backend.learn(
            request,
            into=tmp_path,
            control=LearningControl(cancelled=lambda: asked.append(1) or len(asked) > 3),
        )
    assert len(asked) == 4
    assert not list(tmp_path.iterdir())


def test_what_a_reply_waits_for_goes_before_older_absorbs(make_backend, tmp_path, monkeypatch):
    backend = make_backend()
    worker, seen = backend._now.worker, []
    learn, waited = worker.learn, threading.Event()
    monkeypatch.setattr(worker, "learn", lambda lesson: (seen.append(lesson.absorb), learn(lesson)))
    request = LearnRequest(
        items=(Document("word " * 20),), before=(), start=None, chunk=32, recipe="continue",
        settings=SETTINGS,
    )  # fmt: skip
    for number, urgent in enumerate((never, waited.is_set, never)):
        (into := tmp_path / str(number)).mkdir()
        backend.learn(request, into=into, control=LearningControl(urgent=urgent))
    older, between, newer = seen
    assert older.rank < between.rank < newer.rank
    waited.set()  # also one that nobody waited for when it began
    assert between.rank < older.rank < newer.rank


def test_the_receipt_counts_tokens_and_what_is_now_recalled(make_backend, learn, score, tmp_path):
    backend = make_backend()
    with torch.no_grad():
        backend._now.base.head.weight.mul_(10)  # so that a token can be certain at all
    text = "abc " * 15
    adapter, stats = learn(
        backend, tmp_path / "a", text, steps_per_chunk=150, chunk=60, learning_rate=3e-3
    )
    assert stats.tokens == 59  # the first token has nothing before it
    (chunk,) = stats.chunks
    likely = score(backend, adapter, text)
    assert chunk.nll_after == pytest.approx(-likely.mean().item(), abs=1e-4)
    assert chunk.nll_after < chunk.nll_before
    assert chunk.recalled == int((likely > math.log(0.5)).sum()) > 0
    assert chunk.seconds > 0


def test_a_fresh_cache_holds_what_it_was_given_and_no_more(base):
    cache = stored_cache(None)
    base.hidden(torch.tensor([[1, 2, 3]]), past_key_values=cache, use_cache=True)
    pairs = pairs_of(cache)
    again = stored_cache(pairs)
    base.hidden(
        torch.tensor([[4]]), past_key_values=again, use_cache=True,
        position_ids=torch.tensor([[3]]),
    )  # fmt: skip
    assert pairs[0][0].shape[2] == 3
    assert pairs_of(again)[0][0].shape[2] == 4
