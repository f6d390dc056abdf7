"""Background work: jobs of one memory run one after another, jobs of different memories together.

A job runs on a thread that lives only while its memory has jobs. Threads mostly wait for the
backend, which decides what runs when. Only so many run at once, the oldest first; one that a reply
waits for does not stand in that line.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

from templora_memory.domain.results import AbsorbProgress, AbsorbReport
from templora_memory.errors import Cancelled, Closed, LearningFailed

MOST_THREADS = 16


class Job:
    """An absorb under way: ask for progress, wait, cancel.

    Cancelling takes effect between optimizer steps. What was committed before stays; the text
    that was not learned stays in the journal.
    """

    def __init__(
        self, memory_id: str, work: Callable[[Job], AbsorbReport], *, urgent: bool = False
    ) -> None:
        self.memory_id = memory_id
        self._urgent = threading.Event()
        if urgent:
            self._urgent.set()
        self._work = work
        self._heard: Callable[[], None] = lambda: None
        self._begun = threading.Event()
        self._done = threading.Event()
        self._cancel = threading.Event()
        self._progress: AbsorbProgress | None = None
        self._report: AbsorbReport | None = None
        self._error: BaseException | None = None

    def __repr__(self) -> str:
        state = "done" if self.done else "cancelled" if self.cancelled() else "under way"
        return f"Job({self.memory_id!r}, {state})"

    @property
    def begun(self) -> bool:
        """Whether its turn has come."""
        return self._begun.is_set()

    @property
    def done(self) -> bool:
        """Whether it ended, well or badly."""
        return self._done.is_set()

    @property
    def progress(self) -> AbsorbProgress | None:
        """The newest progress; None before the first chunk is learned."""
        return self._progress

    @property
    def error(self) -> BaseException | None:
        """What it failed with, once it is done."""
        return self._error

    def urgent(self) -> bool:
        """Whether somebody waits for an answer that needs it."""
        return self._urgent.is_set()

    def hurry(self) -> None:
        """Called by the queue when such an answer stands behind it."""
        self._urgent.set()

    def cancelled(self) -> bool:
        return self._cancel.is_set()

    def cancel(self) -> None:
        """Ask it to stop; `wait` then raises `Cancelled`."""
        self._cancel.set()
        self._heard()

    def wait(self, timeout: float | None = None) -> AbsorbReport:
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

    def finished(self) -> None:
        """Wait until it is done, well or badly; `error` then tells which."""
        self._done.wait()

    def note(self, progress: AbsorbProgress) -> None:
        """Called by the work after each chunk."""
        self._progress = progress

    def hear(self, heard: Callable[[], None]) -> None:
        """Called by the queue, which wants to know when it is cancelled."""
        self._heard = heard

    def fail(self, error: Exception) -> None:
        """Called by the queue where the work could not begin."""
        self._error = error
        self._done.set()

    def _start(self) -> AbsorbReport:
        if self.cancelled():
            raise Cancelled(f"The absorb into {self.memory_id!r} was cancelled before it began.")
        self._begun.set()
        return self._work(self)

    def run(self) -> None:
        """Called once by the queue."""
        try:
            self._report = self._start()
        except BaseException as error:  # noqa: BLE001  # kept and raised by wait()
            self._error = error
        finally:
            self._done.set()


class JobQueue:
    """Runs jobs: in order within a memory, together across memories."""

    def __init__(self) -> None:
        self._changed = threading.Condition()  # its lock may be taken again by who holds it
        self._waiting: dict[str, deque[Job]] = {}
        self._line: deque[Job] = deque()  # jobs whose turn in their memory it is, without a place
        self._placed = 0
        self._closed = False

    def submit(self, job: Job) -> Job:
        """Queue a job.

        Raises:
            Closed: the queue was closed.
            LearningFailed: the system has no thread for it.
        """
        with self._changed:
            if self._closed:
                raise Closed("The service is closed: no new absorbs.")
            job.hear(self._look)
            queue = self._waiting.get(job.memory_id)
            if queue is not None:
                if job.urgent():  # what it stands behind is as urgent, also if it runs already
                    for one in queue:
                        one.hurry()
                queue.append(job)
                self._look()
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

    def _look(self) -> None:
        """Let whoever waits look again."""
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
                placed = self._placed_in_line(job)
            job.run()
            with self._changed:
                queue.popleft()
                self._placed -= placed
                self._changed.notify_all()

    def _placed_in_line(self, job: Job) -> bool:
        """Wait until a job may run; returns whether it takes one of the places.

        What is cancelled ends at once, and what is urgent does not stand in line.
        """
        self._line.append(job)
        while True:
            pressing = job.cancelled() or job.urgent()
            if pressing or (self._placed < MOST_THREADS and self._line[0] is job):
                break
            self._changed.wait()
        self._line.remove(job)
        self._placed += not pressing
        self._changed.notify_all()  # there may be a place for the next in line, too
        return not pressing

    def jobs(self, memory_id: str) -> tuple[Job, ...]:
        """Jobs of a memory that wait or run."""
        with self._changed:
            return tuple(job for job in self._waiting.get(memory_id, ()) if not job.done)

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
