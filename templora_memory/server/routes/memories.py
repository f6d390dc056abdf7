"""Routes of memories and jobs: make, show, learn, edit, measure, copy, roll back, move, forget."""

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
from templora_memory.server.answers import STREAMED
from templora_memory.server.errors import ApiError
from templora_memory.server.job_registry import JobEntry
from templora_memory.server.schemas import (
    AbsorbRequest,
    CorrectRequest,
    CreateRequest,
    DamagedMemory,
    ForgetBody,
    ForkRequest,
    JobBody,
    JobList,
    MemoryCard,
    MemoryDetail,
    MemoryList,
    ProbeBody,
    ProbeRequest,
    RemoveRequest,
    RevisionCard,
    RollbackRequest,
    TextList,
    TranscriptBody,
    text_messages,
)
from templora_memory.server.state import ServerState, StateDep, TenantDep
from templora_memory.server.tenants import Tenant

router = APIRouter(prefix="/v1", tags=["memories"])
_PIECE_BYTES = 1 << 18
_POLL_SECONDS = 0.05
ARCHIVE_TYPE = "application/octet-stream"
_FILE_SCHEMA = {"schema": {"type": "string", "format": "binary"}}

PageSize = Annotated[int, Query(ge=1, le=1000, description="Most memories to list.")]
WaitSeconds = Annotated[
    float, Query(ge=0, le=60, description="Seconds to wait for its end before answering.")
]
OptionalName = Annotated[str | None, Query(min_length=1, max_length=MAX_ID_CHARACTERS)]


# --- making and showing ------------------------------------------------------------------------


@router.post("/memories", status_code=201, summary="Make a memory")
async def create(body: CreateRequest, state: StateDep, tenant: TenantDep) -> MemoryCard:
    """Make a memory; 409 if it exists. Absorbing and chatting make one too."""

    def work() -> MemoryCard:
        if tenant.exists(body.id):
            raise ApiError(
                409, f"There is a memory {body.id!r} already.", code="conflict", param="id"
            )
        return MemoryCard.of(tenant.service.open(body.id, base=body.base).status())

    return await state.run_file_work(tenant, work)


@router.get("/memories", summary="List memories")
async def list_(
    state: StateDep, tenant: TenantDep, limit: PageSize = 100, after: OptionalName = None
) -> MemoryList:
    """List memories in the order of their ids; `after` is the last id of the page before."""

    def work() -> MemoryList:
        ids = [id_ for id_ in tenant.service.list() if after is None or id_ > after]
        cards: list[MemoryCard | DamagedMemory] = []
        for memory_id in ids[:limit]:
            try:
                cards.append(MemoryCard.of(tenant.service[memory_id].status()))
            except StoreDamaged:
                error = "A file of this memory is not what was written; see the server's log."
                cards.append(DamagedMemory(id=memory_id, error=error))
            except UnknownMemory:
                continue  # forgotten after it was listed
        return MemoryList(data=cards, has_more=len(ids) > limit)

    return await state.run_file_work(tenant, work)


@router.get("/memories/{memory_id}", summary="Show a memory")
async def show(memory_id: str, state: StateDep, tenant: TenantDep) -> MemoryDetail:
    """Show the counts of a memory and its revisions, oldest first."""

    def work() -> MemoryDetail:
        memory = tenant.service[memory_id]
        card = MemoryCard.of(memory.status())
        history = [RevisionCard.of(revision) for revision in memory.revisions()]
        return MemoryDetail(**card.model_dump(), history=history)

    return await state.run_file_work(tenant, work)


@router.get("/memories/{memory_id}/text", summary="Every text of a memory")
async def text(memory_id: str, state: StateDep, tenant: TenantDep) -> TranscriptBody:
    """Show every text in force: documents, and the messages of the conversation."""
    transcript = await state.run_file_work(tenant, tenant.service[memory_id].transcript)
    return TranscriptBody.of(transcript)


# --- texts one by one --------------------------------------------------------------------------


