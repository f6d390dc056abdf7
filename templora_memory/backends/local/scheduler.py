"""The one thread that owns the model, and the order in which work gets it.

Work reaches it through a queue, in small units. *Answers* are decoded together, one token a round.
*Training runs* learn together, one optimizer step a round. *Cooperative tasks* (measuring) are
Python generators that run from one `yield` to the next, one after the other. *Drafts* are answers
that nobody reads: what a recipe lets the model write about a text. An error goes to the caller
whose work caused it.

There are two sides. Answers, and tasks that a caller waits for, are answering; training runs,
drafts and what recipes measure are learning. While there is work on both sides, learning gets its
share of the time, neither more nor less, and one absorb goes first, so that absorbs end one after
the other instead of all of them late: an urgent one, which an answer waits for that has not come
here yet, or the oldest; of several owners in turns (`AbsorbOrder`). Between two tokens learning
takes no longer than what the round before them earned it, and one unit. Where nobody waits, the
kinds of learning take turns, so that training runs come together that can share a batch.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

from templora_memory.errors import Closed, ModelError

_log = logging.getLogger("templora_memory")

SHARE = 0.5
"""Part of the time that learning gets while somebody waits for an answer, by default."""

T = TypeVar("T")
CooperativeTask: TypeAlias = Generator[None, None, T]
"""Work in pieces: the thread does something else between one `yield` and the next."""


# --- priorities --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class AbsorbPriority:
    """The order of absorbs: what somebody waits for first, then the oldest.

    `number` is from an `AbsorbOrder`, of equals the oldest goes first; `urgent` may begin to be
    true at any time.
    """

    number: int
    urgent: Callable[[], bool]

    @property
    def rank(self) -> tuple[bool, int]:
        """A sort key; the lowest goes first."""
        return not self.urgent(), self.number


class AbsorbOrder:
    """Numbers absorbs so that their owners take turns, and those of one owner keep their order.

    The number of an absorb is that of its owner's last one and one more, but never lower than that
    of the absorb whose turn it is (start-time fair queueing, Goyal, Vin, Cheng 1996). So whoever
    comes with one text stands beside the first of another's many, and not behind the last.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._floor = 1
        self._active: list[int] = []
        self._last: dict[str, int] = {}

    @contextlib.contextmanager
    def turn(self, owner: str) -> Iterator[int]:
        """Yield the number of an absorb that begins; it ends with the block."""
        with self._lock:
            now = min(self._active, default=self._floor)
            number = max(now, self._last.get(owner, 0) + 1)
            self._active.append(number)
            self._last[owner] = number
        try:
            yield number
        finally:
            with self._lock:
                self._active.remove(number)
                if not self._active:  # nobody is ahead of anybody any more
                    self._floor = max(self._last.values()) + 1
                    self._last.clear()


def never() -> bool:
    """Return False: for what is never urgent, or never cancelled."""
    return False


DEFAULT_PRIORITY = AbsorbPriority(0, never)
"""Of work that is part of no absorb."""


class Prioritized(Protocol):
    """Work that is done for an absorb."""

    priority: AbsorbPriority


W = TypeVar("W", bound=Prioritized)


class PriorityQueue(Generic[W]):
    """Work that waits, in the order of its absorbs; that of one absorb in the order it came."""

    def __init__(self) -> None:
        self._waiting: list[W] = []

    def add(self, work: W) -> None:
        """Take in work that waits."""
        self._waiting.append(work)

    @property
    def busy(self) -> bool:
        """True while there is work."""
        return bool(self._waiting)

    @property
    def ordered(self) -> list[W]:
        """All work, in its order by now: an absorb may have become urgent."""
        return sorted(self._waiting, key=lambda work: work.priority.rank)

    @property
    def first(self) -> AbsorbPriority:
        """The highest priority there is."""
        return min((work.priority for work in self._waiting), key=lambda priority: priority.rank)


