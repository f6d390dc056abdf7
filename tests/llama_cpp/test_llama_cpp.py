"""llama.cpp answers with our adapters as we do. The real engine where it is installed."""

import ctypes
import json
import time
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch

import templora_memory
from templora_memory import Learning, Message, Sampling
from templora_memory.backends.llama_cpp import ARCHITECTURES, export_lora, permute_heads
from templora_memory.backends.local import LocalBackend
from templora_memory.backends.local.decode.stream import LocalStream
from templora_memory.backends.local.lora.batched import LoraLayout, choose_targets, init_weights
from templora_memory.backends.local.lora.peft_files import save_weights
from templora_memory.errors import StoreDamaged, UnsupportedModel
from templora_memory.ports import Adapter

TINY = Path(templora_memory.__file__).parent / "tiny"
MODEL = json.loads((TINY / "config.json").read_text())
ASKED = ["Where do you keep bees?", "What is your cat called?", "Tell me a story.", "Who are you?"]
MEMORIES = {"ada": Learning(r=8, seed=1), "eve": Learning(r=4, lora_alpha=5.0, seed=2)}
MEMORIES["eve"] = replace(MEMORIES["eve"], use_rslora=True)
TOKENS = 40


@pytest.fixture(scope="module")
def backend():
    made = LocalBackend(dtype="float32")
    made.open()
    yield made
    made.close()


@pytest.fixture(scope="module")
def adapters(backend, tmp_path_factory):
    """Folders of two adapters, of different rank and scale, that change what is said."""
    made, base = {}, backend.loaded.base
    for name, settings in MEMORIES.items():
        targets = choose_targets(base.layers, "all-linear")
        weights = init_weights(LoraLayout(targets, settings.r), settings, torch.device("cpu"))
        random = torch.Generator().manual_seed(settings.seed)
        for _, b in weights.layout.views(weights.flat[None]).values():
            b.normal_(0, 0.03, generator=random)
        folder = tmp_path_factory.mktemp(name)
        save_weights(weights, folder, layers=base.layers, base="templora/tiny", dropout=0.0)
        made[name] = Adapter(folder=folder, version=f"{name}/1")
    return made


def base_file(model, config, path):
    """A model of transformers as GGUF; it takes token ids, there is no tokenizer in it."""
    kind = ARCHITECTURES[config["model_type"]]
    arch = next(arch for arch, name in gguf.MODEL_ARCH_NAMES.items() if name == kind)
    writer = gguf.GGUFWriter(path, kind)
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("no_vocab")
    names = gguf.get_tensor_name_map(arch, config["num_hidden_layers"])
    for name, value in model.state_dict().items():
        if name == "lm_head.weight" and config["tie_word_embeddings"]:
            continue  # llama.cpp takes the embedding where there is no head
        stem = name.removesuffix(".weight")
        weight = permute_heads(value.float().numpy(), stem, config)
        writer.add_tensor(f"{names.get_name(stem)}.weight", np.ascontiguousarray(weight))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


class Engine:
    """llama.cpp on a base model; adapters are loaded while it runs."""

    def __init__(self, path):
        self.api = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
        self._llama = self.api.Llama(str(path), n_ctx=512, n_threads=1, verbose=False)

    def load(self, path):
        """An adapter, and the seconds that loading it took."""
        began = time.perf_counter()
        adapter = self.api.llama_adapter_lora_init(self._llama.model, str(path).encode())
        assert adapter, "llama.cpp refuses the adapter"
        return adapter, time.perf_counter() - began

    def free(self, adapter):
        self.use(None)
        self.api.llama_adapter_lora_free(adapter)

    def use(self, adapter, scale=1.0):
        if adapter is None:
            code = self.api.llama_set_adapters_lora(self._llama.ctx, None, 0, None)
        else:
            code = self.api.llama_set_adapters_lora(
                self._llama.ctx,
                (self.api.llama_adapter_lora_p_ctypes * 1)(adapter),
                1,
                (ctypes.c_float * 1)(scale),
            )
        assert code == 0

    def greedy(self, prompt, count, never):
        self._llama.reset()
        said, fresh = [], list(prompt)
        for _ in range(count):
            self._llama.eval(fresh)
            logits = self.api.llama_get_logits_ith(self._llama.ctx, -1)
            scores = np.array(np.ctypeslib.as_array(logits, (MODEL["vocab_size"],)))
            scores[list(never)] = -np.inf
            fresh = [int(scores.argmax())]
            said += fresh
        return said


