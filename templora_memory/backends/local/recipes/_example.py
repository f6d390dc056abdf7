"""What a recipe makes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from templora_memory._ports import LearnRequest
from templora_memory.backends.local._text import Text


@dataclass(frozen=True, slots=True)
class Example:
    """One update: tokens to learn after tokens that are only seen.

    Args:
        context: tokens before, at most as many as the settings allow; may be empty. Without
            context the first token has nothing that predicts it.
        ids: the chunk.
        weights: loss weight of each token of the chunk; 0: seen, not learned. Losses are averaged
            over the sum of the weights.
    """

    context: tuple[int, ...]
    ids: tuple[int, ...]
    weights: tuple[float, ...]


Recipe: TypeAlias = Callable[[LearnRequest, Text, int | None], Sequence[Example]]
"""(request, tokenizer, the model's begin token or None) -> examples, in training order."""
