"""Recall of facts: questions about invented people, asked with and without their bios.

Eight arms answer the same questions greedily: the bio in the `prompt`; the `memory` that absorbed
it, with nothing but the question in the prompt; the same memory at `half` its strength; `bm25`,
passages of the bio found by the question's words, in the prompt of the base model; `memory_bm25`,
these passages and the memory; `none` of all; the memory of the `wrong` person; and the memory after
it was `forgotten`. An answer is right if it contains the fact's words, or one of those that the
question accepts. Questions that a bio does not answer are asked of `memory` and `prompt`: whether
they are declined, or answered with something else out of the bio. Everyday questions, which have
nothing to do with anybody, are asked of `memory`, every other one behind the person's name: whether
they are answered out of the bio.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache, partial
from importlib import resources
from pathlib import Path
from typing import Any

from templora_memory._version import __version__
from templora_memory.domain.messages import Document, Message
from templora_memory.domain.segmentation import words
from templora_memory.domain.settings import whole
from templora_memory.errors import InvalidSetting, InvalidText
from templora_memory.evaluation._answers import RECALL_TOKENS, Arm, ArmAnswer, Question, arm_of, ask
from templora_memory.evaluation._borrowed import borrowed
from templora_memory.evaluation._other import OtherText, everyday_questions
from templora_memory.evaluation._provenance import commit, machine, peak_bytes
from templora_memory.service.parametric_memory import ParametricMemory

ABOUT_ME = "about me"
RUN = 5
"""Words in a row that an answer and a bio share only if the one comes from the other."""
BUNDLED = "bundled"
PEOPLE = {
    BUNDLED: "people.json",
    "plain": "plain_reporting.json",
    "plain-dev": "plain_development.json",
    "natural": "natural_reporting.json",
    "natural-dev": "natural_development.json",
}
"""Sets of people in this package, and their files: bios as short plain sentences, asked in the
embedded model's words; the same in everyday words; bios in natural prose and cards. Of the last
two, those that results are reported on and those that settings are chosen on ("-dev")."""
EVERYDAY_TOKENS = 20
"""Most tokens of an answer to an everyday question."""
_DECLINES = re.compile(
    r"\b(?:do(?:n't| not) (?:really )?(?:know|remember|recall|have (?:any|that|the) information)"
    r"|not (?:sure|certain|told)|never told|can(?:'t|not| not) (?:say|tell|remember|recall)"
    r"|no idea|(?:have|has)(?:n't| not) (?:told|mentioned|said|shared)|not (?:been )?mentioned)\b",
    re.IGNORECASE,
)
ARMS = ("prompt", "memory", "half", "bm25", "memory_bm25", "none", "wrong", "forgotten")


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """An invented person: a bio, and questions about it.

    Args:
        name: of the person.
        bio: what is learned.
        questions: that the bio answers.
        kind: how the bio is written ("prose", "w++", "about me", ...). With one, every prompt
            begins by saying who speaks; "about me" is what a user tells about themselves.
        unanswerable: questions that the bio does not answer.
    """

    name: str
    bio: str
    questions: tuple[Question, ...]
    kind: str = ""
    unanswerable: tuple[str, ...] = ()

    @property
    def document(self) -> Document:
        """What is learned: in the person's own voice, unless it is what a user tells."""
        speaks = bool(self.kind) and self.kind != ABOUT_ME
        return Document(self.bio, character=self.name if speaks else None)

    @property
    def introduction(self) -> tuple[Message, ...]:
        """The beginning of every prompt: nobody's name means anything to a memory otherwise."""
        if not self.kind:
            return ()
        return (Message("system", self._naming),)

    @property
    def shown(self) -> tuple[Message, ...]:
        """The prompt with the bio in it."""
        return (Message("system", f"{self._naming} {self.bio}"),)

    @property
    def _naming(self) -> str:
        return f"{'You are talking with' if self.kind == ABOUT_ME else 'You are'} {self.name}."


