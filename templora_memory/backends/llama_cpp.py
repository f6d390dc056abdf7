"""A memory's adapter as a file that llama.cpp loads beside a base model.

llama.cpp answers with it, it does not learn: `export_lora` once for each revision, then
``llama-server -m base.gguf --lora ada.gguf``, or `llama_adapter_lora_init` while it runs.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from templora_memory.errors import StoreDamaged, UnsupportedModel

if TYPE_CHECKING:
    from numpy.typing import NDArray

ARCHITECTURES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}
"""llama.cpp's names of architectures, by the `model_type` of config.json."""
PERMUTED = frozenset({"llama", "mistral"})
"""Models whose queries and keys llama.cpp holds in another order, see `permute_heads`."""
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."


def export_lora(adapter: Path, into: Path, *, model: Mapping[str, Any]) -> Path:
    """Write an adapter folder (PEFT's format) as a GGUF LoRA file in float32; returns its path.

    The file is as much the memory's text as its weights are, and no forget reaches it.

    Args:
        adapter: as `Memory.adapter` gives it.
        into: the file; one that exists is replaced.
        model: the base model's config.json, read.

    Raises:
        UnsupportedModel: not one of `ARCHITECTURES`, or a layer that llama.cpp has no name for.
        StoreDamaged: not an adapter.
    """
    import gguf  # noqa: PLC0415  # it brings numpy: only where it is needed

    kind = model.get("model_type")
    if kind not in ARCHITECTURES:
        raise UnsupportedModel(
            f"The base model is a {kind!r}: adapters of {sorted(ARCHITECTURES)} can be written for "
            "llama.cpp."
        )
    architecture = ARCHITECTURES[kind]
    alpha, tensors = _read(adapter)
    names = gguf.get_tensor_name_map(
        next(arch for arch, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture),
        int(model["num_hidden_layers"]),
    )
    partial = into.with_name(f".{into.name}.partial")
    writer = gguf.GGUFWriter(partial, architecture)
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, alpha)
    for layer in sorted({name.rsplit(".lora_", 1)[0] for name in tensors}):
        name = names.get_name(layer)
        if name is None:
            raise UnsupportedModel(f"llama.cpp has no name for the layer {layer!r} of a {kind!r}.")
        a, b = (tensors[f"{layer}.lora_{part}.weight"] for part in "AB")
        writer.add_tensor(f"{name}.weight.lora_a", a)
        writer.add_tensor(f"{name}.weight.lora_b", permute_heads(b, layer, model))
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        partial.replace(into)
    finally:
        partial.unlink(missing_ok=True)
    return into


def permute_heads(weight: NDArray[Any], layer: str, model: Mapping[str, Any]) -> NDArray[Any]:
    """Return the rows of a layer's weight in the order in which llama.cpp holds them.

    Its llama turns pairs of neighbours by the position, transformers' the first half of a head
    against the second: so the rows of queries and keys change places within each head.
    """
    part = layer.rsplit(".", 1)[-1]
    if model["model_type"] not in PERMUTED or part not in {"q_proj", "k_proj"}:
        return weight
    heads = int(model["num_attention_heads"])
    if part == "k_proj":
        heads = int(model.get("num_key_value_heads") or heads)
    halves = weight.reshape(heads, 2, len(weight) // heads // 2, *weight.shape[1:])
    return halves.swapaxes(1, 2).reshape(weight.shape)


def _read(adapter: Path) -> tuple[float, dict[str, NDArray[Any]]]:
    """Return the alpha that llama.cpp divides by the rank, and A and B by name."""
    from safetensors import SafetensorError  # noqa: PLC0415  # as gguf: only where it is needed
    from safetensors.numpy import load_file  # noqa: PLC0415

    try:
        config = json.loads((adapter / CONFIG).read_text(encoding="utf-8"))
        tensors = load_file(adapter / WEIGHTS)
        alpha, rank = float(config["lora_alpha"]), int(config["r"])
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise StoreDamaged(f"{adapter} holds no adapter in PEFT's format: {error}.") from error
    if config.get("use_rslora"):
        alpha *= math.sqrt(rank)
    return alpha, {name.removeprefix(_PREFIX): value for name, value in tensors.items()}
