"""The parts of every recipe: examples, tools, repeated text, questions with their answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeAlias

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
        segments: how the chunk divides into parts that do not see each other: lengths that sum to
            S. The first is what all others follow (a system message, or nothing: 0), each of the
            others sees only that one and itself, as if it stood directly behind it. Empty: one
            text. With segments there is no context.
        variants: what takes this example's place in later passes, one after the other; the last
            pass is over the example itself, so that a receipt compares the same tokens.
    """

    context: tuple[int, ...]
    ids: tuple[int, ...]
    weights: tuple[float, ...]
    in_receipt: bool = True
    segments: tuple[int, ...] = ()
    variants: tuple[Example, ...] = ()

    def in_pass(self, number: int, *, last: bool) -> Example:
        """Return what to train on in a pass, counted from 0."""
        if not number or last or not self.variants:
            return self
        return self.variants[(number - 1) % len(self.variants)]


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


class Continuation(NamedTuple):
    """What a text goes on with, and how much likelier it is there than elsewhere, in nats."""

    text: str
    gain: float


class ContinueTexts(Protocol):
    """Lets the base model go on with plain texts; for models that follow examples, not orders."""

    def __call__(
        self,
        before: str,
        texts: Sequence[str],
        *,
        against: Sequence[str],
        max_tokens: int,
        stop: str,
    ) -> list[Continuation]:
        """Return what the model would write next, greedily, for each text, up to `stop`.

        Args:
            before: what all of the texts follow; read once.
            texts: what is gone on with.
            against: for each of them another text; the gain is how much likelier the continuation
                is behind the text itself, log p(rest | text) - log p(rest | other).
            max_tokens: of each.
            stop: what ends a continuation; itself left out. One that does not come to it within
                `max_tokens` is returned empty, because it is no whole thought.

        Raises:
            Cancelled: the absorb was cancelled meanwhile.
        """
        ...


class NameTopics(Protocol):
    """Tells which words the base model expects where the topics of a sentence are named."""

    def __call__(
        self, before: str, texts: Sequence[str], *, others: Sequence[str]
    ) -> list[tuple[str, ...]]:
        """Return words for each text, the surest first; see `topic_words`.

        Args:
            before: examples, which all texts follow; read once.
            texts: each up to where its topics would stand.
            others: more of this form: a word that is expected there as well says less.

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
        generate: lets the base model answer.
        complete: lets the base model go on with plain texts.
        topics: tells which words the base model expects where topics are named.
    """

    tokenizer: ChatTokenizer
    bos_token_id: int | None
    max_length: int
    generate: GenerateTexts
    complete: ContinueTexts
    topics: NameTopics


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


# --- questions and answers ---------------------------------------------------------------------


def pack_turns(
    turns: Sequence[tuple[str, str]],
    tokenizer: ChatTokenizer,
    *,
    lead: Sequence[Message] = (),
    cut: Sequence[int | None] = (),
) -> Example:
    """Return questions and answers as one example whose parts do not see each other.

    Only the answers and their ends are learned, each answer as much as the others, however long.

    Args:
        turns: questions and answers.
        tokenizer: with a chat template.
        lead: system message that all of them follow; none: what the template puts there.
        cut: of each answer the tokens that are kept; None: all, with the end. Empty: all of all.
    """
    shared: tuple[int, ...] = ()  # what stands before every question
    ids: list[int] = []
    weights: list[float] = []
    segments: list[int] = []
    for number, (question, answer) in enumerate(turns):
        turn = (Message("user", question), Message("assistant", answer))
        whole = tokenizer.dialogue((*lead, *turn), lead=True)
        if not segments:
            own = tokenizer.dialogue(turn, lead=False).ids
            before = len(whole.ids) - len(own)
            shared = whole.ids[:before] if whole.ids[before:] == own else ()
            ids, weights, segments = [*shared], [0.0] * len(shared), [len(shared)]
        asked = tuple(tokenizer.prompt((*lead, turn[0])))
        if whole.ids[: len(asked)] != asked:  # an answer that is asked for is dressed differently
            asked = tokenizer.dialogue((*lead, turn[0]), lead=True).ids
        learned = [0.0] * len(asked) + list(whole.weights[len(asked) :])
        skip = len(shared) if whole.ids[: len(shared)] == shared else 0
        kept = cut[number] if cut else None
        end = len(whole.ids) if kept is None else min(len(whole.ids), len(asked) + kept)
        total = sum(learned[:end]) or 1.0
        ids += whole.ids[skip:end]
        weights += [weight / total for weight in learned[skip:end]]
        segments.append(end - skip)
    return Example(context=(), ids=tuple(ids), weights=tuple(weights), segments=tuple(segments))
