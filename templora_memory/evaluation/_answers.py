"""Questions with answers that can be checked, and what an arm of a comparison adds up to."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random

from templora_memory.domain.messages import Message
from templora_memory.domain.segmentation import contains_words
from templora_memory.evaluation._newest import newest_reply
from templora_memory.service.parametric_memory import ParametricMemory

ANSWER_TOKENS = 48
RECALL_TOKENS = 80
"""Most prompt tokens of the passages in the arms with BM25."""
_RESAMPLES = 2000
_I = re.compile(r"(?<!\w)(?:I|me|my|mine|myself|we|our|us)(?!\w)", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A question in the user's words, and what a right answer contains.

    Args:
        ask: the question.
        fact: the answer; how likely it is, is measured.
        accept: words or phrases any of which makes an answer right; none: the fact's own words.
    """

    ask: str
    fact: str
    accept: tuple[str, ...] = ()

    def accepts(self, answer: str) -> bool:
        """Return whether an answer has the words of one of them in order, whatever the case."""
        return any(contains_words(answer, words) for words in self.accept or (self.fact,))


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """The result of one arm.

    Args:
        accuracy: share of right answers.
        low, high: its 95 % interval, by resampling people (bootstrap), because the answers about
            one person depend on each other.
        right, asked: the counts behind it.
        prompt_tokens: mean length of a prompt.
        ended: share of the answers that end by themselves, within `ANSWER_TOKENS`.
        first_person: share of the answers in which somebody says "I" or "my"; English only.
        examples: a few answers as they came.
    """

    accuracy: float
    low: float
    high: float
    right: int
    asked: int
    prompt_tokens: float
    ended: float
    first_person: float
    examples: tuple[Mapping[str, str], ...]


@dataclass(frozen=True, slots=True)
class ArmAnswer:
    """An answer of one arm to one question about the person with this number."""

    person: int
    asked: Question
    text: str
    prompt_tokens: int
    ended: bool = True

    @property
    def right(self) -> bool:
        """True if the answer has the fact."""
        return self.asked.accepts(self.text)


def ask(
    service: ParametricMemory,
    person: int,
    asked: Question,
    memory: str | None,
    before: Sequence[Message] = (),
    *,
    strength: float = 1.0,
    recall_tokens: int | None = None,
    max_tokens: int = ANSWER_TOKENS,
) -> ArmAnswer:
    """Return the greedy answer to a question.

    Args:
        service: whose model answers.
        person: number of the group that this answer belongs to.
        asked: the question.
        memory: whose newest revision answers; None: the base model.
        before: what stands in the prompt before the question.
        strength: factor on the memory.
        recall_tokens: as for `Memory.stream`.
        max_tokens: of the answer.
    """
    reply = newest_reply(
        service,
        memory,
        [*before, Message("user", asked.ask)],
        max_tokens=max_tokens,
        strength=strength,
        recall_tokens=recall_tokens,
    )
    return ArmAnswer(
        person, asked, reply.text, reply.prompt_tokens, ended=reply.finish_reason == "stop"
    )


def arm_of(answers: Sequence[ArmAnswer]) -> Arm:
    """Return the sums and shares of an arm's answers."""
    right = sum(answer.right for answer in answers)
    low, high = interval(answers)
    examples = tuple(
        {"ask": answer.asked.ask, "fact": answer.asked.fact, "answer": answer.text}
        for answer in answers[:4]
    )
    return Arm(
        accuracy=right / len(answers),
        low=low,
        high=high,
        right=right,
        asked=len(answers),
        prompt_tokens=sum(answer.prompt_tokens for answer in answers) / len(answers),
        ended=sum(answer.ended for answer in answers) / len(answers),
        first_person=sum(bool(_I.search(answer.text)) for answer in answers) / len(answers),
        examples=examples,
    )


def interval(answers: Sequence[ArmAnswer]) -> tuple[float, float]:
    """Return the 95 % interval of the accuracy, over resampled people."""
    return resampled([(answer.person, answer.right) for answer in answers])


def resampled(results: Sequence[tuple[int, bool]]) -> tuple[float, float]:
    """Return the 95 % interval of a share, of what was found for each of some people."""
    people: dict[int, list[bool]] = {}
    for person, good in results:
        people.setdefault(person, []).append(good)
    groups = [(sum(rights), len(rights)) for rights in people.values()]
    rng = Random(0)  # noqa: S311  # a resampling, not a secret
    drawn = []
    for _ in range(_RESAMPLES):
        sample = rng.choices(groups, k=len(groups))
        drawn.append(sum(right for right, _ in sample) / sum(count for _, count in sample))
    drawn.sort()
    return drawn[round(0.025 * (_RESAMPLES - 1))], drawn[round(0.975 * (_RESAMPLES - 1))]
