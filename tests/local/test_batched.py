"""A different adapter for every row, and a base model that never notices."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest
import torch
from torch import nn

from templora_memory import Learning
from templora_memory.backends.local.lora.batched import (
    AdapterRows,
    LoraLayout,
    adapter_batch,
    choose_targets,
    init_weights,
    linear_layers,
    use_adapters,
)
from templora_memory.backends.local.lora.peft_files import (
    peft_target_modules,
)
from templora_memory.errors import UnsupportedModel


def weights_of(backend, adapter):
    return backend._weights(adapter)


def logits(backend, chosen, ids):
    base = backend.loaded.base
    rows = adapter_batch(chosen, base.dtype)
    with torch.no_grad(), use_adapters(rows):
        return base.logits(ids, last=False, use_cache=False)


@pytest.fixture
def two(make_backend, learn, tmp_path):
    backend = make_backend()
    first, _ = learn(backend, tmp_path / "a")
    second, _ = learn(backend, tmp_path / "b", "The harbour is closed on Mondays.", r=8)
    return backend, weights_of(backend, first), weights_of(backend, second), (first, second)


IDS = torch.arange(20)[None] + 60


def test_a_mixed_batch_equals_single_calls_and_its_base_rows_are_the_base(two):
    backend, first, second, _ = two
    batch = IDS.expand(4, -1)
    plain = logits(backend, [None] * 4, batch)
    mixed = logits(backend, [(first, 1.0), None, (second, 0.5), (first, 0.0)], batch)
    assert torch.equal(mixed[1], plain[1])
    assert torch.equal(mixed[3], plain[3])
    for row, choice in ((0, (first, 1.0)), (2, (second, 0.5))):
        alone = logits(backend, [choice], IDS)[0]
        assert (mixed[row] - alone).abs().max() < 1e-5
        assert not torch.equal(mixed[row], plain[row])


@pytest.mark.parametrize("other", ["same layout", "another layout"])
def test_rows_that_come_and_go_hold_what_a_batch_made_anew_holds(two, other):
    _, first, second, _ = two
    if other == "same layout":
        second = replace(first, flat=first.flat.flip(0), lora_alpha=2 * first.lora_alpha)
    rows, choices = AdapterRows(torch.float32), []

    def check():
        wanted = adapter_batch(choices, torch.float32)
        assert (rows.batch is None) == (wanted is None)
        for name, lora in (wanted or {}).items():
            got = rows.batch[name]
            assert torch.equal(got.scaling, lora.scaling)
            used = lora.scaling[:, 0, 0] != 0
            assert torch.equal(got.lora_A[used], lora.lora_A[used])
            assert torch.equal(got.lora_B[used], lora.lora_B[used])

    for choice in (None, (first, 1.0), (second, 0.5), None, (first, 0.0), (first, 2.0)):
        rows.append(choice)
        choices.append(choice)
        check()
    for keep in ([0, 5, 2, 3], [3, 1, 2], [0, 2], [1], []):
        rows.keep(keep)
        choices = [choices[row] for row in keep]
        check()


def test_adapters_are_unset_after_an_error_in_the_middle_of_a_forward(two):
    """PEFT's mixed batches leave hooks behind that answer for somebody else."""
    backend, first, second, _ = two
    base = backend.loaded.base
    before = logits(backend, [None], IDS)
    hooks = sum(len(m._forward_hooks) for m in base.model.modules())
    broken = list(base.layers.values())[-1].register_forward_pre_hook(_raise)
    with pytest.raises(ZeroDivisionError):
        logits(backend, [(first, 1.0), (second, 1.0)], IDS.expand(2, -1))
    broken.remove()
    assert torch.equal(logits(backend, [None], IDS), before)
    assert sum(len(m._forward_hooks) for m in base.model.modules()) == hooks


def _raise(*_):
    raise ZeroDivisionError


def test_the_base_never_trains_never_wants_gradients_and_never_changes(
    make_backend, learn, score, tmp_path
):
    backend = make_backend()
    model = backend.loaded.base.model

    def digest():
        raw = b"".join(p.detach().numpy().tobytes() for p in model.parameters())
        return hashlib.sha256(raw).hexdigest()

    before = digest()
    adapter, _ = learn(backend, tmp_path / "a", lora_dropout=0.1)
    score(backend, adapter)
    backend.release("m/")
    score(backend, None)
    assert digest() == before
    assert not model.training
    assert not any(module.training for module in model.modules())
    assert not any(p.requires_grad for p in model.parameters())
    assert all(p.grad is None for p in model.parameters())


