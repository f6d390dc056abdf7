"""Keys and values as values: stored, padded, and handed to a forward pass again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

KeyValues: TypeAlias = list[tuple[Tensor, Tensor]]
"""Keys and values [B, H, P, E] of each of the L layers; empty: there are none."""


def dynamic_cache(key_values: Sequence[tuple[Tensor, Tensor]] | None) -> DynamicCache:
    """Return a new cache over stored keys and values.

    Always a new one: a forward appends to the cache it is given. Without a configuration every
    layer keeps everything; sliding windows are the mask's business, so no token is ever dropped.
    """
    return DynamicCache(ddp_cache_data=list(key_values)) if key_values else DynamicCache()


def cached_key_values(cache: DynamicCache) -> KeyValues:
    """Return the keys and values that a cache holds by now."""
    return [(layer.keys, layer.values) for layer in cache.layers]


def pad_left(states: Tensor, length: int) -> Tensor:
    """Return keys or values [B, H, P, E] with zeros before them, P becoming `length`."""
    missing = length - states.shape[2]
    if missing == 0:
        return states
    zeros = states.new_zeros(*states.shape[:2], missing, states.shape[3])
    return torch.cat([zeros, states], dim=2)
