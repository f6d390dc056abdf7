"""One training step: exact rows, the published form, no leaks between chunks or memories."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from peft import PeftModel

from templora_memory.backends.local.lora.batched import LoraLayout, choose_targets, init_weights
from templora_memory.backends.local.lora.peft_files import save_weights
from templora_memory.backends.local.recipes import Example
from templora_memory.backends.local.train.optimizer import (
    TrainableAdapter,
    trainable_batch,
)
from templora_memory.backends.local.train.step import (
    KVPrefix,
    batch_loss,
    collate,
)
from tests.local.training_steps import SETTINGS, example, flat, fresh, gradients, prepared, step


def test_memories_learn_together_exactly_what_they_learn_alone(base):
    """Also when they have taken different numbers of steps before (L5, T9, X3)."""
    texts = ["the red house by the river", "blue birds sing", "five grey cats in the rain"]
    ready = []
    for index in range(3):  # different step counts: 2, 1, 0
        ready.append(TrainableAdapter(fresh(base, replace(SETTINGS, seed=index)), SETTINGS))
        for _ in range(2 - index):
            step(base, ready[-1:], [example(texts[index])])
    together = [TrainableAdapter(state.weights(), SETTINGS) for state in ready]
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
        TrainableAdapter(fresh(base, replace(SETTINGS, seed=seed)), SETTINGS) for seed in range(3)
    ]
    examples = [
        example("the chunk", "what stood before it, at some length"),
        example("another chunk of text"),
        example("a third", "short"),
    ]
    for state, own in zip(states, examples, strict=True):
        step(base, [state], [own])  # B is not zero any more
    batch, _, together = gradients(base, states, examples)
    assert batch.attention_mask is not None
    found = [state._grad.clone() for state in states]
    for state in states:
        state.clear()
    alone = [gradients(base, [s], [e])[2] for s, e in zip(states, examples, strict=True)]
    assert torch.allclose(together, torch.cat(alone), atol=1e-4)
    for state, grad in zip(states, found, strict=True):
        assert torch.allclose(state._grad, grad, atol=1e-5)
        assert grad.any()


def test_a_label_of_one_memory_moves_no_gradient_of_another(base):
    states = [
        TrainableAdapter(fresh(base, replace(SETTINGS, seed=seed)), SETTINGS) for seed in range(2)
    ]
    batch = collate(base, prepared(base, states, [example("red"), example("blue birds")]))
    weight = torch.where(torch.arange(len(batch.targets.labels)) < 2, 1.0, 0.0)
    silent = replace(batch, targets=replace(batch.targets, weights=weight))
    loss, _ = batch_loss(base, silent, trainable_batch(states))
    loss.backward()
    assert states[0]._grad.any()
    assert not states[1]._grad.any()


def test_the_stored_prefix_neither_grows_nor_wants_gradients(base):
    state = TrainableAdapter(fresh(base), SETTINGS)
    batch = collate(base, prepared(base, [state], [example("the chunk", "what stood before")]))
    for _ in range(2):
        loss, _ = batch_loss(base, batch, trainable_batch([state]))
        loss.backward()
        assert all(k.shape[2] == v.shape[2] == 16 for k, v in batch.prefix)
        assert not any(t.requires_grad for pair in batch.prefix for t in pair)


def test_the_prefix_is_seen_in_the_exact_training_configuration(base):
    """P10: a prefix that is silently dropped would give the loss without it."""
    state = TrainableAdapter(fresh(base), SETTINGS)

    def first_losses(context):
        return gradients(base, [state], [example("the chunk", context)])[2]

    seen, other = first_losses("what stood before"), first_losses("something different")
    assert (seen - other).abs().max() > 1e-3


def test_a_context_in_the_graph_gives_the_gradients_of_masked_labels(base, make_model, tmp_path):
    """T3: the published form equals a plain model with -100 on the context."""
    settings = replace(SETTINGS, context_gradient=True)
    start = fresh(base)
    state = TrainableAdapter(start, settings)
    step(base, [state], [example("warm up, so that B is not zero")])
    save_weights(state.weights(), tmp_path, layers=base.layers, base="x", dropout=0.0)
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
    (row,) = prepared(base, [TrainableAdapter(fresh(base), SETTINGS)], [long])
    assert row.prefix.end + len(row.input_ids) <= base.max_length


def test_layers_below_the_first_adapter_need_no_gradient(make_backend):
    """A step in the upper half walks back through the upper half alone."""
    base = make_backend(num_hidden_layers=4).loaded.base
    targets = choose_targets(base.layers, "all-linear", "upper-half")
    start = init_weights(LoraLayout(targets, SETTINGS.r), SETTINGS, base.device)
    state = TrainableAdapter(start, SETTINGS)
    outputs = []
    for layer in base.model.model.layers:
        layer.register_forward_hook(lambda _, __, out: outputs.append(out))
    gradients(base, [state], [example("the chunk")])
    hidden = [out[0] if isinstance(out, tuple) else out for out in outputs]
    assert [states.requires_grad for states in hidden] == [False, False, True, True]
    assert state._grad.any()


def test_nothing_labelled_gives_no_loss_and_no_gradient(base):
    state = TrainableAdapter(fresh(base), SETTINGS)
    masked = Example((), tuple(b"seen only"), (0.0,) * 9)
    batch, loss, nll = gradients(base, [state], [masked])
    assert len(batch.targets.labels) == 0
    assert loss.item() == 0.0
    assert len(nll) == 0
    assert not state._grad.any()


def test_other_text_in_between_is_never_taken_for_context():
    keys = torch.zeros(1, 1, 4, 2)
    prefix = KVPrefix((1, 2, 3, 4), 10, [(keys, keys)])
    assert prefix.suffix((3, 4), max_end=100).start == 12
    assert prefix.suffix((3, 4), max_end=100).key_values[0][0].shape[2] == 2
    assert prefix.suffix((2, 4), max_end=100) is None
    assert prefix.suffix((0, 1, 2, 3, 4), max_end=100) is None
    assert prefix.suffix((3, 4), max_end=13) is None
