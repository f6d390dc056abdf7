"""Background work: jobs of one memory run one after another, jobs of different memories together.

A job runs on a thread that lives only while its memory has jobs. Threads mostly wait for the
backend, which decides what runs when. Only so many run at once, the oldest first; one that a reply
waits for does not stand in that line.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic

from templora_memory.domain.results import AbsorbProgress, AbsorbReport, JobPhase
from templora_memory.errors import Cancelled, Closed, LearningFailed

if TYPE_CHECKING:  # a default is known to type checkers before Python knows it
    from typing_extensions import TypeVar

    R = TypeVar("R", default=AbsorbReport)
else:
    from typing import TypeVar

    R = TypeVar("R")

MAX_THREADS = 16
_log = logging.getLogger("templora_memory")


class Job(Generic[R]):
    """An absorb under way, or other learning: ask for progress, wait, cancel.

    Cancelling takes effect between optimizer steps. What was committed before stays; the text
    that was not learned stays in the journal.
    """

    def __init__(
        self, memory_id: str, work: Callable[[Job[R]], R], *, urgent: bool = False
    ) -> None:
        self.memory_id = memory_id
        self._urgent = threading.Event()
        if urgent:
            self._urgent.set()
        self._work = work
        self._on_cancel: Callable[[], None] = lambda: None
        self._begun = threading.Event()
        self._done = threading.Event()
        self._cancel = threading.Event()
        self._phase = JobPhase(name="queued")
        self._progress: AbsorbProgress | None = None
        self._report: R | None = None
        self._error: BaseException | None = None

    def __repr__(self) -> str:
        state = "done" if self.done else "cancelled" if self.cancelled() else "under way"
        return f"Job({self.memory_id!r}, {state})"

    @property
    def begun(self) -> bool:
        """True once its turn has come."""
        return self._begun.is_set()

    @property
    def done(self) -> bool:
        """True once it ended, well or badly."""
        return self._done.is_set()

    @property
    def phase(self) -> JobPhase:
        """What it is doing."""
        return JobPhase(name="ended") if self.done else self._phase

    @property
    def progress(self) -> AbsorbProgress | None:
        """The newest progress; None before the first chunk is learned."""
        return self._progress

    @property
    def error(self) -> BaseException | None:
        """The error that it failed with, once it is done."""
        return self._error

    def urgent(self) -> bool:
        """Return True while somebody waits for an answer that needs it."""
        return self._urgent.is_set()

    def hurry(self) -> None:
        """Make it urgent; called by the queue when such an answer stands behind it."""
        self._urgent.set()

    def cancelled(self) -> bool:
        """Return True once it was asked to stop."""
        return self._cancel.is_set()

    def cancel(self) -> None:
        """Ask it to stop; `wait` then raises `Cancelled`."""
        self._cancel.set()
        self._on_cancel()

    def wait(self, timeout: float | None = None) -> R:
        """Wait for the report.

        Raises:
            TimeoutError: not done after `timeout` seconds.
            TemploraError: whatever the work raised, `Cancelled` among it.
        """
        if not self._done.wait(timeout):
            raise TimeoutError(f"{self!r} is not done after {timeout} seconds.")
        if self._error is not None:
            raise self._error
        assert self._report is not None  # noqa: S101  # done without an error means a report
        return self._report

    def finished(self, timeout: float | None = None) -> bool:
        """Wait until it is done, well or badly; `error` then tells which.

        Returns False if it was not after `timeout` seconds.
        """
        return self._done.wait(timeout)

    def report(self, progress: AbsorbProgress) -> None:
        """Set the newest progress; called by the work after each chunk."""
        self._progress = progress
        self._phase = JobPhase(name="learning", step=progress.chunk, steps=progress.chunks)

    def enter(self, phase: JobPhase) -> None:
        """Set what it is doing; called by the work."""
        self._phase = phase

    def on_cancel(self, callback: Callable[[], None]) -> None:
        """Set what is called on `cancel`; used by the queue."""
        self._on_cancel = callback

    def fail(self, error: Exception) -> None:
        """End it with an error; called by the queue where the work could not begin."""
        self._error = error
        self._done.set()

    def _start(self) -> R:
        if self.cancelled():
            raise Cancelled(f"The absorb into {self.memory_id!r} was cancelled before it began.")
        self.enter(JobPhase(name="tokenising"))
        self._begun.set()
        return self._work(self)

    def run(self) -> None:
        """Do the work; called once by the queue, on the job's thread."""
        try:
            self._report = self._start()
        except BaseException as error:  # noqa: BLE001  # kept and raised by wait()
            self._error = error
        finally:
            self._done.set()


def wait_or_cancel(job: Job[R]) -> R:
    """Wait, and cancel if the caller is interrupted, so that Ctrl-C leaves nothing running.

    Raises:
        TemploraError: whatever the work raised.
    """
    try:
        return job.wait()
    except BaseException as error:
        if not isinstance(error, Exception):
            job.cancel()
            job.finished()
        raise


