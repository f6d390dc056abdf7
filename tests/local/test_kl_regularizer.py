"""Neutral text, and what an adapter changes of it."""

from __future__ import annotations

import pytest
import torch

from templora_memory import Learning
from templora_memory.backends.local.lora.batched import (
    LoraLayout,
    LoraWeights,
    choose_targets,
    use_adapters,
)
from templora_memory.backends.local.train.kl_regularizer import (
    PIECE_TOKENS,
    NeutralText,
    bundled_conversation,
    bundled_text,
)
from templora_memory.backends.local.train.optimizer import TrainableAdapter, trainable_batch

SETTINGS = Learning(r=4, lora_alpha=8, learning_rate=1e-3, context=16)


@pytest.fixture
def base(make_backend):
    return make_backend().loaded.base


@pytest.fixture
def neutral(make_backend):
    loaded = make_backend().loaded
    return loaded.base, NeutralText(loaded.base, loaded.tokenizer, bundled_text()[:1000])


def loud(base):
    """An adapter that changes a lot."""
    layout = LoraLayout(choose_targets(base.layers, "all-linear"), 4)
    flat = torch.randn(layout.size, generator=torch.Generator().manual_seed(0)) * 0.1
    return TrainableAdapter(LoraWeights(layout, flat, 8.0, use_rslora=False), SETTINGS)


def test_an_adapter_that_changes_nothing_diverges_by_nothing(neutral):
    base, text = neutral
    state = loud(base)
    assert text.kl_penalty([0], trainable_batch([state])).item() > 1e-3
    with torch.no_grad():
        state._flat.zero_()
    assert text.kl_penalty([0], trainable_batch([state])).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_the_divergence_is_that_of_the_models_own_logits(make_backend, family):
    """Also of a model that changes its logits after the head."""
    loaded = make_backend(family).loaded
    text = NeutralText(loaded.base, loaded.tokenizer, bundled_text()[:1000])
    state = loud(loaded.base)
    found = text.kl_penalty([1], trainable_batch([state]))
    found.backward()
    gradient = state._grad.clone()
    state.clear()
    ids = text._ids[text._training[1]][None]
    with torch.no_grad():
        wanted = loaded.base.model(ids).logits.log_softmax(-1)
    with use_adapters(trainable_batch([state])):
        got = loaded.base.model(ids).logits.log_softmax(-1)
    own = (wanted.exp() * (wanted - got)).sum(-1).mean()
    own.backward()
    assert found.item() == pytest.approx(own.item(), rel=1e-3)
    assert torch.allclose(gradient, state._grad, atol=1e-5)


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
    loaded = make_backend().loaded
    pieces = NeutralText(loaded.base, loaded.tokenizer, bundled_text())._ids
    assert pieces.shape[1] == PIECE_TOKENS
    assert len(pieces) > 8


def test_a_chat_model_reads_a_conversation_too(make_backend):
    loaded = make_backend().loaded
    prose = NeutralText(loaded.base, loaded.tokenizer, bundled_text())._ids
    mixed = NeutralText(loaded.base, loaded.tokenizer, bundled_text(), bundled_conversation())._ids
    marked = (mixed >= 256).any(dim=1)  # control tokens of the template
    assert 0 < marked.sum() == len(mixed) - len(prose)
    assert not marked[0]
    assert not marked[-1]  # they come in between
    said = [loaded.tokenizer.decode(row.tolist()) for row in mixed[marked]]
    assert any("How are you today?" in text for text in said)


def test_a_model_without_a_chat_template_reads_prose_alone(make_backend):
    loaded = make_backend(template=None).loaded
    prose = NeutralText(loaded.base, loaded.tokenizer, bundled_text())._ids
    mixed = NeutralText(loaded.base, loaded.tokenizer, bundled_text(), bundled_conversation())._ids
    assert torch.equal(mixed, prose)


def test_the_bundled_conversation_goes_by_turns():
    roles = [message.role for message in bundled_conversation()]
    assert roles == ["user", "assistant"] * (len(roles) // 2)
    assert len(roles) > 40


def test_a_short_text_is_one_piece(make_backend):
    loaded = make_backend().loaded
    assert NeutralText(loaded.base, loaded.tokenizer, "A few words.")._ids.shape[0] == 1


def test_receipts_are_measured_on_pieces_that_are_never_read(make_backend):
    loaded = make_backend().loaded
    text = NeutralText(loaded.base, loaded.tokenizer, bundled_text(), bundled_conversation())
    assert len(text._held_out) >= 3
    assert not set(text._held_out) & set(text._training)
    assert len(text._held_out) + len(text._training) == len(text._ids)
    state = loud(loaded.base)
    wanted = [
        text._kl_divergence([piece], trainable_batch([state])).item() for piece in text._held_out
    ]
    assert text.kl_to_base(trainable_batch([state])) == pytest.approx(sum(wanted) / len(wanted))