@pytest.fixture(scope="module")
def engine(backend, tmp_path_factory):
    path = tmp_path_factory.mktemp("base") / "base.gguf"
    base_file(backend.model, MODEL, path)
    return Engine(path)


def ours(backend, adapter, asked):
    """Prompt, and the tokens that our engine says to it."""
    prompt = backend.loaded.tokenizer.prompt([Message("user", asked)])
    request = backend._decode_request(prompt, TOKENS, sampling=Sampling(ignore_end=True))
    if adapter is not None:
        request.weights, request.strength = backend._weights(adapter), 1.0
    stream = LocalStream(request.channel)
    backend.loaded.thread.answer(request)
    assert stream.completion.completion_tokens == TOKENS
    return prompt, request.output_ids


@pytest.fixture
def lora(adapters, tmp_path):
    def make(name):
        return export_lora(adapters[name].folder, tmp_path / f"{name}.gguf", model=MODEL)

    return make


@pytest.mark.parametrize("asked", ASKED)
def test_base_and_memories_say_the_same_tokens_in_llama_cpp(backend, adapters, engine, lora, asked):
    prompt, base = ours(backend, None, asked)
    ends = backend.loaded.base.eos_token_ids
    assert engine.greedy(prompt, TOKENS, ends) == base
    said = [base]
    for name, adapter in adapters.items():
        loaded, _ = engine.load(lora(name))
        engine.use(loaded)
        _, expected = ours(backend, adapter, asked)
        assert engine.greedy(prompt, TOKENS, ends) == expected
        engine.free(loaded)
        said.append(expected)
    assert engine.greedy(prompt, TOKENS, ends) == base
    assert len({tuple(one) for one in said}) == 3, "the memories change nothing"


def test_loading_a_memory_takes_milliseconds(engine, lora, record_property):
    path, times = lora("ada"), []
    for _ in range(20):
        adapter, seconds = engine.load(path)
        times.append(seconds)
        engine.free(adapter)
    record_property("load_ms", 1000 * float(np.median(times)))
    print(f"loading: median {1000 * np.median(times):.2f} ms, {path.stat().st_size:,} bytes")  # noqa: T201
    assert np.median(times) < 0.5


def test_the_file_says_what_llama_cpp_reads(backend, adapters, lora):
    reader = gguf.GGUFReader(lora("eve"))
    text = {name: field.contents() for name, field in reader.fields.items()}
    assert text["general.type"] == "adapter"
    assert text["general.architecture"] == "llama"
    assert text["adapter.type"] == "lora"
    assert text["adapter.lora.alpha"] == pytest.approx(5.0 * 4**0.5)
    tensors = {tensor.name: tensor.data for tensor in reader.tensors}
    assert len(tensors) == 2 * 7 * MODEL["num_hidden_layers"]
    weights = backend._weights(adapters["eve"])
    views = weights.layout.views(weights.flat[None])
    a, b = views["model.layers.2.self_attn.q_proj"]
    assert torch.equal(torch.tensor(tensors["blk.2.attn_q.weight.lora_a"]), a[0])
    order = torch.arange(len(b[0])).view(6, 2, 16).transpose(1, 2).reshape(-1)
    assert torch.equal(torch.tensor(tensors["blk.2.attn_q.weight.lora_b"]), b[0][order])
    down = views["model.layers.5.mlp.down_proj"][1]
    assert torch.equal(torch.tensor(tensors["blk.5.ffn_down.weight.lora_b"]), down[0])


def test_what_cannot_be_exported_is_refused(tmp_path, adapters):
    adapter, into = adapters["ada"].folder, tmp_path / "x.gguf"
    with pytest.raises(UnsupportedModel, match=r"'gpt2'.*llama"):
        export_lora(adapter, into, model={**MODEL, "model_type": "gpt2"})
    with pytest.raises(UnsupportedModel, match="no name for the layer"):
        export_lora(adapter, into, model={**MODEL, "num_hidden_layers": 2})
    with pytest.raises(StoreDamaged, match="no adapter"):
        export_lora(tmp_path, into, model=MODEL)
    assert list(tmp_path.iterdir()) == []
