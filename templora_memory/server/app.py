"""The whole server as one ASGI application, and which thread runs which part of a request.

Threads and queues of a server:

- **The event loop's thread** runs the middleware, the routes, `RequestLimiter` and the reading side
  of `ReplyTask`. Whatever may wait for the model, for files or for another memory goes to one of
  the pools below; the one exception is a request for a job that a dead server left, whose record is
  read here.
- **Reply threads** (`ServerState`, `ServerSettings.max_running` of them) generate replies and
  compute probes. They mostly wait for the model.
- **File threads** (`ServerState`, 16) run what reads or writes files, or waits for absorbs.
- **asyncio's default pool** runs small steps: reading and writing pieces of exported and imported
  files, removing records of ended jobs, opening and closing the stores.
- **Threads of the service** (`service.jobs`), one for each memory that is learning, run absorbs.
- **The model thread** of the backend is the only one that touches the model. Replies and absorbs
  reach it through the backend's queue, and it decides what runs next.

A chat request passes through them like this:

1. Event loop: `RequestGuard` checks the key and limits the body; the route validates the JSON.
2. Event loop: `RequestLimiter.acquire` gives the request a slot, or lets it wait in its queue, or
   refuses it with 429. There are as many slots as reply threads, so the pool itself never queues.
3. Reply thread: `ReplyTask` opens the service's stream. What does not fit the window is absorbed
   first, which the reply thread waits for. Then each piece of text comes from the model thread
   through the stream's queue.
4. Reply thread to event loop: each piece is put into the `asyncio.Queue` of the `ReplyTask` with
   `call_soon_threadsafe`. The queue has no bound, so a slow client never holds up the model; a
   reply's length bounds it.
5. Event loop: the route reads the queue and sends the whole reply, or a server-sent event for each
   piece. A client that goes away cancels the task, which stops the model at its next token.
6. Reply thread: the end of the stream journals the reply and starts a background absorb if one is
   due; then the slot is released on the event loop.

An absorb request needs a file thread only until its text and its `JobRecord` are on disk; the
learning itself goes on in the service and is looked at through `JobRegistry`.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from fastapi import APIRouter, FastAPI
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from templora_memory._version import __version__
from templora_memory.domain.settings import Policy
from templora_memory.errors import TemploraError
from templora_memory.ports import Backend
from templora_memory.server.answers import WARNING_HEADER
from templora_memory.server.api_keys import ApiKeys
from templora_memory.server.errors import (
    on_http_error,
    on_invalid_request,
    on_templora_error,
    on_unexpected_error,
)
from templora_memory.server.metrics import Observer, ObserverGroup
from templora_memory.server.middleware import RequestGuard
from templora_memory.server.routes import chat, completions, memories, responses
from templora_memory.server.schemas import ErrorBody
from templora_memory.server.settings import ServerSettings
from templora_memory.server.state import ServerState, StateDep, shutting_down
from templora_memory.server.tenants import Tenants
from templora_memory.stores import Key

_log = logging.getLogger("templora_memory.server")
_UPKEEP_SECONDS = 1.0
_ERROR_STATUSES = (400, 401, 403, 404, 408, 409, 413, 415, 422, 429, 500, 503, 504, 507)

health = APIRouter(tags=["health"])


class Health(BaseModel):
    """The state of the server: ok or ready."""

    status: str


@health.get("/health", summary="As /healthz, under vLLM's name", include_in_schema=False)
@health.get("/healthz", summary="Is the process alive?")
async def alive() -> Health:
    """Answer 200 as long as the process runs."""
    return Health(status="ok")


@health.get("/readyz", summary="Does it take requests?")
async def ready(state: StateDep) -> Health:
    """Answer 200 while the server takes requests, and 503 while it shuts down."""
    if state.draining:
        raise shutting_down()
    return Health(status="ready")


def create_app(
    backend: Backend,
    root: Path,
    *,
    policy: Policy | None = None,
    keys: ApiKeys | None = None,
    settings: ServerSettings | None = None,
    observer: Observer | None = None,
    objects: str | None = None,
    encryption: Key | None = None,
) -> FastAPI:
    """Return an application that serves memories; any ASGI server can run it, in one process.

    Nothing is loaded before it starts. When it stops, absorbs under way stop between two training
    steps and go on at the next start.

    Args:
        backend: the base model.
        root: folder of all memories.
        policy: window, chunk, recipe and learning settings; None: the defaults.
        keys: API keys, each with a namespace; None: anybody who reaches the server from this
            machine may call, and all of them share the root.
        settings: limits; None: the defaults.
        observer: receives counts and times.
        objects: ``s3://bucket/prefix`` to keep the memories in (`ObjectStore`); `root` then has
            copies and job records of this machine. None: they are in `root`.
        encryption: key that the memories are encrypted with; None: they are not encrypted.

    Raises:
        InvalidSetting: a policy or bucket that cannot be used.
    """
    settings = settings or ServerSettings()
    tenants = Tenants(
        backend,
        root,
        policy=policy,
        namespaces=None if keys is None else keys.namespaces,
        max_jobs=settings.max_jobs,
        objects=objects,
        encryption=encryption,
    )
    state = ServerState(tenants, keys, settings, observer or ObserverGroup())

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        resumed = await asyncio.to_thread(tenants.open)
        if resumed:
            _log.info("%d interrupted jobs go on", resumed)
        upkeep = asyncio.create_task(_upkeep(tenants, state.observer))
        try:
            yield
        finally:
            upkeep.cancel()
            with suppress(asyncio.CancelledError):
                await upkeep
            await state.close()

    app = FastAPI(
        title="templora",
        summary="Memory that lives in weights, behind OpenAI's chat interface.",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,  # its page would load scripts from elsewhere
        redoc_url=None,
        responses={status: {"model": ErrorBody} for status in _ERROR_STATUSES},
    )
    app.state.server = state
    app.include_router(health)
    app.include_router(chat.router)
    app.include_router(completions.router)
    app.include_router(responses.router)
    app.include_router(memories.router)
    app.add_exception_handler(TemploraError, on_templora_error)
    app.add_exception_handler(HTTPException, on_http_error)
    app.add_exception_handler(RequestValidationError, on_invalid_request)
    app.add_exception_handler(Exception, on_unexpected_error)
    app.add_middleware(RequestGuard, state=state)
    if settings.origins:  # added last, so outermost: a preflight request carries no key
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.origins,
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["*"],  # SDKs send many of their own
            expose_headers=["x-request-id", "retry-after", WARNING_HEADER],
        )
    return app


async def _upkeep(tenants: Tenants, observer: Observer) -> None:
    """Remove the records of ended jobs, soon after they end, and count the others."""
    while True:
        await asyncio.sleep(_UPKEEP_SECONDS)
        counts = Counter(job.state for tenant in tenants.all() for job in tenant.jobs.all(None))
        observer.on_jobs(running=counts["running"], waiting=counts["queued"])
        for tenant in tenants.all():
            try:
                await asyncio.to_thread(tenant.jobs.sweep)
            except OSError as error:  # a record that stays is harmless: its job is done already
                _log.warning("cannot remove records of ended jobs: %s", error)
