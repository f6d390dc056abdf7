"""Adapters on disk: plain PEFT, exact, and refused where they are damaged."""

from __future__ import annotations

import json

import pytest
import torch
from peft import PeftModel

from templora_memory.backends.local.lora.batched import (
    choose_targets,
)
from templora_memory.backends.local.lora.peft_files import (
    CONFIG,
    WEIGHTS,
    peft_target_modules,
)
from templora_memory.errors import StoreDamaged
from tests.local.conftest import TEXT


def test_target_endings_that_would_catch_other_layers_are_made_longer(make_backend):
    layers = backend_layers(make_backend("gpt2"))
    chosen = choose_targets(layers, "mlp")
    assert peft_target_modules(layers, chosen) == ["c_fc", "mlp.c_proj"] or set(
        peft_target_modules(layers, chosen)
    ) == {"mlp.c_fc", "mlp.c_proj"}


def backend_layers(backend):
    return backend.loaded.base.layers


def test_files_are_plain_peft_with_the_base_named(make_backend, learn, tmp_path):
    adapter, _ = learn(make_backend(), tmp_path / "a")
    config = json.loads((adapter.folder / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "random llama"
    assert config["inference_mode"] is True
    assert (config["r"], config["lora_alpha"], config["peft_type"]) == (4, 8.0, "LORA")
    assert {path.suffix for path in adapter.folder.iterdir()} == {".json", ".safetensors"}


@pytest.mark.parametrize("layers", ["upper-half", (1, 3)])
def test_peft_reads_an_adapter_of_some_layers_and_no_other_has_one(
    layers, make_backend, make_model, learn, score, tmp_path
):
    backend = make_backend(num_hidden_layers=4)
    adapter, _ = learn(backend, tmp_path / "a", layers_to_transform=layers)
    wanted = {2, 3} if layers == "upper-half" else set(layers)
    peft = PeftModel.from_pretrained(make_model(num_hidden_layers=4), adapter.folder).eval()
    named = {
        int(name.split(".layers.")[1].split(".")[0])
        for name, _ in peft.named_parameters()
        if "lora_" in name
    }
    assert named == wanted
    ids = torch.tensor([backend.loaded.tokenizer.encode(TEXT)])
    with torch.no_grad():
        theirs = peft(input_ids=ids).logits.float().log_softmax(-1)
    theirs = theirs[0, :-1].gather(1, ids[0, 1:, None]).squeeze(1)
    assert (score(backend, adapter) - theirs).abs().max() < 1e-4


def test_an_adapter_of_some_layers_is_gone_on_from_in_these(make_backend, learn, tmp_path):
    backend = make_backend(num_hidden_layers=4)
    first, _ = learn(backend, tmp_path / "a", layers_to_transform=(1,))
    again, _ = learn(backend, tmp_path / "b", start=first, layers_to_transform="all")
    assert backend._weights(again).layout == backend._weights(first).layout


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
