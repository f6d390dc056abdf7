"""Absorbs as jobs with ids that outlive the process.

A job is noted in a small file before its id is handed out, and the file is removed once the job
has ended. The file holds no text: the text is in the memory's journal. A file that is left when
the server starts belongs to a job that a kill or a shutdown interrupted, which then goes on under
its old id; what was committed by then is not learned again. A lock beside the file tells other
servers on the same folder that the job is being worked on.
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
from typing import Literal, TypeAlias, get_args

from templora_memory.domain.ids import parse_id
from templora_memory.domain.messages import Document, Message, chain, dialogue, start
from templora_memory.errors import (
    Cancelled,
    InvalidId,
    InvalidText,
    TemploraError,
    UnknownMemory,
)
from templora_memory.fs.files import make_folder, replace_file
from templora_memory.fs.locks import hold
from templora_memory.server.errors import ApiError
from templora_memory.server.ray.routing import number_of
from templora_memory.service.jobs import Job
from templora_memory.service.parametric_memory import ParametricMemory

_log = logging.getLogger("templora_memory.server")
_ID = re.compile(r"job-[0-9a-f]{24}")
Kind: TypeAlias = Literal["documents", "messages", "rebuild"]
State: TypeAlias = Literal["queued", "running", "succeeded", "failed", "cancelled"]
REMEMBERED = 1000
"""How many ended jobs can still be asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """What is on disk about a job that has not ended.

    `after`, `messages` and `digest` say which part of the conversation it learns; the digest tells
    whether the conversation is still the same when the job is taken up again.
    """

    id: str
    kind: Kind
    memory: str
    created: float
    after: int | None = None
    messages: int = 0
    digest: str = ""

    @classmethod
    def read(cls, path: Path) -> Note:
        """The note in a file.

        Raises:
            FileNotFoundError: it is gone.
            ValueError: it is damaged.
        """
        body = json.loads(path.read_bytes())
        try:
            note = cls(**body)
            parse_id(note.memory)
        except (TypeError, InvalidId) as error:
            raise ValueError(str(error)) from error
        whole = (note.messages, 0 if note.after is None else note.after)
        if (
            note.id != path.stem
            or note.kind not in get_args(Kind)
            or not (isinstance(note.created, float) and math.isfinite(note.created))
            or not isinstance(note.digest, str)
            or any(type(number) is not int or number < 0 for number in whole)
        ):
            raise ValueError("a field is not what a server writes")
        return note


@dataclass(slots=True, kw_only=True)
class Entry:
    """A job under its id."""

    note: Note
    job: Job
    resumed: bool = False
    erased: bool = False
    locks: ExitStack = field(default_factory=ExitStack)

    @property
    def state(self) -> State:
        if not self.job.done:
            return "running" if self.job.begun else "queued"
        if self.job.error is None:
            return "succeeded"
        return "cancelled" if isinstance(self.job.error, Cancelled) else "failed"


