"""A LoRA as a value, and a different LoRA for every row of a batch.

One forward hook stands on each linear layer for the life of the model. On a call it looks up
which adapter each row of the batch has and adds that row's low-rank branch to the layer's output.
With a frozen weight W [O, I], and for row b an A [r, I], a B [O, r] and a scaling s (LoRA, arXiv
2106.09685, section 4.1; the factor alpha / r is PEFT's)::

    y[b] = W x[b] + s[b] * B[b] (A[b] x[b])
    s[b] = strength[b] * lora_alpha / r           (rsLoRA: lora_alpha / sqrt(r))

Where nothing is set, the base output passes untouched. Nothing is merged, and no global state
names an "active" adapter.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

from templora_memory.domain.settings import Learning
from templora_memory.errors import UnsupportedModel

_ATTENTION = frozenset({"attn", "self_attn", "attention", "self_attention"})
_MLP = frozenset({"mlp", "feed_forward", "ffn", "feedforward", "ff"})

# --- target modules ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TargetModule:
    """A linear layer that can carry a LoRA: its path in the model and its sizes I and O."""

    name: str
    in_features: int
    out_features: int


def linear_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Return every linear layer of the text decoder but the LM head, by path, in model order.

    Raises:
        UnsupportedModel: there is none.
    """
    lm_head = model.get_output_embeddings()  # type: ignore[operator]
    decoder = set(model.get_decoder().modules())  # type: ignore[operator]
    layers = {
        name: module
        for name, module in model.named_modules()
        if module in decoder and module is not lm_head and isinstance(module, (nn.Linear, Conv1D))
    }
    if not layers:
        raise UnsupportedModel(
            f"{type(model).__name__} has no linear layers in its decoder: it cannot carry a memory."
        )
    return layers


def target_module(name: str, module: nn.Module) -> TargetModule:
    """Return the sizes of a linear layer; Conv1D, GPT-2's, holds its weight transposed."""
    if isinstance(module, Conv1D):
        return TargetModule(name, module.nx, module.nf)
    return TargetModule(name, int(module.in_features), int(module.out_features))  # type: ignore[arg-type]


def choose_targets(
    layers: Mapping[str, nn.Module],
    target_modules: str | Sequence[str],
    layers_to_transform: str | Sequence[int] = "all",
) -> tuple[TargetModule, ...]:
    """Return the layers that `Learning.target_modules` names.

    Args:
        layers: the model's linear layers by path.
        target_modules: "all-linear", "attention", "mlp", or endings of paths.
        layers_to_transform: "all", "upper-half", "upper-third", or the numbers of decoder layers.

    Raises:
        UnsupportedModel: it names none; the message lists what there is.
    """
    if target_modules == "all-linear":
        chosen = list(layers)
    elif isinstance(target_modules, str):
        parts = _ATTENTION if target_modules == "attention" else _MLP
        chosen = [name for name in layers if parts & set(name.split("."))]
    else:
        chosen = [
            name
            for name in layers
            if any(name == end or name.endswith(f".{end}") for end in target_modules)
        ]
    if not chosen:
        endings = sorted({name.rsplit(".", 1)[-1] for name in layers})
        raise UnsupportedModel(
            f"targets {target_modules!r} name no linear layer of this model. Its layers end in "
            f"{endings}."
        )
    numbers = {name: _layer_number(name) for name in chosen}
    if layers_to_transform != "all":
        chosen = _in_layers(numbers, layers_to_transform)
    return tuple(target_module(name, layers[name]) for name in chosen)


def _layer_number(name: str) -> int | None:
    """Return the number of the decoder layer in a path: the first number there."""
    return next((int(part) for part in name.split(".") if part.isdigit()), None)


def lowest_layer(names: Iterable[str]) -> int:
    """Return the number of the lowest decoder layer among paths; 0 if one is in no layer."""
    return min((_layer_number(name) or 0 for name in names), default=0)


