"""One conversation of one memory: what was evicted, what of it is learned, what the prompt needs.

The front ends (memory, block, chat store) say what their transcript looks like now; this compares
it with what the memory has learned and hands the rest over. Nothing is remembered that could not
be found again from the transcript and the memory's own journal, so a killed process loses nothing
and learns nothing twice.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias
from weakref import WeakKeyDictionary, WeakValueDictionary

from llama_index.core.base.llms.types import ChatMessage
from templora_memory import Job, Message, ParametricMemory
from templora_memory.errors import UnknownMemory

from llama_index.memory.templora._events import (
    DISPATCHER,
    ParametricAbsorbEndEvent,
    ParametricAbsorbStartEvent,
)
from llama_index.memory.templora._messages import (
    Extract,
    as_chat,
    copies,
    is_same,
    is_system,
)
from llama_index.memory.templora._overflow import MakeRoom

AbsorbMode: TypeAlias = Literal["background", "blocking", "manual"]
_EXCHANGE = 2  # messages
_TELLING = 3  # messages
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversationStatus:
    """The state of learning in one conversation.

    Args:
        session_id: the memory's id.
        evicted: messages that have left the window and belong to the learned conversation.
        learned: how many of them live in weights.
        pending: rows that still stand in the prompt for that reason.
        revision: name of the revision that answers; None: the base model.
        learning: whether an absorb waits or runs.
        last_error: why the newest absorb failed, if it did; its text stays in the prompt.
    """

    session_id: str
    evicted: int
    learned: int
    pending: int
    revision: str | None
    learning: bool
    last_error: str | None


class Conversation:
    """One conversation between a front end and a memory. Safe from any thread and loop.

    Args:
        service: where it is learned.
        session_id: the memory's id.
        extract: which rows are learned, as which text.
        base: memory to start from, where this one does not exist.
    """

    def __init__(
        self,
        service: ParametricMemory,
        session_id: str,
        extract: Extract,
        *,
        base: str | None = None,
    ) -> None:
        self.service = service
        self.session_id = session_id
        self._extract = extract
        self._base = base
        self._lock = threading.RLock()
        self._before: tuple[Message, ...] | None = None  # learned earlier, not in this transcript
        self._rows: list[ChatMessage] = []  # evicted
        self._evicted_messages: list[Message] = []  # the evicted rows that are learned
        self._positions: list[int] = []  # their positions in _rows
        self._active: tuple[ChatMessage, ...] = ()
        self._known: tuple[int, str | None] | None = None  # messages learned, revision
        self._head: str | None = None
        self._jobs: list[tuple[Job, threading.Thread]] = []  # and who follows it
        self._asked: int | None = None  # up to which message learning was last tried
        self._error: BaseException | None = None
        self._ready = False
        self.make_room: Callable[[], MakeRoom | None] = _nobody
        _register(self)

    def __repr__(self) -> str:
        return f"Conversation({self.session_id!r}, {len(self._rows)} rows evicted)"

    # --- the transcript ------------------------------------------------------------------------

    @property
    def evicted(self) -> int:
        """The number of evicted rows so far."""
        return len(self._rows)

    @property
    def attached(self) -> bool:
        """True once the place of the transcript in the memory's journal is known."""
        return self._before is not None

    def ends_with(self, row: ChatMessage) -> bool:
        """Return whether the newest evicted row is this one."""
        with self._lock:
            return bool(self._rows) and is_same(self._rows[-1], row)

    def shared_with(self, rows: Sequence[ChatMessage]) -> int:
        """Return the number of evicted rows if these rows begin with all of them; otherwise 0."""
        with self._lock:
            known = len(self._rows)
            return known if len(rows) >= known and all(map(is_same, self._rows, rows)) else 0

    def is_shown_in(self, prompt: Sequence[ChatMessage]) -> bool:
        """Return whether a prompt shows the turns in the window, at least one and a half of them.

        Fewer may be the same in two conversations by chance.
        """
        rows = self._active
        return len(rows) >= _TELLING and any(
            all(map(is_same, prompt[begin : begin + _TELLING], rows))
            for begin in range(len(prompt) - _TELLING + 1)
        )

    def attach(self, rows: Sequence[ChatMessage]) -> None:
        """Find out where this transcript stands in what the memory already knows. Once.

        A transcript that repeats or edits the journalled conversation is that conversation; one
        that goes on from its end, or a new one, comes after it.
        """
        with self._lock:
            if self._before is not None:
                return
            self._prepare()
            messages = tuple(m for m in map(self._extract.message, rows) if m)
            self._before = _not_repeated(self._journal(), messages)

    def note(self, evicted: Sequence[ChatMessage], active: Sequence[ChatMessage]) -> None:
        """Say what the transcript is now: rows that have left the window, and rows in it."""
        with self._lock:
            self.attach([*evicted, *active])
            same = len(evicted) >= len(self._rows) and all(map(is_same, self._rows, evicted))
            if not same:
                self._rows, self._evicted_messages, self._positions = [], [], []
                self._asked = None
            self.extend(evicted[len(self._rows) :], active, edited=not same)

    def grow(
        self, known: int, evicted: Sequence[ChatMessage], active: Sequence[ChatMessage]
    ) -> None:
        """Say what was evicted since `known` rows had been; what was told meanwhile is skipped."""
        with self._lock:
            repeated = len(self._rows) - known
            if repeated >= 0:  # otherwise somebody began anew, and will say more
                self.extend(evicted[repeated:], active)

    def extend(
        self,
        evicted: Sequence[ChatMessage],
        active: Sequence[ChatMessage],
        *,
        edited: bool = False,
    ) -> None:
        """Like `note`, with only the rows that were evicted since."""
        with self._lock:
            self.attach([*self._rows, *evicted, *active])
            for row in copies(evicted):
                if message := self._extract.message(row):
                    self._evicted_messages.append(message)
                    self._positions.append(len(self._rows))
                self._rows.append(row)
            now = [*evicted, *active]
            grown = len(now) >= len(self._active) and all(map(is_same, self._active, now))
            if edited or not grown:
                self._known = None  # something was taken back
            self._active = tuple(copies(active))

    def restart(self) -> None:
        """Forget the transcript, not the memory: what comes next comes after what is learned."""
        with self._lock:
            self._rows, self._evicted_messages, self._positions, self._active = [], [], [], ()
            self._before = self._known = self._asked = self._error = None

    def _prepare(self) -> None:
        """Make a memory that starts from another one, so that it knows that one from the start."""
        if not self._ready and (self._base is not None or "@" in self.session_id):
            self.service.open(self.session_id, base=self._base)
        self._ready = True

    def _journal(self) -> tuple[Message, ...]:
        try:
            return self.service[self.session_id].transcript().messages
        except UnknownMemory:
            return ()

    # --- what is learned -----------------------------------------------------------------------

    def _messages(self) -> tuple[Message, ...]:
        return (*(self._before or ()), *self._evicted_messages)

    def _covered(self) -> tuple[int, str | None]:
        """Return how many messages from the beginning are learned, and by which revision."""
        self._prepare()
        try:
            newest = self.service[self.session_id].head()
        except UnknownMemory:
            self._head, self._known = None, (0, None)
            return self._known
        head = newest.name if newest else None
        if self._known is None or head != self._head:
            self.attach(self._active)
            shown = [m for m in map(self._extract.message, self._active) if m]
            covered = self.service[self.session_id].covered([*self._messages(), *shown])
            revision = covered.revision
            self._head = head
            self._known = (covered.messages, revision.name if revision else None)
        return self._known

    @property
    def revision(self) -> str | None:
        """The revision that knows most of this conversation and nothing else; None: the base."""
        with self._lock:
            return self._covered()[1]

    @property
    def pending(self) -> list[ChatMessage]:
        """Copies of the evicted rows that no revision has learned yet, oldest first.

        A system message at the beginning of the transcript is never learned, so it stays as well.
        """
        with self._lock:
            learned, _ = self._covered()
            before = len(self._before or ())
            earlier = [as_chat(m) for m in (self._before or ())[learned:]]
            leading = 0
            while leading < len(self._rows) and is_system(self._rows[leading]):
                leading += 1
            begin = max(leading, self._first_unlearned(max(0, learned - before)))
            return [*copies(self._rows[:leading]), *earlier, *copies(self._rows[begin:])]

    def _first_unlearned(self, learned: int) -> int:
        """Where the rows begin that are not learned, if `learned` messages of them are.

        Tool output and other rows that nobody learns go with the turn that they belong to.
        """
        if learned == 0:
            return 0
        if learned >= len(self._evicted_messages):
            return len(self._rows)
        position = self._positions[learned]
        turn_begins = self._evicted_messages[learned].role == "user"
        return position if turn_begins else self._positions[learned - 1] + 1

    # --- learning ------------------------------------------------------------------------------

    def absorb(self, *, retry: bool = False) -> Job | None:
        """Hand over in the background what is evicted and not learned; None if there is nothing.

        What failed is tried again when more text comes, or with `retry`.

        Raises:
            TemploraError: the text could not even be journalled. It stays in the transcript.
        """
        with self._lock:
            messages = self._messages()
            learned, _ = self._covered()
            if learned >= len(messages):
                return None
            if self._asked == len(messages):
                if self._learning():
                    return self._jobs[-1][0]
                if not retry:
                    return None
            job = self.service[self.session_id].absorb(messages, exact=True, wait=False)
            self._asked = len(messages)
            self._follow(job, len(messages) - learned)
            return job

    def append(self, rows: Sequence[ChatMessage], *, learn: bool = True) -> Job | None:
        """Journal rows that follow all that came before, and learn them in the background.

        For front ends that are only told what left the window. The memory's journal is the
        transcript then: rows are journalled before this returns.
        """
        with self._lock:
            if self._before is None:
                self._prepare()
                self._before = self._journal()
            self.extend(rows, ())
            return self.absorb() if learn else None

    def follow(self, job: Job, count: int) -> Job:
        """Count a job that was started elsewhere (documents) among this conversation's."""
        with self._lock:
            self._follow(job, count)
        return job

    def _follow(self, job: Job, count: int) -> None:
        DISPATCHER.event(ParametricAbsorbStartEvent(session_id=self.session_id, n_messages=count))
        follower = threading.Thread(
            target=self._report, args=(job, count), name="templora-follow", daemon=True
        )
        self._jobs = [(old, thread) for old, thread in self._jobs if thread.is_alive()]
        self._jobs.append((job, follower))
        follower.start()

    def _report(self, job: Job, count: int) -> None:
        started = time.monotonic()
        job.finished()
        error = job.error
        with self._lock:
            if self._jobs and self._jobs[-1][0] is job:  # not an older one, nor after a forget
                self._error = error
        DISPATCHER.event(
            ParametricAbsorbEndEvent(
                session_id=self.session_id,
                n_messages=count,
                seconds=time.monotonic() - started,
                error=f"{type(error).__name__}: {error}" if error else None,
            )
        )

    def failed(self, error: BaseException) -> None:
        """Note why text could not be handed over; it stays pending."""
        _log.warning("learning into %r failed: %s", self.session_id, error)
        with self._lock:
            self._error = error

    def _learning(self) -> bool:
        return any(not job.done for job, _ in self._jobs)

    def wait(self, timeout: float | None = None) -> BaseException | None:
        """Wait until nothing is being learned; returns what the newest absorb failed with.

        Raises:
            TimeoutError: not done after `timeout` seconds.
        """
        end = None if timeout is None else time.monotonic() + timeout
        while True:
            with self._lock:
                followers = [thread for _, thread in self._jobs if thread.is_alive()]
            if not followers:
                return self._error
            followers[0].join(None if end is None else max(0.0, end - time.monotonic()))
            if followers[0].is_alive():
                raise TimeoutError(
                    f"Session {self.session_id!r} is still learning after {timeout} seconds."
                )

    @property
    def error(self) -> BaseException | None:
        """The error of the newest absorb; None if it did not fail."""
        return self._error

    def forget(self) -> None:
        """Delete the memory with everything made from it, and begin anew."""
        with self._lock:
            try:
                self.service[self.session_id].forget()
            except UnknownMemory:
                _log.debug("nothing was learned into %r yet", self.session_id)
            self.restart()
            self._jobs, self._ready = [], False

    @property
    def status(self) -> ConversationStatus:
        """How much of the conversation is learned."""
        with self._lock:
            learned, revision = self._covered()
            count = len(self._before or ()) + len(self._evicted_messages)
            error = self._error
            return ConversationStatus(
                session_id=self.session_id,
                evicted=count,
                learned=min(learned, count),
                pending=len(self.pending),
                revision=revision,
                learning=self._learning(),
                last_error=f"{type(error).__name__}: {error}" if error else None,
            )


