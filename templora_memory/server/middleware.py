"""The first to see a request: who calls, from where, how much, how fast.

Knows nothing of memories. Written against ASGI itself, so that streams pass through untouched.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from templora_memory.server.errors import ApiError
from templora_memory.server.settings import is_loopback
from templora_memory.server.state import Runtime, stopping

_log = logging.getLogger("templora_memory.server")
OPEN = frozenset({"/healthz", "/readyz", "/openapi.json"})
"""Paths that need no key: they tell nothing about memories."""
_METHODS = frozenset({"GET", "HEAD", "POST", "DELETE", "OPTIONS", "PUT", "PATCH"})
IMPORT = "/v1/memories/import"


class Guard:
    """Refuses requests without a key, from strange web pages, too large or too slow.

    Args:
        app: what is guarded.
        runtime: keys and limits.
    """

    def __init__(self, app: ASGIApp, *, runtime: Runtime) -> None:
        self._app = app
        self._runtime = runtime

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        watch = _Watch(scope, send)
        try:
            headers = Headers(scope=scope)
            self._admit(scope, headers)
            body = _Body(receive, headers, self._limit(scope), self._runtime.settings.body_seconds)
        except ApiError as error:
            await error.response()(scope, receive, watch.send)
        else:
            await self._app(scope, body.receive, watch.send)
        finally:
            seconds = time.monotonic() - watch.began
            # the path holds memory ids, the route does not
            route = getattr(scope.get("route"), "path", "unknown")
            method = scope["method"] if scope["method"] in _METHODS else "other"
            _log.info("%s %s %d %.0f ms %s", method, route, watch.status, 1e3 * seconds, watch.id)
            self._runtime.observer.request(
                method=method, route=route, status=watch.status, seconds=seconds
            )

    def _admit(self, scope: Scope, headers: Headers) -> None:
        """Note the namespace of the caller.

        Raises:
            ApiError: 401, 403, 503.
        """
        scope.setdefault("state", {})["namespace"] = None
        keys = self._runtime.keys
        if keys is None:
            self._check_page(headers)
        if scope["path"] in OPEN:
            return
        if keys is not None:
            kind, _, key = headers.get("authorization", "").partition(" ")
            namespace = keys.namespace(key.strip()) if kind.lower() == "bearer" else None
            if namespace is None:
                raise ApiError(
                    401,
                    "This needs a valid API key: send the header `Authorization: Bearer KEY`.",
                    code="invalid_api_key",
                    headers={"www-authenticate": "Bearer"},
                )
            scope["state"]["namespace"] = namespace
        if self._runtime.draining:
            raise stopping()

    def _check_page(self, headers: Headers) -> None:
        """Without keys, let no web page of elsewhere talk to this machine through its browser.

        Such a page reveals itself by its origin, or, where its own name was made to point here,
        by the host it asked for.
        """
        try:
            host = urlsplit(f"//{headers.get('host', 'localhost')}").hostname or ""
        except ValueError:  # half an IPv6 address, ...
            host = headers["host"]
        if not is_loopback(host):
            raise ApiError(
                403,
                f"This server has no API keys and answers to localhost only, not to {host[:80]!r}.",
                code="host_not_allowed",
            )
        origin = headers.get("origin")
        if origin is not None and origin not in self._runtime.settings.origins:
            raise ApiError(
                403,
                f"The web page {origin[:80]!r} may not call this server: allow it with --origin.",
                code="origin_not_allowed",
            )

    def _limit(self, scope: Scope) -> int:
        settings = self._runtime.settings
        return settings.import_bytes if scope["path"] == IMPORT else settings.body_bytes


class _Watch:
    """Notes the status, and gives the answer the id that stands in the log."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self.id = f"req-{secrets.token_hex(8)}"
        self.began = time.monotonic()
        self.status = 0
        self._send = send
        scope.setdefault("state", {})["request_id"] = self.id

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            MutableHeaders(scope=message).update(
                {"x-request-id": self.id, "x-content-type-options": "nosniff"}
            )
        await self._send(message)


class _Body:
    """A request's body, counted and timed.

    Raises:
        ApiError: 413 at once if the declared length is too large.
    """

    def __init__(self, receive: Receive, headers: Headers, most: int, seconds: float) -> None:
        self._receive = receive
        self._most = most
        self._seconds = seconds
        self._size = 0
        self._more = True
        declared = headers.get("content-length", "")
        if declared.isdecimal() and int(declared[:20]) > most:
            raise self._too_large()

    async def receive(self) -> Message:
        if not self._more:
            return await self._receive()  # a disconnect, whenever it comes
        try:
            message = await asyncio.wait_for(self._receive(), self._seconds)
        except TimeoutError as error:
            raise ApiError(
                408,
                f"Nothing of the body came for {self._seconds:g} seconds.",
                code="request_timeout",
                headers={"connection": "close"},
            ) from error
        self._more = bool(message.get("more_body"))
        self._size += len(message.get("body", b""))
        if self._size > self._most:
            raise self._too_large()
        return message

    def _too_large(self) -> ApiError:
        return ApiError(
            413,
            f"The request is larger than {self._most:,} bytes, the limit: send less.",
            code="request_too_large",
            headers={"connection": "close"},
        )
