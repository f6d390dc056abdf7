"""Absorbs and removals as jobs with ids that outlive the process.

A job is recorded in a small file before its id is handed out, and the file is removed once the job
has ended. The file holds no text: the text is in the memory's journal. A file that is left when
the server starts belongs to a job that a kill or a shutdown interrupted, which then goes on under
its old id; what was committed by then is not learned again. Only a correction does not go on: its
new text is nowhere on the disk before it is done. A lock beside the file tells other servers on the
same folder that the job is being worked on.
"""

from __future__ import annotations

import json
import logging
import math
import re
import secrets
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from templora_memory.domain.ids import parse_id
from templora_memory.domain.messages import Document, Message, chain, dialogue, start
from templora_memory.errors import (
    Cancelled,
    InvalidId,
    InvalidText,
    TemploraError,
    UnknownMemory,
    UnknownText,
)
from templora_memory.fs.files import make_folder, replace_file
from templora_memory.fs.locks import hold
from templora_memory.server.errors import ApiError
from templora_memory.server.ray.routing import routing_key
from templora_memory.service.jobs import Job
from templora_memory.service.parametric_memory import ParametricMemory

_log = logging.getLogger("templora_memory.server")
_JOB_ID = re.compile(r"job-[0-9a-f]{24}")
JobKind: TypeAlias = Literal["documents", "messages", "rebuild", "remove", "correct"]
JobState: TypeAlias = Literal["queued", "running", "succeeded", "failed", "cancelled"]
MAX_ENDED_JOBS = 1000
"""Ended jobs that can still be asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRecord:
    """The file of a job that has not ended.

    `after`, `messages` and `digest` say which part of the conversation it learns. The digest shows
    whether the conversation is still the same when the job is resumed. `ids` are the texts that it
    removes or corrects.
    """

    id: str
    kind: JobKind
    memory: str
    created: float
    after: int | None = None
    messages: int = 0
    digest: str = ""
    ids: tuple[str, ...] = ()

    @classmethod
    def read(cls, path: Path) -> JobRecord:
        """Read the record in a file.

        Raises:
            FileNotFoundError: the file is gone.
            ValueError: it is damaged.
        """
        body = json.loads(path.read_bytes())
        try:
            record = cls(**{**body, "ids": tuple(body.get("ids", ()))})
            parse_id(record.memory)
        except (TypeError, InvalidId) as error:
            raise ValueError(str(error)) from error
        counts = (record.messages, 0 if record.after is None else record.after)
        if (
            record.id != path.stem
            or record.kind not in get_args(JobKind)
            or not (isinstance(record.created, float) and math.isfinite(record.created))
            or not isinstance(record.digest, str)
            or not all(isinstance(text_id, str) for text_id in record.ids)
            or any(type(count) is not int or count < 0 for count in counts)
        ):
            raise ValueError("a field is not what a server writes")
        return record


@dataclass(slots=True, kw_only=True)
class JobEntry:
    """A job in the registry: its record, the running job, and the lock on its file."""

    record: JobRecord
    job: Job[Any]
    resumed: bool = False
    erased: bool = False
    locks: ExitStack = field(default_factory=ExitStack)

    @property
    def state(self) -> JobState:
        """State of the job, as clients see it."""
        if not self.job.done:
            return "running" if self.job.begun else "queued"
        if self.job.error is None:
            return "succeeded"
        return "cancelled" if isinstance(self.job.error, Cancelled) else "failed"


class JobRegistry:
    """The jobs of one namespace, safe to use from several threads.

    Args:
        folder: folder of the job records.
        service: service that learns.
        max_jobs: jobs that may wait or run at once.
    """

    def __init__(self, folder: Path, service: ParametricMemory, *, max_jobs: int) -> None:
        self._folder = folder
        self._service = service
        self._max_jobs = max_jobs
        self._entries: dict[str, JobEntry] = {}
        self._starting = 0
        self._closing = False
        self._lock = threading.Lock()

    def absorb(
        self,
        memory_id: str,
        text: Sequence[Document] | Sequence[Message],
        *,
        after: int | None = None,
    ) -> JobEntry:
        """Journal a text and start to learn it; returns once both text and job are on disk.

        Raises:
            ApiError: 429, too many jobs are under way.
            TemploraError: as `Memory.absorb`.
        """
        messages = dialogue(item for item in text if isinstance(item, Message))
        record = JobRecord(
            id=_new_id(memory_id),
            kind="messages" if messages else "documents",
            memory=memory_id,
            created=time.time(),
            after=after,
            messages=len(messages),
            digest=_digest(messages),
        )
        with self._reserve():
            job = self._service[memory_id].absorb(text, after=after, wait=False)
            return self._register(record, job)

    def rebuild(self, memory_id: str) -> JobEntry:
        """Start to learn a memory again from its journal.

        Raises:
            ApiError: 429, too many jobs are under way.
            UnknownMemory: there is no such memory.
        """
        record = JobRecord(
            id=_new_id(memory_id),
            kind="rebuild",
            memory=memory_id,
            created=time.time(),
        )
        with self._reserve():
            return self._register(record, self._service[memory_id].rebuild(wait=False))

    def remove(
        self, memory_id: str, ids: Sequence[str], ask: Sequence[tuple[str, str]] = ()
    ) -> JobEntry:
        """Start to remove texts; asked again while that is under way, it is the same job.

        Raises:
            ApiError: 429, too many jobs are under way.
            TemploraError: as `Memory.remove`.
        """
        if (entry := self._under_way("remove", memory_id, ids)) is not None:
            return entry
        record = JobRecord(
            id=_new_id(memory_id),
            kind="remove",
            memory=memory_id,
            created=time.time(),
            ids=tuple(ids),
        )
        with self._reserve():
            job = self._service[memory_id].remove(ids, ask=ask, wait=False)
            return self._register(record, job)

    def correct(
        self, memory_id: str, text_id: str, text: str, ask: Sequence[tuple[str, str]] = ()
    ) -> JobEntry:
        """Start to correct a text.

        Raises:
            ApiError: 429, too many jobs are under way.
            TemploraError: as `Memory.correct`.
        """
        record = JobRecord(
            id=_new_id(memory_id),
            kind="correct",
            memory=memory_id,
            created=time.time(),
            ids=(text_id,),
        )
        with self._reserve():
            job = self._service[memory_id].correct(text_id, text, ask=ask, wait=False)
            return self._register(record, job)

    def _under_way(self, kind: JobKind, memory_id: str, ids: Sequence[str]) -> JobEntry | None:
        with self._lock:
            entries = [entry for entry in self._entries.values() if not entry.job.done]
        for entry in entries:
            record = entry.record
            if (record.kind, record.memory, set(record.ids)) == (kind, memory_id, set(ids)):
                return entry
        return None

    @contextmanager
    def _reserve(self) -> Iterator[None]:
        """Count one more job while it is being made.

        Raises:
            ApiError: 429.
        """
        self.sweep()
        with self._lock:
            busy = self._starting + sum(not entry.job.done for entry in self._entries.values())
            if busy >= self._max_jobs:
                raise ApiError(
                    429,
                    f"{busy} absorbs are under way, the most there may be: try again later.",
                    code="too_many_jobs",
                    retry_after=5,
                )
            self._starting += 1
        try:
            yield
        finally:
            with self._lock:
                self._starting -= 1

    def _register(self, record: JobRecord, job: Job[Any]) -> JobEntry:
        entry = JobEntry(record=record, job=job)
        entry.locks.enter_context(hold(self._file(record, ".lock"), seconds=1))
        replace_file(self._file(record, ".json"), json.dumps(asdict(record)).encode())
        with self._lock:
            self._entries[record.id] = entry
        return entry

    def _file(self, record: JobRecord, suffix: str) -> Path:
        return self._folder / f"{record.id}{suffix}"

    # --- asking --------------------------------------------------------------------------------

    def get(self, job_id: str) -> JobEntry:
        """Return a job of this namespace, after taking it over if its server has died.

        Raises:
            ApiError: 404; 503, another server is at work on it.
        """
        with self._lock:
            entry = self._entries.get(job_id)
        if entry is None and _JOB_ID.fullmatch(job_id):
            entry = self._take_over(self._folder / f"{job_id}.json")
        if entry is None:
            raise ApiError(
                404,
                f"There is no job {job_id[:64]!r} (any more).",
                code="job_not_found",
                param="job_id",
            )
        return entry

    def _take_over(self, path: Path) -> JobEntry | None:
        if not path.exists():
            return None
        if not self._resume_file(path) and path.exists():
            raise ApiError(
                503,
                "Another server on this folder is at work on the job: ask again.",
                code="job_elsewhere",
                param="job_id",
                retry_after=1,
            )
        with self._lock:
            return self._entries.get(path.stem)

    def all(self, memory_id: str | None = None) -> list[JobEntry]:
        """Return jobs under way and the newest that have ended, oldest first."""
        with self._lock:
            entries = list(self._entries.values())
        return [e for e in entries if memory_id is None or e.record.memory == memory_id]

    # --- upkeep --------------------------------------------------------------------------------

    def sweep(self) -> None:
        """Remove the records of jobs that have ended, and forget the oldest of them."""
        with self._lock:
            if self._closing:
                return  # what is cancelled by closing goes on at the next start
            ended = [entry for entry in self._entries.values() if entry.job.done]
            for entry in ended[: max(0, len(ended) - MAX_ENDED_JOBS)]:
                del self._entries[entry.record.id]
            for entry in ended:
                self._erase(entry)

    def _erase(self, entry: JobEntry) -> None:
        if entry.erased:
            return
        entry.erased = True
        self._file(entry.record, ".json").unlink(missing_ok=True)
        self._file(entry.record, ".lock").unlink(missing_ok=True)
        entry.locks.close()

    def drop(self, memory_ids: Iterable[str]) -> None:
        """Forget every job of these memories, also from disk."""
        forgotten = set(memory_ids)
        with self._lock:
            entries = [e for e in self._entries.values() if e.record.memory in forgotten]
            for entry in entries:
                del self._entries[entry.record.id]
                self._erase(entry)

    def resume(self) -> int:
        """Start the jobs that were interrupted; return how many."""
        make_folder(self._folder)
        return sum(self._resume_file(path) for path in sorted(self._folder.glob("job-*.json")))

    def _resume_file(self, path: Path) -> bool:
        """Start the job of a record; return False if it cannot or need not be started here."""
        with ExitStack() as stack:
            try:
                stack.enter_context(hold(path.with_suffix(".lock"), seconds=0))
                record = JobRecord.read(path)
            except (TimeoutError, FileNotFoundError):
                return False  # another server works on it, or has just ended it
            except (ValueError, RecursionError) as error:
                # it holds nothing that the journal lacks: a bad record must not stop the server
                _log.error("%s is damaged (%s) and removed: absorb again, or resume", path, error)
                path.unlink(missing_ok=True)
                path.with_suffix(".lock").unlink(missing_ok=True)
                return False
            try:
                job = self._restart(record)
            except TemploraError as error:  # another base model, a damaged file: for a later start
                _log.warning("job %s of %r cannot go on: %s", record.id, record.memory, error)
                return False
            if job is None:
                path.unlink(missing_ok=True)
                path.with_suffix(".lock").unlink(missing_ok=True)
                return False
            entry = JobEntry(record=record, job=job, resumed=True, locks=stack.pop_all())
        with self._lock:
            self._entries[record.id] = entry
        return True

    def _restart(self, record: JobRecord) -> Job[Any] | None:
        """Start a job once more; None if there is nothing left that it could learn."""
        with suppress(UnknownMemory, UnknownText, InvalidText):
            memory = self._service[record.memory]
            if record.kind == "documents":
                return memory.resume()
            if record.kind == "rebuild":
                return memory.rebuild(wait=False)
            if record.kind == "remove":
                return memory.remove(record.ids, wait=False)
            if record.kind == "correct":
                return None
            begin = record.after or 0
            part = memory.transcript().messages[begin : begin + record.messages]
            if _digest(part) == record.digest:
                return memory.absorb(part, after=record.after, wait=False)
        return None

    def close(self) -> None:
        """Keep the records of jobs that have not ended, for the next start."""
        self.sweep()
        with self._lock:
            self._closing = True

    def release_locks(self) -> None:
        """Release the locks on all records, once the service has stopped."""
        with self._lock:
            entries = list(self._entries.values())
        for entry in entries:
            entry.locks.close()


def _new_id(memory_id: str) -> str:
    """Make a job id. It begins with the memory's routing key, which says which replica has it."""
    return f"job-{routing_key(memory_id)}{secrets.token_hex(10)}"


def _digest(messages: Sequence[Message]) -> str:
    return chain(start("job"), messages)[-1]
