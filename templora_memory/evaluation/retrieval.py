"""Retrieval from a journal: are the turns found that answer a question, and is it told at all?

No model takes part. Read is LoCoMo's own JSON (arXiv 2402.17753, CC BY-NC 4.0, which is not part of
this package): conversations of two speakers in dated sessions, and questions with the turns that
answer them (`evidence`) and a category; those of category 5 have no answer, because they ask about
the wrong one of the two.

Retrieval: recall at k is the share of a question's evidence that stands in the first k passages, in
the arms of `ARMS`. Passages are turns, of a message of each speaker.

The gate: `coverage` (`Reply.coverage`) of questions that have an answer, against those of category
5, and against the questions of the other conversations with the names of these speakers, most of
which nobody told anything about. Beside it two plainer scores: the passage that has most of the
question, whoever said it, and the share of its words that stand anywhere.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date, datetime
from pathlib import Path
from typing import Any

from templora_memory._version import __version__
from templora_memory.domain.journal import JournalEntry
from templora_memory.domain.messages import Message, Role
from templora_memory.domain.recall_query import RecallQuery
from templora_memory.domain.segmentation import word_runs
from templora_memory.domain.stems import stem
from templora_memory.domain.time_spans import time_spans
from templora_memory.errors import InvalidText
from templora_memory.evaluation._provenance import commit, machine
from templora_memory.service.search import PassageIndex

CUTS = (1, 3, 5, 10)
THRESHOLDS = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5)
UNANSWERABLE = 5
"""The category of questions that have no answer."""
_EVIDENCE = re.compile(r"D\d+:\d+")
_DATE = "%I:%M %p on %d %B, %Y"


@dataclass(frozen=True, slots=True, kw_only=True)
class EvidenceQuestion:
    """A question and the names of the messages that answer it."""

    text: str
    evidence: frozenset[str]
    category: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DatedConversation:
    """A conversation of two speakers, each message named and with its time, and questions."""

    name: str
    speakers: tuple[str, str]
    entries: tuple[JournalEntry, ...]
    questions: tuple[EvidenceQuestion, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrievalScore:
    """Recall of the evidence in the first 1, 3, 5 and 10 passages, over so many questions."""

    recall: Mapping[int, float]
    questions: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GateScore:
    """How a score tells questions that have an answer from others.

    Args:
        auc: probability that one with an answer scores higher than one without.
        auc_foreign: the same against the questions of other conversations.
        below: for each threshold the shares of questions below it: answerable, unanswerable,
            foreign.
    """

    auc: float
    auc_foreign: float
    below: Mapping[float, tuple[float, float, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversationRetrieval:
    """The result for one conversation; the arms again over the questions that name a time."""

    name: str
    messages: int
    arms: Mapping[str, RetrievalScore]
    dated_arms: Mapping[str, RetrievalScore]
    gates: Mapping[str, GateScore]


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrievalReport:
    """The result of `retrieval`, and where it was measured."""

    conversations: tuple[ConversationRetrieval, ...]
    version: str
    commit: str | None
    machine: Mapping[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return asdict(self)


def load_dated(path: Path) -> tuple[DatedConversation, ...]:
    """Conversations from LoCoMo's JSON.

    Raises:
        InvalidText: not such a file, or fewer than two conversations.
    """
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        loaded = tuple(_conversation(row, number) for number, row in enumerate(rows))
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise InvalidText(
            f'{path} is no JSON of LoCoMo, a list of objects with "conversation" and "qa": '
            f"{error!r}."
        ) from error
    if len(loaded) < 2:  # noqa: PLR2004  # the questions of another one are asked, too
        raise InvalidText(f"{path} needs two conversations or more.")
    return loaded


def _conversation(row: Mapping[str, Any], number: int) -> DatedConversation:
    talk = row["conversation"]
    speakers = (talk["speaker_a"], talk["speaker_b"])
    entries = []
    session = 1
    while f"session_{session}" in talk:
        told = datetime.strptime(talk[f"session_{session}_date_time"], _DATE).astimezone()
        for line in talk[f"session_{session}"]:
            picture = line.get("blip_caption")
            text = f"{line['text']} [{picture}]" if picture else line["text"]
            role: Role = "user" if line["speaker"] == speakers[0] else "assistant"
            entries.append(
                JournalEntry(
                    id=line["dia_id"],
                    digest=line["dia_id"],
                    item=Message(role, text, line["speaker"]),
                    time=told.timestamp(),
                )
            )
        session += 1
    questions = tuple(
        EvidenceQuestion(
            text=asked["question"],
            evidence=frozenset(_EVIDENCE.findall(" ".join(asked.get("evidence", ())))),
            category=asked["category"],
        )
        for asked in row["qa"]
    )
    if not entries or not questions:
        raise ValueError(f"conversation {number} has no messages, or no questions")
    return DatedConversation(
        name=str(row.get("sample_id", number)),
        speakers=speakers,
        entries=tuple(entries),
        questions=questions,
    )


def _every_word(question: str, query: RecallQuery) -> RecallQuery:
    words = tuple(dict.fromkeys((stem(word, "en"),) for word in word_runs(question)))
    return replace(query, words=words, about=words, speakers=frozenset(), spans=())


ARMS: Mapping[str, Callable[[str, RecallQuery], RecallQuery]] = {
    "every word": _every_word,
    "words": lambda _, query: replace(query, speakers=frozenset(), spans=()),
    "speaker": lambda _, query: replace(query, spans=()),
    "time": lambda _, query: replace(query, speakers=frozenset()),
    "speaker and time": lambda _, query: query,
}
"""What a question is looked for by. "words" leaves out the commonest small ones."""


def retrieval(
    conversations: Sequence[DatedConversation],
    *,
    progress: Callable[[int, int], None] | None = None,
) -> RetrievalReport:
    """Look for the evidence of every question, and score whether it was told about.

    Args:
        conversations: two or more. "Today" is the day of the last message.
        progress: called with conversations done and conversations in all.
    """
    results = []
    for number, talk in enumerate(conversations):
        if progress is not None:
            progress(number, len(conversations))
        foreign = [
            _renamed(question.text, other.speakers, talk.speakers)
            for other in conversations
            if other is not talk
            for question in other.questions
            if question.category != UNANSWERABLE
        ]
        results.append(_measure(talk, foreign))
    if progress is not None:
        progress(len(conversations), len(conversations))
    return RetrievalReport(
        conversations=tuple(results), version=__version__, commit=commit(), machine=machine()
    )


def _renamed(text: str, old: tuple[str, str], new: tuple[str, str]) -> str:
    names = dict(zip(old, new, strict=True))
    return re.sub("|".join(map(re.escape, old)), lambda match: names[match.group()], text)


def _measure(talk: DatedConversation, foreign: Sequence[str]) -> ConversationRetrieval:
    index = PassageIndex(("", 0))
    index.add_turns(talk.entries)
    messages_of = _turns(talk.entries, index)
    today = datetime.fromtimestamp(talk.entries[-1].time or 0).astimezone().date()
    asked = [q for q in talk.questions if q.evidence and q.category != UNANSWERABLE]
    dated = [question for question in asked if time_spans(question.text, today)]
    result = ConversationRetrieval(
        name=talk.name,
        messages=len(talk.entries),
        arms=_arms(index, messages_of, asked, today),
        dated_arms=_arms(index, messages_of, dated, today),
        gates=_gates(
            index,
            set(messages_of),
            (
                [q.text for q in talk.questions if q.category != UNANSWERABLE],
                [q.text for q in talk.questions if q.category == UNANSWERABLE],
                foreign,
            ),
            today,
        ),
    )
    index.close()
    return result


def _turns(entries: Sequence[JournalEntry], index: PassageIndex) -> dict[str, set[str]]:
    """Return the messages of each turn, by the last of them."""
    turns: dict[str, set[str]] = {}
    turn: set[str] = set()
    for entry in entries:
        turn.add(entry.digest)
        if entry.digest in index.known:
            turns[entry.digest] = turn
            turn = set()
    return turns


def _arms(
    index: PassageIndex,
    messages_of: Mapping[str, set[str]],
    asked: Sequence[EvidenceQuestion],
    today: date,
) -> dict[str, RetrievalScore]:
    if not asked:
        return {}
    scores = {}
    for name, arm in ARMS.items():
        sums = dict.fromkeys(CUTS, 0.0)
        for question in asked:
            query = arm(question.text, index.query(question.text, today))
            found = index.recall(query, messages_of.keys()).passages
            for cut in CUTS:
                got = set().union(*(messages_of[passage.source] for passage in found[:cut]))
                sums[cut] += len(got & question.evidence) / len(question.evidence)
        recall = {cut: total / len(asked) for cut, total in sums.items()}
        scores[name] = RetrievalScore(recall=recall, questions=len(asked))
    return scores


def _gates(
    index: PassageIndex,
    sources: set[str],
    questions: Sequence[Sequence[str]],
    today: date,
) -> dict[str, GateScore]:
    """Score questions that are answerable, unanswerable and foreign."""

    def covered(text: str) -> float:
        return index.recall(index.query(text, today), sources).coverage or 0.0

    def best_passage(text: str) -> float:
        query = replace(index.query(text, today), speakers=frozenset())
        return index.recall(query, sources).coverage or 0.0

    def anywhere(text: str) -> float:
        about = index.query(text, today).about
        held = [
            word
            for word in about
            if index.recall(RecallQuery(words=(word,), about=(word,)), sources).coverage
        ]
        return len(held) / max(1, len(about))

    scores = {}
    for name, score in (
        ("coverage", covered),
        ("best passage", best_passage),
        ("anywhere", anywhere),
    ):
        told, untold, others = (sorted(map(score, texts)) for texts in questions)
        scores[name] = GateScore(
            auc=_auc(told, untold),
            auc_foreign=_auc(told, others),
            below={
                threshold: (
                    _below(told, threshold), _below(untold, threshold), _below(others, threshold)
                )
                for threshold in THRESHOLDS
            },
        )  # fmt: skip
    return scores


def _auc(higher: Sequence[float], lower: Sequence[float]) -> float:
    """Return the probability that one of `higher` is over one of `lower`; both are sorted."""
    if not higher or not lower:
        return 0.5
    wins = sum(bisect_left(lower, one) + bisect_right(lower, one) for one in higher)
    return wins / 2 / len(higher) / len(lower)


def _below(scores: Sequence[float], threshold: float) -> float:
    return bisect_left(scores, threshold) / max(1, len(scores))
