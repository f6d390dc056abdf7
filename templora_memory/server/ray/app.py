"""The application on Ray Serve: several replicas, of which each memory has one.

Needs the extra ``ray``. ``templora serve --ray`` starts it on this machine; `build` is what the
import path of a Serve config file names.

An ingress deployment takes every request and forwards it to the replica that a consistent hash of
the memory's id chooses. When replicas come and go, some ids move. Nothing depends on where an id
is: all state is in the store, and a commit of the replica that had it before is refused by its
epoch.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # before Ray is imported: it reports nothing

from fastapi import FastAPI
from ray import serve
from ray.exceptions import RayActorError
from ray.serve.config import RequestRouterConfig
from ray.serve.handle import DeploymentHandle
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from templora_memory.domain.settings import Policy
from templora_memory.errors import InvalidSetting
from templora_memory.models import TINY
from templora_memory.ports import Backend
from templora_memory.server.api_keys import ApiKeys
from templora_memory.server.app import create_app
from templora_memory.server.errors import ApiError
from templora_memory.server.middleware import IMPORT_PATH
from templora_memory.server.ray.routing import request_routing_key
from templora_memory.server.settings import ServerSettings
from templora_memory.stores import Key

APP, NAMESPACE = "templora", "templora"
REPLICA_HEADER = b"x-templora-replica"
_ROUTER = "ray.serve.experimental.consistent_hash_router:ConsistentHashRouter"
_QUEUE_LENGTH = 64
_ATTEMPTS = 4
_PAUSE_SECONDS = 0.25
_SCOPE_FIELDS = ("method", "path", "raw_path", "query_string", "headers", "http_version", "scheme")


@dataclass(frozen=True, slots=True, kw_only=True)
class AppSpec:
    """The arguments of `create_app` for every replica, in a form that can be pickled.

    Args:
        backend: function that makes the backend.
        root: folder of the memories, which every replica sees; with `objects` this machine's
            folder for copies and job records.
        policy: as for `create_app`.
        keys: as for `create_app`.
        settings: as for `create_app`.
        objects: ``s3://bucket/prefix`` to keep the memories in; None: in `root`.
        encryption: as for `create_app`.
    """

    backend: Callable[[], Backend]
    root: Path
    policy: Policy | None = None
    keys: ApiKeys | None = None
    settings: ServerSettings = field(default_factory=ServerSettings)
    objects: str | None = None
    encryption: Key | None = None

    def create_app(self) -> FastAPI:
        """Create the application of one replica."""
        return create_app(
            self.backend(),
            self.root,
            policy=self.policy,
            keys=self.keys,
            settings=self.settings,
            objects=self.objects,
            encryption=self.encryption,
        )


class Replica:
    """Deployment that runs the application; Ray starts each replica in a process of its own."""

    async def __init__(self, spec: AppSpec) -> None:  # type: ignore[misc]  # Ray awaits it
        self._app = spec.create_app()
        self._lifespan = self._app.router.lifespan_context(self._app)
        await self._lifespan.__aenter__()
        self._id = serve.get_replica_context().replica_id.unique_id.encode()

    async def __del__(self) -> None:
        """Ray calls it once requests under way have ended."""
        await self._lifespan.__aexit__(None, None, None)

    async def model_name(self) -> str:
        """Return the name by which clients call the base model."""
        return str(self._app.state.server.model_name)

    async def answer(self, scope: Mapping[str, Any], body: bytes) -> AsyncIterator[dict[str, Any]]:
        """Yield the ASGI messages that answer a request.

        An ingress that goes away cancels it, as a client that goes away does.
        """
        # bounded: a client that reads slowly slows down the sending route, not the model
        sent: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue(_QUEUE_LENGTH)
        unread = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> dict[str, Any]:
            if unread:
                return unread.pop()
            await asyncio.Event().wait()  # for ever: the end comes as a cancellation
            raise AssertionError

        async def run() -> None:
            try:
                await self._app(dict(scope), receive, sent.put)  # type: ignore[arg-type]
            finally:
                await sent.put(None)

        task = asyncio.create_task(run())
        try:
            while (message := await sent.get()) is not None:
                if message["type"] == "http.response.start":
                    headers = [*message.get("headers", ()), (REPLICA_HEADER, self._id)]
                    message = {**message, "headers": headers}
                yield message
            await task
        finally:
            task.cancel()
            with suppress(BaseException):
                await task


class Ingress:
    """Deployment that takes all requests and forwards each to the replica of its memory."""

    def __init__(self, replicas: DeploymentHandle, settings: ServerSettings) -> None:
        self._replicas = replicas
        self._settings = settings
        self._model_name: str | None = None

    async def __call__(self, request: Request) -> Response:
        """Forward a request and answer with the replica's response."""
        try:
            return await self._forward(request)
        except ApiError as error:
            return error.response()

    async def _forward(self, request: Request) -> Response:
        body = await self._read_body(request)
        scope = _scope(request)
        key = request_routing_key(
            scope["path"], request.url.query, body, await self._base_model_name()
        )
        for attempt in range(_ATTEMPTS):
            messages = self._call_replica(scope, body, key)
            try:
                start = await anext(messages)
                break
            except RayActorError as error:
                if attempt + 1 == _ATTEMPTS or not _may_repeat(scope):
                    raise _replica_lost() from error
                await asyncio.sleep(_PAUSE_SECONDS)
        response = StreamingResponse(_rest(messages, start), start["status"])
        response.raw_headers = list(start["headers"])
        return response

    async def _base_model_name(self) -> str:
        if self._model_name is None:
            self._model_name = str(await self._replicas.model_name.remote())
        return self._model_name

    def _call_replica(
        self, scope: Mapping[str, Any], body: bytes, key: str | None
    ) -> AsyncIterator[dict[str, Any]]:
        handle = self._replicas.options(stream=True)
        if key is not None:
            handle = handle.options(session_id=key)
        return aiter(handle.answer.remote(scope, body))

    async def _read_body(self, request: Request) -> bytes:
        """Read a whole body, which may name the memory.

        Raises:
            ApiError: 413.
        """
        settings = self._settings
        importing = request.url.path == IMPORT_PATH
        max_bytes = settings.max_import_bytes if importing else settings.max_body_bytes
        body = bytearray()
        async for piece in request.stream():
            body += piece
            if len(body) > max_bytes:
                raise ApiError(
                    413,
                    f"The request is larger than {max_bytes:,} bytes, the limit: send less.",
                    code="request_too_large",
                )
        return bytes(body)