# --- parts -------------------------------------------------------------------------------------


class DecodeQueue(Protocol):
    """Answers or drafts, as the model thread sees them; called on that thread only."""

    def add(self, request: Any) -> None:
        """Take in a request that waits."""
        ...

    @property
    def busy(self) -> bool:
        """True while there is a request."""
        ...

    @property
    def first(self) -> AbsorbPriority:
        """The highest priority among the requests."""
        ...

    def step(self) -> None:
        """Run one round: the next token of every answer. Never raises."""
        ...

    def fail(self, error: BaseException) -> None:
        """End every request with this error."""
        ...


class TrainingQueue(Protocol):
    """Training runs, as the model thread sees them; called on that thread only."""

    def add(self, run: Any) -> None:
        """Take in a run that waits."""
        ...

    @property
    def busy(self) -> bool:
        """True while there is a run."""
        ...

    @property
    def first(self) -> AbsorbPriority:
        """The highest priority among the runs; a short step is of this one."""
        ...

    def step(self, *, short: bool) -> None:
        """Take one optimizer step, a short one if somebody waits. Never raises."""
        ...

    def fail(self, error: BaseException) -> None:
        """End every run with this error."""
        ...


class _PendingTask(Generic[T]):
    """A cooperative task and the future of its result."""

    def __init__(self, task: CooperativeTask[T], priority: AbsorbPriority) -> None:
        self._task = task
        self.priority = priority
        self.result: Future[T] = Future()

    def step(self) -> bool:
        """Run to the next yield; return True if the task has ended."""
        try:
            next(self._task)
        except StopIteration as stop:
            self.result.set_result(stop.value)
        except BaseException as error:  # noqa: BLE001  # belongs to whoever waits for the result
            self.result.set_exception(error)
        else:
            return False
        return True

    def fail(self, error: BaseException) -> None:
        """End the task with this error."""
        self._task.close()
        if not self.result.done():
            self.result.set_exception(error)


class _TaskQueue(PriorityQueue[_PendingTask[Any]]):
    """Cooperative tasks, one after the other."""

    def step(self) -> None:
        """Run the first task to its next yield."""
        task = self.ordered[0]
        if task.step():
            self._waiting.remove(task)

    def fail(self, error: BaseException) -> None:
        """End every task with this error."""
        for task in self._waiting:
            task.fail(error)


# --- the thread --------------------------------------------------------------------------------


def _dead(error: BaseException) -> ModelError:
    return ModelError(
        f"The thread that owns the model died ({type(error).__name__}: {error}): close this "
        "service and make a new one. Text is in the journal, revisions are on disk."
    )


