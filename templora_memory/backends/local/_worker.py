"""The one thread that owns the model.

Three kinds of work reach it through a queue. *Answers* are decoded together, one token a round.
*Lessons* learn together, one optimizer step a round. *Slices* (measuring) are Python generators
that run from one `yield` to the next, one after the other. While somebody waits for an answer,
lessons and slices get at most half of the time. An error goes to the caller whose work caused it.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

from templora_memory.errors import Closed, ModelError

_log = logging.getLogger("templora_memory")

T = TypeVar("T")
Slices: TypeAlias = Generator[None, None, T]


class Answers(Protocol):
    """What is decoded, as the worker sees it; called on the worker's thread only."""

    def add(self, answer: Any) -> None:
        """Take in an answer that waits."""
        ...

    @property
    def busy(self) -> bool: ...

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

    def step(self, *, short: bool) -> None:
        """One optimizer step, a short one if somebody waits for an answer. Never raises."""
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
    def __init__(self, slices: Slices[T]) -> None:
        self.slices = slices
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


class Worker:
    """Runs answers, lessons and slices until it is closed."""

    def __init__(self, answers: Answers, lessons: Lessons) -> None:
        self._answers = answers
        self._lessons = lessons
        self._inbox: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._waiting: deque[_Work[Any]] = deque()
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

    def learn(self, lesson: Any) -> None:
        """Queue a lesson; its own future has the result.

        Raises:
            Closed: no more work is taken.
        """
        self._put(lambda: self._lessons.add(lesson))

    def run(self, slices: Slices[T]) -> T:
        """Run slices and wait for their result; whatever they raise is raised here."""
        if threading.current_thread() is self._thread:
            raise RuntimeError("the worker cannot wait for itself")
        work = _Work(slices)
        self._put(lambda: self._waiting.append(work))
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
        self._answers.fail(error)
        self._lessons.fail(error)
        for work in self._waiting:
            work.fail(error)

    def _work(self) -> None:
        answered = 0.0  # seconds spent on answers since the last other work
        needed = 0.0  # seconds that answers may take before the next
        measure = False  # whether it is the turn of slices
        while self._read():
            if self._answers.busy:
                began = time.monotonic()
                self._answers.step()
                answered += time.monotonic() - began
            others = self._waiting or self._lessons.busy
            if others and (not self._answers.busy or answered >= needed):
                began = time.monotonic()
                measure = bool(self._waiting) and (not measure or not self._lessons.busy)
                if not measure:
                    self._lessons.step(short=self._answers.busy)
                elif self._waiting[0].step():
                    self._waiting.popleft()
                answered, needed = 0.0, time.monotonic() - began

    def _read(self) -> bool:
        """Take in new work, waiting if there is nothing to do; False: stop."""
        idle = not (self._answers.busy or self._waiting or self._lessons.busy)
        with contextlib.suppress(queue.Empty):
            while True:
                message = self._inbox.get() if idle else self._inbox.get_nowait()
                if message is None:
                    return False
                message()
                idle = False
        return True