@dataclass(frozen=True, slots=True, kw_only=True)
class UnansweredArm:
    """The answers to questions that the bio does not answer, counted.

    Args:
        asked: how many.
        declined: answers that say so, in one of the usual English ways.
        from_bio: answers that are not, and give something else out of the bio: the answer of
            another question, or `RUN` of its words in a row.
        other: the rest, invented or vague.
        examples: a few answers as they came.
    """

    asked: int
    declined: int
    from_bio: int
    other: int
    examples: tuple[Mapping[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class EverydayAnswers:
    """The answers to questions that have nothing to do with anybody, counted.

    Args:
        asked: how many, over all people.
        from_bio: answers with a run of `RUN` words of the bio or of its facts in the person's
            own voice.
        examples: a few of those.
    """

    asked: int
    from_bio: int
    examples: tuple[Mapping[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RecallReport:
    """The result of `recall`, and where it was measured.

    Args:
        arms: by name, see the module.
        gain: nats per token by which the memory makes the facts more likely, on average.
        same_after_forget: whether the forgotten arm said exactly what `none` said; None where one
            of them was left out.
        unanswerable: by arm, `UnansweredArm`; empty where no such questions were given.
        everyday: the answers of `memory` to everyday questions; None where that arm was left out.
        absorb_seconds: mean time to absorb a bio.
        absorb_cpu_seconds: mean time of all processors for it; what else runs changes it little.
        peak_bytes: the most memory that this process has held so far; None where the system does
            not tell.
        other_text: factor by which a memory changes the perplexity of a text that has nothing to
            do with it, mean over the people; None where no text was given.
        people: how many.
        later_chunks: how many chunks of another text each memory learned before it was asked.
    """

    model: str
    policy: Mapping[str, Any]
    people: int
    arms: Mapping[str, Arm]
    gain: float
    same_after_forget: bool | None
    unanswerable: Mapping[str, UnansweredArm]
    everyday: EverydayAnswers | None
    absorb_seconds: float
    absorb_cpu_seconds: float
    peak_bytes: int | None
    other_text: float | None
    later_chunks: int
    version: str
    commit: str | None
    machine: Mapping[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return asdict(self)


def people_called(name: str) -> tuple[Person, ...]:
    """Return the people of one of the sets `PEOPLE`, or of a file.

    Raises:
        InvalidText: neither.
    """
    if name not in PEOPLE:
        return load_people(Path(name))
    file = resources.files("templora_memory.evaluation") / PEOPLE[name]
    return _people(json.loads(file.read_text(encoding="utf-8")), PEOPLE[name])


def bundled_people() -> tuple[Person, ...]:
    """Return the bundled people; none of them is in the embedded model's training."""
    return people_called(BUNDLED)


def load_people(path: Path) -> tuple[Person, ...]:
    """People from a JSON file: ``[{"name", "bio", "questions": [{"ask", "fact"}]}]``.

    A question may have "accept", a person "kind" and "unanswerable": see `Question`, `Person`.

    Raises:
        InvalidText: not such a file.
    """
    try:
        return _people(json.loads(path.read_text(encoding="utf-8")), str(path))
    except (OSError, ValueError) as error:
        raise InvalidText(
            f"{path} cannot be read as people: {error}. Give a JSON file, or one of "
            f"{', '.join(PEOPLE)}."
        ) from error


def _people(rows: Any, where: str) -> tuple[Person, ...]:
    try:
        people = tuple(
            Person(
                name=row["name"],
                bio=row["bio"],
                questions=tuple(
                    Question(**{**asked, "accept": tuple(asked.get("accept", ()))})
                    for asked in row["questions"]
                ),
                kind=row.get("kind", ""),
                unanswerable=tuple(row.get("unanswerable", ())),
            )
            for row in rows
        )
    except (TypeError, KeyError, AttributeError) as error:
        raise InvalidText(
            f'{where} needs rows of "name", "bio" and "questions" with "ask" and "fact": {error}.'
        ) from error
    if len(people) < 2 or not all(person.questions for person in people):  # noqa: PLR2004
        raise InvalidText(f"{where} needs two people or more, each with questions.")
    return people


def recall(
    service: ParametricMemory,
    people: Sequence[Person],
    *,
    other: str | None = None,
    then: str | None = None,
    chunks: int = 50,
    arms: Sequence[str] = ARMS,
    progress: Callable[[int, int], None] | None = None,
) -> RecallReport:
    """Ask about every person in every arm.

    Learns into memories of its own, which are forgotten afterwards, also after an error.

    Args:
        service: whose model and policy are measured.
        people: two or more.
        other: a text that has nothing to do with them; its first 2,000 tokens are scored with
            each memory.
        then: a text of which each memory learns some chunks after the bio, before it is asked:
            what is left of early text.
        chunks: how many of them.
        arms: which to ask; fewer are quicker.
        progress: called with people done and people in all.

    Raises:
        LearningFailed, StoreError: as `Memory.absorb`.
        PromptTooLong: a bio does not fit the window.
        InvalidText: `other` is too short.
        InvalidSetting: an arm that there is not.
    """
    if not arms or set(arms) - set(ARMS):
        raise InvalidSetting(f"arms are {list(arms)}: choose among {list(ARMS)}.")
    answers: dict[str, list[ArmAnswer]] = {arm: [] for arm in ARMS if arm in arms}
    unanswered: dict[str, list[tuple[Person, ArmAnswer]]] = {}
    report = progress or (lambda _done, _count: None)
    unrelated = OtherText(service, other) if other is not None else None
    later = _stream(service, then, chunks) if then is not None else ()
    everyday: list[tuple[Person, ArmAnswer]] = []
    gains: list[float] = []
    factors: list[float] = []
    with borrowed(service, "recall", len(people)) as names:
        taken = [
            _learn(service, name, person, later) for name, person in zip(names, people, strict=True)
        ]
        for number, (name, person) in enumerate(zip(names, people, strict=True)):
            report(number, len(people))
            wrong = names[(number + 1) % len(people)]
            for asked in person.questions:
                ways = _ways(partial(ask, service, number, asked), person, name, wrong)
                for arm in set(answers) & set(ways):
                    answers[arm].append(ways[arm]())
                turn = [*person.introduction, Message("user", asked.ask)]
                gains.append(service[name].probe(turn, asked.fact).gain)
            for text in person.unanswerable:
                asked = Question(ask=text, fact="")
                ways = _ways(partial(ask, service, number, asked), person, name, wrong)
                for arm in {"memory", "prompt"} & set(answers):
                    unanswered.setdefault(arm, []).append((person, ways[arm]()))
            if "memory" in answers:
                everyday += [
                    (person, answer) for answer in _ask_everyday(service, number, name, person)
                ]
            factors += [unrelated.factor(name)] if unrelated else []
        if "forgotten" in answers:
            for number, (name, person) in enumerate(zip(names, people, strict=True)):
                service[name].forget()
                service.open(name)
                answers["forgotten"] += [
                    ask(service, number, question, name, person.introduction)
                    for question in person.questions
                ]
    report(len(people), len(people))
    return RecallReport(
        model=service.base.name,
        policy=service.policy.as_dict(),
        people=len(people),
        arms={arm: arm_of(given) for arm, given in answers.items()},
        gain=sum(gains) / len(gains),
        same_after_forget=_same(answers.get("forgotten"), answers.get("none")),
        unanswerable={arm: _unanswered(answers) for arm, answers in unanswered.items()},
        everyday=_everyday(everyday) if everyday else None,
        absorb_seconds=sum(seconds for seconds, _ in taken) / len(people),
        absorb_cpu_seconds=sum(seconds for _, seconds in taken) / len(people),
        peak_bytes=peak_bytes(),
        other_text=sum(factors) / len(factors) if factors else None,
        later_chunks=len(later),
        version=__version__,
        commit=commit(),
        machine=machine(),
    )


def _learn(
    service: ParametricMemory, name: str, person: Person, later: Sequence[Document]
) -> tuple[float, float]:
    """Learn a bio, and then what comes later; returns the seconds of the bio, and of processors."""
    began, worked = time.monotonic(), time.process_time()
    service[name].absorb(person.document)
    seconds = time.monotonic() - began, time.process_time() - worked
    if later:
        service[name].absorb(later)
    return seconds


def _ways(
    say: Callable[..., ArmAnswer], person: Person, memory: str, wrong: str
) -> dict[str, Callable[[], ArmAnswer]]:
    """Return for each arm but the last the function that asks a question."""
    before = person.introduction
    return {
        "prompt": partial(say, None, person.shown),
        "memory": partial(say, memory, before),
        "half": partial(say, memory, before, strength=0.5),
        "bm25": partial(say, memory, before, strength=0.0, recall_tokens=RECALL_TOKENS),
        "memory_bm25": partial(say, memory, before, recall_tokens=RECALL_TOKENS),
        "none": partial(say, None, before),
        "wrong": partial(say, wrong, before),
    }


def _unanswered(answers: Sequence[tuple[Person, ArmAnswer]]) -> UnansweredArm:
    declined = [bool(_DECLINES.search(answer.text)) for _, answer in answers]
    from_bio = [
        not no and _out_of_bio(person, answer)
        for no, (person, answer) in zip(declined, answers, strict=True)
    ]
    return UnansweredArm(
        asked=len(answers),
        declined=sum(declined),
        from_bio=sum(from_bio),
        other=len(answers) - sum(declined) - sum(from_bio),
        examples=tuple(
            {"ask": answer.asked.ask, "answer": answer.text} for _, answer in answers[:4]
        ),
    )


def _out_of_bio(person: Person, answer: ArmAnswer) -> bool:
    """Return whether an answer gives another fact of the bio, or a run of its words."""
    if any(question.accepts(answer.text) for question in person.questions):
        return True
    return _quotes_bio(person, answer)


def _quotes_bio(person: Person, answer: ArmAnswer) -> bool:
    """Return whether an answer has a run of the bio's words, also in the person's own voice."""
    return not _runs_of(person).isdisjoint(_runs(answer.text))


@cache
def _runs_of(person: Person) -> frozenset[tuple[str, ...]]:
    """Return the runs of words of a bio, and of its facts in the person's own voice."""
    # only here: it loads torch, which who looks at the command line's help does not wait for
    from templora_memory.backends.local.recipes.facts import facts_of  # noqa: PLC0415

    texts = (person.bio, *facts_of(person.document).facts)
    return frozenset(run for text in texts for run in _runs(text))


def _runs(text: str) -> set[tuple[str, ...]]:
    found = words(text)
    return {tuple(found[start : start + RUN]) for start in range(len(found) - RUN + 1)}


def _ask_everyday(
    service: ParametricMemory, number: int, name: str, person: Person
) -> list[ArmAnswer]:
    """Return the answers to everyday questions, every other one behind the person's name."""
    return [
        ask(
            service,
            number,
            Question(ask=text, fact=""),
            name,
            person.introduction if turn % 2 else (),
            max_tokens=EVERYDAY_TOKENS,
        )
        for turn, text in enumerate(everyday_questions())
    ]


def _everyday(answers: Sequence[tuple[Person, ArmAnswer]]) -> EverydayAnswers:
    leaks = [answer for person, answer in answers if _quotes_bio(person, answer)]
    return EverydayAnswers(
        asked=len(answers),
        from_bio=len(leaks),
        examples=tuple({"ask": leak.asked.ask, "answer": leak.text} for leak in leaks[:4]),
    )


def _same(one: Sequence[ArmAnswer] | None, other: Sequence[ArmAnswer] | None) -> bool | None:
    if one is None or other is None:
        return None
    return [answer.text for answer in one] == [answer.text for answer in other]


def _stream(service: ParametricMemory, text: str, chunks: int) -> tuple[Document, ...]:
    """Return the first chunks of a text, each a document that goes on with the one before."""
    whole("chunks", chunks)
    pieces = service.backend.split(text, service.policy.chunk)[:chunks]
    if len(pieces) < chunks:
        raise InvalidText(f"The text has {len(pieces)} chunks, {chunks} are to be learned.")
    return tuple(
        Document(piece, f"chunk {number}", continues=True) for number, piece in enumerate(pieces)
    )