@router.get("/memories/{memory_id}/texts", summary="What a memory was told, text by text")
async def texts(
    memory_id: str,
    state: StateDep,
    tenant: TenantDep,
    *,
    query: Annotated[
        str | None, Query(min_length=1, max_length=4096, description="Words, the best first.")
    ] = None,
    limit: Annotated[int, Query(ge=1, le=1000, description="Most texts to list.")] = 100,
    offset: Annotated[int, Query(ge=0, le=1 << 53)] = 0,
    superseded: Annotated[
        bool, Query(description="List what an edit of the conversation left behind, too.")
    ] = False,
) -> TextList:
    """List messages and documents in the order they were told, or those that share words."""
    work = partial(
        tenant.service[memory_id].texts,
        query,
        limit=limit,
        offset=offset,
        superseded=superseded,
    )
    return TextList.of(await state.run_file_work(tenant, work))


@router.post("/memories/{memory_id}/texts/remove", status_code=202, summary="Remove texts")
async def remove(
    memory_id: str, body: RemoveRequest, state: StateDep, tenant: TenantDep, wait: WaitSeconds = 0
) -> JobBody:
    """Start to remove texts and to learn the rest again; until that is done nothing changes.

    404 if one of the texts is not there. The same request, while the job is under way, gives the
    same job.
    """
    work = partial(tenant.remove, str(parse_id(memory_id)), body.ids, body.pairs)
    return await _wait_and_show(await state.run_file_work(tenant, work), state, wait)


@router.post("/memories/{memory_id}/texts/{text_id}/correct", status_code=202, summary="Correct")
async def correct(
    memory_id: str,
    text_id: str,
    body: CorrectRequest,
    state: StateDep,
    tenant: TenantDep,
    *,
    wait: WaitSeconds = 0,
) -> JobBody:
    """Start to put another text in the place of one, as `remove` does; the id stays.

    A server that is stopped before it is done does not go on: ask again.
    """
    work = partial(tenant.correct, str(parse_id(memory_id)), text_id, body.text, body.pairs)
    return await _wait_and_show(await state.run_file_work(tenant, work), state, wait)


@router.put("/memories/{memory_id}/texts/{text_id}/pin", status_code=204, summary="Pin a text")
async def pin(memory_id: str, text_id: str, state: StateDep, tenant: TenantDep) -> None:
    """Keep a text in replay and recall."""
    await state.run_file_work(tenant, tenant.service[memory_id].pin, [text_id])


@router.delete("/memories/{memory_id}/texts/{text_id}/pin", status_code=204, summary="Unpin it")
async def unpin(memory_id: str, text_id: str, state: StateDep, tenant: TenantDep) -> None:
    """Take the pin off a text."""
    await state.run_file_work(tenant, tenant.service[memory_id].unpin, [text_id])


# --- learning ----------------------------------------------------------------------------------


@router.post("/memories/{memory_id}/absorb", status_code=202, summary="Learn a text")
async def absorb(
    memory_id: str, body: AbsorbRequest, state: StateDep, tenant: TenantDep, wait: WaitSeconds = 0
) -> JobBody:
    """Start to learn a text; answers once it and the job are on disk, where no crash loses them.

    The memory is made if it does not exist. What it knows already is not learned again.
    """
    name = str(parse_id(memory_id))
    work = partial(tenant.jobs.absorb, name, body.items(), after=body.after)
    return await _wait_and_show(await state.run_file_work(tenant, work), state, wait)


@router.post("/memories/{memory_id}/rebuild", status_code=202, summary="Learn everything again")
async def rebuild(
    memory_id: str, state: StateDep, tenant: TenantDep, wait: WaitSeconds = 0
) -> JobBody:
    """Start to learn a memory again from its journal; its old revisions stay until it has.

    For a change of base model or settings, and for damaged files.
    """
    name = str(parse_id(memory_id))
    return await _wait_and_show(
        await state.run_file_work(tenant, tenant.jobs.rebuild, name), state, wait
    )