def test_input_that_mixes_rows_is_refused_with_the_name_of_the_layer(two):
    backend, first, _, _ = two
    name = first.layout.targets[0].name
    layer = backend.loaded.base.layers[name]
    rows = adapter_batch([(first, 1.0)], torch.float32)
    with use_adapters(rows), pytest.raises(UnsupportedModel, match=name):
        layer(torch.zeros(7, 32))
    with use_adapters(rows), pytest.raises(UnsupportedModel, match="mixes the rows"):
        layer(torch.zeros(2, 7, 32))


@pytest.mark.parametrize(
    ("targets", "endings"),
    [
        (
            "all-linear",
            {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"},
        ),
        ("attention", {"q_proj", "k_proj", "v_proj", "o_proj"}),
        ("mlp", {"gate_proj", "up_proj", "down_proj"}),
        (("q_proj", "mlp.up_proj"), {"q_proj", "up_proj"}),
    ],
)
def test_targets_name_layers_and_never_the_head(targets, endings, make_backend):
    layers = backend_layers(make_backend("llama"))
    chosen = choose_targets(layers, targets)
    assert {target.name.rsplit(".", 1)[-1] for target in chosen} == endings
    assert set(peft_target_modules(layers, chosen)) == endings


def backend_layers(backend):
    return backend.loaded.base.layers


def test_unknown_targets_are_refused_with_the_layers_there_are(make_backend):
    with pytest.raises(UnsupportedModel, match="q_proj"):
        choose_targets(backend_layers(make_backend()), ("nonsense",))


def layer_numbers(targets):
    return {int(target.name.split(".layers.")[1].split(".")[0]) for target in targets}


@pytest.mark.parametrize(
    ("layers", "numbers"),
    [
        ("all", {0, 1, 2, 3, 4}),
        ("upper-half", {2, 3, 4}),
        ("upper-third", {3, 4}),
        ((0, 3), {0, 3}),
        ([4], {4}),
    ],
)
def test_decoder_layers_are_chosen_by_name_or_number(layers, numbers, make_backend):
    known = backend_layers(make_backend(num_hidden_layers=5))
    assert layer_numbers(choose_targets(known, "all-linear", layers)) == numbers
    assert layer_numbers(choose_targets(known, ("q_proj",), layers)) == numbers


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox"])
def test_layers_are_numbered_whatever_a_family_calls_them(family, make_backend):
    known = backend_layers(make_backend(family))
    whole = choose_targets(known, "all-linear")
    upper = choose_targets(known, "all-linear", "upper-half")
    assert 2 * len(upper) == len(whole)
    assert upper == whole[len(upper) :]


def test_the_upper_half_of_one_layer_is_that_layer(make_backend):
    known = backend_layers(make_backend(num_hidden_layers=1))
    assert choose_targets(known, "mlp", "upper-half") == choose_targets(known, "mlp")


def test_a_layer_that_is_not_there_is_refused_with_those_there_are(make_backend):
    with pytest.raises(UnsupportedModel, match=r"\[7\].*\[0, 1\]"):
        choose_targets(backend_layers(make_backend()), "all-linear", (1, 7))


def test_a_model_without_linear_layers_is_refused():
    class Empty(nn.Module):
        def get_decoder(self):
            return self

        def get_output_embeddings(self):
            return None

    with pytest.raises(UnsupportedModel, match="no linear layers"):
        linear_layers(Empty())


def test_fresh_adapters_change_nothing_and_depend_on_their_seed_alone(make_backend):
    base = make_backend().loaded.base
    targets = choose_targets(base.layers, "all-linear")
    layout = LoraLayout(targets, 4)

    def fresh(seed):
        return init_weights(layout, Learning(seed=seed), base.device)

    assert torch.equal(fresh(1).flat, fresh(1).flat)
    assert not torch.equal(fresh(1).flat, fresh(2).flat)
    views = layout.views(fresh(1).flat[None])
    assert all(not b.any() for _, b in views.values())
    assert all(a.any() for a, _ in views.values())
