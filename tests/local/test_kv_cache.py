"""Stored keys and values."""

from __future__ import annotations

import pytest
import torch

from templora_memory.backends.local.kv_cache import cached_key_values, dynamic_cache


@pytest.fixture
def base(make_backend):
    return make_backend().loaded.base


def test_a_fresh_cache_holds_what_it_was_given_and_no_more(base):
    cache = dynamic_cache(None)
    base.hidden_states(torch.tensor([[1, 2, 3]]), past_key_values=cache, use_cache=True)
    pairs = cached_key_values(cache)
    again = dynamic_cache(pairs)
    base.hidden_states(
        torch.tensor([[4]]), past_key_values=again, use_cache=True,
        position_ids=torch.tensor([[3]]),
    )  # fmt: skip
    assert pairs[0][0].shape[2] == 3
    assert cached_key_values(again)[0][0].shape[2] == 4
