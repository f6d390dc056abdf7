"""What a recipe makes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from torch import Tensor

from templora_memory.backends.local.tokenizer import Text
from templora_memory.domain.messages import Message
from templora_memory.ports import LearnRequest


@dataclass(frozen=True, slots=True, eq=False)
class Soft:
    """What a teacher expects at each of n tokens: its k likeliest tokens and how likely each is.

    Args:
        ids: tokens, int64 [n, k].
        p: their probabilities, float32 [n, k]; each row sums to 1. What lies beyond the k is left
            out.
    """

    ids: Tensor
    p: Tensor


@dataclass(frozen=True, slots=True)
class Example:
    """One update: tokens to learn after tokens that are only seen.

    Args:
        context: tokens before, at most as many as the settings allow; may be empty. Without
            context the first token has nothing that predicts it.
        ids: the chunk.
        weights: loss weight of each token of the chunk; 0: seen, not learned. Losses are averaged
            over the sum of the weights; a sum far below the chunk's length makes a smaller step.
        counted: whether it belongs to the text to be learned; earlier text that is repeated among
            it does not show in receipts.
        soft: what to learn in place of the bare tokens, for each token of the chunk; None: the
            tokens. Receipts count the tokens either way.
    """

    context: tuple[int, ...]
    ids: tuple[int, ...]
    weights: tuple[float, ...]
    counted: bool = True
    soft: Soft | None = None


class Write(Protocol):
    """Lets the base model write; what a recipe needs that makes its own training text."""

    def __call__(self, prompts: Sequence[Sequence[Message]], *, max_tokens: int) -> list[str]:
        """Greedy answers, one for each prompt, in order.

        Raises:
            Cancelled: the absorb was cancelled meanwhile.
            PromptTooLong: a prompt and its answer do not fit the model.
        """
        ...


class Expect(Protocol):
    """Asks the base model, without any memory, what it would say: the teacher of a distillation."""

    def __call__(self, texts: Sequence[tuple[Sequence[int], int]], *, top: int) -> list[Soft]:
        """For each (tokens, count), what was to be expected at the last `count` tokens, in order.

        Raises:
            Cancelled: the absorb was cancelled meanwhile.
        """
        ...


@dataclass(frozen=True, slots=True)
class Tools:
    """What a recipe works with.

    Args:
        text: tokenizer and chat template.
        start: the model's begin token, or None.
        room: tokens of the model's context.
        write: lets the base model write, without any memory.
        expect: asks the base model for its expectations, without any memory.
    """

    text: Text
    start: int | None
    room: int
    write: Write
    expect: Expect


Recipe: TypeAlias = Callable[[LearnRequest, Tools], Sequence[Example]]
"""(what to learn, what to work with) -> examples, in training order."""
