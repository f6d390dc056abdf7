"""The verbs of a memory over HTTP: make, learn, measure, look, copy, go back, move, forget."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Annotated, BinaryIO

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import StreamingResponse

from templora_memory.domain.ids import MAX_ID_CHARACTERS, parse_id
from templora_memory.errors import StoreDamaged, UnknownMemory
from templora_memory.server.errors import ApiError
from templora_memory.server.job_registry import Entry
from templora_memory.server.schemas import (
    AbsorbRequest,
    CreateRequest,
    DamagedMemory,
    ForkRequest,
    JobBody,
    JobList,
    MemoryCard,
    MemoryDetail,
    MemoryList,
    ProbeBody,
    ProbeRequest,
    Receipt,
    RevisionCard,
    RollbackRequest,
    TranscriptBody,
)
from templora_memory.server.state import Runtime, TheRuntime, TheTenant
from templora_memory.server.tenants import Tenant

router = APIRouter(prefix="/v1", tags=["memories"])
_PIECE = 1 << 18
_POLL = 0.05
ARCHIVE = "application/octet-stream"
_FILE_SCHEMA = {"schema": {"type": "string", "format": "binary"}}

Page = Annotated[int, Query(ge=1, le=1000, description="Most memories to list.")]
Wait = Annotated[
    float, Query(ge=0, le=60, description="Seconds to wait for its end before answering.")
]
Name = Annotated[str | None, Query(min_length=1, max_length=MAX_ID_CHARACTERS)]


# --- making and looking ------------------------------------------------------------------------


@router.post("/memories", status_code=201, summary="Make a memory")
async def create(asked: CreateRequest, runtime: TheRuntime, tenant: TheTenant) -> MemoryCard:
    """409 if there is one already. Absorbing and chatting make a memory too."""

    def work() -> MemoryCard:
        if tenant.exists(asked.id):
            raise ApiError(
                409, f"There is a memory {asked.id!r} already.", code="conflict", param="id"
            )
        return MemoryCard.of(tenant.service.open(asked.id, base=asked.base).status())

    return await runtime.file(tenant, work)


@router.get("/memories", summary="List memories")
async def list_(
    runtime: TheRuntime, tenant: TheTenant, limit: Page = 100, after: Name = None
) -> MemoryList:
    """In the order of their ids; `after` is the last id of the page before."""

    def work() -> MemoryList:
        ids = [one for one in tenant.service.list() if after is None or one > after]
        found: list[MemoryCard | DamagedMemory] = []
        for memory_id in ids[:limit]:
            try:
                found.append(MemoryCard.of(tenant.service.status(memory_id)))
            except StoreDamaged:
                said = "A file of this memory is not what was written; see the server's log."
                found.append(DamagedMemory(id=memory_id, error=said))
            except UnknownMemory:
                continue  # forgotten while we looked
        return MemoryList(data=found, has_more=len(ids) > limit)

    return await runtime.file(tenant, work)


@router.get("/memories/{memory_id}", summary="Show a memory")
async def show(memory_id: str, runtime: TheRuntime, tenant: TheTenant) -> MemoryDetail:
    def work() -> MemoryDetail:
        card = MemoryCard.of(tenant.service.status(memory_id))
        history = [RevisionCard.of(one) for one in tenant.service.revisions(memory_id)]
        return MemoryDetail(**card.model_dump(), history=history)

    return await runtime.file(tenant, work)


@router.get("/memories/{memory_id}/text", summary="What a memory was told")
async def text(memory_id: str, runtime: TheRuntime, tenant: TheTenant) -> TranscriptBody:
    found = await runtime.file(tenant, tenant.service.transcript, memory_id)
    return TranscriptBody.of(found)


# --- learning ----------------------------------------------------------------------------------


@router.post("/memories/{memory_id}/absorb", status_code=202, summary="Learn a text")
async def absorb(
    memory_id: str, asked: AbsorbRequest, runtime: TheRuntime, tenant: TheTenant, wait: Wait = 0
) -> JobBody:
    """Answers once the text and the job are on disk: from then on a crash loses neither.

    The memory is made if it does not exist. What it knows already is not learned again.
    """
    name = str(parse_id(memory_id))
    work = partial(tenant.jobs.absorb, name, asked.items(), after=asked.after)
    return await _ended(await runtime.file(tenant, work), runtime, wait)


@router.post("/memories/{memory_id}/rebuild", status_code=202, summary="Learn everything again")
async def rebuild(
    memory_id: str, runtime: TheRuntime, tenant: TheTenant, wait: Wait = 0
) -> JobBody:
    """After a change of base model or settings, or damaged files. Old revisions stay until then."""
    name = str(parse_id(memory_id))
    return await _ended(await runtime.file(tenant, tenant.jobs.rebuild, name), runtime, wait)


@router.get("/jobs", summary="List jobs")
async def jobs(tenant: TheTenant, memory: Name = None) -> JobList:
    name = None if memory is None else str(parse_id(memory))
    return JobList(data=[JobBody.of(entry) for entry in tenant.jobs.all(name)])


@router.get("/jobs/{job_id}", summary="How far is a job?")
async def job(job_id: str, runtime: TheRuntime, tenant: TheTenant, wait: Wait = 0) -> JobBody:
    return await _ended(tenant.jobs.get(job_id), runtime, wait)


@router.get(
    "/jobs/{job_id}/events",
    summary="The progress of a job, as it comes",
    response_class=StreamingResponse,
    responses={200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}},
)
async def events(job_id: str, runtime: TheRuntime, tenant: TheTenant) -> StreamingResponse:
    """Server-sent events, each a job as `GET /v1/jobs/{job_id}` gives it, until it has ended."""
    entry = tenant.jobs.get(job_id)

    async def told() -> AsyncIterator[str]:
        before = None
        while True:
            body = JobBody.of(entry)
            if (said := body.model_dump_json()) != before:
                yield f"data: {said}\n\n"
                before = said
            if body.state not in {"queued", "running"} or runtime.draining:
                return
            await asyncio.sleep(_POLL)

    return StreamingResponse(told(), media_type="text/event-stream")


@router.delete("/jobs/{job_id}", summary="Cancel a job")
async def cancel(job_id: str, runtime: TheRuntime, tenant: TheTenant, wait: Wait = 5) -> JobBody:
    """What was committed stays; the text that was not learned stays in the journal."""
    entry = tenant.jobs.get(job_id)
    entry.job.cancel()
    return await _ended(entry, runtime, wait)


async def _ended(entry: Entry, runtime: Runtime, seconds: float) -> JobBody:
    """A job, after its end or so many seconds, or once the server is told to stop."""
    end = time.monotonic() + seconds
    # a job's end is told to threads, not to the event loop
    while not (entry.job.done or runtime.draining) and time.monotonic() < end:  # noqa: ASYNC110
        await asyncio.sleep(_POLL)
    return JobBody.of(entry)


@router.post("/memories/{memory_id}/probe", summary="How likely is an answer?")
async def probe(
    memory_id: str, asked: ProbeRequest, runtime: TheRuntime, tenant: TheTenant
) -> ProbeBody:
    """With the newest revision, and with the base model alone."""
    if (asked.question is None) == (asked.messages is None):
        raise ApiError(
            400,
            "Give a question or messages, one of the two.",
            code="invalid_value",
            param="question",
        )
    question = asked.question or [one.as_message() for one in asked.messages or ()]
    work = partial(tenant.service.probe, memory_id, question, asked.answer, strength=asked.strength)
    return ProbeBody.of(await runtime.compute(tenant, work))


# --- copying, going back -----------------------------------------------------------------------


@router.post("/memories/{memory_id}/fork", status_code=201, summary="Copy a memory")
async def fork(
    memory_id: str, asked: ForkRequest, runtime: TheRuntime, tenant: TheTenant
) -> MemoryCard:
    """Waits for absorbs of the memory that are under way."""

    def work() -> MemoryCard:
        copy = tenant.service.fork(memory_id, asked.target, revision=asked.revision)
        return MemoryCard.of(copy.status())

    return await runtime.file(tenant, work)


@router.post("/memories/{memory_id}/rollback", summary="Go back to an older revision")
async def rollback(
    memory_id: str, asked: RollbackRequest, runtime: TheRuntime, tenant: TheTenant
) -> MemoryCard:
    """Newer revisions are deleted; absorbs of the memory that are under way are cancelled."""

    def work() -> MemoryCard:
        tenant.service.rollback(memory_id, asked.revision)
        tenant.jobs.sweep()  # what was cancelled must not begin again at the next start
        return MemoryCard.of(tenant.service.status(memory_id))

    return await runtime.file(tenant, work)


# --- moving ------------------------------------------------------------------------------------


@router.get(
    "/memories/{memory_id}/export",
    summary="A memory as one file",
    response_class=Response,
    responses={200: {"content": {ARCHIVE: _FILE_SCHEMA}}},
)
async def export(memory_id: str, runtime: TheRuntime, tenant: TheTenant) -> StreamingResponse:
    """Its text and its weights. Forgetting does not reach copies."""
    file, size = await runtime.file(tenant, _exported, tenant, memory_id)
    return StreamingResponse(
        _pieces(file),
        media_type=ARCHIVE,
        headers={
            "content-length": str(size),
            "content-disposition": 'attachment; filename="memory.templora"',
        },
    )


def _exported(tenant: Tenant, memory_id: str) -> tuple[BinaryIO, int]:
    """The file, open, and gone from its folder already: nothing is left whatever happens."""
    with tenant.on_its_way() as path:
        tenant.service.export(memory_id, path)
        return path.open("rb"), path.stat().st_size


async def _pieces(file: BinaryIO) -> AsyncIterator[bytes]:
    with file:
        while piece := await asyncio.to_thread(file.read, _PIECE):
            yield piece


@router.post(
    "/memories/import",
    status_code=201,
    summary="Make a memory from an exported file",
    openapi_extra={"requestBody": {"required": True, "content": {ARCHIVE: _FILE_SCHEMA}}},
)
async def import_(
    request: Request, runtime: TheRuntime, tenant: TheTenant, memory_id: Name = None
) -> MemoryCard:
    """Under its old id, or under `memory_id`; 409 if that exists. The body is the file."""
    if request.headers.get("content-type", "").partition(";")[0].strip() != ARCHIVE:
        raise ApiError(
            415,
            f"Send the file with the header `Content-Type: {ARCHIVE}`.",
            code="unsupported_media_type",
        )
    with tenant.on_its_way() as path:
        with await asyncio.to_thread(_private, path) as file:
            async for piece in request.stream():
                await asyncio.to_thread(file.write, piece)
        return await runtime.file(tenant, _imported, tenant, path, memory_id)


def _private(path: Path) -> BinaryIO:
    path.touch(mode=0o600)
    return path.open("wb")


def _imported(tenant: Tenant, path: Path, memory_id: str | None) -> MemoryCard:
    try:
        memory = tenant.service.import_(path, memory_id)
    except StoreDamaged as error:
        said = str(error).replace(str(path), "The file")
        raise ApiError(
            400, f"This is not an exported memory: {said}", code="damaged_file"
        ) from error
    return MemoryCard.of(memory.status())


# --- forgetting --------------------------------------------------------------------------------


@router.delete("/memories/{memory_id}", summary="Forget a memory")
async def forget(memory_id: str, runtime: TheRuntime, tenant: TheTenant) -> Receipt:
    """With everything made from it, and all of its `...@user`. Replies under way are stopped."""
    return Receipt.of(await runtime.file(tenant, tenant.forget, memory_id, None))


@router.delete("/memories", summary="Forget a user")
async def forget_user(
    user: Annotated[str, Query(min_length=1, max_length=MAX_ID_CHARACTERS)],
    runtime: TheRuntime,
    tenant: TheTenant,
) -> Receipt:
    """All memories `...@user` of this key."""
    return Receipt.of(await runtime.file(tenant, tenant.forget, None, user))
