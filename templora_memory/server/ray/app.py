"""The same application on Ray Serve: several replicas, and for each memory one of them.

Needs the extra ``ray``. ``templora serve --ray`` starts it on this machine; `build` is what the
import path of a Serve config file names.

A front takes every request and hands it to the replica that a consistent hash of the memory's id
names. When replicas come and go, some ids move. Nothing depends on where an id is: all state is in
the store, and a commit of whoever had it before is refused by its epoch.
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

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # before Ray is imported: it tells nobody anything

from fastapi import FastAPI
from ray import serve
from ray.exceptions import RayActorError
from ray.serve.config import RequestRouterConfig
from ray.serve.handle import DeploymentHandle
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from templora_memory.domain.settings import Policy
from templora_memory.errors import InvalidSetting
from templora_memory.ports import Backend
from templora_memory.server.api_keys import Keys
from templora_memory.server.app import create_app
from templora_memory.server.errors import ApiError
from templora_memory.server.middleware import IMPORT
from templora_memory.server.ray.routing import route
from templora_memory.server.settings import ServerSettings
from templora_memory.stores import Key

APP, NAMESPACE = "templora", "templora"
REPLICA_HEADER = b"x-templora-replica"
_ROUTER = "ray.serve.experimental.consistent_hash_router:ConsistentHashRouter"
_QUEUE = 64
_TRIES = 4
_PAUSE = 0.25
_SCOPE = ("method", "path", "raw_path", "query_string", "headers", "http_version", "scheme")


@dataclass(frozen=True, slots=True, kw_only=True)
class AppSpec:
    """What every replica makes its application from; it travels to other processes.

    Args:
        backend: makes the backend.
        root: folder of the memories, which every replica sees; with `objects` this machine's
            folder for copies and notes.
        policy: as for `create_app`.
        keys: as for `create_app`.
        settings: as for `create_app`.
        objects: ``s3://bucket/prefix`` to keep the memories in; None: in `root`.
        encryption: as for `create_app`.
    """

    backend: Callable[[], Backend]
    root: Path
    policy: Policy | None = None
    keys: Keys | None = None
    settings: ServerSettings = field(default_factory=ServerSettings)
    objects: str | None = None
    encryption: Key | None = None

    def make(self) -> FastAPI:
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
    """One application in one process of Ray's."""

    async def __init__(self, spec: AppSpec) -> None:  # type: ignore[misc]  # Ray awaits it
        self._app = spec.make()
        self._life = self._app.router.lifespan_context(self._app)
        await self._life.__aenter__()
        self._id = serve.get_replica_context().replica_id.unique_id.encode()

    async def __del__(self) -> None:
        """Ray calls it once requests under way have ended."""
        await self._life.__aexit__(None, None, None)

    async def name(self) -> str:
        """What clients call the base model."""
        return str(self._app.state.runtime.name)

    async def answer(self, scope: Mapping[str, Any], body: bytes) -> AsyncIterator[dict[str, Any]]:
        """The messages of ASGI that answer a request.

        A front that goes away cancels it, as a client that goes away does.
        """
        sent: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue(_QUEUE)
        waiting = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> dict[str, Any]:
            if waiting:
                return waiting.pop()
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


class Front:
    """Takes requests and hands each to the replica of its memory."""

    def __init__(self, replicas: DeploymentHandle, settings: ServerSettings) -> None:
        self._replicas = replicas
        self._settings = settings
        self._base: str | None = None

    async def __call__(self, request: Request) -> Response:
        try:
            return await self._forwarded(request)
        except ApiError as error:
            return error.response()

    async def _forwarded(self, request: Request) -> Response:
        body = await self._body(request)
        scope = _scope(request)
        number = route(scope["path"], request.url.query, body, await self._name())
        for attempt in range(_TRIES):
            messages = self._ask(scope, body, number)
            try:
                start = await anext(messages)
                break
            except RayActorError as error:
                if attempt + 1 == _TRIES or not _may_repeat(scope):
                    raise _replica_lost() from error
                await asyncio.sleep(_PAUSE)
        response = StreamingResponse(_rest(messages, start), start["status"])
        response.raw_headers = list(start["headers"])
        return response

    async def _name(self) -> str:
        if self._base is None:
            self._base = str(await self._replicas.name.remote())
        return self._base

    def _ask(
        self, scope: Mapping[str, Any], body: bytes, number: str | None
    ) -> AsyncIterator[dict[str, Any]]:
        handle = self._replicas.options(stream=True)
        if number is not None:
            handle = handle.options(session_id=number)
        return aiter(handle.answer.remote(scope, body))

    async def _body(self, request: Request) -> bytes:
        settings = self._settings
        most = settings.import_bytes if request.url.path == IMPORT else settings.body_bytes
        body = bytearray()
        async for piece in request.stream():
            body += piece
            if len(body) > most:
                raise ApiError(
                    413,
                    f"The request is larger than {most:,} bytes, the limit: send less.",
                    code="request_too_large",
                )
        return bytes(body)


