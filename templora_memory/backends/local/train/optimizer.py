"""AdamW over one flat buffer for each adapter, and its state on disk.

With the gradient g of the whole adapter [N], clipped to a norm of at most c (`max_grad_norm`),
moments m and v [N], and the learning rate lr of the step (AdamW, arXiv 1711.05101, algorithm 2)::

    g  = g * min(1, c / (|g| + 1e-6))
    m  = beta1 * m + (1 - beta1) * g           v = beta2 * v + (1 - beta2) * g * g
    x  = x - lr * weight_decay * x
    x  = x - lr * (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + epsilon)

All of it is elementwise but the norm, so that one fused call on the flat buffer does what one call
for each A and B would do.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from templora_memory.backends.local.lora.batched import AdapterBatch, LoraBatch, LoraWeights
from templora_memory.domain.settings import Learning
from templora_memory.errors import InvalidSetting, StoreDamaged

OPTIMIZER, TRAINING = "optimizer.safetensors", "training.json"


FIRST_LR_FACTOR, LAST_LR_FACTOR = 1.5, 0.1
"""The multiples of the learning rate that a linear schedule begins and ends with: over all of it
the mean is near that of a constant rate."""


class TrainableAdapter:
    """An adapter under training: one flat buffer with its gradient and AdamW state.

    The leaves of the graph are views made outside it, and their gradients are views of one
    buffer, bound in advance: slicing a leaf inside the graph is ten times slower.
    """

    def __init__(self, start: LoraWeights, settings: Learning) -> None:
        self.start = start
        self.settings = settings
        self._flat = start.flat.clone()[None]  # [1, N]
        self._grad = torch.zeros_like(self._flat)  # [1, N]
        grads = start.layout.views(self._grad)
        self.leaves: dict[str, tuple[Tensor, Tensor]] = {}
        for name, pair in start.layout.views(self._flat).items():
            a, b = (view.detach().requires_grad_() for view in pair)  # [1, r, I], [1, O, r]
            a.grad, b.grad = grads[name]  # backward adds to these: to views of `_grad`
            self.leaves[name] = (a, b)
        self.parameter = nn.Parameter(self._flat[0])  # [N], the same memory as the leaves
        self.optimizer = torch.optim.AdamW(
            [self.parameter],
            lr=_learning_rate(settings),
            betas=(settings.adam_beta1, settings.adam_beta2),
            eps=settings.adam_epsilon,
            weight_decay=settings.weight_decay,
            fused=True,
        )

    def weights(self) -> LoraWeights:
        """Return a copy as a value."""
        start = self.start
        return LoraWeights(
            start.layout, self._flat[0].detach().clone(), start.lora_alpha, start.use_rslora
        )

    @property
    def finite(self) -> bool:
        """True while every number of the adapter is finite."""
        return bool(self._flat.isfinite().all())

    def step(self, lr_factor: float) -> None:
        """Clip the gradient, update with this share of the learning rate, clear the gradient."""
        for group in self.optimizer.param_groups:
            group["lr"] = _learning_rate(self.settings) * lr_factor
        self._grad.mul_((self.settings.max_grad_norm / (self._grad.norm() + 1e-6)).clamp_(max=1.0))
        self.parameter.grad = self._grad[0]
        self.optimizer.step()
        self.clear()

    def clear(self) -> None:
        """Drop the gradient, also that of a step that failed."""
        self._grad.zero_()


def _learning_rate(settings: Learning) -> float:
    if settings.learning_rate is None:
        raise InvalidSetting(
            "learning.learning_rate is not set: resolve the policy for the model first."
        )
    return settings.learning_rate


def trainable_batch(adapters: Sequence[TrainableAdapter], *, dropout: float = 0.0) -> AdapterBatch:
    """Return the batch in which each of these adapters learns from one row, in this order.

    Raises:
        ValueError: they differ in layers or rank.
    """
    if len({adapter.start.layout for adapter in adapters}) != 1:
        raise ValueError("rows of one batch need the same layers and rank")
    scaling = torch.tensor(
        [adapter.start.scaling for adapter in adapters], device=adapters[0].parameter.device
    )  # [B]
    batch = {}
    for name in adapters[0].leaves:
        pairs = [adapter.leaves[name] for adapter in adapters]
        a, b = pairs[0] if len(pairs) == 1 else map(torch.cat, zip(*pairs, strict=True))
        batch[name] = LoraBatch(a, b, scaling[:, None, None], dropout)  # [B, r, I], [B, O, r]
    return batch


# --- the schedule ------------------------------------------------------------------------------


@dataclass(slots=True)
class TrainCounters:
    """Optimizer steps and chunks over a memory's life, for the schedule and a carried optimizer."""

    steps: int = 0
    chunks: int = 0


def lr_factor(settings: Learning, chunk: int, done: float | None = None) -> float:
    """Return what the learning rate is multiplied by for a step.

    Args:
        settings: which schedule.
        chunk: number of the chunk, counted from 0 over the adapter's life.
        done: share of a run of known length that lies behind the step, from 0 to 1; None: nobody
            knows how much is still to come.
    """
    if settings.lr_scheduler_type == "released":
        return min(1.0, chunk / 2)
    if settings.lr_scheduler_type == "linear" and done is not None:
        return FIRST_LR_FACTOR + (LAST_LR_FACTOR - FIRST_LR_FACTOR) * done
    return 1.0


# --- state on disk -----------------------------------------------------------------------------


def save_optimizer(folder: Path, adapter: TrainableAdapter, counters: TrainCounters) -> None:
    """Write AdamW's moments and the counters, for the next absorb."""
    state = adapter.optimizer.state[adapter.parameter]
    tensors = {
        key: state[key].detach().cpu().contiguous() for key in ("exp_avg", "exp_avg_sq", "step")
    }
    save_file(tensors, folder / OPTIMIZER, metadata={"format": "pt"})
    body = {"steps": counters.steps, "chunks": counters.chunks}
    (folder / TRAINING).write_text(json.dumps(body), encoding="utf-8")


def load_optimizer(folder: Path, adapter: TrainableAdapter) -> TrainCounters:
    """Read what `save_optimizer` wrote; a folder without it starts afresh.

    Raises:
        StoreDamaged: the file does not fit the adapter.
    """
    if not (folder / OPTIMIZER).exists():
        return TrainCounters()
    parameter = adapter.parameter
    try:
        tensors = load_file(folder / OPTIMIZER)
        if any(tensors[key].shape != parameter.shape for key in ("exp_avg", "exp_avg_sq")):
            raise StoreDamaged(f"The optimizer state in {folder} does not fit its adapter.")
        body = json.loads((folder / TRAINING).read_text(encoding="utf-8"))
        counters = TrainCounters(steps=int(body["steps"]), chunks=int(body["chunks"]))
    except (SafetensorError, ValueError, KeyError, TypeError, FileNotFoundError) as error:
        raise StoreDamaged(f"The optimizer state in {folder} is damaged: {error}.") from error
    adapter.optimizer.state[parameter] = {
        key: value.to(parameter.device) for key, value in tensors.items()
    }
    return counters
