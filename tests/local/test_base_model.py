"""Models that load, and models that do not."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, ByT5Tokenizer

from templora_memory import Learning, ParametricMemory, Policy
from templora_memory.backends.local import LocalBackend
from templora_memory.backends.local.base_model import weights_digest
from templora_memory.errors import (
    BaseMismatch,
    Closed,
    InvalidSetting,
    ModelNotFound,
    UnsupportedModel,
)
from templora_memory.stores import DirectoryStore


@pytest.fixture
def saved(make_model, make_tokenizer, tmp_path):
    folder = tmp_path / "model"
    make_model().save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


def opened(model, **options):
    backend = LocalBackend(model, **options)
    backend.open()
    return backend


def test_a_folder_loads_without_network_in_the_precision_asked_for(saved):
    for dtype, kind in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        backend = opened(saved, device="cpu", dtype=dtype)
        assert backend.loaded.base.dtype == kind
        assert backend.limits.max_length == 256
        assert backend.limits.hidden_size == 32
        backend.close()


def test_the_same_model_is_recognised_in_another_precision_and_folder(saved, tmp_path):
    first = opened(saved, dtype="float32")
    second = opened(saved, dtype="bfloat16")
    (tmp_path / "copy").symlink_to(saved)
    third = opened(tmp_path / "copy", dtype="float32")
    assert first.identity.same_model(second.identity)
    assert first.identity.same_model(third.identity)
    assert first.identity.name != third.identity.name


def test_one_changed_weight_matrix_is_another_model(make_model):
    model = make_model()
    before = weights_digest(model)
    assert weights_digest(make_model()) == before
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight.mul_(1.5)
    assert weights_digest(model) != before


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ("missing", "no usable model"),
        ("no weights", "safetensors"),
        ("cut weights", "cannot be loaded"),
        ("no config", "config.json"),
        ("no tokenizer", "cannot be loaded"),
        ("pickle only", "safetensors"),
    ],
)
def test_a_model_that_cannot_be_used_says_what_to_do(saved, damage, words, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    weights = saved / "model.safetensors"
    name = saved
    if damage == "missing":
        name = saved.parent / "elsewhere"
    elif damage == "no weights":
        weights.unlink()
    elif damage == "cut weights":
        weights.write_bytes(weights.read_bytes()[:500])
    elif damage == "no config":
        (saved / "config.json").unlink()
    elif damage == "no tokenizer":
        for path in saved.glob("token*"):
            path.unlink()
    else:
        weights.rename(saved / "pytorch_model.bin")
    with pytest.raises(ModelNotFound, match=words):
        opened(name)


@pytest.mark.parametrize(
    "changes",
    [
        {"num_hidden_layers": 3},
        {"hidden_size": 64},
        {"hidden_size": "wide"},
        {"num_attention_heads": 0},
        {"vocab_size": -1},
    ],
)
def test_a_configuration_that_does_not_fit_the_weights_is_refused(saved, changes):
    path = saved / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(ModelNotFound, match="cannot be loaded"):
        opened(saved)


def test_a_model_without_its_output_head_is_refused(saved, make_model):
    make_model().model.save_pretrained(saved)
    with pytest.raises(ModelNotFound, match=r"missing, such as lm_head\.weight"):
        opened(saved)


def test_code_in_a_model_folder_is_neither_run_nor_asked_about(saved, monkeypatch):
    asked = []
    monkeypatch.setattr("builtins.input", asked.append)
    ran = saved / "ran"
    (saved / "own.py").write_text(f"open({str(ran)!r}, 'w')\n")
    path = saved / "config.json"
    names = {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}
    path.write_text(
        json.dumps({**json.loads(path.read_text()), "model_type": "own", "auto_map": names})
    )
    with pytest.raises(ModelNotFound, match="cannot be loaded"):
        opened(saved)
    assert not ran.exists()
    assert not asked


@pytest.mark.parametrize("kind", ["bert", "mamba"])
def test_a_model_that_cannot_go_on_from_keys_and_values_is_refused(make_tokenizer, kind):
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        kind, vocab_size=264, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, state_size=4, initializer_range=0.3,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config)
    with pytest.raises(UnsupportedModel, match="keys and values"):
        LocalBackend.of(model, make_tokenizer()).open()


def test_unknown_devices_and_precisions_are_refused(saved):
    with pytest.raises(InvalidSetting, match="float32"):
        opened(saved, dtype="float8")
    with pytest.raises(InvalidSetting, match="device"):
        opened(saved, device="toaster")
    if not torch.cuda.is_available():
        with pytest.raises(InvalidSetting, match="no CUDA"):
            opened(saved, device="cuda")


def test_construction_is_free_and_use_before_opening_is_an_error(tmp_path):
    backend = LocalBackend(tmp_path / "nothing")
    with pytest.raises(Closed):
        backend.limits  # noqa: B018
    backend.close()


def test_a_window_longer_than_the_model_is_refused(make_model, make_tokenizer, tmp_path):
    backend = LocalBackend.of(make_model(), make_tokenizer())
    memory = ParametricMemory(backend, DirectoryStore(tmp_path), Policy(window=257))
    with pytest.raises(InvalidSetting, match="256"):
        memory.load()


def test_an_adapter_of_another_base_is_refused_until_it_is_rebuilt(
    make_model, make_tokenizer, tmp_path
):
    policy = Policy(chunk=64, learning=Learning(r=4))
    store = DirectoryStore(tmp_path / "root")

    def service(seed):
        backend = LocalBackend.of(make_model(seed=seed), make_tokenizer(), name=f"seed {seed}")
        return ParametricMemory(backend, store, policy)

    with service(0) as memory:
        memory["ada"].absorb("Ada keeps bees.")
    with service(1) as memory:
        for call in (
            lambda: memory["ada"].reply([{"role": "user", "content": "Hi"}], max_tokens=4),
            lambda: memory["ada"].absorb("More."),
            lambda: memory["ada"].probe("Hi", "bees"),
        ):
            with pytest.raises(BaseMismatch, match="rebuild"):
                call()
        report = memory["ada"].rebuild()
        assert report.tokens > 0
        assert memory["ada"].reply([{"role": "user", "content": "Hi"}], max_tokens=4).revision
    with service(0) as memory, pytest.raises(BaseMismatch, match="seed 1"):
        memory["ada"].probe("Hi", "bees")


def test_layers_on_disk_learn_nothing_but_answer_as_the_plain_model(
    saved, make_backend, learn, score, tmp_path
):
    """L10: the hook works on layers that accelerate brings in from disk."""
    plain = make_backend()
    adapter, _ = learn(plain, tmp_path / "a")
    places = {"model.embed_tokens": "cpu", "model.layers.0": "cpu", "model.layers.1": "disk",
              "model.norm": "cpu", "model.rotary_emb": "cpu", "lm_head": "cpu"}  # fmt: skip
    model = AutoModelForCausalLM.from_pretrained(
        saved, dtype=torch.float32, device_map=places, offload_folder=str(tmp_path / "offload")
    )
    split = LocalBackend.of(model, plain.loaded.base.tokenizer)
    split.open()
    assert (score(split, adapter) - score(plain, adapter)).abs().max() < 1e-5
    split.close()


def test_a_tokenizer_that_does_not_know_where_its_tokens_are_is_refused(make_model):
    backend = LocalBackend.of(make_model(), ByT5Tokenizer())
    with pytest.raises(UnsupportedModel, match="fast tokenizer"):
        backend.open()