def _nobody() -> None:
    """Stand in for the reference to a front end that makes room."""


# --- finding one ---------------------------------------------------------------------------------

_Conversations: TypeAlias = "WeakValueDictionary[str, Conversation]"
_LIVE: WeakKeyDictionary[ParametricMemory, _Conversations] = WeakKeyDictionary()
_LIVE_LOCK = threading.Lock()


def _register(conversation: Conversation) -> None:
    with _LIVE_LOCK:
        known = _LIVE.setdefault(conversation.service, WeakValueDictionary())
        known[conversation.session_id] = conversation


def current(service: ParametricMemory, session_id: str) -> Conversation | None:
    """The newest living conversation of a memory: it tells a language model which revision fits."""
    with _LIVE_LOCK:
        known = _LIVE.get(service)
        return known.get(session_id) if known else None


def shown_by(service: ParametricMemory, prompt: Sequence[ChatMessage]) -> list[str]:
    """Return the sessions whose turns a prompt shows."""
    if len(prompt) < _TELLING:
        return []
    with _LIVE_LOCK:
        conversations = list((_LIVE.get(service) or {}).values())
    return [c.session_id for c in conversations if c.is_shown_in(prompt)]


# --- comparing -----------------------------------------------------------------------------------


def _not_repeated(
    journal: tuple[Message, ...], transcript: tuple[Message, ...]
) -> tuple[Message, ...]:
    """The part of a journalled conversation that a transcript does not repeat."""
    same = 0
    for journalled, current in zip(journal, transcript, strict=False):
        if journalled != current:
            break
        same += 1
    if same == len(journal) or same >= _EXCHANGE:
        return ()  # the same conversation, longer, shorter or edited
    overlap = next(
        (
            n
            for n in range(min(len(journal), len(transcript)), 0, -1)
            if journal[-n:] == transcript[:n]
        ),
        0,
    )
    return journal[: len(journal) - overlap]
