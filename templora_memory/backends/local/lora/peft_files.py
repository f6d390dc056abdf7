"""Adapters on disk, as PEFT writes and reads them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn
from transformers.pytorch_utils import Conv1D

from templora_memory.backends.local.lora.batched import (
    LoraLayout,
    LoraWeights,
    TargetModule,
    target_module,
)
from templora_memory.errors import StoreDamaged, UnknownRevision

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
MAX_RANK = 1024
_PREFIX = "base_model.model."


def peft_target_modules(
    layers: Mapping[str, nn.Module], targets: Sequence[TargetModule]
) -> list[str]:
    """Return the shortest endings that name exactly these layers, as portable as PEFT allows."""
    names = {target.name for target in targets}
    for length in (1, 2):
        endings = {".".join(name.split(".")[-length:]) for name in names}
        if {n for n in layers if any(n == e or n.endswith(f".{e}") for e in endings)} == names:
            return sorted(endings)
    return sorted(names)


def save_weights(
    weights: LoraWeights,
    folder: Path,
    *,
    layers: Mapping[str, nn.Module],
    base: str,
    dropout: float,
) -> None:
    """Write an adapter as PEFT does: weights in float32, and its configuration.

    Args:
        weights: the adapter.
        folder: where to; it exists.
        layers: the model's linear layers by path.
        base: name of the base model.
        dropout: `lora_dropout` that it was trained with.
    """
    from peft import LoraConfig  # noqa: PLC0415  # slow to import, needed only here

    tensors = {}
    for name, (a, b) in weights.layout.views(weights.flat[None].detach().cpu()).items():
        tensors[f"{_PREFIX}{name}.lora_A.weight"] = a[0].contiguous()  # [r, I]
        tensors[f"{_PREFIX}{name}.lora_B.weight"] = b[0].contiguous()  # [O, r]
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    config = LoraConfig(
        r=weights.layout.r,
        lora_alpha=weights.lora_alpha,
        lora_dropout=dropout,
        use_rslora=weights.use_rslora,
        target_modules=peft_target_modules(layers, weights.layout.targets),
        fan_in_fan_out=any(isinstance(layer, Conv1D) for layer in layers.values()),
        base_model_name_or_path=base,
        inference_mode=True,
        task_type="CAUSAL_LM",
    )
    config.save_pretrained(str(folder))


def load_weights(
    folder: Path, layers: Mapping[str, nn.Module], device: torch.device
) -> LoraWeights:
    """Read an adapter; shapes are checked against the model before a tensor is loaded.

    Raises:
        UnknownRevision: the folder is gone.
        StoreDamaged: not an adapter that this backend writes, or not for this model.
    """
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        with safe_open(folder / WEIGHTS, "pt") as file:
            layout = _checked_layout(file, layers, folder)
            r, lora_alpha = layout.r, config["lora_alpha"]
            unknown = any(config.get(key) for key in ("use_dora", "alpha_pattern", "rank_pattern"))
            if config["r"] != r or config["peft_type"] != "LORA" or unknown:
                raise StoreDamaged(f"{folder / CONFIG} does not describe {WEIGHTS} beside it.")
            if not isinstance(lora_alpha, (int, float)) or not math.isfinite(lora_alpha):
                raise StoreDamaged(
                    f"{folder / CONFIG}: lora_alpha is {lora_alpha!r}, not a number."
                )
            flat = torch.empty(layout.size)  # [N]
            for name, (a, b) in layout.views(flat[None]).items():
                a[0] = file.get_tensor(f"{_PREFIX}{name}.lora_A.weight")
                b[0] = file.get_tensor(f"{_PREFIX}{name}.lora_B.weight")
    except FileNotFoundError as error:
        raise UnknownRevision(f"The adapter in {folder} was removed meanwhile.") from error
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise StoreDamaged(
            f"The adapter in {folder} is damaged: {error}. Rebuild the memory."
        ) from error
    if not torch.isfinite(flat).all():
        raise StoreDamaged(f"The adapter in {folder} holds values that are not finite.")
    return LoraWeights(layout, flat.to(device), float(lora_alpha), bool(config.get("use_rslora")))


def _checked_layout(file: Any, layers: Mapping[str, nn.Module], folder: Path) -> LoraLayout:
    """Return the layout of an open file, whose shapes are those of the model's layers."""
    shapes = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
    names = [name for name in layers if f"{_PREFIX}{name}.lora_A.weight" in shapes]
    ranks = {shapes[f"{_PREFIX}{name}.lora_A.weight"][0] for name in names}
    if len(ranks) != 1 or len(shapes) != 2 * len(names) or not 0 < min(ranks) <= MAX_RANK:
        raise StoreDamaged(
            f"The adapter in {folder} does not fit this model: other layers or mixed ranks."
        )
    layout = LoraLayout(tuple(target_module(name, layers[name]) for name in names), ranks.pop())
    for target in layout.targets:
        expected = {"A": (layout.r, target.in_features), "B": (target.out_features, layout.r)}
        for part, shape in expected.items():
            actual = shapes.get(f"{_PREFIX}{target.name}.lora_{part}.weight")
            if actual != shape:
                raise StoreDamaged(
                    f"The adapter in {folder} does not fit this model: lora_{part} of "
                    f"{target.name} has shape {actual}, expected {shape}."
                )
    return layout
