"""Less weight for what the text repeats word for word.

A model that learns its own answers learns its own loops, and then repeats them more (arXiv
2607.03441 reports it for agents that train on their own steps).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

LENGTH = 8
"""Tokens of a run that counts as a repetition."""


def damped(ids: Sequence[int], weights: Sequence[float]) -> tuple[float, ...]:
    """Weights of tokens, divided by how often the run of tokens that ends in each has come so far.

    Args:
        ids: a text.
        weights: of its tokens.
    """
    seen: Counter[tuple[int, ...]] = Counter()
    out = list(weights)
    for end in range(LENGTH, len(ids) + 1):
        run = tuple(ids[end - LENGTH : end])
        seen[run] += 1
        out[end - 1] /= seen[run]
    return tuple(out)
