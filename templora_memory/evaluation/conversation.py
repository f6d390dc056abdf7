"""Recall of a conversation of many sessions: questions about it, in a new session.

Six arms answer the same questions greedily: `none`, the base model with the question alone; `last`,
the newest turns that fit the window, in the prompt; `memory`, which absorbed all of it, with the
question alone; `bm25`, turns found by the question's words, in the prompt of the base model;
`memory_bm25`, these and the memory; and the memory of the `wrong` conversation. An answer is right
if it contains the fact's words; `gain` is what the memory adds to their likelihood.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from templora_memory._version import __version__
from templora_memory.domain.messages import Message, as_message, dialogue
from templora_memory.domain.turns import turn_starts
from templora_memory.errors import InvalidText
from templora_memory.evaluation._answers import (
    ANSWER_TOKENS,
    RECALL_TOKENS,
    Arm,
    ArmAnswer,
    Question,
    arm_of,
    ask,
)
from templora_memory.evaluation._borrowed import borrowed
from templora_memory.evaluation._provenance import commit, machine
from templora_memory.service.parametric_memory import ParametricMemory

ARMS = ("none", "last", "memory", "bm25", "memory_bm25", "wrong")


@dataclass(frozen=True, slots=True, kw_only=True)
class Talk:
    """A conversation of one or more sessions, and questions about it."""

    messages: tuple[Message, ...]
    questions: tuple[Question, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversationReport:
    """The result of `conversation`, and where it was measured.

    Args:
        arms: by name, see the module.
        gain: nats per token by which the memory makes the facts more likely, on average.
        talks: how many conversations.
        messages: in all of them.
        absorb_seconds: mean time to absorb a conversation.
    """

    model: str
    policy: Mapping[str, Any]
    talks: int
    messages: int
    arms: Mapping[str, Arm]
    gain: float
    absorb_seconds: float
    version: str
    commit: str | None
    machine: Mapping[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return asdict(self)


def load_talks(path: Path) -> tuple[Talk, ...]:
    """Conversations from a file of one JSON object a line.

    Each has `sessions`, a list of lists of messages (`role`, `content`, optionally `name`), and
    `questions`, a list of `ask` and `fact`. That is what LoCoMo (arXiv 2402.17753) and files like
    it hold, in other words.

    Raises:
        InvalidText: not such a file, or fewer than two conversations.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidText(f"{path} cannot be read as conversations: {error}.") from error
    talks = [
        _talk(line, f"{path}, line {number}")
        for number, line in enumerate(lines, start=1)
        if line.strip()
    ]
    if len(talks) < 2:  # noqa: PLR2004  # the wrong one must be another one
        raise InvalidText(f"{path} needs two conversations or more, one JSON object a line.")
    return tuple(talks)


def _talk(line: str, where: str) -> Talk:
    try:
        row = json.loads(line)
        messages = dialogue(as_message(m) for session in row["sessions"] for m in session)
        questions = tuple(Question(**asked) for asked in row["questions"])
    except (ValueError, TypeError, KeyError, RecursionError, InvalidText) as error:
        raise InvalidText(
            f'{where} needs "sessions" of messages and "questions" with "ask" and "fact": {error}.'
        ) from error
    if not messages or not questions:
        raise InvalidText(f"{where} has no messages, or no questions.")
    return Talk(messages=messages, questions=questions)


def conversation(
    service: ParametricMemory,
    talks: Sequence[Talk],
    *,
    progress: Callable[[int, int], None] | None = None,
) -> ConversationReport:
    """Absorb every conversation, then ask about each in every arm.

    Learns into memories of its own, which are forgotten afterwards, also after an error.

    Args:
        service: whose model and policy are measured.
        talks: two or more.
        progress: called with conversations done and conversations in all.

    Raises:
        LearningFailed, StoreError: as `Memory.absorb`.
    """
    answers: dict[str, list[ArmAnswer]] = {arm: [] for arm in ARMS}
    gains: list[float] = []
    seconds = 0.0
    with borrowed(service, "conversation", len(talks)) as names:
        for name, talk in zip(names, talks, strict=True):
            seconds += service[name].absorb(talk.messages).seconds
        for number, talk in enumerate(talks):
            if progress is not None:
                progress(number, len(talks))
            memory, wrong = names[number], names[(number + 1) % len(talks)]
            for question in talk.questions:
                say = partial(ask, service, number, question)
                answers["none"].append(say(None))
                answers["last"].append(say(None, _last(service, talk, question)))
                answers["memory"].append(say(memory))
                answers["bm25"].append(say(memory, strength=0.0, recall_tokens=RECALL_TOKENS))
                answers["memory_bm25"].append(say(memory, recall_tokens=RECALL_TOKENS))
                answers["wrong"].append(say(wrong))
                gains.append(service[memory].probe(question.ask, question.fact).gain)
    if progress is not None:
        progress(len(talks), len(talks))
    return ConversationReport(
        model=service.base.name,
        policy=service.policy.as_dict(),
        talks=len(talks),
        messages=sum(len(talk.messages) for talk in talks),
        arms={arm: arm_of(given) for arm, given in answers.items()},
        gain=sum(gains) / len(gains),
        absorb_seconds=seconds / len(talks),
        version=__version__,
        commit=commit(),
        machine=machine(),
    )


def _last(service: ParametricMemory, talk: Talk, asked: Question) -> tuple[Message, ...]:
    """Return the newest turns that fit the window beside the question."""
    room = service.policy.window - ANSWER_TOKENS
    question = Message("user", asked.ask)
    newest: tuple[Message, ...] = ()
    for start in reversed(turn_starts(talk.messages)):
        turns = talk.messages[start:]
        if service.backend.count((*turns, question)) > room:
            break
        newest = turns
    return newest