@router.get("/jobs", summary="List jobs")
async def jobs(tenant: TenantDep, memory: OptionalName = None) -> JobList:
    """List jobs under way and the newest that have ended, of all memories or of one."""
    name = None if memory is None else str(parse_id(memory))
    return JobList(data=[JobBody.of(entry) for entry in tenant.jobs.all(name)])


@router.get("/jobs/{job_id}", summary="How far is a job?")
async def job(job_id: str, state: StateDep, tenant: TenantDep, wait: WaitSeconds = 0) -> JobBody:
    """Show a job, at once or after its end."""
    return await _wait_and_show(tenant.jobs.get(job_id), state, wait)


@router.get(
    "/jobs/{job_id}/events",
    summary="The progress of a job, as it comes",
    response_class=StreamingResponse,
    responses=STREAMED,
)
async def events(job_id: str, state: StateDep, tenant: TenantDep) -> StreamingResponse:
    """Stream a job as server-sent events, each as `GET /v1/jobs/{job_id}` gives it, to its end."""
    entry = tenant.jobs.get(job_id)

    async def changes() -> AsyncIterator[str]:
        last_sent = None
        while True:
            body = JobBody.of(entry)
            if (line := body.model_dump_json()) != last_sent:
                yield f"data: {line}\n\n"
                last_sent = line
            if body.state not in {"queued", "running"} or state.draining:
                return
            await asyncio.sleep(_POLL_SECONDS)

    return StreamingResponse(changes(), media_type="text/event-stream")


@router.delete("/jobs/{job_id}", summary="Cancel a job")
async def cancel(job_id: str, state: StateDep, tenant: TenantDep, wait: WaitSeconds = 5) -> JobBody:
    """Cancel a job between two training steps.

    What was committed stays; the text that was not learned stays in the journal.
    """
    entry = tenant.jobs.get(job_id)
    entry.job.cancel()
    return await _wait_and_show(entry, state, wait)


async def _wait_and_show(entry: JobEntry, state: ServerState, seconds: float) -> JobBody:
    """Return a job after its end or so many seconds, or once the server is told to stop."""
    end = time.monotonic() + seconds
    # polled: threads can wait for a job's end, the event loop cannot
    while not (entry.job.done or state.draining) and time.monotonic() < end:  # noqa: ASYNC110
        await asyncio.sleep(_POLL_SECONDS)
    return JobBody.of(entry)


@router.post("/memories/{memory_id}/probe", summary="How likely is an answer?")
async def probe(
    memory_id: str, body: ProbeRequest, state: StateDep, tenant: TenantDep
) -> ProbeBody:
    """Measure an answer's probability with the newest revision and with the base model alone."""
    if (body.question is None) == (body.messages is None):
        raise ApiError(
            400,
            "Give a question or messages, one of the two.",
            code="invalid_value",
            param="question",
        )
    question = body.question or text_messages(body.messages or ())
    work = partial(tenant.service[memory_id].probe, question, body.answer, strength=body.strength)
    return ProbeBody.of(await state.run_model_work(tenant, work))


# --- copying, rolling back ---------------------------------------------------------------------


@router.post("/memories/{memory_id}/fork", status_code=201, summary="Copy a memory")
async def fork(memory_id: str, body: ForkRequest, state: StateDep, tenant: TenantDep) -> MemoryCard:
    """Copy a memory, after waiting for its absorbs that are under way."""

    def work() -> MemoryCard:
        copy = tenant.service[memory_id].fork(body.target, revision=body.revision)
        return MemoryCard.of(copy.status())

    return await state.run_file_work(tenant, work)


@router.post("/memories/{memory_id}/rollback", summary="Go back to an older revision")
async def rollback(
    memory_id: str, body: RollbackRequest, state: StateDep, tenant: TenantDep
) -> MemoryCard:
    """Go back to an older revision.

    Newer ones are deleted; absorbs of the memory that are under way are cancelled.
    """

    def work() -> MemoryCard:
        memory = tenant.service[memory_id]
        memory.rollback(body.revision)
        tenant.jobs.sweep()  # what was cancelled must not begin again at the next start
        return MemoryCard.of(memory.status())

    return await state.run_file_work(tenant, work)


