"""The parts of every recipe: examples, tools, repeated text, an answer beside a text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from torch import Tensor

from templora_memory.backends.local.tokenizer import ChatTokenizer
from templora_memory.domain.messages import Message
from templora_memory.domain.segmentation import (  # recipes find them here
    is_statement as is_statement,  # noqa: PLC0414
    sentences as sentences,  # noqa: PLC0414
)
from templora_memory.ports import LearnRequest

REPEAT_LENGTH = 8
"""Tokens of a run that counts as a repetition."""

# --- examples ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class TopKTargets:
    """A teacher's distribution at each of T tokens: its K likeliest tokens and their probabilities.

    Args:
        ids: tokens, int64 [T, K].
        p: their probabilities, float32 [T, K]; each row sums to 1. What lies beyond the K is left
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
        ids: the chunk [S].
        weights: loss weight of each token of the chunk [S]; 0: seen, not learned. Losses are
            averaged over the sum of the weights; a sum far below the chunk's length makes a
            smaller step.
        in_receipt: False for earlier text that is repeated among the text to be learned: it does
            not show in receipts.
        top_k_targets: what to learn in place of the bare tokens, for each token of the chunk
            [S, K]; None: the tokens. Receipts count the tokens either way.
    """

    context: tuple[int, ...]
    ids: tuple[int, ...]
    weights: tuple[float, ...]
    in_receipt: bool = True
    top_k_targets: TopKTargets | None = None


# --- tools -------------------------------------------------------------------------------------


class GenerateTexts(Protocol):
    """Lets the base model write; what a recipe needs that makes its own training text."""

    def __call__(self, prompts: Sequence[Sequence[Message]], *, max_tokens: int) -> list[str]:
        """Return greedy answers, one for each prompt, in order.

        Raises:
            Cancelled: the absorb was cancelled meanwhile.
            PromptTooLong: a prompt and its answer do not fit the model.
        """
        ...


class TeacherTargets(Protocol):
    """Asks the base model, without any memory, for its distributions: the teacher of a student."""

    def __call__(
        self, texts: Sequence[tuple[Sequence[int], int]], *, top_k: int
    ) -> list[TopKTargets]:
        """Return for each (tokens, count) the distribution at the last `count` tokens, in order.

        Raises:
            Cancelled: the absorb was cancelled meanwhile.
        """
        ...


@dataclass(frozen=True, slots=True)
class RecipeTools:
    """The model as a recipe may use it, always without any memory.

    Args:
        tokenizer: tokenizer and chat template.
        bos_token_id: the model's begin token, or None.
        max_length: tokens of the model's context.
        generate: lets the base model write.
        teacher: asks the base model for its distributions.
    """

    tokenizer: ChatTokenizer
    bos_token_id: int | None
    max_length: int
    generate: GenerateTexts
    teacher: TeacherTargets


Recipe: TypeAlias = Callable[[LearnRequest, RecipeTools], Sequence[Example]]
"""(what to learn, what to work with) -> examples, in training order."""


# --- text --------------------------------------------------------------------------------------


def downweight_repeats(ids: Sequence[int], weights: Sequence[float]) -> tuple[float, ...]:
    """Return weights divided by how often the run of tokens that ends in each has come so far.

    A model that learns its own answers learns its own loops, and then repeats them more (arXiv
    2607.03441 reports it for agents that train on their own steps).

    Args:
        ids: a text.
        weights: of its tokens.
    """
    counts: Counter[tuple[int, ...]] = Counter()
    lowered = list(weights)
    for end in range(REPEAT_LENGTH, len(ids) + 1):
        run = tuple(ids[end - REPEAT_LENGTH : end])
        counts[run] += 1
        lowered[end - 1] /= counts[run]
    return tuple(lowered)


# --- an answer beside a text -------------------------------------------------------------------

AnswerTokens: TypeAlias = tuple[Sequence[int], int]
"""Tokens, and how many of the last ones are the answer's."""


def with_and_without_text(
    turn: tuple[Message, Message], text: str, tools: RecipeTools, *, question_tokens: int
) -> tuple[AnswerTokens, AnswerTokens] | None:
    """Return a question and its answer with the text as a system message, and without.

    Args:
        turn: question and answer.
        text: what the teacher reads, and the student does not.
        tools: for the tokens.
        question_tokens: tokens of the bare question before the answer's.

    Returns:
        None where nothing is compared: the longer does not fit the model, or the template writes
        the answer differently beside a text.
    """
    without = tools.tokenizer.dialogue(turn, lead=True).ids
    with_text = tools.tokenizer.dialogue((Message("system", text), *turn), lead=True).ids
    count = len(without) - question_tokens
    if count <= 0 or with_text[-count:] != without[-count:] or len(with_text) > tools.max_length:
        return None
    return (with_text, count), (without, count)
