"""What a memory knows: questions about invented people, asked with and without their bios.

Eight arms answer the same questions greedily: the bio in the `prompt`; the `memory` that absorbed
it, with nothing but the question in the prompt; the same memory at `half` its strength; `bm25`,
passages of the bio found by the question's words, in the prompt of the base model; `memory_bm25`,
these passages and the memory; `none` of all; the memory of the `wrong` person; and the memory after
it was `forgotten`. An answer is right if it contains the fact's words.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

from templora_memory._messages import Document, Message
from templora_memory._policy import whole
from templora_memory._service import ParametricMemory
from templora_memory._version import __version__
from templora_memory.errors import InvalidSetting, InvalidText
from templora_memory.evaluation._answers import RECALL_TOKENS, Answer, Arm, Question, arm_of, ask
from templora_memory.evaluation._borrowed import borrowed
from templora_memory.evaluation._other import OtherText
from templora_memory.evaluation._provenance import commit, machine

ARMS = ("prompt", "memory", "half", "bm25", "memory_bm25", "none", "wrong", "forgotten")


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """An invented person: a bio, and questions that it answers."""

    name: str
    bio: str
    questions: tuple[Question, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RecallReport:
    """What `recall` found out, and where.

    Args:
        arms: by name, see the module.
        gain: nats per token by which the memory makes the facts more likely, on average.
        same_after_forget: whether the forgotten arm said exactly what `none` said; None where one
            of them was left out.
        absorb_seconds: mean time to absorb a bio.
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
    absorb_seconds: float
    other_text: float | None
    later_chunks: int
    version: str
    commit: str | None
    machine: Mapping[str, Any]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def bundled_people() -> tuple[Person, ...]:
    """The people that come with this package; none of them is in the embedded model's training."""
    file = resources.files("templora_memory.evaluation") / "people.json"
    return _people(json.loads(file.read_text(encoding="utf-8")), "people.json")


def load_people(path: Path) -> tuple[Person, ...]:
    """People from a JSON file: ``[{"name", "bio", "questions": [{"ask", "fact"}]}]``.

    Raises:
        InvalidText: not such a file.
    """
    try:
        return _people(json.loads(path.read_text(encoding="utf-8")), str(path))
    except (OSError, ValueError) as error:
        raise InvalidText(f"{path} cannot be read as people: {error}.") from error


def _people(rows: Any, where: str) -> tuple[Person, ...]:
    try:
        people = tuple(
            Person(
                name=row["name"],
                bio=row["bio"],
                questions=tuple(Question(**asked) for asked in row["questions"]),
            )
            for row in rows
        )
    except (TypeError, KeyError) as error:
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
        LearningFailed, StoreError: as `ParametricMemory.absorb`.
        PromptTooLong: a bio does not fit the window.
        InvalidText: `other` is too short.
        InvalidSetting: an arm that there is not.
    """
    if not arms or set(arms) - set(ARMS):
        raise InvalidSetting(f"arms are {list(arms)}: choose among {list(ARMS)}.")
    said: dict[str, list[Answer]] = {arm: [] for arm in ARMS if arm in arms}
    note = progress or (lambda _done, _count: None)
    unrelated = OtherText(service, other) if other is not None else None
    later = _stream(service, then, chunks) if then is not None else ()
    gains: list[float] = []
    factors: list[float] = []
    with borrowed(service, "recall", len(people)) as names:
        seconds = sum(
            _learn(service, name, person, later) for name, person in zip(names, people, strict=True)
        )
        for number, (name, person) in enumerate(zip(names, people, strict=True)):
            note(number, len(people))
            wrong = names[(number + 1) % len(people)]
            for asked in person.questions:
                ways = _ways(partial(ask, service, number, asked), person, name, wrong)
                for arm in set(said) & set(ways):
                    said[arm].append(ways[arm]())
                gains.append(service.probe(name, asked.ask, asked.fact).gain)
            factors += [unrelated.factor(name)] if unrelated else []
        if "forgotten" in said:
            for number, (name, person) in enumerate(zip(names, people, strict=True)):
                service.forget(name)
                service.open(name)
                said["forgotten"] += [ask(service, number, one, name) for one in person.questions]
    note(len(people), len(people))
    return RecallReport(
        model=service.base.name,
        policy=service.policy.as_dict(),
        people=len(people),
        arms={arm: arm_of(answers) for arm, answers in said.items()},
        gain=sum(gains) / len(gains),
        same_after_forget=_same(said.get("forgotten"), said.get("none")),
        absorb_seconds=seconds / len(people),
        other_text=sum(factors) / len(factors) if factors else None,
        later_chunks=len(later),
        version=__version__,
        commit=commit(),
        machine=machine(),
    )


def _learn(
    service: ParametricMemory, name: str, person: Person, later: Sequence[Document]
) -> float:
    """Learn a bio, and then what comes later; returns the seconds of the bio."""
    began = time.monotonic()
    service.absorb(name, Document(person.bio))
    seconds = time.monotonic() - began
    if later:
        service.absorb(name, later)
    return seconds


def _ways(
    say: Callable[..., Answer], person: Person, own: str, wrong: str
) -> dict[str, Callable[[], Answer]]:
    """How each arm but the last asks a question."""
    shown = [Message("system", f"You are {person.name}. {person.bio}")]
    return {
        "prompt": partial(say, None, shown),
        "memory": partial(say, own),
        "half": partial(say, own, strength=0.5),
        "bm25": partial(say, own, strength=0.0, recall_tokens=RECALL_TOKENS),
        "memory_bm25": partial(say, own, recall_tokens=RECALL_TOKENS),
        "none": partial(say, None),
        "wrong": partial(say, wrong),
    }


def _same(one: Sequence[Answer] | None, other: Sequence[Answer] | None) -> bool | None:
    if one is None or other is None:
        return None
    return [answer.text for answer in one] == [answer.text for answer in other]


def _stream(service: ParametricMemory, text: str, chunks: int) -> tuple[Document, ...]:
    """The first chunks of a text, each a document that goes on with the one before."""
    whole("chunks", chunks)
    pieces = service.backend.split(text, service.policy.chunk or 1)[:chunks]
    if len(pieces) < chunks:
        raise InvalidText(f"The text has {len(pieces)} chunks, {chunks} are to be learned.")
    return tuple(
        Document(piece, f"chunk {number}", continues=True) for number, piece in enumerate(pieces)
    )
