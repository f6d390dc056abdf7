"""Tiny random models of every family, a byte tokenizer with a chat template, GGUF files."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from templora_memory import Document, Learning
from templora_memory.backends.llama_cpp import permute_heads
from templora_memory.backends.local import LocalBackend
from templora_memory.backends.local.recipes import Recipe
from templora_memory.domain.results import LearnStats
from templora_memory.ports import Adapter, LearningControl, LearnRequest, ScoreRequest

MARKS = ("<|end|>", "<|system|>", "<|user|>", "<|assistant|>", "<|tool|>")
TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
STRICT = (
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}"
    "<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 264,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": 256,
}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {"num_key_value_heads": 2}),
    "qwen3": ("Qwen3", {"num_key_value_heads": 2, "head_dim": 8}),
    "mistral": ("Mistral", {"num_key_value_heads": 2, "head_dim": 8, "sliding_window": 16}),
    "gemma3": (
        "Gemma3",
        {"num_key_value_heads": 2, "head_dim": 8, "sliding_window": 16, "query_pre_attn_scalar": 8},
    ),
    "gemma2": ("Gemma2", {"num_key_value_heads": 2, "head_dim": 8, "sliding_window": 16}),
    "phi3": ("Phi3", {"num_key_value_heads": 2}),
    "gpt2": ("GPT2", {"n_inner": 64}),
    "gpt_neox": ("GPTNeoX", {}),
}


@pytest.fixture(scope="session")
def make_tokenizer() -> Callable[..., PreTrainedTokenizerFast]:
    def make(template: str | None = TEMPLATE) -> PreTrainedTokenizerFast:
        letters = sorted(pre_tokenizers.ByteLevel.alphabet())
        raw = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
        raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        raw.decoder = decoders.ByteLevel()
        raw.add_special_tokens(list(MARKS))
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=raw, eos_token=MARKS[0], clean_up_tokenization_spaces=False
        )
        tokenizer.chat_template = template
        return tokenizer

    return make


@pytest.fixture(scope="session")
def make_model() -> Callable[..., Any]:
    def make(family: str = "llama", *, seed: int = 0, **changes: Any) -> Any:
        kind, extra = FAMILIES[family]
        name = f"{kind}TextConfig" if kind == "Gemma3" else f"{kind}Config"
        config = getattr(transformers, name)(**{**SMALL, **extra, **changes})
        torch.manual_seed(seed)
        model = transformers.AutoModelForCausalLM.from_config(config)
        with torch.no_grad():
            for weight in model.parameters():  # far from uniform, so that choices are clear
                if weight.ndim > 1:
                    weight.mul_(4)
        return model.float()

    return make


@pytest.fixture
def make_backend(
    make_model: Callable[..., Any], make_tokenizer: Callable[..., Any]
) -> Iterator[Callable[..., LocalBackend]]:
    opened: list[LocalBackend] = []

    def make(
        family: str = "llama",
        *,
        template: str | None = TEMPLATE,
        recipes: Mapping[str, Recipe] | None = None,
        **changes: Any,
    ) -> LocalBackend:
        backend = LocalBackend.of(
            make_model(family, **changes),
            make_tokenizer(template),
            name=f"random {family}",
            recipes=recipes,
        )
        backend.open()
        opened.append(backend)
        return backend

    yield make
    for backend in opened:
        backend.close()


@pytest.fixture
def base(make_backend: Callable[..., LocalBackend]) -> Any:
    """The model of a backend, frozen."""
    return make_backend().loaded.base


@pytest.fixture
def text(make_backend: Callable[..., LocalBackend]) -> Any:
    """Its tokenizer."""
    return make_backend().loaded.tokenizer


TEXT = "Ada keeps bees on the roof of the old observatory. Her cat is called Pim, and he is grey."


@pytest.fixture(scope="session")
def learn() -> Callable[..., tuple[Adapter, LearnStats]]:
    """Learn a text (or items) into a new folder; returns the adapter and the receipt."""

    def run(
        backend: LocalBackend,
        folder: Path,
        text: str = TEXT,
        *,
        items: tuple[Any, ...] | None = None,
        before: tuple[Any, ...] = (),
        start: Adapter | None = None,
        chunk: int = 32,
        min_steps: int = 0,
        **settings: Any,
    ) -> tuple[Adapter, LearnStats]:
        folder.mkdir()
        request = LearnRequest(
            items=items or (Document(text),),
            before=before,
            start=start,
            chunk=chunk,
            recipe="continue",
            min_steps=min_steps,
            settings=Learning(
                **{"r": 4, "lora_alpha": 8, "learning_rate": 1e-2, "context": 32, **settings}
            ),
        )
        stats = backend.learn(request, into=folder, control=LearningControl())
        return Adapter(folder=folder, version=f"m/{folder.name}"), stats

    return run


@pytest.fixture(scope="session")
def score() -> Callable[..., torch.Tensor]:
    """Log-probabilities of a text's tokens."""

    def run(
        backend: LocalBackend,
        adapter: Adapter | None,
        text: str = TEXT,
        *,
        context: Any = "",
        strength: float = 1.0,
    ) -> torch.Tensor:
        (values,) = backend.score(
            [ScoreRequest(context=context, target=text, adapter=adapter, strength=strength)]
        )
        return torch.tensor(values)

    return run


@pytest.fixture(scope="session")
def write_gguf() -> Callable[..., Path]:
    return _write_gguf


def _write_gguf(
    path: Path,
    model: Any,
    tokenizer: Any = None,
    *,
    kind: str = "llama",
    precision: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F32,
    **extra: int,
) -> Path:
    """A llama as one file; `extra`: further whole numbers of its header, as ``split_count=2``."""
    config = model.config.to_dict()
    writer = gguf.GGUFWriter(path, kind)
    writer.add_type("model")
    writer.add_name("A Small Model")
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_rope_dimension_count(config["hidden_size"] // config["num_attention_heads"])
    writer.add_vocab_size(config["vocab_size"])
    for name, number in extra.items():
        writer.add_uint16(name.replace("_", "."), number)
    if tokenizer is not None:
        _add_tokenizer(writer, tokenizer)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config["num_hidden_layers"])
    for name, value in model.state_dict().items():
        if name == "lm_head.weight" and config["tie_word_embeddings"]:
            continue
        stem = name.removesuffix(".weight")
        weight = np.ascontiguousarray(permute_heads(value.float().numpy(), stem, config))
        chosen = precision if weight.ndim > 1 else gguf.GGMLQuantizationType.F32
        packed = gguf.quantize(weight, chosen)
        writer.add_tensor(f"{names.get_name(stem)}.weight", packed, raw_dtype=chosen)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_tokenizer(writer: gguf.GGUFWriter, tokenizer: Any) -> None:
    rules = json.loads(tokenizer.backend_tokenizer.to_str())
    special = {token["content"] for token in rules["added_tokens"]}
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    kinds = gguf.TokenType
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([token for token, _ in vocabulary])
    writer.add_token_types(
        [kinds.CONTROL if token in special else kinds.NORMAL for token, _ in vocabulary]
    )
    writer.add_token_merges([" ".join(pair) for pair in rules["model"]["merges"]])
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    writer.add_add_bos_token(value=False)
    writer.add_chat_template(tokenizer.chat_template)
