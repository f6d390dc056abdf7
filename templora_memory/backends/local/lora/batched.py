"""An adapter as a value, and a different adapter for every row of a batch.

One forward hook stands on each linear layer for the life of the model. On a call it looks up
which adapter each row of the batch has and adds ``strength * (x A^T) B^T``; where nothing is set,
the base output passes untouched. Nothing is merged, no global state names an "active" adapter.
The files are those of PEFT.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

from templora_memory.domain.settings import Learning
from templora_memory.errors import StoreDamaged, UnknownRevision, UnsupportedModel

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
MAX_RANK = 1024
_ATTENTION = frozenset({"attn", "self_attn", "attention", "self_attention"})
_MLP = frozenset({"mlp", "feed_forward", "ffn", "feedforward", "ff"})
_PREFIX = "base_model.model."

# --- which layers ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Target:
    """A linear layer that can carry a branch: its path in the model and its widths."""

    name: str
    inputs: int
    outputs: int


def linear_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Every linear layer of the text decoder but the output head, by path, in model order.

    Raises:
        UnsupportedModel: there is none.
    """
    head = model.get_output_embeddings()  # type: ignore[operator]
    inside = set(model.get_decoder().modules())  # type: ignore[operator]
    found = {
        name: module
        for name, module in model.named_modules()
        if module in inside and module is not head and isinstance(module, (nn.Linear, Conv1D))
    }
    if not found:
        raise UnsupportedModel(
            f"{type(model).__name__} has no linear layers in its decoder: it cannot carry a memory."
        )
    return found


def _target(name: str, module: nn.Module) -> Target:
    if isinstance(module, Conv1D):
        return Target(name, module.nx, module.nf)
    return Target(name, int(module.in_features), int(module.out_features))  # type: ignore[arg-type]


def choose_targets(
    layers: Mapping[str, nn.Module], wanted: str | Sequence[str]
) -> tuple[Target, ...]:
    """The layers that `Learning.target_modules` names.

    Raises:
        UnsupportedModel: it names none; the message lists what there is.
    """
    if wanted == "all-linear":
        chosen = list(layers)
    elif isinstance(wanted, str):
        parts = _ATTENTION if wanted == "attention" else _MLP
        chosen = [name for name in layers if parts & set(name.split("."))]
    else:
        chosen = [n for n in layers if any(n == end or n.endswith(f".{end}") for end in wanted)]
    if not chosen:
        endings = sorted({name.rsplit(".", 1)[-1] for name in layers})
        raise UnsupportedModel(
            f"targets {wanted!r} name no linear layer of this model. Its layers end in {endings}."
        )
    return tuple(_target(name, layers[name]) for name in chosen)


def peft_target_modules(layers: Mapping[str, nn.Module], targets: Sequence[Target]) -> list[str]:
    """The shortest endings that name exactly these layers, as portable as PEFT allows."""
    names = {target.name for target in targets}
    for length in (1, 2):
        endings = {".".join(name.split(".")[-length:]) for name in names}
        if {n for n in layers if any(n == e or n.endswith(f".{e}") for e in endings)} == names:
            return sorted(endings)
    return sorted(names)


