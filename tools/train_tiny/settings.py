"""Reads settings.toml into frozen values; unknown or missing keys are errors."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
DEFAULT = Path(__file__).with_name("settings.toml")


@dataclass(frozen=True, slots=True)
class TokenizerSettings:
    vocabulary: int
    sample_characters: int


@dataclass(frozen=True, slots=True)
class DataSettings:
    story_characters: int
    persona_documents: int
    residents: int
    resident_documents: int
    held_out_share: float


@dataclass(frozen=True, slots=True)
class ModelSettings:
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    max_position_embeddings: int
    rope_theta: float


@dataclass(frozen=True, slots=True)
class OptimizerSettings:
    matrix_rate: float
    other_rate: float
    weight_decay: float
    warmup_steps: int
    decay_share: float
    answer_weight: int


@dataclass(frozen=True, slots=True)
class RunSettings:
    steps: int
    checkpoint_every: int
    compile: bool  # needs a C compiler; a third faster
    note: str  # what the card should say about how this run went


@dataclass(frozen=True, slots=True)
class Phase:
    share: float
    length: int
    rows: int
    mixture: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Settings:
    seed: int
    tokenizer: TokenizerSettings
    data: DataSettings
    model: ModelSettings
    optimizer: OptimizerSettings
    run: RunSettings
    phase: tuple[Phase, ...]


def _build(kind: type[T], values: Mapping[str, Any], where: str) -> T:
    known = {field.name for field in fields(kind)}  # type: ignore[arg-type]  # T is a dataclass here
    if wrong := sorted(known.symmetric_difference(values)):
        message = f"{where}: unknown or missing settings {wrong}; expected exactly {sorted(known)}"
        raise ValueError(message)
    return kind(**values)


def load(path: Path = DEFAULT) -> Settings:
    """Read a settings file; a misspelt key is an error."""
    raw = tomllib.loads(path.read_text(encoding="utf-8"))
    parts = {
        "tokenizer": TokenizerSettings,
        "data": DataSettings,
        "model": ModelSettings,
        "optimizer": OptimizerSettings,
        "run": RunSettings,
    }
    built: dict[str, Any] = {
        name: _build(kind, raw.pop(name, {}), f"{path.name} [{name}]")
        for name, kind in parts.items()
    }
    phases = tuple(_build(Phase, row, f"{path.name} [[phase]]") for row in raw.pop("phase", []))
    return _build(Settings, {**raw, **built, "phase": phases}, path.name)
