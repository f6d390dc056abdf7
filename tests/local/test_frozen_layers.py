"""Layers below the lowest adapter run once, and nothing else changes."""

from __future__ import annotations

import pytest
import torch

from templora_memory import Learning, Message
from templora_memory.backends.local.base_model import _divisible, states_above, states_below
from templora_memory.backends.local.lora.batched import (
    LoraLayout,
    choose_targets,
    init_weights,
    lowest_layer,
)
from templora_memory.backends.local.recipes import pack_turns
from templora_memory.backends.local.train.frozen_layers import FrozenStates, below
from templora_memory.backends.local.train.optimizer import TrainableAdapter, trainable_batch
from templora_memory.backends.local.train.step import batch_loss, collate, inputs_of

TURNS = [("Where do you live?", "By the harbour."), ("What do you keep?", "Bees, on the roof.")]


@pytest.fixture
def base(make_backend):
    return make_backend(num_hidden_layers=4).loaded.base


def adapter_of(base, layers):
    settings = Learning(r=2, learning_rate=1e-3)
    layout = LoraLayout(choose_targets(base.layers, "all-linear", layers), 2)
    adapter = TrainableAdapter(init_weights(layout, settings, base.device), settings)
    with torch.no_grad():
        adapter.parameter.normal_(0, 0.05, generator=torch.Generator().manual_seed(1))
    return adapter


def packed(base, text, *turns):
    return inputs_of(base, pack_turns(turns, text))


@pytest.mark.parametrize("layer", [1, 2, 3])
def test_two_parts_are_the_whole(base, layer):
    assert base.divisible
    ids = torch.arange(9)[None] * 5 % 40
    inputs = {"position_ids": torch.arange(9)[None], "use_cache": False}
    whole = base.hidden_states(ids, **inputs)
    decoder = base.model.get_decoder()
    layers = list(decoder.layers)
    states = states_below(decoder, layer, input_ids=ids, **inputs)
    assert torch.equal(states_above(decoder, layer, inputs_embeds=states, **inputs), whole)
    assert list(decoder.layers) == layers


def test_an_error_leaves_the_layers_as_they_were(base):
    decoder = base.model.get_decoder()
    layers = list(decoder.layers)
    with pytest.raises(ValueError, match="inputs_embeds"):
        states_below(decoder, 1)
    assert list(decoder.layers) == layers


def test_loss_and_gradient_are_those_of_the_whole_model(base, text):
    rows = [packed(base, text, *TURNS), packed(base, text, TURNS[1])]
    batch = collate(base, rows)
    got = []
    for split in (False, True):
        adapters = [adapter_of(base, "upper-half"), adapter_of(base, "upper-half")]
        layer = lowest_layer(adapters[0].leaves)
        assert layer > 0
        states = below(base, layer, [(FrozenStates(), row) for row in rows]) if split else None
        assert (states is not None) == split
        loss, nll = batch_loss(base, batch, trainable_batch(adapters), None, states)
        loss.backward()
        got.append((nll, [a.grad.clone() for one in adapters for a, _ in one.leaves.values()]))
    torch.testing.assert_close(got[0][0], got[1][0])
    for whole, parts in zip(got[0][1], got[1][1], strict=True):
        torch.testing.assert_close(whole, parts, rtol=1e-4, atol=1e-6)


def test_a_text_that_comes_again_is_not_run_again(base, text, monkeypatch):
    states, row, runs = FrozenStates(), packed(base, text, *TURNS), []
    whole = type(base).states_below

    def counted(self, layer, input_ids, **inputs):
        runs.append(layer)
        return whole(self, layer, input_ids, **inputs)

    monkeypatch.setattr(type(base), "states_below", counted)
    first = states.of(base, 2, row)
    assert torch.equal(states.of(base, 2, packed(base, text, *TURNS)), first)
    assert runs == [2]
    states.of(base, 1, row)  # for other adapters it is another text
    assert runs == [2, 1]


def test_what_does_not_fit_is_computed_again(base, text):
    states = FrozenStates(max_bytes=1)
    rows = [packed(base, text, turn) for turn in TURNS]
    first = [states.of(base, 2, row) for row in rows]
    assert all(
        torch.equal(states.of(base, 2, row), one) for row, one in zip(rows, first, strict=True)
    )


def test_adapters_in_all_layers_need_the_whole_model(base, text):
    targets = choose_targets(base.layers, "all-linear", "all")
    assert lowest_layer(target.name for target in targets) == 0
    assert below(base, 0, [(FrozenStates(), packed(base, text, *TURNS))]) is None


def test_a_model_that_changes_its_embeddings_first_stays_whole(base):
    assert base.divisible
    model = base.model
    decoder, weight = model.get_decoder(), model.get_input_embeddings().weight
    handle = decoder.register_forward_pre_hook(
        lambda _, args, kwargs: (
            args,
            {**kwargs, "inputs_embeds": kwargs["inputs_embeds"] * 2}
            if kwargs.get("inputs_embeds") is not None
            else kwargs,
        ),
        with_kwargs=True,
    )
    try:
        assert not _divisible(model, weight)
    finally:
        handle.remove()
    assert _divisible(model, weight)


def test_a_lead_is_kept_with_its_questions(base, text):
    plain = inputs_of(base, pack_turns(TURNS, text))
    named = inputs_of(base, pack_turns(TURNS, text, lead=(Message("system", "You are Ada."),)))
    states = FrozenStates()
    assert len(states.of(base, 1, named)) > len(states.of(base, 1, plain))