# --- an adapter as a value ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Layout:
    """Where A [rank, inputs] and B [outputs, rank] of each layer lie in a flat buffer."""

    targets: tuple[Target, ...]
    rank: int

    @property
    def size(self) -> int:
        return sum(self.rank * (target.inputs + target.outputs) for target in self.targets)

    def views(self, flat: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        """Views of rows [S, size]: for each layer A [S, rank, inputs] and B [S, outputs, rank]."""
        views, start = {}, 0
        for target in self.targets:
            middle = start + self.rank * target.inputs
            stop = middle + self.rank * target.outputs
            views[target.name] = (
                flat[:, start:middle].view(-1, self.rank, target.inputs),
                flat[:, middle:stop].view(-1, target.outputs, self.rank),
            )
            start = stop
        return views


@dataclass(frozen=True, slots=True, eq=False)
class Weights:
    """One adapter in memory: a flat float32 buffer [size] and what it means.

    `alpha` and `rank_stabilised` give the factor of the branch as in PEFT.
    """

    layout: Layout
    flat: Tensor
    alpha: float
    rank_stabilised: bool

    @property
    def scale(self) -> float:
        rank = self.layout.rank
        return self.alpha / (math.sqrt(rank) if self.rank_stabilised else rank)

    @property
    def bytes(self) -> int:
        return self.flat.nbytes


def fresh_weights(layout: Layout, settings: Learning, device: torch.device) -> Weights:
    """A new adapter that changes nothing yet: A uniform as PEFT draws it, B zero."""
    generator = torch.Generator().manual_seed(settings.seed)
    flat = torch.zeros(layout.size)
    for target in layout.targets:
        a, _ = layout.views(flat[None])[target.name]
        bound = 1 / math.sqrt(target.inputs)  # Kaiming with a = sqrt(5)
        a.uniform_(-bound, bound, generator=generator)
    return Weights(layout, flat.to(device), settings.lora_alpha, settings.use_rslora)


# --- rows --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """A, B and factor of one layer for all rows: [S, r, in], [S, out, r], [S, 1, 1]."""

    a: Tensor
    b: Tensor
    strength: Tensor
    dropout: float


Rows: TypeAlias = Mapping[str, Row]
_ROWS: ContextVar[Rows | None] = ContextVar("templora_rows", default=None)


@contextmanager
def using(rows: Rows | None) -> Iterator[None]:
    """Use these adapters for one forward (and its backward); never hold this across a yield."""
    token = _ROWS.set(rows)
    try:
        yield
    finally:
        _ROWS.reset(token)


def current() -> Rows | None:
    """The adapters that are in use here."""
    return _ROWS.get()


def install(layers: Mapping[str, nn.Module]) -> None:
    """Put the hook on every layer, once for the life of the model; again changes nothing."""
    for name, module in layers.items():
        if not any(isinstance(hook, _Branch) for hook in module._forward_hooks.values()):  # noqa: SLF001  # torch has no other way to ask
            module.register_forward_hook(_Branch(name))


@contextmanager
def bound(layers: Mapping[str, nn.Module], rows: Rows | None) -> Iterator[None]:
    """Tell every layer's hook its row, for code that is compiled: it cannot read a context."""
    branches = [
        hook
        for module in layers.values()
        for hook in module._forward_hooks.values()  # noqa: SLF001  # as in `install`
        if isinstance(hook, _Branch)
    ]
    for branch in branches:
        branch.row = None if rows is None else rows.get(branch.name)
    try:
        yield
    finally:
        for branch in branches:
            branch.row = None


class _Branch:
    """The hook of one layer; `row` is looked at by compiled code only."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.row: Row | None = None

    def __call__(self, _: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        if torch.compiler.is_compiling():
            row = self.row
        else:
            rows = _ROWS.get()
            row = None if rows is None else rows.get(self.name)
        if row is None:
            return None  # the base, bit for bit
        x = inputs[0]
        if x.ndim != 3 or x.shape[0] != row.a.shape[0]:  # noqa: PLR2004
            raise UnsupportedModel(
                f"Layer {self.name} sees input of shape {tuple(x.shape)} for {row.a.shape[0]} "
                "rows: it mixes the rows of a batch. Leave it out: targets='attention'."
            )
        if row.dropout:
            x = functional.dropout(x, row.dropout)
        kind, device = output.dtype, output.device
        inner = torch.bmm(x.to(kind), row.a.to(device, kind).mT) * row.strength.to(device, kind)
        return torch.baddbmm(output, inner, row.b.to(device, kind).mT)


def rows_of(chosen: Sequence[tuple[Weights, float] | None], dtype: torch.dtype) -> Rows | None:
    """The rows for a batch of (adapter, strength) or None; None if every row is the base.

    Adapters of different rank or layers may share a batch: what one lacks is zero.
    """
    used = [item for item in chosen if item is not None and item[1] != 0]
    if not used:
        return None
    if len(chosen) == 1:
        weights, strength = used[0]
        factor = torch.full((1, 1, 1), weights.scale * strength, device=weights.flat.device)
        return {
            name: Row(a.to(dtype), b.to(dtype), factor, 0.0)
            for name, (a, b) in weights.layout.views(weights.flat[None]).items()
        }
    device = used[0][0].flat.device
    factor = torch.zeros(len(chosen), 1, 1, device=device)
    views: list[dict[str, tuple[Tensor, Tensor]]] = []
    for index, item in enumerate(chosen):
        active = item is not None and item[1] != 0
        views.append(item[0].layout.views(item[0].flat[None]) if item and active else {})
        factor[index] = item[0].scale * item[1] if item and active else 0.0
    rank = max(weights.layout.rank for weights, _ in used)
    targets = {target.name: target for weights, _ in used for target in weights.layout.targets}
    rows = {}
    for name, target in targets.items():
        a = torch.zeros(len(chosen), rank, target.inputs, device=device, dtype=dtype)
        b = torch.zeros(len(chosen), target.outputs, rank, device=device, dtype=dtype)
        for index, view in enumerate(views):
            if name in view:
                own_a, own_b = view[name]
                a[index, : own_a.shape[1]] = own_a[0]
                b[index, :, : own_b.shape[2]] = own_b[0]
        rows[name] = Row(a, b, factor, 0.0)
    return rows


# --- files -------------------------------------------------------------------------------------


def save_weights(
    weights: Weights, folder: Path, *, layers: Mapping[str, nn.Module], base: str, dropout: float
) -> None:
    """Write an adapter as PEFT does: weights in float32, and its configuration."""
    from peft import LoraConfig  # noqa: PLC0415  # slow to import, needed only here

    tensors = {}
    for name, (a, b) in weights.layout.views(weights.flat[None].detach().cpu()).items():
        tensors[f"{_PREFIX}{name}.lora_A.weight"] = a[0].contiguous()
        tensors[f"{_PREFIX}{name}.lora_B.weight"] = b[0].contiguous()
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    config = LoraConfig(
        r=weights.layout.rank,
        lora_alpha=weights.alpha,
        lora_dropout=dropout,
        use_rslora=weights.rank_stabilised,
        target_modules=peft_target_modules(layers, weights.layout.targets),
        fan_in_fan_out=any(isinstance(layer, Conv1D) for layer in layers.values()),
        base_model_name_or_path=base,
        inference_mode=True,
        task_type="CAUSAL_LM",
    )
    config.save_pretrained(str(folder))


def load_weights(folder: Path, layers: Mapping[str, nn.Module], device: torch.device) -> Weights:
    """Read an adapter; shapes are checked against the model before a tensor is loaded.

    Raises:
        UnknownRevision: the folder is gone.
        StoreDamaged: not an adapter that this backend writes, or not for this model.
    """
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        with safe_open(folder / WEIGHTS, "pt") as file:
            layout = _checked_layout(file, layers, folder)
            rank, alpha = layout.rank, config["lora_alpha"]
            strange = any(config.get(key) for key in ("use_dora", "alpha_pattern", "rank_pattern"))
            if config["r"] != rank or config["peft_type"] != "LORA" or strange:
                raise StoreDamaged(f"{folder / CONFIG} does not describe {WEIGHTS} beside it.")
            if not isinstance(alpha, (int, float)) or not math.isfinite(alpha):
                raise StoreDamaged(f"{folder / CONFIG}: lora_alpha is {alpha!r}, not a number.")
            flat = torch.empty(layout.size)
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
    return Weights(layout, flat.to(device), float(alpha), bool(config.get("use_rslora")))


def _checked_layout(file: Any, layers: Mapping[str, nn.Module], folder: Path) -> Layout:
    shapes = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
    names = [name for name in layers if f"{_PREFIX}{name}.lora_A.weight" in shapes]
    ranks = {shapes[f"{_PREFIX}{name}.lora_A.weight"][0] for name in names}
    if len(ranks) != 1 or len(shapes) != 2 * len(names) or not 0 < min(ranks) <= MAX_RANK:
        raise StoreDamaged(
            f"The adapter in {folder} does not fit this model: other layers or mixed ranks."
        )
    layout = Layout(tuple(_target(name, layers[name]) for name in names), ranks.pop())
    for target in layout.targets:
        wanted = {"A": (layout.rank, target.inputs), "B": (target.outputs, layout.rank)}
        for part, shape in wanted.items():
            found = shapes.get(f"{_PREFIX}{target.name}.lora_{part}.weight")
            if found != shape:
                raise StoreDamaged(
                    f"The adapter in {folder} does not fit this model: lora_{part} of "
                    f"{target.name} has shape {found}, expected {shape}."
                )
    return layout