def _in_layers(
    numbers: Mapping[str, int | None], layers_to_transform: str | Sequence[int]
) -> list[str]:
    known = sorted({number for number in numbers.values() if number is not None})
    if layers_to_transform == "upper-half":
        wanted = set(known[len(known) // 2 :])
    elif layers_to_transform == "upper-third":
        wanted = set(known[len(known) * 2 // 3 :])
    else:
        wanted = {int(number) for number in layers_to_transform}
        if unknown := sorted(wanted - set(known)):
            raise UnsupportedModel(
                f"layers_to_transform names {unknown}: the layers with such targets are {known}."
            )
    return [name for name, number in numbers.items() if number is None or number in wanted]


# --- an adapter as a value ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LoraLayout:
    """Offsets of A [r, I] and B [O, r] of each target module in a flat buffer [N]."""

    targets: tuple[TargetModule, ...]
    r: int

    @property
    def size(self) -> int:
        """N, the length of the buffer."""
        return sum(self.r * (target.in_features + target.out_features) for target in self.targets)

    def views(self, flat: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        """Return views into rows [B, N]: for each module A [B, r, I] and B [B, O, r]."""
        views, start = {}, 0
        for target in self.targets:
            middle = start + self.r * target.in_features
            stop = middle + self.r * target.out_features
            views[target.name] = (
                flat[:, start:middle].view(-1, self.r, target.in_features),  # [B, r, I]
                flat[:, middle:stop].view(-1, target.out_features, self.r),  # [B, O, r]
            )
            start = stop
        return views


@dataclass(frozen=True, slots=True, eq=False)
class LoraWeights:
    """One adapter in memory: a flat float32 buffer [N], its layout, and PEFT's scaling settings."""

    layout: LoraLayout
    flat: Tensor
    lora_alpha: float
    use_rslora: bool

    @property
    def scaling(self) -> float:
        """The factor of the branch at strength 1: lora_alpha / r, or / sqrt(r) with rsLoRA."""
        r = self.layout.r
        return self.lora_alpha / (math.sqrt(r) if self.use_rslora else r)

    @property
    def bytes(self) -> int:
        """Memory that the buffer takes."""
        return self.flat.nbytes


def init_weights(layout: LoraLayout, settings: Learning, device: torch.device) -> LoraWeights:
    """Return a new adapter that changes nothing yet: A uniform as PEFT draws it, B zero."""
    generator = torch.Generator().manual_seed(settings.seed)
    flat = torch.zeros(layout.size)  # [N]
    for target in layout.targets:
        a, _ = layout.views(flat[None])[target.name]
        bound = 1 / math.sqrt(target.in_features)  # Kaiming with a = sqrt(5)
        a.uniform_(-bound, bound, generator=generator)
    return LoraWeights(layout, flat.to(device), settings.lora_alpha, settings.use_rslora)


# --- adapters of a batch -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class LoraBatch:
    """The LoRAs of one layer for all rows of a batch.

    Args:
        lora_A: [B, r, I].
        lora_B: [B, O, r].
        scaling: factor of each row's branch [B, 1, 1]; 0: the base model.
        dropout: probability with which an input of the branch is dropped, while training.
    """

    lora_A: Tensor  # noqa: N815  # PEFT's name
    lora_B: Tensor  # noqa: N815  # PEFT's name
    scaling: Tensor
    dropout: float


AdapterBatch: TypeAlias = Mapping[str, LoraBatch]
"""One adapter for every row of a batch: the path of each layer, and its LoRAs."""

_CURRENT: ContextVar[AdapterBatch | None] = ContextVar("templora_adapters", default=None)


@contextmanager
def use_adapters(adapters: AdapterBatch | None) -> Iterator[None]:
    """Use these adapters for one forward (and its backward); never hold this across a yield."""
    token = _CURRENT.set(adapters)
    try:
        yield
    finally:
        _CURRENT.reset(token)


def current_adapters() -> AdapterBatch | None:
    """Return the adapters that are in use in this context."""
    return _CURRENT.get()


def install_hooks(layers: Mapping[str, nn.Module]) -> None:
    """Put the hook on every layer, once for the life of the model; again changes nothing."""
    for name, module in layers.items():
        if not any(isinstance(hook, _LoraHook) for hook in module._forward_hooks.values()):  # noqa: SLF001  # torch has no other way to ask
            module.register_forward_hook(_LoraHook(name))


@contextmanager
def bind_adapters(layers: Mapping[str, nn.Module], adapters: AdapterBatch | None) -> Iterator[None]:
    """Hand every layer's hook its LoRAs, for code that is compiled: it cannot read a context."""
    hooks = [
        hook
        for module in layers.values()
        for hook in module._forward_hooks.values()  # noqa: SLF001  # as in `install_hooks`
        if isinstance(hook, _LoraHook)
    ]
    for hook in hooks:
        hook.bound = None if adapters is None else adapters.get(hook.name)
    try:
        yield
    finally:
        for hook in hooks:
            hook.bound = None


class _LoraHook:
    """The forward hook of one layer; only compiled code looks at `bound`."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.bound: LoraBatch | None = None

    def __call__(self, _: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        if torch.compiler.is_compiling():
            lora = self.bound
        else:
            adapters = _CURRENT.get()
            lora = None if adapters is None else adapters.get(self.name)
        if lora is None:
            return None  # the base, bit for bit
        x = inputs[0]  # [B, S, I]
        if x.ndim != 3 or x.shape[0] != lora.lora_A.shape[0]:  # noqa: PLR2004
            raise UnsupportedModel(
                f"Layer {self.name} sees input of shape {tuple(x.shape)} for "
                f"{lora.lora_A.shape[0]} rows: it mixes the rows of a batch. Leave it out: "
                "targets='attention'."
            )
        if lora.dropout:
            x = functional.dropout(x, lora.dropout)
        dtype, device = output.dtype, output.device
        # y = W x + s * B (A x), transposed, because x holds its tokens as rows
        ax = torch.bmm(x.to(dtype), lora.lora_A.to(device, dtype).mT)  # [B, S, r]
        ax = ax * lora.scaling.to(device, dtype)
        return torch.baddbmm(output, ax, lora.lora_B.to(device, dtype).mT)  # [B, S, O]


AdapterChoice: TypeAlias = tuple[LoraWeights, float] | None
"""An adapter and its strength; None: the base model."""


class AdapterRows:
    """The adapters of a batch whose rows come and go; each adapter is copied when it comes.

    Adapters of one layout stand as rows of one buffer [C, N]. Where layouts differ, all are put
    together anew at every change, by `adapter_batch`.

    Args:
        dtype: of the branches.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        self._dtype = dtype
        self._choices: list[AdapterChoice] = []
        self._flat: Tensor | None = None
        self._batch: AdapterBatch | None = None

    @property
    def batch(self) -> AdapterBatch | None:
        """The adapters of all rows; None if every row is the base model."""
        return self._batch

    def clear(self) -> None:
        """Take out all rows."""
        self._choices, self._flat, self._batch = [], None, None

    def append(self, choice: AdapterChoice) -> None:
        """Add a row at the end."""
        # without strength an adapter is the base model
        self._choices.append(choice if choice and choice[1] else None)
        if self._flat is not None and len(self._choices) <= len(self._flat) and self._layout():
            self._copy(len(self._choices) - 1)
        else:
            self._flat = None
        self._rebuild()

    def keep(self, rows: Sequence[int]) -> None:
        """Keep only these rows, in this order; a row moves forward or stays where it is."""
        for place, row in enumerate(rows):
            if self._flat is not None and place != row:
                self._flat[place] = self._flat[row]
        self._choices = [self._choices[row] for row in rows]
        self._rebuild()

    def _rebuild(self) -> None:
        """Make the batch of the rows there are, copying only what is in no buffer yet."""
        choices, layout = self._choices, self._layout()
        if len(choices) < 2 or layout is None:  # noqa: PLR2004  # one row needs no buffer
            self._flat = None
            self._batch = adapter_batch(choices, self._dtype)
            return
        device = next(choice[0].flat.device for choice in choices if choice)
        if self._flat is None:
            self._flat = torch.empty(
                2 * len(choices), layout.size, dtype=self._dtype, device=device
            )
            for row in range(len(choices)):
                self._copy(row)
        factors = [choice[0].scaling * choice[1] if choice else 0.0 for choice in choices]
        scaling = torch.tensor(factors, device=device)[:, None, None]  # [B, 1, 1]
        self._batch = {
            name: LoraBatch(a, b, scaling, 0.0)
            for name, (a, b) in layout.views(self._flat[: len(choices)]).items()
        }

    def _layout(self) -> LoraLayout | None:
        """Return the layout that all adapters have; None if they differ or no row has one."""
        layouts = [choice[0].layout for choice in self._choices if choice]
        first = next(iter(layouts), None)
        return first if all(layout == first for layout in layouts) else None

    def _copy(self, row: int) -> None:
        assert self._flat is not None  # noqa: S101  # whoever calls this has made it
        choice = self._choices[row]
        if choice is None:
            self._flat[row].zero_()
        else:
            self._flat[row].copy_(choice[0].flat)


def adapter_batch(choices: Sequence[AdapterChoice], dtype: torch.dtype) -> AdapterBatch | None:
    """Return the adapters of a batch, one (adapter, strength) or None for each row.

    Adapters of different rank or layers may share a batch: what one lacks is zero.

    Returns:
        None if every row is the base model.
    """
    used = [choice for choice in choices if choice is not None and choice[1] != 0]
    if not used:
        return None
    if len(choices) == 1:  # no copy into a larger tensor
        weights, strength = used[0]
        scaling = torch.full((1, 1, 1), weights.scaling * strength, device=weights.flat.device)
        return {
            name: LoraBatch(a.to(dtype), b.to(dtype), scaling, 0.0)
            for name, (a, b) in weights.layout.views(weights.flat[None]).items()
        }
    device = used[0][0].flat.device
    scaling = torch.zeros(len(choices), 1, 1, device=device)  # [B, 1, 1]
    views: list[dict[str, tuple[Tensor, Tensor]]] = []
    for row, choice in enumerate(choices):
        active = choice is not None and choice[1] != 0
        views.append(choice[0].layout.views(choice[0].flat[None]) if choice and active else {})
        scaling[row] = choice[0].scaling * choice[1] if choice and active else 0.0
    r = max(weights.layout.r for weights, _ in used)
    targets = {target.name: target for weights, _ in used for target in weights.layout.targets}
    adapters = {}
    for name, target in targets.items():
        lora_a = torch.zeros(len(choices), r, target.in_features, device=device, dtype=dtype)
        lora_b = torch.zeros(len(choices), target.out_features, r, device=device, dtype=dtype)
        for row, view in enumerate(views):
            if name in view:
                a, b = view[name]  # [1, its r, I], [1, O, its r]
                lora_a[row, : a.shape[1]] = a[0]
                lora_b[row, :, : b.shape[2]] = b[0]
        adapters[name] = LoraBatch(lora_a, lora_b, scaling, 0.0)
    return adapters
