"""The base model as a teacher: what it expects at the tokens of an answer."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile

import torch
from torch import Tensor

from templora_memory.backends.local.base_model import BaseModel, pairs_of, stored_cache
from templora_memory.backends.local.lora import batched
from templora_memory.backends.local.recipes import Soft

Shared = list[tuple[Tensor, Tensor]]
"""Keys and values [1, heads, T, width] of each layer; empty: nothing is shared."""


def shared_beginning(base: BaseModel, texts: Sequence[Sequence[int]]) -> Shared:
    """Keys and values of what all texts begin with, the last token of each left out."""
    columns = zip(*(text[:-1] for text in texts), strict=False)
    same = sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, columns))
    if not same:
        return []
    cache = stored_cache(None)
    with torch.no_grad(), batched.using(batched.rows_of([None], base.dtype)):
        given = torch.tensor([list(texts[0][:same])], device=base.device)
        base.hidden(given, past_key_values=cache, use_cache=True)
    return pairs_of(cache)


def expected(base: BaseModel, ids: Sequence[int], count: int, shared: Shared, *, top: int) -> Soft:
    """The likeliest tokens at the last `count` tokens of a text that begins with `shared`."""
    known = shared[0][0].shape[2] if shared else 0
    given = torch.tensor([list(ids[known:-1])], device=base.device)
    places = torch.arange(known, len(ids) - 1, device=base.device)[None]
    cache = stored_cache(shared or None)
    with torch.no_grad(), batched.using(batched.rows_of([None], base.dtype)):
        if base.own_head:
            hidden = base.hidden(given, position_ids=places, past_key_values=cache, use_cache=True)[
                0, -count:
            ]
            logits = base.head(hidden)
        else:
            logits = base.logits(
                given, last=False, position_ids=places, past_key_values=cache, use_cache=True
            )[0, -count:]
    best = logits.float().softmax(-1).topk(min(top, logits.shape[-1]), dim=-1)
    p = best.values / best.values.sum(-1, keepdim=True)
    return Soft(best.indices.cpu(), p.cpu())