class JobQueue:
    """Runs jobs: in order within a memory, together across memories.

    Remembers of each memory the newest failure, until an absorb into it succeeds.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()  # its lock may be taken again by who holds it
        self._waiting: dict[str, deque[Job[Any]]] = {}
        self._ready: deque[Job[Any]] = deque()  # the first of their memory, without a thread's slot
        self._slots_taken = 0
        self._closed = False
        self._failures: dict[str, str] = {}

    def submit(self, job: Job[R]) -> Job[R]:
        """Queue a job.

        Raises:
            Closed: the queue was closed.
            LearningFailed: the system has no thread for it.
        """
        with self._changed:
            if self._closed:
                raise Closed("The service is closed: no new absorbs.")
            job.on_cancel(self._wake)
            queue = self._waiting.get(job.memory_id)
            if queue is not None:
                if job.urgent():  # what it stands behind is as urgent, also if it runs already
                    for earlier in queue:
                        earlier.hurry()
                queue.append(job)
                self._wake()
                return job
            self._waiting[job.memory_id] = deque([job])
        thread = threading.Thread(
            target=self._drain, args=(job.memory_id,), name="templora-absorb", daemon=True
        )
        try:
            thread.start()
        except RuntimeError as error:  # the system has no more threads, or Python is ending
            raise self._stranded(job.memory_id, error) from error
        return job

    def _wake(self) -> None:
        """Let every waiting thread look again."""
        with self._changed:
            self._changed.notify_all()

    def _stranded(self, memory_id: str, error: RuntimeError) -> LearningFailed:
        """End what waits for a thread that did not start."""
        failed = LearningFailed(
            f"Nothing was learned into {memory_id!r}, the text is in the journal: {error}. "
            "Try again when fewer threads are running."
        )
        with self._changed:
            for job in self._waiting.pop(memory_id):
                job.fail(failed)
            self._changed.notify_all()
        return failed

    def _drain(self, memory_id: str) -> None:
        while True:
            with self._changed:
                queue = self._waiting[memory_id]
                if not queue:
                    del self._waiting[memory_id]
                    self._changed.notify_all()
                    return
                job = queue[0]
                slots = self._take_slot(job)
            job.run()
            with self._changed:
                queue.popleft()
                self._slots_taken -= slots
                self._changed.notify_all()

    def _take_slot(self, job: Job[Any]) -> int:
        """Wait until a job may run; returns how many of the slots it takes, 0 or 1.

        A cancelled job ends at once, and an urgent one does not wait for a slot.
        """
        self._ready.append(job)
        while True:
            at_once = job.cancelled() or job.urgent()
            if at_once or (self._slots_taken < MAX_THREADS and self._ready[0] is job):
                break
            self._changed.wait()
        self._ready.remove(job)
        slots = 0 if at_once else 1
        self._slots_taken += slots
        self._changed.notify_all()  # there may be a slot for the next one, too
        return slots

    def start(self, memory_id: str, work: Callable[[Job[R]], R], *, urgent: bool = False) -> Job[R]:
        """Queue the work of an absorb; its failure is logged and noted for `failure`.

        Raises:
            Closed, LearningFailed: as for `submit`.
        """

        def noting_failures(job: Job[R]) -> R:
            try:
                report = work(job)
            except Cancelled:
                raise
            except Exception as error:
                self.note_failure(memory_id, error)
                raise
            self.clear_failure(memory_id)
            return report

        return self.submit(Job(memory_id, noting_failures, urgent=urgent))

    def note_failure(self, memory_id: str, error: Exception) -> None:
        """Log why an absorb failed, and remember it for `failure`."""
        _log.warning("absorbing into %r failed: %s", memory_id, error)
        with self._changed:
            self._failures[memory_id] = f"{type(error).__name__}: {error}"

    def clear_failure(self, memory_id: str) -> None:
        """Forget the failure of a memory, if there is one."""
        with self._changed:
            self._failures.pop(memory_id, None)

    def failure(self, memory_id: str) -> str | None:
        """Return the newest failure of a memory as text; None after a success."""
        with self._changed:
            return self._failures.get(memory_id)

    def jobs(self, memory_id: str) -> tuple[Job[Any], ...]:
        """Return the jobs of a memory that wait or run."""
        with self._changed:
            return tuple(job for job in self._waiting.get(memory_id, ()) if not job.done)

    def wait_for(self, memory_id: str) -> None:
        """Wait until the jobs that a memory has now are done, well or badly."""
        for job in self.jobs(memory_id):
            job.finished()

    def cancel(self, memory_id: str) -> None:
        """Cancel the jobs of a memory in this process and wait until they have stopped."""
        jobs = self.jobs(memory_id)
        for job in jobs:
            job.cancel()
        for job in jobs:
            job.finished()

    def wait(self) -> None:
        """Wait until nothing waits or runs."""
        with self._changed:
            self._changed.wait_for(lambda: not self._waiting)

    def close(self, *, cancel: bool) -> None:
        """Take no more jobs; finish those there are, or cancel them. Waits either way."""
        with self._changed:
            self._closed = True
            if cancel:
                for queue in self._waiting.values():
                    for job in queue:
                        job.cancel()
            self._changed.wait_for(lambda: not self._waiting)
