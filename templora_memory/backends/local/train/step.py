"""The training step: adapters under training and one example each -> the same, one step on.

Every memory trains its own adapter with its own optimizer state; several of them share a batch,
and each gets the gradients that it would get alone. Only the chunk pays for loss and backward;
what stood before it enters as keys and values without gradient, except in the published form of
the algorithm, which keeps it inside the graph.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers.cache_utils import DynamicCache

from templora_memory.backends.local.base_model import BaseModel, pad_left, pairs_of, stored_cache
from templora_memory.backends.local.lora import batched
from templora_memory.backends.local.recipes import Example, Soft
from templora_memory.backends.local.train import loss
from templora_memory.domain.settings import Learning
from templora_memory.errors import InvalidSetting, StoreDamaged

OPTIMIZER, TRAINING = "optimizer.safetensors", "training.json"


class TrainingRow:
    """An adapter under training: one flat buffer with its gradient and AdamW state.

    The leaves of the graph are views made outside it, and their gradients are views of one
    buffer, bound in advance: slicing a leaf inside the graph is ten times slower.
    """

    def __init__(self, start: batched.Weights, settings: Learning) -> None:
        self.start = start
        self.settings = settings
        self._flat = start.flat.clone()[None]
        self._grad = torch.zeros_like(self._flat)
        grads = start.layout.views(self._grad)
        self.leaves: dict[str, tuple[Tensor, Tensor]] = {}
        for name, pair in start.layout.views(self._flat).items():
            a, b = (view.detach().requires_grad_() for view in pair)
            a.grad, b.grad = grads[name]
            self.leaves[name] = (a, b)
        self.parameter = nn.Parameter(self._flat[0])
        self.optimizer = torch.optim.AdamW(
            [self.parameter],
            lr=_rate(settings),
            betas=(settings.adam_beta1, settings.adam_beta2),
            eps=settings.adam_epsilon,
            weight_decay=settings.weight_decay,
            fused=True,
        )

    def weights(self) -> batched.Weights:
        """A copy as a value."""
        old = self.start
        return batched.Weights(
            old.layout, self._flat[0].detach().clone(), old.alpha, old.rank_stabilised
        )

    @property
    def finite(self) -> bool:
        return bool(self._flat.isfinite().all())

    def step(self, factor: float) -> None:
        """Clip the gradient, update, clear the gradient."""
        for group in self.optimizer.param_groups:
            group["lr"] = _rate(self.settings) * factor
        self._grad.mul_((self.settings.max_grad_norm / (self._grad.norm() + 1e-6)).clamp_(max=1.0))
        self.parameter.grad = self._grad[0]
        self.optimizer.step()
        self.clear()

    def clear(self) -> None:
        """Drop the gradient, also that of a step that failed."""
        self._grad.zero_()


def _rate(settings: Learning) -> float:
    if settings.learning_rate is None:
        raise InvalidSetting(
            "learning.learning_rate is not set: resolve the policy for the model first."
        )
    return settings.learning_rate


def rows_of(states: Sequence[TrainingRow], *, dropout: float = 0.0) -> batched.Rows:
    """The rows of a batch in which each of these adapters learns from one row, in this order.

    All of them have the same layers and rank.
    """
    if len({state.start.layout for state in states}) != 1:
        raise ValueError("rows of one batch need the same layers and rank")
    strength = torch.tensor([s.start.scale for s in states], device=states[0].parameter.device)
    rows = {}
    for name in states[0].leaves:
        pairs = [state.leaves[name] for state in states]
        a, b = pairs[0] if len(pairs) == 1 else map(torch.cat, zip(*pairs, strict=True))
        rows[name] = batched.Row(a, b, strength[:, None, None], dropout)
    return rows


# --- what one memory learns next ---------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """An example as the model sees it.

    Args:
        ids: input tokens.
        keep: positions in `ids` whose next token is learned.
        labels, weights: these tokens, and the loss weight of each; the weights sum to 1.
        mass: what the weights summed to before.
        soft: what to learn in place of the labels; None: the labels.
        seen: what stands before, as keys and values.
    """

    ids: tuple[int, ...]
    keep: tuple[int, ...]
    labels: tuple[int, ...]
    weights: tuple[float, ...]
    mass: float
    soft: Soft | None
    seen: Seen


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """Keys and values [1, heads, T, width] of each layer for `ids` at positions from `first` on."""

    ids: tuple[int, ...]
    first: int
    pairs: list[tuple[Tensor, Tensor]]

    @property
    def end(self) -> int:
        return self.first + len(self.ids)

    def last(self, ids: tuple[int, ...], *, room: int) -> Seen | None:
        """Its end if that is `ids` and leaves room for so many positions more, else None."""
        count = len(ids)
        if not count or self.ids[-count:] != ids or self.end > room:
            return None
        pairs = [(keys[:, :, -count:], values[:, :, -count:]) for keys, values in self.pairs]
        return Seen(ids, self.end - count, pairs)


NOTHING = Seen((), 0, [])


def prepare(
    base: BaseModel, example: Example, state: TrainingRow, before: Seen = NOTHING
) -> Prepared:
    """Cut an example to the model's length; see its context once, unless it is in the graph.

    The context is taken over from `before`, the keys and values of the example before this one,
    while these are of the same tokens and their positions leave room for the example. They were
    computed with the adapter of its last step or the one before; those further back, with older
    ones (the paper's cache reuse). Otherwise the context is run again.
    """
    room = max(0, base.context - len(example.ids))
    context = example.context[-room:] if room else ()
    inside = state.settings.context_gradient or base.checkpointed
    split = 0 if inside else max(0, len(context) - 1)
    sequence = context[split:] + example.ids
    marks = (0.0,) * (len(context) - split) + example.weights
    keep = tuple(at for at in range(len(sequence) - 1) if marks[at + 1])
    mass = sum(marks[at + 1] for at in keep)
    seen = NOTHING
    if split:
        seen = before.last(context[:split], room=base.context - len(sequence)) or _run(
            base, context[:split], state
        )
    own = [at + 1 - len(context) + split for at in keep]  # places of the labels in the chunk
    soft = example.soft
    return Prepared(
        ids=sequence[:-1],
        keep=keep,
        labels=tuple(sequence[at + 1] for at in keep),
        weights=tuple(marks[at + 1] / mass for at in keep),
        mass=mass,
        soft=None if soft is None else Soft(soft.ids[own], soft.p[own]),
        seen=seen,
    )


def _run(base: BaseModel, ids: tuple[int, ...], state: TrainingRow) -> Seen:
    cache = stored_cache(None)
    with torch.no_grad(), batched.using(rows_of([state])):
        tokens = torch.tensor([ids], device=base.device)
        base.hidden(tokens, past_key_values=cache, use_cache=True)
    return Seen(ids, 0, [(k.detach(), v.detach()) for k, v in pairs_of(cache)])


# --- one step ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Prepared examples, one a row: ids padded on the right, prefixes on the left.

    Args:
        ids, places: input tokens and their positions [S, T].
        row, column: where the labelled inputs are [n], row after row.
        targets: what these are to predict.
        sizes: labelled inputs of each row.
        prefix: keys and values [S, heads, P, width] of each layer; empty: nothing stands before.
        mask: which of P + T positions are there [S, P + T]; None: all of them.
    """

    ids: Tensor
    places: Tensor
    row: Tensor
    column: Tensor
    targets: loss.Targets
    sizes: tuple[int, ...]
    prefix: list[tuple[Tensor, Tensor]]
    mask: Tensor | None


def collate(base: BaseModel, rows: Sequence[Prepared]) -> Batch:
    """Tensors for one forward pass over these examples together."""
    length = max(1, *(len(row.ids) for row in rows))
    before = max(len(row.seen.ids) for row in rows)
    ids = torch.tensor([[*row.ids, *([0] * (length - len(row.ids)))] for row in rows])
    offsets = torch.tensor([len(row.seen.ids) for row in rows])
    ends = torch.tensor([row.seen.end for row in rows])
    where = torch.tensor(
        [(index, at) for index, row in enumerate(rows) for at in row.keep], dtype=torch.long
    ).reshape(-1, 2)
    mask = None
    if (offsets != before).any():
        mask = (torch.arange(before + length)[None] >= (before - offsets)[:, None]).long()
    return Batch(
        ids=ids.to(base.device),
        places=(ends[:, None] + torch.arange(length)[None]).to(base.device),
        row=where[:, 0].to(base.device),
        column=where[:, 1].to(base.device),
        targets=_targets(rows, base.device),
        sizes=tuple(len(row.keep) for row in rows),
        prefix=_stack([row.seen.pairs for row in rows], before) if before else [],
        mask=None if mask is None else mask.to(base.device),
    )


def _targets(rows: Sequence[Prepared], device: torch.device) -> loss.Targets:
    """What all rows predict, one after the other."""
    labels = _flat([row.labels for row in rows], torch.long, device)
    width = max((row.soft.ids.shape[1] for row in rows if row.soft is not None), default=1)
    ids = labels[:, None].repeat(1, width)
    p = torch.zeros(ids.shape, dtype=torch.float32, device=device)
    p[:, 0] = 1.0
    start = 0
    for row in rows:
        stop = start + len(row.labels)
        if row.soft is not None:
            own = row.soft.ids.shape[1]
            p[start:stop] = 0.0
            ids[start:stop, :own] = row.soft.ids.to(device)
            p[start:stop, :own] = row.soft.p.to(device)
        start = stop
    return loss.Targets(
        labels=labels,
        weight=_flat([row.weights for row in rows], torch.float32, device),
        ids=ids,
        p=p,
    )


def _flat(parts: Sequence[Sequence[float]], kind: torch.dtype, device: torch.device) -> Tensor:
    return torch.tensor([value for part in parts for value in part], dtype=kind, device=device)


def _stack(
    prefixes: Sequence[list[tuple[Tensor, Tensor]]], width: int
) -> list[tuple[Tensor, Tensor]]:
    """Keys and values of all rows, padded on the left; a row may have none."""
    if len(prefixes) == 1:
        return prefixes[0]
    like = next(prefix for prefix in prefixes if prefix)
    filled = [prefix or [(k[:, :, :0], v[:, :, :0]) for k, v in like] for prefix in prefixes]
    return [
        (
            torch.cat([pad_left(keys, width) for keys, _ in layer]),
            torch.cat([pad_left(values, width) for _, values in layer]),
        )
        for layer in zip(*filled, strict=True)
    ]


def batch_loss(
    base: BaseModel, batch: Batch, rows: batched.Rows, cache: DynamicCache | None = None
) -> tuple[Tensor, Tensor]:
    """Sum over rows of each row's mean loss, and the loss of every labelled token [n].

    The cache is a fresh one every time, because a forward appends to it; hand in one made of the
    batch's prefix to keep what it is filled with. Positions are explicit, because a rebuilt cache
    does not know them.
    """
    if cache is None and batch.prefix:
        cache = stored_cache(batch.prefix)
    inputs: dict[str, Any] = {"position_ids": batch.places, "use_cache": cache is not None}
    if cache is not None:
        inputs["past_key_values"] = cache
    if batch.mask is not None:
        inputs["attention_mask"] = batch.mask
    with batched.using(rows):
        if base.own_head:
            hidden = base.hidden(batch.ids, **inputs)[batch.row, batch.column]
            return loss.weighted_loss(hidden, base.head, batch.targets, batch.sizes)
        logits = base.logits(batch.ids, last=False, **inputs)[batch.row, batch.column].float()
        log_p, targets = logits.log_softmax(-1), batch.targets
        losses = targets.losses(log_p, slice(None))
        nll = -log_p.detach().gather(1, targets.labels[:, None]).squeeze(1)
        return (losses * targets.weight).sum(), nll


def measure(
    base: BaseModel, prepared: Sequence[Prepared], states: Sequence[TrainingRow]
) -> list[tuple[Tensor, Seen]]:
    """Of every row the loss of its labelled tokens, and what it has seen by then."""
    batch = collate(base, prepared)
    cache = stored_cache(batch.prefix)
    with torch.no_grad():
        _, nll = batch_loss(base, batch, rows_of(states), cache)
    return list(zip(torch.split(nll, list(batch.sizes)), seen_by(prepared, cache), strict=True))


def seen_by(prepared: Sequence[Prepared], cache: DynamicCache) -> list[Seen]:
    """Of every row what it has seen after a forward that filled this cache."""
    pairs = [(keys.detach(), values.detach()) for keys, values in pairs_of(cache)]
    width = max(len(row.seen.ids) for row in prepared)
    found = []
    for index, row in enumerate(prepared):
        cut = slice(width - len(row.seen.ids), width + len(row.ids))
        own = [(k[index : index + 1, :, cut], v[index : index + 1, :, cut]) for k, v in pairs]
        found.append(Seen(row.seen.ids + row.ids, row.seen.first, own))
    return found


# --- what is counted ---------------------------------------------------------------------------


@dataclass(slots=True)
class Progress:
    """What the released schedule and a carried optimizer count."""

    steps: int = 0
    chunks: int = 0


def rate_factor(settings: Learning, chunk: int) -> float:
    """Share of the rate for the chunk with this number, counted from 0 over the memory's life."""
    return 1.0 if settings.lr_scheduler_type == "constant" else min(1.0, chunk / 2)


# --- optimizer state on disk -------------------------------------------------------------------


def save_state(folder: Path, state: TrainingRow, counted: Progress) -> None:
    """Write AdamW's moments, for the next absorb."""
    kept = state.optimizer.state[state.parameter]
    tensors = {
        key: kept[key].detach().cpu().contiguous() for key in ("exp_avg", "exp_avg_sq", "step")
    }
    save_file(tensors, folder / OPTIMIZER, metadata={"format": "pt"})
    body = {"steps": counted.steps, "chunks": counted.chunks}
    (folder / TRAINING).write_text(json.dumps(body), encoding="utf-8")


def load_state(folder: Path, state: TrainingRow) -> Progress:
    """Read what `save_state` wrote; a folder without it starts afresh.

    Raises:
        StoreDamaged: the file does not fit the adapter.
    """
    if not (folder / OPTIMIZER).exists():
        return Progress()
    parameter = state.parameter
    try:
        tensors = load_file(folder / OPTIMIZER)
        if any(tensors[key].shape != parameter.shape for key in ("exp_avg", "exp_avg_sq")):
            raise StoreDamaged(f"The optimizer state in {folder} does not fit its adapter.")
        body = json.loads((folder / TRAINING).read_text(encoding="utf-8"))
        counted = Progress(steps=int(body["steps"]), chunks=int(body["chunks"]))
    except (SafetensorError, ValueError, KeyError, TypeError, FileNotFoundError) as error:
        raise StoreDamaged(f"The optimizer state in {folder} is damaged: {error}.") from error
    state.optimizer.state[parameter] = {
        key: value.to(parameter.device) for key, value in tensors.items()
    }
    return counted
