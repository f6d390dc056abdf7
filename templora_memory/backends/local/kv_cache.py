"""Keys and values as values: stored, padded, and handed to a forward pass again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer

KeyValues: TypeAlias = list[tuple[Tensor, Tensor]]
"""Keys and values [B, H, P, E] of each of the L layers; empty: there are none."""
GROWTH = 128
"""Tokens that a cache has room for beyond what it holds, each time it is made larger."""


def dynamic_cache(key_values: Sequence[tuple[Tensor, Tensor]] | None) -> DynamicCache:
    """Return a new cache over stored keys and values.

    Always a new one: a forward appends to the cache it is given. Without a configuration every
    layer keeps everything; sliding windows are the mask's business, so no token is ever dropped.
    """
    return DynamicCache(ddp_cache_data=list(key_values)) if key_values else DynamicCache()


def growing_cache(key_values: Sequence[tuple[Tensor, Tensor]] | None) -> DynamicCache:
    """Return a new cache over stored keys and values for decoding, without gradients.

    A token is written into room that is there already, where `dynamic_cache` copies all tokens for
    each new one. What it was given is never written into.
    """
    cache = DynamicCache()
    cache.layer_class_to_replicate = GrowingLayer
    for keys, values in key_values or ():
        layer = GrowingLayer()
        layer.lazy_initialization(keys, values)
        layer.keys, layer.values = keys, values
        cache.layers.append(layer)
    return cache


class GrowingLayer(DynamicLayer):  # type: ignore[misc]  # transformers hands out no types
    """Keys and values of one layer as views [B, H, P, E] of the beginning of larger buffers."""

    keys: Tensor
    values: Tensor
    _buffers: tuple[Tensor, Tensor] | None = None

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Add keys and values [B, H, S, E]; return those of all tokens [B, H, P + S, E]."""
        del args, kwargs
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        known = self.get_seq_length()  # P
        length = known + key_states.shape[2]
        if self._buffers is None or self._buffers[0].shape[2] < length:
            self._buffers = (
                _with_room(self.keys if known else None, key_states, length),
                _with_room(self.values if known else None, value_states, length),
            )
        keys, values = self._buffers
        keys[:, :, known:length] = key_states
        values[:, :, known:length] = value_states
        self.keys, self.values = keys[:, :, :length], values[:, :, :length]
        return self.keys, self.values


def _with_room(states: Tensor | None, more: Tensor, length: int) -> Tensor:
    """Return a buffer for `length` tokens and `GROWTH` that begins with these keys or values."""
    batch, heads, _, size = more.shape
    buffer = more.new_empty(batch, heads, length + GROWTH, size)
    if states is not None:
        buffer[:, :, : states.shape[2]] = states
    return buffer


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