class ModelThread:
    """Runs answers, drafts, training runs and cooperative tasks until it is closed.

    Args:
        answers: what is decoded for somebody who waits for it.
        drafts: what is decoded for training runs.
        training: what learns.
        share: of the time, for learning while somebody waits; above 0, below 1.
        clock: seconds.
    """

    def __init__(
        self,
        answers: DecodeQueue,
        drafts: DecodeQueue,
        training: TrainingQueue,
        *,
        share: float = SHARE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._answers = answers
        self._drafts = drafts
        self._training = training
        self._earned = share / (1 - share)  # by a second of answering, for learning
        self._clock = clock
        self._inbox: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._caller_tasks = _TaskQueue()  # what a caller waits for
        self._recipe_tasks = _TaskQueue()  # what a recipe waits for
        self._kinds: list[tuple[DecodeQueue | TrainingQueue | _TaskQueue, Callable[[], None]]] = [
            (drafts, drafts.step),
            (self._recipe_tasks, self._recipe_tasks.step),
            (training, lambda: training.step(short=self._pressed)),
        ]  # of learning; whichever had its turn goes to the end
        self._lock = threading.Lock()
        self._closed = False
        self._died: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="templora-model", daemon=True)
        self._thread.start()

    def answer(self, request: Any) -> None:
        """Queue an answer.

        Raises:
            Closed: no more work is taken.
        """
        self._put(lambda: self._answers.add(request))

    def draft(self, request: Any) -> None:
        """Queue an answer that learning waits for, not a person.

        Raises:
            Closed: no more work is taken.
        """
        self._put(lambda: self._drafts.add(request))

    def learn(self, run: Any) -> None:
        """Queue a training run; its own future has the result.

        Raises:
            Closed: no more work is taken.
        """
        self._put(lambda: self._training.add(run))

    def run(self, task: CooperativeTask[T], *, priority: AbsorbPriority | None = None) -> T:
        """Run a task and wait for its result; whatever it raises is raised here.

        Args:
            task: the work.
            priority: of the absorb that it is part of; None: a caller waits for it.

        Raises:
            Closed: no more work is taken.
        """
        if threading.current_thread() is self._thread:
            raise RuntimeError("the model thread cannot wait for itself")
        pending = _PendingTask(task, priority or DEFAULT_PRIORITY)
        tasks = self._caller_tasks if priority is None else self._recipe_tasks
        self._put(lambda: tasks.add(pending))
        return pending.result.result()

    def _put(self, message: Callable[[], None]) -> None:
        with self._lock:
            if self._died is not None:
                raise _dead(self._died)
            if self._closed:
                raise Closed("The model is closed: open the service again.")
            self._inbox.put(message)

    def close(self) -> None:
        """Stop; what waits or runs ends with `Closed`. Safe to call twice."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._inbox.put(None)
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _run(self) -> None:
        error: Exception = Closed("The model was closed before this was done.")
        try:
            self._work()
        except BaseException as broken:  # noqa: BLE001  # whoever waits must not wait for ever
            _log.exception("the thread that owns the model died")
            with self._lock:
                self._died = broken
            error = _dead(broken)
            with contextlib.suppress(queue.Empty):  # from here on nothing comes in
                while True:
                    if (message := self._inbox.get_nowait()) is not None:
                        message()
        for part in (
            self._answers, self._caller_tasks, self._drafts, self._recipe_tasks, self._training,
        ):  # fmt: skip
            part.fail(error)

    @property
    def _awaited(self) -> bool:
        """True while somebody waits for an answer."""
        return self._answers.busy or self._caller_tasks.busy

    @property
    def _learning(self) -> bool:
        return any(part.busy for part, _ in self._kinds)

    @property
    def _pressed(self) -> bool:
        """True while somebody waits, for an answer or for an absorb."""
        return self._awaited or any(part.busy and part.first.urgent() for part, _ in self._kinds)

    def _work(self) -> None:
        owed = 0.0  # seconds that learning may take before the next round of answers
        while self._read():
            awaited, learning = self._awaited, self._learning
            began = self._clock()
            if learning and (owed > 0 or not awaited):
                self._learn()
                owed -= self._clock() - began
            else:
                self._answer()
                owed += self._earned * (self._clock() - began)
            if not (awaited and learning):
                owed = 0.0  # nobody saves time up for later

    def _answer(self) -> None:
        """Do a unit of answering: a token of every answer, and a piece of a task."""
        for part in (self._answers, self._caller_tasks):
            if part.busy:
                part.step()

    def _learn(self) -> None:
        """Do a unit of learning."""
        ready = [kind for kind in self._kinds if kind[0].busy]
        chosen = min(ready, key=lambda kind: kind[0].first.rank) if self._pressed else ready[0]
        self._kinds.remove(chosen)
        self._kinds.append(chosen)
        chosen[1]()

    def _read(self) -> bool:
        """Take in new work, waiting if there is nothing to do; return False to stop."""
        idle = not (self._awaited or self._learning)
        with contextlib.suppress(queue.Empty):
            while True:
                message = self._inbox.get() if idle else self._inbox.get_nowait()
                if message is None:
                    return False
                message()
                idle = False
        return True