class JobBook:
    """The jobs of one namespace.

    Args:
        folder: where notes lie.
        service: what learns.
        most: jobs that may wait or run at once.
    """

    def __init__(self, folder: Path, service: ParametricMemory, *, most: int) -> None:
        self._folder = folder
        self._service = service
        self._most = most
        self._entries: dict[str, Entry] = {}
        self._starting = 0
        self._closing = False
        self._lock = threading.Lock()

    def absorb(
        self,
        memory_id: str,
        text: Sequence[Document] | Sequence[Message],
        *,
        after: int | None = None,
    ) -> Entry:
        """Journal a text and learn it; returns once both text and job are on disk.

        Raises:
            ApiError: 429, too many jobs are under way.
            TemploraError: as `ParametricMemory.absorb`.
        """
        body = dialogue(item for item in text if isinstance(item, Message))
        note = Note(
            id=_new_id(memory_id),
            kind="messages" if body else "documents",
            memory=memory_id,
            created=time.time(),
            after=after,
            messages=len(body),
            digest=_digest(body),
        )
        with self._room():
            job = self._service.absorb(memory_id, text, after=after, wait=False)
            return self._enter(note, job)

    def rebuild(self, memory_id: str) -> Entry:
        """Learn a memory again from its journal.

        Raises:
            ApiError: 429.
            UnknownMemory.
        """
        note = Note(
            id=_new_id(memory_id),
            kind="rebuild",
            memory=memory_id,
            created=time.time(),
        )
        with self._room():
            return self._enter(note, self._service.rebuild(memory_id, wait=False))

    @contextmanager
    def _room(self) -> Iterator[None]:
        """Room for one more job, kept while it is being made."""
        self.sweep()
        with self._lock:
            busy = self._starting + sum(not entry.job.done for entry in self._entries.values())
            if busy >= self._most:
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

    def _enter(self, note: Note, job: Job) -> Entry:
        entry = Entry(note=note, job=job)
        entry.locks.enter_context(hold(self._file(note, ".lock"), seconds=1))
        replace_file(self._file(note, ".json"), json.dumps(asdict(note)).encode())
        with self._lock:
            self._entries[note.id] = entry
        return entry

    def _file(self, note: Note, suffix: str) -> Path:
        return self._folder / f"{note.id}{suffix}"

    # --- asking --------------------------------------------------------------------------------

    def get(self, job_id: str) -> Entry:
        """A job of this namespace; one whose server has died is taken over.

        Raises:
            ApiError: 404; 503, another server is at work on it.
        """
        with self._lock:
            entry = self._entries.get(job_id)
        if entry is None and _ID.fullmatch(job_id):
            entry = self._taken_over(self._folder / f"{job_id}.json")
        if entry is None:
            raise ApiError(
                404,
                f"There is no job {job_id[:64]!r} (any more).",
                code="job_not_found",
                param="job_id",
            )
        return entry

    def _taken_over(self, path: Path) -> Entry | None:
        if not path.exists():
            return None
        if not self._take_up(path) and path.exists():
            raise ApiError(
                503,
                "Another server on this folder is at work on the job: ask again.",
                code="job_elsewhere",
                param="job_id",
                retry_after=1,
            )
        with self._lock:
            return self._entries.get(path.stem)

    def all(self, memory_id: str | None = None) -> list[Entry]:
        """Jobs under way and the newest that have ended, oldest first."""
        with self._lock:
            entries = list(self._entries.values())
        return [e for e in entries if memory_id is None or e.note.memory == memory_id]

    # --- upkeep --------------------------------------------------------------------------------

    def sweep(self) -> None:
        """Remove the notes of jobs that have ended, and forget the oldest of them."""
        with self._lock:
            if self._closing:
                return  # what is cancelled by closing goes on at the next start
            ended = [entry for entry in self._entries.values() if entry.job.done]
            for entry in ended[: max(0, len(ended) - REMEMBERED)]:
                del self._entries[entry.note.id]
            for entry in ended:
                self._erase(entry)

    def _erase(self, entry: Entry) -> None:
        if entry.erased:
            return
        entry.erased = True
        self._file(entry.note, ".json").unlink(missing_ok=True)
        self._file(entry.note, ".lock").unlink(missing_ok=True)
        entry.locks.close()

    def drop(self, memory_ids: Iterable[str]) -> None:
        """Forget every job of these memories, also from disk."""
        gone = set(memory_ids)
        with self._lock:
            entries = [e for e in self._entries.values() if e.note.memory in gone]
            for entry in entries:
                del self._entries[entry.note.id]
                self._erase(entry)

    def resume(self) -> int:
        """Take up the jobs that were interrupted; returns how many."""
        make_folder(self._folder)
        return sum(self._take_up(path) for path in sorted(self._folder.glob("job-*.json")))

    def _take_up(self, path: Path) -> bool:
        with ExitStack() as stack:
            try:
                stack.enter_context(hold(path.with_suffix(".lock"), seconds=0))
                note = Note.read(path)
            except (TimeoutError, FileNotFoundError):
                return False  # another server works on it, or has just ended it
            except (ValueError, RecursionError) as error:
                # it holds nothing that the journal lacks: one bad note must not stop the server
                _log.error("%s is damaged (%s) and removed: absorb again, or resume", path, error)
                path.unlink(missing_ok=True)
                path.with_suffix(".lock").unlink(missing_ok=True)
                return False
            try:
                job = self._again(note)
            except TemploraError as error:  # another base model, a damaged file: for a later start
                _log.warning("job %s of %r cannot go on: %s", note.id, note.memory, error)
                return False
            if job is None:
                path.unlink(missing_ok=True)
                path.with_suffix(".lock").unlink(missing_ok=True)
                return False
            entry = Entry(note=note, job=job, resumed=True, locks=stack.pop_all())
        with self._lock:
            self._entries[note.id] = entry
        return True

    def _again(self, note: Note) -> Job | None:
        """Start a job once more; None if there is nothing left that it could learn."""
        with suppress(UnknownMemory, InvalidText):
            if note.kind == "documents":
                return self._service.resume(note.memory)
            if note.kind == "rebuild":
                return self._service.rebuild(note.memory, wait=False)
            begin = note.after or 0
            messages = self._service.transcript(note.memory).messages
            part = messages[begin : begin + note.messages]
            if _digest(part) == note.digest:
                return self._service.absorb(note.memory, part, after=note.after, wait=False)
        return None

    def close(self) -> None:
        """Keep the notes of jobs that have not ended, for the next start."""
        self.sweep()
        with self._lock:
            self._closing = True

    def closed(self) -> None:
        """Let go of the locks, once the service has stopped."""
        with self._lock:
            entries = list(self._entries.values())
        for entry in entries:
            entry.locks.close()


def _new_id(memory_id: str) -> str:
    """Begins with what tells the replica of this memory from others."""
    return f"job-{number_of(memory_id)}{secrets.token_hex(10)}"


def _digest(messages: Sequence[Message]) -> str:
    return chain(start("job"), messages)[-1]