def _scope(request: Request) -> dict[str, Any]:
    scope = {name: request.scope[name] for name in _SCOPE if name in request.scope}
    version = {"version": "3.0", "spec_version": "2.3"}
    return {"type": "http", "asgi": version, "root_path": "", "extensions": {}, **scope}


def _may_repeat(scope: Mapping[str, Any]) -> bool:
    """Whether a request may be sent again: what a memory knows is not learned twice."""
    again = ("/chat/completions", "/absorb", "/probe")
    return scope["method"] in {"GET", "HEAD"} or scope["path"].endswith(again)


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
    """The body of an answer; one that breaks off says so, if it is a stream of events."""
    kinds = {name.lower(): value for name, value in start["headers"]}
    events = kinds.get(b"content-type", b"").startswith(b"text/event-stream")
    try:
        async for message in messages:
            if message["type"] == "http.response.body":
                yield message.get("body", b"")
    except RayActorError:
        if not events:
            raise
        yield b"data: " + bytes(_replica_lost().response().body) + b"\n\n"


# --- starting ----------------------------------------------------------------------------------


def application(spec: AppSpec, *, replicas: int = 2, gpus: float = 0) -> serve.Application:
    """The front and its replicas, for `serve.run`.

    Args:
        spec: what every replica serves.
        replicas: how many of them.
        gpus: GPUs for each, also a part of one.
    """
    if replicas < 1:
        raise InvalidSetting(f"replicas is {replicas!r}: at least one must serve.")
    settings = spec.settings
    most = 2 * (settings.running + settings.waiting) + 64  # the application itself says 429
    backs = serve.deployment(
        Replica,
        name="Replica",
        num_replicas=replicas,
        max_ongoing_requests=most,
        graceful_shutdown_timeout_s=settings.grace_seconds + 10,
        health_check_period_s=2,
        ray_actor_options={"num_cpus": 0, "num_gpus": gpus},
        request_router_config=RequestRouterConfig(
            request_router_class=_ROUTER, request_router_kwargs={"num_fallback_replicas": 0}
        ),
    )
    front = serve.deployment(
        Front,
        name="Front",
        max_ongoing_requests=most * replicas,
        ray_actor_options={"num_cpus": 0},
    )
    return front.bind(backs.bind(spec), settings)


def build(args: dict[str, str]) -> serve.Application:
    """The application for a Serve config file: ``templora_memory.server.ray.app:build``.

    Args:
        args: ``root``, and if wanted ``model``, ``device``, ``dtype``, ``objects``, ``keys`` (a
            file), ``encryption_key`` (a file), ``name``, ``replicas``, ``gpus``,
            ``learning_share``.

    Raises:
        InvalidSetting: an unknown one, or no root.
    """
    from templora_memory.backends.local import LocalBackend  # noqa: PLC0415  # torch loads here
    from templora_memory.backends.local.scheduler import SHARE  # noqa: PLC0415

    known = {
        "root", "model", "device", "dtype", "objects", "keys", "encryption_key", "name",
        "replicas", "gpus", "learning_share",
    }  # fmt: skip
    if "root" not in args or not set(args) <= known:
        raise InvalidSetting(f"args are {sorted(args)}: root is needed, {sorted(known)} are known.")
    backend = partial(
        LocalBackend,
        args.get("model", "templora/tiny"),
        device=args.get("device"),
        dtype=args.get("dtype"),
        learning_share=float(args.get("learning_share", SHARE)),
    )
    backend()  # loads nothing; a wrong setting is told here, not by replicas that fail
    spec = AppSpec(
        backend=backend,
        root=Path(args["root"]),
        keys=Keys.load(Path(args["keys"])) if "keys" in args else None,
        settings=ServerSettings(name=args.get("name")),
        objects=args.get("objects"),
        encryption=(
            Key.load(args["encryption_key"]) if "encryption_key" in args else Key.from_environment()
        ),
    )
    return application(spec, replicas=int(args.get("replicas", 2)), gpus=float(args.get("gpus", 0)))
