"""Activations computed again in the backward pass: the same gradients from less memory."""

from __future__ import annotations

import pytest
import torch

from templora_memory import Learning
from templora_memory.backends.local import LocalBackend
from templora_memory.backends.local.lora.batched import LoraLayout, LoraWeights, choose_targets
from templora_memory.backends.local.recipes import Example
from templora_memory.backends.local.train.optimizer import TrainableAdapter, trainable_batch
from templora_memory.backends.local.train.step import batch_loss, collate, prepare_inputs
from templora_memory.errors import UnsupportedModel

SETTINGS = Learning(r=4, lora_alpha=8, learning_rate=1e-2, context=16, context_gradient=True)
EXAMPLE = Example(tuple(b"what stood before"), tuple(b"the chunk itself"), (1.0,) * 16)


@pytest.fixture(params=["llama", "gemma2", "phi3", "gpt2"])
def pair(request, make_model, make_tokenizer):
    made = []
    for checkpointing in (False, True):
        backend = LocalBackend.of(
            make_model(request.param), make_tokenizer(), checkpointing=checkpointing
        )
        backend.open()
        made.append(backend)
    yield made
    for backend in made:
        backend.close()


def kept_and_gradient(base):
    """Bytes that the graph keeps, and the gradient, of an adapter that changes something."""
    layout = LoraLayout(choose_targets(base.layers, "all-linear"), 4)
    flat = torch.randn(layout.size, generator=torch.Generator().manual_seed(0)) * 0.05
    state = TrainableAdapter(LoraWeights(layout, flat, 8.0, use_rslora=False), SETTINGS)
    batch = collate(base, [prepare_inputs(base, EXAMPLE, state)])
    kept = []

    def pack(tensor):
        kept.append(tensor.nbytes)
        return tensor

    adapters, hooks = trainable_batch([state]), torch.autograd.graph.saved_tensors_hooks
    with hooks(pack, lambda tensor: tensor), base.learning(adapters):
        loss, _ = batch_loss(base, batch, adapters)
    loss.backward()
    return sum(kept), state._grad


def test_the_gradients_are_the_same_and_less_is_kept(pair):
    (much, plain), (little, again) = (kept_and_gradient(b.loaded.base) for b in pair)
    assert torch.allclose(plain, again, atol=1e-6)
    assert plain.any()
    assert little < much / 2


def test_answers_and_scores_do_not_change(pair, score):
    one, other = pair
    assert torch.equal(score(one, None), score(other, None))


def test_a_memory_learns_with_its_context_in_the_graph(
    make_model, make_tokenizer, learn, score, tmp_path
):
    backend = LocalBackend.of(make_model(), make_tokenizer(), checkpointing=True)
    backend.open()
    adapter, _ = learn(backend, tmp_path / "a", "a keeper of bees " * 8, min_steps=12)
    assert score(backend, adapter).mean() > score(backend, None).mean()
    assert not any(layer.training for layer in backend.loaded.base.model.modules())
    backend.close()


def test_dropout_is_drawn_once(make_model, make_tokenizer, learn, tmp_path):
    found = []
    for checkpointing in (False, True):
        backend = LocalBackend.of(make_model(), make_tokenizer(), checkpointing=checkpointing)
        backend.open()
        adapter, _ = learn(
            backend, tmp_path / str(checkpointing), lora_dropout=0.3, context_gradient=True
        )
        found.append(backend._weights(adapter).flat)
        backend.close()
    assert torch.allclose(*found, atol=1e-6)


def test_a_model_that_cannot_is_refused(make_model, make_tokenizer, monkeypatch):
    monkeypatch.setattr(
        "templora_memory.backends.local.base_model.GradientCheckpointingLayer", torch.nn.Bilinear
    )
    backend = LocalBackend.of(make_model(), make_tokenizer(), checkpointing=True)
    with pytest.raises(UnsupportedModel, match="checkpointing"):
        backend.open()
