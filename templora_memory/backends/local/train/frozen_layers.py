"""The layers below the lowest adapter: they never change, so that a text runs through them once.

A document is passed over many times, and the neutral text that holds a memory to the base model
comes again and again. With adapters in the upper layers only, what these read is the same in every
pass::

    below = layer[K - 1](... layer[0](embed(text)))       [S, D], kept
    loss  = head(norm(layer[L - 1](... layer[K](below))))     adapters in the layers from K on

Kept for packed examples and for neutral text, where the layers can run in two parts
(`BaseModel.divisible`); everything else runs whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

from templora_memory.backends.local.base_model import BaseModel
from templora_memory.backends.local.lora.batched import use_adapters
from templora_memory.backends.local.train.step import Below, TrainInputs, collate, model_inputs
from templora_memory.domain.lru import LruCache

MAX_BYTES = 128 * 2**20
"""Of the states that are kept for one text; what was used longest ago is computed again."""

_Key: TypeAlias = tuple[int, tuple[int, ...], tuple[int, ...]]


class FrozenStates:
    """Texts that came once, and what the lowest layer with an adapter reads of each [S, D]."""

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._states: LruCache[_Key, Tensor] = LruCache(max_bytes, size_of=_bytes)

    def of(self, base: BaseModel, layer: int, inputs: TrainInputs) -> Tensor:
        """Return the states [S, D] that layer number `layer` reads; computed if they are new."""
        key = layer, inputs.input_ids, inputs.segments
        known = self._states.get(key)
        if known is not None:
            return known
        batch = collate(base, [inputs])
        with torch.no_grad(), use_adapters(None):
            states = base.states_below(layer, batch.input_ids, **model_inputs(batch))
        return self._states.put(key, states[0])


def below(
    base: BaseModel, layer: int, rows: Sequence[tuple[FrozenStates, TrainInputs]]
) -> Below | None:
    """Return what the adapted layers of a batch read; None: the whole model is to be run.

    Args:
        base: the model.
        layer: the lowest with an adapter, of every row.
        rows: what is known of each row's texts, and the row.
    """
    kept = all(not inputs.prefix.ids for _, inputs in rows)
    if not layer or not kept or not (base.divisible and base.plain_lm_head):
        return None
    states = [known.of(base, layer, inputs) for known, inputs in rows]
    length = max(len(row) for row in states)
    return Below(
        layer,
        torch.stack([functional.pad(row, (0, 0, 0, length - len(row))) for row in states]),
    )


def _bytes(states: Tensor) -> int:
    return states.numel() * states.element_size()
