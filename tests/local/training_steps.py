"""Fresh adapters, examples, and one optimizer step over a batch of them."""

from __future__ import annotations

from templora_memory import Learning
from templora_memory.backends.local.lora.batched import LoraLayout, choose_targets, init_weights
from templora_memory.backends.local.recipes import Example
from templora_memory.backends.local.train.optimizer import trainable_batch
from templora_memory.backends.local.train.step import batch_loss, collate, prepare_inputs

SETTINGS = Learning(r=4, lora_alpha=8, learning_rate=1e-2, context=16)


def fresh(base, settings=SETTINGS):
    targets = choose_targets(base.layers, settings.target_modules)
    return init_weights(LoraLayout(targets, settings.r), settings, base.device)


def example(text, context=""):
    return Example(tuple(context.encode()), tuple(text.encode()), (1.0,) * len(text.encode()))


def prepared(base, states, examples):
    return [prepare_inputs(base, e, s) for e, s in zip(examples, states, strict=True)]


def gradients(base, states, examples):
    """Backward for every row of one batch; returns the batch and its losses."""
    batch = collate(base, prepared(base, states, examples))
    loss, nll = batch_loss(base, batch, trainable_batch(states))
    loss.backward()
    return batch, loss, nll


def step(base, states, examples, *, factor=1.0):
    _, _, nll = gradients(base, states, examples)
    for state in states:
        state.step(factor)
    return nll


def flat(state):
    return state.weights().flat
