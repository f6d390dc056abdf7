"""The learned part of a LangChain conversation, and how a memory is taught more.

`OneConversation` is a memory of one conversation: the revision is found by the beginning that the
conversation shares with what was learned, so forks and edits get the memory of their own past.
`ManyConversations` is a memory that several conversations teach: its newest revision answers in all
of them, and turns are recognised by their text.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from operator import eq
from typing import Protocol, TypeAlias

from langchain_core.messages import BaseMessage
from templora_memory import AbsorbProgress, Job, Message, ParametricMemory
from templora_memory.domain.lru import LruCache
from templora_memory.errors import UnknownMemory

from langchain_templora._limits import newest_exchange, turns_after
from langchain_templora._messages import as_parts

Include: TypeAlias = Callable[[BaseMessage], str | None]
_POLL = 0.2  # seconds
_MAX_SEEN = 256  # conversations


def default_include(message: BaseMessage) -> str | None:
    """Return the text of a message that is learned: all of it."""
    return str(message.text)


@dataclass(frozen=True, slots=True)
class Known:
    """The first `messages` messages of a conversation are in `revision`; None: the base model."""

    messages: int
    revision: str | None
    gone: tuple[Message, ...] = ()
    """Messages that were trimmed from the conversation's beginning and that nobody has learned."""


class Scope(Protocol):
    """The relation of one memory to conversations: one of them, or many."""

    def known(self, memory_id: str, messages: Sequence[BaseMessage]) -> Known:
        """Return how much of a conversation the memory has learned; never its newest exchange."""
        ...

    def learn(self, memory_id: str, messages: Sequence[BaseMessage], end: int) -> Job | None:
        """Begin to learn a conversation up to `end`; None if there is nothing to learn."""
        ...

    def note(self, memory_id: str, messages: Sequence[BaseMessage]) -> None:
        """Take down what a conversation is now, before somebody trims it."""
        ...


class Teacher:
    """The part that both scopes share: the service, and the texts that are learned."""

    def __init__(
        self, service: ParametricMemory, include: Include, *, base: str | None = None
    ) -> None:
        self.service = service
        self._include = include
        self._base = base

    def parts(self, message: BaseMessage) -> tuple[Message, ...]:
        """A message as it is learned and recognised."""
        parts = as_parts(message)
        if self._include is default_include:
            return parts
        text = self._include(message) or ""
        return tuple(
            Message(part.role, text, part.name) if part.role in {"user", "assistant"} else part
            for part in parts
        )

    def body(self, messages: Sequence[BaseMessage]) -> list[Message]:
        """A conversation as it is learned: without system messages."""
        parts = (part for message in messages for part in self.parts(message))
        return [part for part in parts if part.role != "system"]

    def make(self, memory_id: str) -> None:
        """Make the memory, on top of the base memory where there is one."""
        if not self.exists(memory_id):
            self.service.open(memory_id)

    def exists(self, memory_id: str) -> bool:
        """Return whether there is such a memory; one on top of a base memory is made on the way."""
        try:
            self.service[memory_id].head()
        except UnknownMemory:
            if self._base is None:
                return False
            self.service.open(memory_id, base=self._base)
        return True


class OneConversation:
    """A memory of one conversation.

    Its beginning may be trimmed (LangChain's short-term memory deletes old messages from the
    state): what is gone is what should be remembered. It is recognised by its rest, which goes on
    with the same messages: those seen last in this process, or the end of what the memory has
    learned.
    """

    def __init__(self, teacher: Teacher) -> None:
        self._teacher = teacher
        self._seen: LruCache[str, _Seen] = LruCache(_MAX_SEEN)

    def known(self, memory_id: str, messages: Sequence[BaseMessage]) -> Known:
        """Return how many messages of the conversation the memory has learned."""
        teacher, limit = self._teacher, newest_exchange(messages)
        before = self._before(memory_id, messages)
        if not teacher.exists(memory_id):
            return Known(0, None, before)
        sizes = [len(teacher.body([message])) for message in messages[:limit]]
        covered = teacher.service[memory_id].covered([*before, *teacher.body(messages[:limit])])
        left, count = covered.messages - len(before), 0
        while left > 0:
            left -= sizes[count]
            count += 1
        revision = covered.revision.name if covered.revision else None
        return Known(count, revision, before[covered.messages :])

    def learn(self, memory_id: str, messages: Sequence[BaseMessage], end: int) -> Job | None:
        """Begin to learn the conversation up to `end`; None if there is nothing to learn."""
        teacher = self._teacher
        before, known = self._before(memory_id, messages), self.known(memory_id, messages)
        if not _teaches([*known.gone, *teacher.body(messages[known.messages : end])]):
            return None
        teacher.make(memory_id)
        return teacher.service[memory_id].absorb(
            [*before, *teacher.body(messages[:end])], wait=False
        )

    def note(self, memory_id: str, messages: Sequence[BaseMessage]) -> None:
        """Take down what the conversation is now, before somebody trims it."""
        before = self._before(memory_id, messages)
        whole = (*before, *self._teacher.body(messages))
        learned = (
            self._teacher.exists(memory_id) and self._teacher.service[memory_id].head() is not None
        )
        self._seen.put(memory_id, _Seen(whole, learned=learned))

    def _before(self, memory_id: str, messages: Sequence[BaseMessage]) -> tuple[Message, ...]:
        """The messages that once stood before these."""
        body = tuple(self._teacher.body(messages))
        seen = self._seen.get(memory_id)
        if seen and body[:2] == seen.messages[:2]:
            return ()  # the usual case, decided without a look at the disk
        learned = self._learned(memory_id)
        before: tuple[Message, ...] = ()
        if seen and (not seen.learned or _same_beginning(seen.messages, learned)):
            before = _trimmed(seen.messages, body, least=1)
        return before or _trimmed(learned, body, least=2)

    def _learned(self, memory_id: str) -> tuple[Message, ...]:
        """The conversation that the newest revision has learned."""
        if not self._teacher.exists(memory_id):
            return ()
        memory = self._teacher.service[memory_id]
        head = memory.head()
        return memory.transcript().messages[: head.messages] if head else ()


