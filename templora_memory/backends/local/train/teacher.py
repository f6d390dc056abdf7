"""The base model as a teacher: its distribution at the tokens of an answer."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile

import torch

from templora_memory.backends.local.base_model import BaseModel
from templora_memory.backends.local.kv_cache import KeyValues, cached_key_values, dynamic_cache
from templora_memory.backends.local.lora.batched import adapter_batch, use_adapters
from templora_memory.backends.local.recipes import TopKTargets


def shared_prefix(base: BaseModel, texts: Sequence[Sequence[int]]) -> KeyValues:
    """Return keys and values of what all texts begin with, the last token of each left out."""
    columns = zip(*(text[:-1] for text in texts), strict=False)
    same = sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, columns))
    if not same:
        return []
    cache = dynamic_cache(None)
    with torch.no_grad(), use_adapters(adapter_batch([None], base.dtype)):
        input_ids = torch.tensor([list(texts[0][:same])], device=base.device)  # [1, P]
        base.hidden_states(input_ids, past_key_values=cache, use_cache=True)
    return cached_key_values(cache)


def teacher_targets(
    base: BaseModel, ids: Sequence[int], count: int, prefix: KeyValues, *, top_k: int
) -> TopKTargets:
    """Return the likeliest tokens at the last `count` tokens of a text that begins with a prefix.

    Args:
        base: the model.
        ids: the text, its prefix included.
        count: t, tokens at the end whose distribution is wanted.
        prefix: keys and values [1, H, P, E] of what it begins with; empty: of nothing.
        top_k: K, tokens to keep at each; their probabilities are scaled to sum to 1.
    """
    known = prefix[0][0].shape[2] if prefix else 0  # P
    input_ids = torch.tensor([list(ids[known:-1])], device=base.device)  # [1, S]
    inputs = {
        "position_ids": torch.arange(known, len(ids) - 1, device=base.device)[None],
        "past_key_values": dynamic_cache(prefix or None),
        "use_cache": True,
    }
    with torch.no_grad(), use_adapters(adapter_batch([None], base.dtype)):
        if base.plain_lm_head:
            logits = base.lm_head(base.hidden_states(input_ids, **inputs)[0, -count:])  # [t, V]
        else:
            logits = base.logits(input_ids, last=False, **inputs)[0, -count:]
    best = logits.float().softmax(-1).topk(min(top_k, logits.shape[-1]), dim=-1)  # [t, K]
    p = best.values / best.values.sum(-1, keepdim=True)
    return TopKTargets(best.indices.cpu(), p.cpu())
