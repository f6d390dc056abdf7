"""Stored keys and values."""

from __future__ import annotations

import pytest
import torch

from templora_memory.backends.local.kv_cache import (
    GROWTH,
    cached_key_values,
    dynamic_cache,
    growing_cache,
)


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


def _pieces(*sizes):
    return [(torch.randn(2, 3, size, 4), torch.randn(2, 3, size, 5)) for size in sizes]


@pytest.mark.parametrize("given", [0, 7])
def test_a_growing_cache_holds_what_a_dynamic_one_holds(given):
    first, sizes = _pieces(given) if given else None, (5, 1, GROWTH - 1, 1, 1, 2 * GROWTH)
    growing, dynamic = growing_cache(first), dynamic_cache(first)
    for keys, values in _pieces(*sizes):
        got, wanted = growing.update(keys, values, 0), dynamic.update(keys, values, 0)
        assert torch.equal(got[0], wanted[0])
        assert torch.equal(got[1], wanted[1])
        assert growing.get_seq_length() == dynamic.get_seq_length()
        assert growing.get_mask_sizes(1, 0) == dynamic.get_mask_sizes(1, 0)


def test_a_growing_cache_moves_nothing_while_there_is_room():
    cache = growing_cache(None)
    cache.update(*_pieces(3)[0], 0)
    place = cached_key_values(cache)[0][0].data_ptr()
    for _ in range(GROWTH):
        cache.update(*_pieces(1)[0], 0)
    assert cached_key_values(cache)[0][0].data_ptr() == place


def test_what_a_growing_cache_was_given_stays_as_it_is():
    whole = _pieces(GROWTH)[0]
    beginning = [(whole[0][:, :, :4], whole[1][:, :, :4])]  # of something that others use
    before = [part.clone() for part in whole]
    growing_cache(beginning).update(*_pieces(2)[0], 0)
    assert all(torch.equal(now, then) for now, then in zip(whole, before, strict=True))
