"""The one thread that owns the model.

Work reaches it through a queue, in small units. *Answers* are decoded together, one token a round.
*Lessons* learn together, one optimizer step a round. *Slices* (measuring) are Python generators
that run from one `yield` to the next, one after the other. *Drafts* are answers that nobody reads:
what a recipe lets the model write about a text. An error goes to the caller whose work caused it.

There are two sides. Answers, and slices that a caller waits for, are answering; lessons, drafts and
what recipes measure are learning. While there is work on both sides, learning gets its share of the
time, neither more nor less, and one absorb goes first, so that absorbs end one after the other
instead of all of them late: an urgent one, which an answer waits for that has not come here yet, or
the oldest. Between two tokens learning takes no longer than what the round before them earned it,
and one unit. Where nobody waits, the kinds of learning take turns, so that lessons come together
that can share a batch.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import Future
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

from templora_memory.backends.local.priority_queue import NO_ABSORB, Absorb, Line
from templora_memory.errors import Closed, ModelError

_log = logging.getLogger("templora_memory")

SHARE = 0.5
"""How much of the time learning gets while somebody waits for an answer, by default."""

T = TypeVar("T")
Slices: TypeAlias = Generator[None, None, T]


class Answers(Protocol):
    """What is decoded, answers or drafts, as the worker sees it; on the worker's thread only."""

    def add(self, answer: Any) -> None:
        """Take in an answer that waits."""
        ...

    @property
    def busy(self) -> bool: ...

    @property
    def first(self) -> Absorb:
        """The absorb whose turn it is among those that these belong to."""
        ...

    def step(self) -> None:
        """One round: the next token of every answer. Never raises."""
        ...

    def fail(self, error: BaseException) -> None:
        """End every answer with this error."""
        ...


class Lessons(Protocol):
    """What learns, as the worker sees it; called on the worker's thread only."""

    def add(self, lesson: Any) -> None:
        """Take in a lesson that waits."""
        ...

    @property
    def busy(self) -> bool: ...

    @property
    def first(self) -> Absorb:
        """The absorb whose turn it is; a short step is of this one."""
        ...

    def step(self, *, short: bool) -> None:
        """One optimizer step, a short one if somebody waits. Never raises."""
        ...

    def fail(self, error: BaseException) -> None:
        """End every lesson with this error."""
        ...


def _dead(error: BaseException) -> ModelError:
    return ModelError(
        f"The thread that owns the model died ({type(error).__name__}: {error}): close this "
        "service and make a new one. Text is in the journal, revisions are on disk."
    )


class _Work(Generic[T]):
    def __init__(self, slices: Slices[T], absorb: Absorb) -> None:
        self.slices = slices
        self.absorb = absorb
        self.result: Future[T] = Future()

    def step(self) -> bool:
        """Run to the next yield; returns whether it is done."""
        try:
            next(self.slices)
        except StopIteration as stop:
            self.result.set_result(stop.value)
        except BaseException as error:  # noqa: BLE001  # belongs to whoever waits for the result
            self.result.set_exception(error)
        else:
            return False
        return True

    def fail(self, error: BaseException) -> None:
        self.slices.close()
        if not self.result.done():
            self.result.set_exception(error)


class _Measuring(Line[_Work[Any]]):
    """Slices, one after the other; first those of the absorb whose turn it is."""

    def step(self) -> None:
        work = self.ordered[0]
        if work.step():
            self._waiting.remove(work)

    def fail(self, error: BaseException) -> None:
        for work in self._waiting:
            work.fail(error)


class Worker:
    """Runs answers, drafts, lessons and slices until it is closed.

    Args:
        answers: what is decoded for somebody who waits for it.
        drafts: what is decoded for lessons.
        lessons: what learns.
        share: of the time, for learning while somebody waits; above 0, below 1.
        clock: seconds.
    """

    def __init__(
        self,
        answers: Answers,
        drafts: Answers,
        lessons: Lessons,
        *,
        share: float = SHARE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._answers = answers
        self._drafts = drafts
        self._lessons = lessons
        self._earned = share / (1 - share)  # by a second of answering, for learning
        self._clock = clock
        self._inbox: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._asked = _Measuring()  # what a caller waits for
        self._measuring = _Measuring()  # what a recipe waits for
        self._kinds: list[tuple[Answers | Lessons | _Measuring, Callable[[], None]]] = [
            (drafts, drafts.step),
            (self._measuring, self._measuring.step),
            (lessons, lambda: lessons.step(short=self._pressed)),
        ]  # of learning; whichever had its turn goes to the end
        self._lock = threading.Lock()
        self._closed = False
        self._died: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="templora-model", daemon=True)
        self._thread.start()

    def answer(self, answer: Any) -> None:
        """Queue an answer.

        Raises:
            Closed: no more work is taken.
        """
        self._put(lambda: self._answers.add(answer))

    def draft(self, answer: Any) -> None:
        """Queue an answer that learning waits for, not a person.

        Raises:
            Closed: no more work is taken.
        """
        self._put(lambda: self._drafts.add(answer))

    def learn(self, lesson: Any) -> None:
        """Queue a lesson; its own future has the result.

        Raises:
            Closed: no more work is taken.
        """
        self._put(lambda: self._lessons.add(lesson))

    def run(self, slices: Slices[T], *, absorb: Absorb | None = None) -> T:
        """Run slices and wait for their result; whatever they raise is raised here.

        `absorb`: what they are part of; None: a caller waits for them.
        """
        if threading.current_thread() is self._thread:
            raise RuntimeError("the worker cannot wait for itself")
        work = _Work(slices, absorb or NO_ABSORB)
        waiting = self._asked if absorb is None else self._measuring
        self._put(lambda: waiting.add(work))
        return work.result.result()

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
        for part in (self._answers, self._asked, self._drafts, self._measuring, self._lessons):
            part.fail(error)

    @property
    def _awaited(self) -> bool:
        """Whether somebody waits for an answer."""
        return self._answers.busy or self._asked.busy

    @property
    def _learning(self) -> bool:
        return any(part.busy for part, _ in self._kinds)

    @property
    def _pressed(self) -> bool:
        """Whether somebody waits, for an answer or for an absorb."""
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
        """A unit of answering: a token of every answer, and a slice."""
        for part in (self._answers, self._asked):
            if part.busy:
                part.step()

    def _learn(self) -> None:
        """A unit of learning."""
        ready = [kind for kind in self._kinds if kind[0].busy]
        chosen = min(ready, key=lambda kind: kind[0].first.rank) if self._pressed else ready[0]
        self._kinds.remove(chosen)
        self._kinds.append(chosen)
        chosen[1]()

    def _read(self) -> bool:
        """Take in new work, waiting if there is nothing to do; False: stop."""
        idle = not (self._awaited or self._learning)
        with contextlib.suppress(queue.Empty):
            while True:
                message = self._inbox.get() if idle else self._inbox.get_nowait()
                if message is None:
                    return False
                message()
                idle = False
        return True
