"""The damage that a memory does: to text and questions that have nothing to do with it.

Each person of `recall` gets a memory of the bio. Then the base model's own greedy answers to
everyday questions are compared with what the memory makes of them, in two arms: the `memory`, and
the same at `half` its strength. Scored by likelihood and exact match; no judge.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from templora_memory._version import __version__
from templora_memory.domain.messages import Message
from templora_memory.domain.results import Reply
from templora_memory.errors import InvalidText
from templora_memory.evaluation._answers import ANSWER_TOKENS, resampled
from templora_memory.evaluation._borrowed import borrowed
from templora_memory.evaluation._newest import newest, newest_reply
from templora_memory.evaluation._other import OtherText, everyday_questions
from templora_memory.evaluation._provenance import commit, machine
from templora_memory.evaluation.recall import Person
from templora_memory.ports import ScoreRequest
from templora_memory.service.parametric_memory import ParametricMemory

ARMS = {"memory": 1.0, "half": 0.5}
"""Arms, and the strength of each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spoilt:
    """The changes that one arm makes.

    Args:
        same: share of the questions that get word for word the base model's answer.
        low, high: its 95 % interval, by resampling people.
        loss: nats per token by which the base model's answers become less likely, mean.
        other_text: factor on the perplexity of the other text, mean over the people; None where
            none was given.
        strength: mean strength that the memory had in these answers; below 1 where a gate lowers
            it.
        asked: questions asked, over all people.
    """

    same: float
    low: float
    high: float
    loss: float
    other_text: float | None
    strength: float
    asked: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DamageReport:
    """The result of `damage`, and where it was measured.

    Args:
        arms: by name, see the module.
        kl: mean KL(base || memory) on neutral text in nats per token, from the receipts.
        examples: a few answers that differ.
    """

    model: str
    policy: Mapping[str, Any]
    people: int
    arms: Mapping[str, Spoilt]
    kl: float | None
    examples: tuple[Mapping[str, str], ...]
    version: str
    commit: str | None
    machine: Mapping[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return asdict(self)


def damage(
    service: ParametricMemory,
    people: Sequence[Person],
    *,
    other: str | None = None,
    questions: Sequence[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> DamageReport:
    """Measure what memories of these people change elsewhere.

    Learns into memories of its own, which are forgotten afterwards, also after an error.

    Args:
        service: whose model and policy are measured.
        people: whose bios are learned; their questions are not asked.
        other: a text that has nothing to do with them; its first 2,000 tokens are scored.
        questions: that have nothing to do with them; None: `everyday_questions`.
        progress: called with people done and people in all.

    Raises:
        LearningFailed, StoreError: as `Memory.absorb`.
        InvalidText: `other` is too short, or there are no questions.
    """
    asked = tuple(everyday_questions() if questions is None else questions)
    if not asked or not people:
        raise InvalidText("Damage needs a person, and a question.")
    text = OtherText(service, other) if other is not None else None
    plain = [_plain(service, question) for question in asked]
    pairs: dict[str, list[_AnswerPair]] = {arm: [] for arm in ARMS}
    factors: dict[str, list[float]] = {arm: [] for arm in ARMS}
    kls, examples = [], []
    with borrowed(service, "damage", len(people)) as names:
        for name, person in zip(names, people, strict=True):
            report = service[name].absorb(person.document)
            kls += [] if report.kl is None else [report.kl]
        for number, name in enumerate(names):
            if progress is not None:
                progress(number, len(names))
            for arm, strength in ARMS.items():
                rows = [_ask(service, number, name, strength, base) for base in plain]
                pairs[arm] += rows
                if text is not None:
                    factors[arm].append(text.factor(name, strength))
                if arm == "memory":
                    examples += [
                        {"ask": base.question, "base": base.text, "memory": row.text}
                        for base, row in zip(plain, rows, strict=True)
                        if not row.same
                    ]
    if progress is not None:
        progress(len(people), len(people))
    return DamageReport(
        model=service.base.name,
        policy=service.policy.as_dict(),
        people=len(people),
        arms={arm: _spoilt(rows, factors[arm]) for arm, rows in pairs.items()},
        kl=sum(kls) / len(kls) if kls else None,
        examples=tuple(examples[:4]),
        version=__version__,
        commit=commit(),
        machine=machine(),
    )


@dataclass(frozen=True, slots=True)
class _Plain:
    """A question, the base model's answer, and the log-probabilities of its tokens."""

    question: str
    text: str
    scores: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class _AnswerPair:
    person: int
    same: bool
    loss: float
    strength: float
    text: str


def _ask(
    service: ParametricMemory, person: int, memory: str, strength: float, base: _Plain
) -> _AnswerPair:
    """Return a question again with a memory, and how likely it finds the base model's answer."""
    answer = _say(service, memory, base.question, strength)
    scores = _score(service, memory, base.question, base.text, answer.strength)
    loss = (sum(base.scores) - sum(scores)) / max(1, len(scores))
    return _AnswerPair(person, answer.text == base.text, loss, answer.strength, answer.text)


def _spoilt(rows: Sequence[_AnswerPair], factors: Sequence[float]) -> Spoilt:
    low, high = resampled([(row.person, row.same) for row in rows])
    return Spoilt(
        same=sum(row.same for row in rows) / len(rows),
        low=low,
        high=high,
        loss=sum(row.loss for row in rows) / len(rows),
        other_text=sum(factors) / len(factors) if factors else None,
        strength=sum(row.strength for row in rows) / len(rows),
        asked=len(rows),
    )


def _say(
    service: ParametricMemory, memory: str | None, question: str, strength: float = 1.0
) -> Reply:
    return newest_reply(
        service,
        memory,
        [Message("user", question)],
        strength=strength,
        max_tokens=ANSWER_TOKENS,
    )


def _plain(service: ParametricMemory, question: str) -> _Plain:
    text = _say(service, None, question).text
    return _Plain(question, text, _score(service, None, question, text))


def _score(
    service: ParametricMemory, memory: str | None, question: str, answer: str, strength: float = 1.0
) -> tuple[float, ...]:
    """Log-probabilities of an answer's tokens; none for an empty one."""
    if not answer:
        return ()
    request = ScoreRequest(
        context=(Message("user", question),),
        target=answer,
        adapter=None if memory is None else newest(service.open(memory)),
        strength=strength,
    )
    return service.backend.score([request])[0]
