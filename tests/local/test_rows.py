"""A different adapter for every row, and a base model that never notices."""

from __future__ import annotations

import hashlib
import json
import threading
import weakref

import pytest
import torch
from torch import nn

from templora_memory import Learning, Message, Sampling
from templora_memory.backends.local.lora.batched import (
    LoraLayout,
    adapter_batch,
    choose_targets,
    init_weights,
    linear_layers,
    use_adapters,
)
from templora_memory.backends.local.lora.peft_files import (
    CONFIG,
    WEIGHTS,
    load_weights,
    peft_target_modules,
)
from templora_memory.errors import StoreDamaged, UnknownRevision, UnsupportedModel
from templora_memory.ports import GenerateRequest


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


def test_rows_are_unset_after_an_error_in_the_middle_of_a_forward(two):
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


def test_opening_again_does_not_apply_an_adapter_twice(make_backend, learn, score, tmp_path):
    backend = make_backend()
    adapter, _ = learn(backend, tmp_path / "a")
    before = score(backend, adapter)
    backend.close()
    backend.open()
    assert torch.equal(score(backend, adapter), before)


def test_four_threads_with_four_adapters_never_get_a_neighbours_answer(
    make_backend, learn, tmp_path
):
    backend = make_backend()
    adapters = [
        learn(backend, tmp_path / str(i), text, scale_short=False)[0]
        for i, text in enumerate(["red red red", "blue blue", "green green green", "grey grey"])
    ]
    asked = [
        GenerateRequest(
            messages=(Message("user", "Which colour?"),), adapter=adapter, strength=1.0,
            sampling=Sampling(ignore_end=True), max_tokens=6,
        )
        for adapter in adapters
    ]  # fmt: skip
    alone = [backend.stream(request).completion.text for request in asked]
    assert len(set(alone)) == len(alone)
    wrong = []

    def ask(index):
        wrong.extend(
            index for _ in range(15) if backend.stream(asked[index]).completion.text != alone[index]
        )

    threads = [threading.Thread(target=ask, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


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
    name, layer = next(iter(backend.loaded.base.layers.items()))
    rows = adapter_batch([(first, 1.0)], torch.float32)
    with use_adapters(rows), pytest.raises(UnsupportedModel, match=name):
        layer(torch.zeros(7, 32))
    with use_adapters(rows), pytest.raises(UnsupportedModel, match="mixes the rows"):
        layer(torch.zeros(2, 7, 32))


def test_a_forgotten_adapter_answers_neither_as_itself_nor_as_a_neighbour(two):
    backend, _, _, (first, second) = two
    for file in first.folder.iterdir():
        file.unlink()
    first.folder.rmdir()
    backend.release("m/a")
    request = GenerateRequest(
        messages=(Message("user", "Hi"),), adapter=first, strength=1.0, sampling=Sampling(),
        max_tokens=4,
    )  # fmt: skip
    with pytest.raises(UnknownRevision):
        backend.stream(request)
    assert list(backend._adapters) == [second.version]


def test_ids_that_begin_alike_keep_their_own_weights(make_backend, learn, tmp_path):
    backend = make_backend()
    long, _ = learn(backend, tmp_path / "u10")
    before = weights_of(backend, long).flat.clone()
    short, _ = learn(backend, tmp_path / "u1", "Something else altogether.")
    weights_of(backend, short)
    backend.release("m/u1/")
    assert torch.equal(weights_of(backend, long).flat, before)


def test_loaded_adapters_keep_within_their_bytes_and_leave_nothing_behind(
    make_backend, learn, score, tmp_path
):
    backend = make_backend()
    adapters = [learn(backend, tmp_path / str(i), f"text {i}")[0] for i in range(4)]
    size = weights_of(backend, adapters[0]).bytes
    backend._max_adapter_bytes = 2 * size
    expected = [score(backend, adapter) for adapter in adapters]
    assert len(backend._adapters) == 2
    assert all(torch.equal(score(backend, a), e) for a, e in zip(adapters, expected, strict=True))
    reference = weakref.ref(weights_of(backend, adapters[0]).flat)
    backend.release("m/")
    assert not backend._adapters
    assert reference() is None


# --- which layers ------------------------------------------------------------------------------


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


def test_target_endings_that_would_catch_other_layers_are_made_longer(make_backend):
    layers = backend_layers(make_backend("gpt2"))
    chosen = choose_targets(layers, "mlp")
    assert peft_target_modules(layers, chosen) == ["c_fc", "mlp.c_proj"] or set(
        peft_target_modules(layers, chosen)
    ) == {"mlp.c_fc", "mlp.c_proj"}


def backend_layers(backend):
    return backend.loaded.base.layers


def test_unknown_targets_are_refused_with_the_layers_there_are(make_backend):
    with pytest.raises(UnsupportedModel, match="q_proj"):
        choose_targets(backend_layers(make_backend()), ("nonsense",))


def test_a_model_without_linear_layers_is_refused():
    class Empty(nn.Module):
        def get_decoder(self):
            return self

        def get_output_embeddings(self):
            return None

    with pytest.raises(UnsupportedModel, match="no linear layers"):
        linear_layers(Empty())


# --- files -------------------------------------------------------------------------------------


def test_files_are_plain_peft_with_the_base_named(make_backend, learn, tmp_path):
    adapter, _ = learn(make_backend(), tmp_path / "a")
    config = json.loads((adapter.folder / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "random llama"
    assert config["inference_mode"] is True
    assert (config["r"], config["lora_alpha"], config["peft_type"]) == (4, 8.0, "LORA")
    assert {path.suffix for path in adapter.folder.iterdir()} == {".json", ".safetensors"}


def test_revisions_keep_float32_so_that_small_updates_survive_the_disk(
    make_backend, learn, tmp_path
):
    """Two absorbs through the disk equal two in memory."""
    backend = make_backend()
    one, _ = learn(backend, tmp_path / "one", learning_rate=5e-5)
    in_memory = backend._weights(one)
    backend.release("m/")
    assert torch.equal(backend._weights(one).flat, in_memory.flat)
    assert in_memory.flat.dtype == torch.float32


@pytest.mark.parametrize("damage", ["cut", "config", "rank", "foreign", "header", "nan"])
def test_a_damaged_adapter_is_refused_with_its_folder(damage, make_backend, learn, tmp_path):
    backend = make_backend()
    adapter, _ = learn(backend, tmp_path / "a")
    weights, config = (adapter.folder / name for name in (WEIGHTS, CONFIG))
    raw = weights.read_bytes()
    if damage == "cut":
        weights.write_bytes(raw[: len(raw) // 2])
    elif damage == "config":
        config.write_text("{")
    elif damage == "rank":
        config.write_text(json.dumps({**json.loads(config.read_text()), "r": 8}))
    elif damage == "foreign":
        other = make_backend("llama", hidden_size=64)
        stranger, _ = learn(other, tmp_path / "other")
        weights.write_bytes((stranger.folder / WEIGHTS).read_bytes())
    elif damage == "header":
        weights.write_bytes((2**60).to_bytes(8, "little") + raw[8:])
    else:
        from safetensors.torch import load_file, save_file  # noqa: PLC0415

        tensors = load_file(weights)
        next(iter(tensors.values())).fill_(float("nan"))
        save_file(tensors, weights)
    backend.release("m/")
    with pytest.raises(StoreDamaged, match=str(adapter.folder)):
        backend._weights(adapter)


def test_an_adapter_released_while_it_is_loaded_is_not_kept(
    make_backend, learn, score, tmp_path, monkeypatch
):
    backend = make_backend()
    adapter, _ = learn(backend, tmp_path / "a")
    load = load_weights

    def meanwhile(*given):
        weights = load(*given)
        backend.release("m/")
        return weights

    monkeypatch.setattr("templora_memory.backends.local.backend.load_weights", meanwhile)
    score(backend, adapter)
    assert not backend._adapters


@pytest.mark.parametrize("setting", ["alpha_pattern", "rank_pattern"])
def test_an_adapter_with_settings_for_single_layers_is_refused(
    make_backend, learn, tmp_path, setting
):
    backend = make_backend()
    adapter, _ = learn(backend, tmp_path / "a")
    path = adapter.folder / CONFIG
    path.write_text(json.dumps({**json.loads(path.read_text()), setting: {"q_proj": 2}}))
    with pytest.raises(StoreDamaged, match="does not describe"):
        backend._weights(adapter)


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