def _scope(request: Request) -> dict[str, Any]:
    """Return the parts of an ASGI scope that can travel to another process."""
    scope = {name: request.scope[name] for name in _SCOPE_FIELDS if name in request.scope}
    version = {"version": "3.0", "spec_version": "2.3"}
    return {"type": "http", "asgi": version, "root_path": "", "extensions": {}, **scope}


def _may_repeat(scope: Mapping[str, Any]) -> bool:
    """Return True if a request may be sent again."""
    repeatable = ("/chat/completions", "/absorb", "/probe")  # nothing is learned twice
    return scope["method"] in {"GET", "HEAD"} or scope["path"].endswith(repeatable)


def _replica_lost() -> ApiError:
    return ApiError(
        503,
        "The replica that answered is gone. Nothing acknowledged is lost: send this again.",
        code="replica_lost",
        retry_after=1,
    )


async def _rest(
    messages: AsyncIterator[dict[str, Any]], start: Mapping[str, Any]
) -> AsyncIterator[bytes]:
    """Yield the body of a response; a stream of events that breaks off ends with an error event."""
    headers = {name.lower(): value for name, value in start["headers"]}
    is_event_stream = headers.get(b"content-type", b"").startswith(b"text/event-stream")
    try:
        async for message in messages:
            if message["type"] == "http.response.body":
                yield message.get("body", b"")
    except RayActorError:
        if not is_event_stream:
            raise
        yield b"data: " + bytes(_replica_lost().response().body) + b"\n\n"


# --- starting ----------------------------------------------------------------------------------


def application(spec: AppSpec, *, replicas: int = 2, gpus: float = 0) -> serve.Application:
    """Return the ingress and its replicas, for `serve.run`.

    Args:
        spec: arguments of the application of every replica.
        replicas: number of replicas.
        gpus: GPUs for each, also a part of one.

    Raises:
        InvalidSetting: fewer than one replica.
    """
    if replicas < 1:
        raise InvalidSetting(f"replicas is {replicas!r}: at least one must serve.")
    settings = spec.settings
    # more than the limits of the application, so that it is the application that answers 429
    max_requests = 2 * (settings.max_running + settings.max_waiting) + 64
    replica_deployment = serve.deployment(
        Replica,
        name="Replica",
        num_replicas=replicas,
        max_ongoing_requests=max_requests,
        graceful_shutdown_timeout_s=settings.grace_seconds + 10,
        health_check_period_s=2,
        ray_actor_options={"num_cpus": 0, "num_gpus": gpus},
        request_router_config=RequestRouterConfig(
            request_router_class=_ROUTER, request_router_kwargs={"num_fallback_replicas": 0}
        ),
    )
    ingress = serve.deployment(
        Ingress,
        name="Ingress",
        max_ongoing_requests=max_requests * replicas,
        ray_actor_options={"num_cpus": 0},
    )
    return ingress.bind(replica_deployment.bind(spec), settings)


def build(args: dict[str, str]) -> serve.Application:
    """Return the application for a Serve config file: ``templora_memory.server.ray.app:build``.

    Args:
        args: ``root``, and if wanted ``model``, ``device``, ``dtype``, ``objects``, ``keys`` (a
            file), ``encryption_key`` (a file), ``name``, ``replicas``, ``gpus``,
            ``learning_share``.

    Raises:
        InvalidSetting: an unknown one, or no root.
    """
    from templora_memory.backends.local import LocalBackend  # noqa: PLC0415  # torch loads here

    known = {
        "root", "model", "device", "dtype", "objects", "keys", "encryption_key", "name",
        "replicas", "gpus", "learning_share",
    }  # fmt: skip
    if "root" not in args or not set(args) <= known:
        raise InvalidSetting(f"args are {sorted(args)}: root is needed, {sorted(known)} are known.")
    backend = partial(
        LocalBackend,
        args.get("model", TINY),
        device=args.get("device"),
        dtype=args.get("dtype"),
    )
    if "learning_share" in args:
        backend = partial(backend, learning_share=float(args["learning_share"]))
    backend()  # loads nothing, but refuses a wrong setting here instead of in failing replicas
    spec = AppSpec(
        backend=backend,
        root=Path(args["root"]),
        keys=ApiKeys.load(Path(args["keys"])) if "keys" in args else None,
        settings=ServerSettings(name=args.get("name")),
        objects=args.get("objects"),
        encryption=(
            Key.load(args["encryption_key"]) if "encryption_key" in args else Key.from_environment()
        ),
    )
    return application(spec, replicas=int(args.get("replicas", 2)), gpus=float(args.get("gpus", 0)))