# --- moving ------------------------------------------------------------------------------------


@router.get(
    "/memories/{memory_id}/export",
    summary="A memory as one file",
    response_class=Response,
    responses={200: {"content": {ARCHIVE_TYPE: _FILE_SCHEMA}}},
)
async def export(memory_id: str, state: StateDep, tenant: TenantDep) -> StreamingResponse:
    """Send a memory's text and weights as one file. Forgetting does not reach such copies."""
    file, size = await state.run_file_work(tenant, _open_export, tenant, memory_id)
    return StreamingResponse(
        _read_pieces(file),
        media_type=ARCHIVE_TYPE,
        headers={
            "content-length": str(size),
            "content-disposition": 'attachment; filename="memory.templora"',
        },
    )


def _open_export(tenant: Tenant, memory_id: str) -> tuple[BinaryIO, int]:
    """Export a memory; return the open file and its size in bytes."""
    # open, and removed from its folder already: nothing is left whatever happens to the download
    with tenant.transfer_file() as path:
        tenant.service[memory_id].export(path)
        return path.open("rb"), path.stat().st_size


async def _read_pieces(file: BinaryIO) -> AsyncIterator[bytes]:
    with file:
        while piece := await asyncio.to_thread(file.read, _PIECE_BYTES):
            yield piece


@router.post(
    "/memories/import",
    status_code=201,
    summary="Make a memory from an exported file",
    openapi_extra={"requestBody": {"required": True, "content": {ARCHIVE_TYPE: _FILE_SCHEMA}}},
)
async def import_(
    request: Request, state: StateDep, tenant: TenantDep, memory_id: OptionalName = None
) -> MemoryCard:
    """Make a memory from the file in the body; 409 if its id, or `memory_id`, exists already."""
    if request.headers.get("content-type", "").partition(";")[0].strip() != ARCHIVE_TYPE:
        raise ApiError(
            415,
            f"Send the file with the header `Content-Type: {ARCHIVE_TYPE}`.",
            code="unsupported_media_type",
        )
    with tenant.transfer_file() as path:
        with await asyncio.to_thread(_create_private, path) as file:
            async for piece in request.stream():
                await asyncio.to_thread(file.write, piece)
        return await state.run_file_work(tenant, _import_file, tenant, path, memory_id)


def _create_private(path: Path) -> BinaryIO:
    """Create a file that only its owner may read."""
    path.touch(mode=0o600)
    return path.open("wb")


def _import_file(tenant: Tenant, path: Path, memory_id: str | None) -> MemoryCard:
    """Import a memory from a file.

    Raises:
        ApiError: 400, it is not an exported memory.
        Conflict: a memory of this id exists.
    """
    try:
        memory = tenant.service.import_(path, memory_id)
    except StoreDamaged as error:
        reason = str(error).replace(str(path), "The file")
        raise ApiError(
            400, f"This is not an exported memory: {reason}", code="damaged_file"
        ) from error
    return MemoryCard.of(memory.status())


# --- forgetting --------------------------------------------------------------------------------


@router.delete("/memories/{memory_id}", summary="Forget a memory")
async def forget(memory_id: str, state: StateDep, tenant: TenantDep) -> ForgetBody:
    """Forget a memory, all made from it, and all its `...@user`; replies under way are stopped."""
    return ForgetBody.of(await state.run_file_work(tenant, tenant.forget, memory_id))


@router.delete("/memories", summary="Forget a user")
async def forget_user(
    user: Annotated[str, Query(min_length=1, max_length=MAX_ID_CHARACTERS)],
    state: StateDep,
    tenant: TenantDep,
) -> ForgetBody:
    """Forget all memories `...@user` of this key."""
    return ForgetBody.of(await state.run_file_work(tenant, tenant.forget_user, user))
