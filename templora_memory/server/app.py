"""`create_app`: the whole server as one ASGI application."""

from __future__ import annotations

import asyncio
import logging
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
from templora_memory.server.api_keys import Keys
from templora_memory.server.errors import (
    on_failure,
    on_http_error,
    on_invalid_request,
    on_templora_error,
)
from templora_memory.server.metrics import Observer, Observers
from templora_memory.server.middleware import Guard
from templora_memory.server.routes import chat, memories
from templora_memory.server.schemas import ErrorBody
from templora_memory.server.settings import ServerSettings
from templora_memory.server.state import Runtime, TheRuntime, stopping
from templora_memory.server.tenants import Tenants
from templora_memory.stores import Key

_log = logging.getLogger("templora_memory.server")
_UPKEEP_SECONDS = 1.0
_REFUSALS = (400, 401, 403, 404, 408, 409, 413, 422, 429, 500, 503, 504, 507)

health = APIRouter(tags=["health"])


class Health(BaseModel):
    """Whether the server is alive or ready."""

    status: str


@health.get("/healthz", summary="Is the process alive?")
async def alive() -> Health:
    return Health(status="ok")


@health.get("/readyz", summary="Does it take requests?")
async def ready(runtime: TheRuntime) -> Health:
    """503 while it shuts down."""
    if runtime.draining:
        raise stopping()
    return Health(status="ready")


def create_app(
    backend: Backend,
    root: Path,
    *,
    policy: Policy | None = None,
    keys: Keys | None = None,
    settings: ServerSettings | None = None,
    observer: Observer | None = None,
    objects: str | None = None,
    encryption: Key | None = None,
) -> FastAPI:
    """An application that serves memories; any ASGI server can run it, in one process.

    Nothing is loaded before it starts. When it stops, absorbs under way stop between two training
    steps and go on at the next start.

    Args:
        backend: the base model.
        root: folder of all memories.
        policy: window, chunk, recipe and learning settings; None: the defaults.
        keys: who may call, each key with a namespace of its own; None: whoever reaches the server
            from this machine, all of them sharing the root.
        settings: limits; None: the defaults.
        observer: is told counts and times.
        objects: ``s3://bucket/prefix`` to keep the memories in (`ObjectStore`); `root` then has
            copies and notes of this machine. None: they are in `root`.
        encryption: what the memories are encrypted with; None: they are not.
    """
    settings = settings or ServerSettings()
    tenants = Tenants(
        backend,
        root,
        policy=policy,
        namespaces=None if keys is None else keys.namespaces,
        jobs=settings.jobs,
        objects=objects,
        encryption=encryption,
    )
    runtime = Runtime(tenants, keys, settings, observer or Observers())

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        resumed = await asyncio.to_thread(tenants.open)
        if resumed:
            _log.info("%d interrupted jobs go on", resumed)
        upkeep = asyncio.create_task(_upkeep(tenants))
        try:
            yield
        finally:
            upkeep.cancel()
            with suppress(asyncio.CancelledError):
                await upkeep
            await runtime.close()

    app = FastAPI(
        title="templora",
        summary="Memory that lives in weights, behind OpenAI's chat interface.",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,  # its page would load scripts from elsewhere
        redoc_url=None,
        responses={status: {"model": ErrorBody} for status in _REFUSALS},
    )
    app.state.runtime = runtime
    app.include_router(health)
    app.include_router(chat.router)
    app.include_router(memories.router)
    app.add_exception_handler(TemploraError, on_templora_error)
    app.add_exception_handler(HTTPException, on_http_error)
    app.add_exception_handler(RequestValidationError, on_invalid_request)
    app.add_exception_handler(Exception, on_failure)
    app.add_middleware(Guard, runtime=runtime)
    if settings.origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.origins,
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["authorization", "content-type"],
            expose_headers=["x-request-id", "retry-after"],
        )
    return app


async def _upkeep(tenants: Tenants) -> None:
    """Remove notes of ended jobs, soon after they end."""
    while True:
        await asyncio.sleep(_UPKEEP_SECONDS)
        for tenant in tenants.all():
            try:
                await asyncio.to_thread(tenant.jobs.sweep)
            except OSError as error:  # a note that stays is harmless: its job is done already
                _log.warning("cannot remove notes of ended jobs: %s", error)
