"""The forward pass of a training step: one example of each memory, in one batch.

Every memory trains its own adapter with its own optimizer state; several of them share a batch,
and each gets the gradients that it would get alone. Only the chunk pays for loss and backward;
what stood before it enters as keys and values without gradient, except in the published form of
the algorithm, which keeps it inside the graph.

A row of the batch, with p tokens of prefix and s of input::

    attention_mask [B, P + S]   0 .. 0  1 ....... 1 | 1 ....... 1  1 ... 1
                                padding  p of prefix    s of input  padding, masked by causality
    position_ids   [B, S]                             prefix.end, prefix.end + 1, ...

Prefixes are padded on the left, so that each ends where the input begins; inputs on the right,
where no real token sees what comes later. A key carries its position already (rotary embeddings
are applied before a key is stored), so that only the inputs need positions.

Short questions with their answers are packed into one row: a lead of l tokens that all of them
follow, and segments that do not see each other, each at the positions that it would have alone::

    position_ids   [S]      0 .. l - 1 | l, l + 1, ...  | l, l + 1, ...  | ...
    attention_mask [S, S]   t sees u <= t where u is in the lead or in the segment of t
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from templora_memory.backends.local.base_model import BaseModel, prefill
from templora_memory.backends.local.kv_cache import (
    KeyValues,
    cached_key_values,
    dynamic_cache,
    pad_left,
)
from templora_memory.backends.local.lora.batched import AdapterBatch, use_adapters
from templora_memory.backends.local.recipes import Example
from templora_memory.backends.local.train.loss import LossTargets, weighted_loss
from templora_memory.backends.local.train.optimizer import TrainableAdapter, trainable_batch

# --- inputs of one memory ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class KVPrefix:
    """Keys and values [1, H, p, E] of each layer for the tokens `ids` at positions from `start`."""

    ids: tuple[int, ...]
    start: int
    key_values: KeyValues

    @property
    def end(self) -> int:
        """The position of the token that follows."""
        return self.start + len(self.ids)

    def suffix(self, ids: tuple[int, ...], *, max_end: int) -> KVPrefix | None:
        """Return its end, if that is `ids` and no position lies behind `max_end`; else None."""
        count = len(ids)
        if not count or self.ids[-count:] != ids or self.end > max_end:
            return None
        key_values = [
            (keys[:, :, -count:], values[:, :, -count:]) for keys, values in self.key_values
        ]
        return KVPrefix(ids, self.end - count, key_values)


EMPTY_PREFIX = KVPrefix((), 0, [])


@dataclass(frozen=True, slots=True, eq=False)
class TrainInputs:
    """One example as the model sees it: s input tokens, t of which have a label.

    Args:
        input_ids: input tokens [s].
        label_positions: positions in `input_ids` whose next token is learned [t].
        labels: these next tokens [t].
        loss_weights: the weight of each label's loss [t]; they sum to 1.
        weight_sum: what the weights summed to before.
        prefix: what stands before, as keys and values.
        segments: lengths of the lead and of the parts that do not see each other; they sum to
            s + 1, because the last token is no input. Empty: one text.
    """

    input_ids: tuple[int, ...]
    label_positions: tuple[int, ...]
    labels: tuple[int, ...]
    loss_weights: tuple[float, ...]
    weight_sum: float
    prefix: KVPrefix = EMPTY_PREFIX
    segments: tuple[int, ...] = ()


def prepare_inputs(
    base: BaseModel, example: Example, adapter: TrainableAdapter, before: KVPrefix = EMPTY_PREFIX
) -> TrainInputs:
    """Cut an example to the model's length; run its context once, unless it is in the graph.

    The context is taken over from `before`, the keys and values of the example before this one,
    while these are of the same tokens and their positions leave room for the example. They were
    computed with the adapter of its last step or the one before; those further back, with older
    ones (the paper's cache reuse). Otherwise the context is run again.
    """
    room = max(0, base.max_length - len(example.ids))
    context = example.context[-room:] if room else ()
    in_graph = adapter.settings.context_gradient or base.checkpointed
    # the last token of the context predicts the first of the chunk: it is input, not prefix
    split = 0 if in_graph else max(0, len(context) - 1)
    sequence = context[split:] + example.ids
    weights = (0.0,) * (len(context) - split) + example.weights
    prefix = EMPTY_PREFIX
    if split:
        prefix = before.suffix(
            context[:split], max_end=base.max_length - len(sequence)
        ) or KVPrefix(
            context[:split], 0, prefill(base, context[:split], trainable_batch([adapter]))
        )
    return _labelled(sequence, weights, prefix, example.segments)


def inputs_of(base: BaseModel, example: Example) -> TrainInputs:
    """Return an example without context, cut to the model's length, for `collate`."""
    cut = slice(base.max_length + 1)  # the last token is no input
    return _labelled(example.ids[cut], example.weights[cut], EMPTY_PREFIX, example.segments)


def _labelled(
    ids: tuple[int, ...],
    weights: tuple[float, ...],
    prefix: KVPrefix,
    segments: tuple[int, ...],
) -> TrainInputs:
    """Return inputs whose labels are the tokens with a weight, but the first."""
    positions = tuple(at for at in range(len(ids) - 1) if weights[at + 1])
    weight_sum = sum(weights[at + 1] for at in positions)
    return TrainInputs(
        input_ids=ids[:-1],
        label_positions=positions,
        labels=tuple(ids[at + 1] for at in positions),
        loss_weights=tuple(weights[at + 1] / weight_sum for at in positions),
        weight_sum=weight_sum,
        prefix=prefix,
        segments=segments,
    )


# --- one batch ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class TrainBatch:
    """Inputs of several memories, one a row: tokens padded on the right, prefixes on the left.

    Args:
        input_ids, position_ids: input tokens and their positions [B, S].
        label_rows, label_columns: where the labelled inputs are [T], row after row.
        targets: what these are to predict.
        labels_per_row: labelled inputs of each row; they sum to T.
        prefix: keys and values [B, H, P, E] of each layer; empty: nothing stands before.
        attention_mask: 1 where there is a token [B, P + S]; with segments 0 where a token is seen
            and minus infinity, nearly, where not [B, 1, S, P + S]; None: everywhere, or padding
            is only on the right, where nothing real sees it.
    """

    input_ids: Tensor
    position_ids: Tensor
    label_rows: Tensor
    label_columns: Tensor
    targets: LossTargets
    labels_per_row: tuple[int, ...]
    prefix: KeyValues
    attention_mask: Tensor | None


def collate(base: BaseModel, inputs: Sequence[TrainInputs]) -> TrainBatch:
    """Return the tensors for one forward pass over these examples together."""
    length = max(1, *(len(row.input_ids) for row in inputs))  # S
    before = max(len(row.prefix.ids) for row in inputs)  # P
    input_ids = torch.tensor(
        [[*row.input_ids, *([0] * (length - len(row.input_ids)))] for row in inputs]
    )  # [B, S]
    prefix_lengths = torch.tensor([len(row.prefix.ids) for row in inputs])  # [B]
    prefix_ends = torch.tensor([row.prefix.end for row in inputs])  # [B]
    labelled = torch.tensor(
        [(index, at) for index, row in enumerate(inputs) for at in row.label_positions],
        dtype=torch.long,
    ).reshape(-1, 2)  # [T, 2]
    positions = torch.stack([_positions(row.segments, length) for row in inputs])  # [B, S]
    attention_mask = None
    if any(row.segments for row in inputs):
        attention_mask = _segment_mask(inputs, length, before, base.dtype).to(base.device)
    elif (prefix_lengths != before).any():
        columns = torch.arange(before + length)[None]  # [1, P + S]
        attention_mask = (columns >= (before - prefix_lengths)[:, None]).long()
        attention_mask = attention_mask.to(base.device)
    return TrainBatch(
        input_ids=input_ids.to(base.device),
        position_ids=(prefix_ends[:, None] + positions).to(base.device),
        label_rows=labelled[:, 0].to(base.device),
        label_columns=labelled[:, 1].to(base.device),
        targets=_targets(inputs, base.device),
        labels_per_row=tuple(len(row.label_positions) for row in inputs),
        prefix=_stack([row.prefix.key_values for row in inputs], before) if before else [],
        attention_mask=attention_mask,
    )


def _positions(segments: Sequence[int], length: int) -> Tensor:
    """Return the positions [S] of a row's tokens: every segment begins behind the lead."""
    positions = torch.arange(length)
    start = lead = segments[0] if segments else 0
    for size in segments[1:]:
        positions[start : start + size] -= start - lead
        start += size
    return positions


def _segment_mask(
    inputs: Sequence[TrainInputs], length: int, before: int, dtype: torch.dtype
) -> Tensor:
    """Return what is added to the attention scores [B, 1, S, P + S]: 0, or the least number."""
    causal = torch.ones(length, length, dtype=torch.bool).tril()  # [S, S]
    seen = torch.zeros(len(inputs), 1, length, before + length, dtype=torch.bool)
    for index, row in enumerate(inputs):
        own = torch.zeros(length, dtype=torch.long)  # [S], the number of each token's segment
        start = 0
        for number, size in enumerate(row.segments):
            own[start : start + size] = number
            start += size
        together = (own[:, None] == own[None]) | (own[None] == 0)  # 0: the lead, or one text
        seen[index, 0, :, before - len(row.prefix.ids) : before] = True
        seen[index, 0, :, before:] = causal & together
    return torch.zeros(seen.shape, dtype=dtype).masked_fill(~seen, torch.finfo(dtype).min)


def _targets(inputs: Sequence[TrainInputs], device: torch.device) -> LossTargets:
    """Return the targets of all rows, one after the other."""
    return LossTargets(
        labels=_concatenate([row.labels for row in inputs], torch.long, device),  # [T]
        weights=_concatenate([row.loss_weights for row in inputs], torch.float32, device),
    )


def _concatenate(
    parts: Sequence[Sequence[float]], dtype: torch.dtype, device: torch.device
) -> Tensor:
    return torch.tensor([value for part in parts for value in part], dtype=dtype, device=device)


def _stack(prefixes: Sequence[KeyValues], length: int) -> KeyValues:
    """Return keys and values of all rows [B, H, P, E], padded on the left; a row may have none."""
    if len(prefixes) == 1:
        return prefixes[0]
    like = next(prefix for prefix in prefixes if prefix)
    filled = [prefix or [(k[:, :, :0], v[:, :, :0]) for k, v in like] for prefix in prefixes]
    return [
        (
            torch.cat([pad_left(keys, length) for keys, _ in layer]),
            torch.cat([pad_left(values, length) for _, values in layer]),
        )
        for layer in zip(*filled, strict=True)
    ]


def model_inputs(batch: TrainBatch, cache: DynamicCache | None = None) -> dict[str, Any]:
    """Return what a model's forward takes beside the tokens."""
    inputs: dict[str, Any] = {"position_ids": batch.position_ids, "use_cache": cache is not None}
    if cache is not None:
        inputs["past_key_values"] = cache
    if batch.attention_mask is not None:
        inputs["attention_mask"] = batch.attention_mask
    return inputs


class Below(NamedTuple):
    """What the layers from `layer` on read, as `frozen_layers` keeps it: states [B, S, D]."""

    layer: int
    states: Tensor


def labelled_states(
    base: BaseModel, batch: TrainBatch, below: Below | None, cache: DynamicCache | None = None
) -> Tensor:
    """Return the hidden states [T, D] before the head where there are labels.

    With `below` only the layers above run.
    """
    inputs = model_inputs(batch, cache)
    if below is None:
        states = base.hidden_states(batch.input_ids, **inputs)
    else:
        states = base.states_above(below.layer, below.states, **inputs)
    return states[batch.label_rows, batch.label_columns]


def batch_loss(
    base: BaseModel,
    batch: TrainBatch,
    adapters: AdapterBatch,
    cache: DynamicCache | None = None,
    below: Below | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the sum over rows of each row's mean loss, and the loss of every label [T].

    The cache is a fresh one every time, because a forward appends to it; hand in one made of the
    batch's prefix to keep what it is filled with. Positions are explicit, because a rebuilt cache
    does not know them.
    """
    if cache is None and batch.prefix:
        cache = dynamic_cache(batch.prefix)
    with use_adapters(adapters):
        if base.plain_lm_head:
            hidden = labelled_states(base, batch, below, cache)  # [T, D]
            return weighted_loss(hidden, base.lm_head, batch.targets, batch.labels_per_row)
        inputs = model_inputs(batch, cache)
        labelled = batch.label_rows, batch.label_columns
        logits = base.logits(batch.input_ids, last=False, **inputs)[labelled].float()  # [T, V]
        log_p, targets = logits.log_softmax(-1), batch.targets
        losses = -log_p.gather(1, targets.labels[:, None]).squeeze(1)  # [T]
        return (losses * targets.weights).sum(), losses.detach()


def measure(
    base: BaseModel, inputs: Sequence[TrainInputs], adapters: Sequence[TrainableAdapter]
) -> list[tuple[Tensor, KVPrefix]]:
    """Return, of every row, the loss of its labels [t], and its keys and values so far."""
    batch = collate(base, inputs)
    cache = dynamic_cache(batch.prefix)
    with torch.no_grad():
        _, nll = batch_loss(base, batch, trainable_batch(adapters), cache)
    losses = torch.split(nll, list(batch.labels_per_row))
    return list(zip(losses, prefixes_after(inputs, cache), strict=True))


def prefixes_after(inputs: Sequence[TrainInputs], cache: DynamicCache) -> list[KVPrefix]:
    """Return, of every row, its prefix and inputs as a prefix, from the cache a forward filled."""
    key_values = [(keys.detach(), values.detach()) for keys, values in cached_key_values(cache)]
    before = max(len(row.prefix.ids) for row in inputs)  # P
    prefixes = []
    for index, row in enumerate(inputs):
        tokens = slice(before - len(row.prefix.ids), before + len(row.input_ids))  # no padding
        own = [
            (k[index : index + 1, :, tokens], v[index : index + 1, :, tokens])
            for k, v in key_values
        ]
        prefixes.append(KVPrefix(row.prefix.ids + row.input_ids, row.prefix.start, own))
    return prefixes