@dataclass(frozen=True, slots=True)
class _Seen:
    """A conversation as it was seen last, and whether anything of it was learned by then."""

    messages: tuple[Message, ...]
    learned: bool


def _same_beginning(left: Sequence[Message], right: Sequence[Message]) -> bool:
    """Return whether neither contradicts the other; a forgotten memory has no beginning."""
    return bool(right) and all(map(eq, left, right))


def _trimmed(
    whole: tuple[Message, ...], rest: tuple[Message, ...], *, least: int
) -> tuple[Message, ...]:
    """What was cut off the beginning of a conversation, if `rest` goes on where it ends.

    Args:
        whole: the conversation, as far as it is known.
        rest: the messages that are left, and what came after.
        least: messages that both must share; fewer would be chance.
    """
    if not rest or rest[: min(2, len(whole))] == whole[:2]:
        return ()
    for begin in range(1, len(whole) - least + 1):
        shared = whole[begin:]
        if shared == rest[: len(shared)]:
            return whole[:begin]
    return ()


class ManyConversations:
    """A memory that several conversations teach, one after the other."""

    def __init__(self, teacher: Teacher) -> None:
        self._teacher = teacher
        self._guard = threading.Lock()
        self._writers: dict[str, threading.Lock] = {}

    def known(self, memory_id: str, messages: Sequence[BaseMessage]) -> Known:
        """Return how many messages of this conversation stand in the newest revision."""
        teacher = self._teacher
        if not teacher.exists(memory_id):
            return Known(0, None)
        head, learned = self._learned(memory_id)
        count = 0
        for begin, end in _turns(messages[: newest_exchange(messages)]):
            if tuple(teacher.body(messages[begin:end])) not in learned:
                break
            count = end
        return Known(count, head)

    def learn(self, memory_id: str, messages: Sequence[BaseMessage], end: int) -> Job | None:
        """Begin to learn the turns that no conversation has taught yet; None if there are none."""
        teacher = self._teacher
        teacher.make(memory_id)
        memory = teacher.service[memory_id]
        with self._writer(memory_id):  # the next one goes on from what this one will have learned
            memory.wait()
            _, learned = self._learned(memory_id)
            turns = (tuple(teacher.body(messages[b:e])) for b, e in _turns(messages[:end]))
            new = [message for turn in turns if turn not in learned for message in turn]
            if not _teaches(new):
                return None
            head = memory.head()
            after = head.messages if head else 0
            return memory.absorb(new, after=after, wait=False)

    def note(self, memory_id: str, messages: Sequence[BaseMessage]) -> None:
        """Nothing: turns are recognised by their text, wherever they stand."""

    def _learned(self, memory_id: str) -> tuple[str | None, set[tuple[Message, ...]]]:
        memory = self._teacher.service[memory_id]
        head = memory.head()
        if head is None:
            return None, set()
        messages = memory.transcript().messages[: head.messages]
        starts = [i for i, message in enumerate(messages) if message.role == "user" and i]
        edges = [0, *starts, len(messages)]
        turns = (messages[begin:end] for begin, end in pairwise(edges))
        return head.name, set(turns)

    @contextmanager
    def _writer(self, memory_id: str) -> Iterator[None]:
        with self._guard:
            lock = self._writers.setdefault(memory_id, threading.Lock())
        with lock:
            yield


def busy(service: ParametricMemory, memory_id: str) -> bool:
    """Return whether a memory is learning in this process."""
    try:
        return service[memory_id].status().jobs > 0
    except UnknownMemory:
        return False


def follow(job: Job, note: Callable[[AbsorbProgress | None], None]) -> None:
    """Wait for a job and tell how far it is; an interrupt cancels it.

    Raises:
        TemploraError: whatever the job failed with.
    """
    try:
        while True:
            try:
                job.wait(_POLL)
            except TimeoutError:
                note(job.progress)
            else:
                return
    except BaseException as error:
        if not isinstance(error, Exception):
            job.cancel()
            job.finished()
        raise


def _turns(messages: Sequence[BaseMessage]) -> list[tuple[int, int]]:
    edges = [0, *turns_after(messages, 0), len(messages)]
    return [(b, e) for b, e in pairwise(edges) if e > b]


def _teaches(messages: Sequence[Message]) -> bool:
    return any(m.role in {"user", "assistant"} and m.content.strip() for m in messages)
