"""The guard before the application: keys, origins, sizes and speed of requests; and their log.

Knows nothing of memories. Written against ASGI itself, so that streams pass through untouched.
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import time

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from templora_memory.server.errors import ApiError
from templora_memory.server.settings import is_loopback
from templora_memory.server.state import ServerState, shutting_down

_log = logging.getLogger("templora_memory.server")
PUBLIC_PATHS = frozenset({"/health", "/healthz", "/readyz", "/openapi.json"})
"""Paths that need no key: their answers hold nothing about memories."""
IMPORT_PATH = "/v1/memories/import"
_HOST = re.compile(r"(?P<name>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+)(:\d{1,5})?")
_METHODS = frozenset({"GET", "HEAD", "POST", "DELETE", "OPTIONS", "PUT", "PATCH"})


class RequestGuard:
    """Middleware that refuses requests without a key, from unknown web pages, too large or slow.

    Args:
        app: the application behind it.
        state: keys and limits.
    """

    def __init__(self, app: ASGIApp, *, state: ServerState) -> None:
        self._app = app
        self._state = state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse a request, or pass it on with a limited body; then report it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        recorder = _ResponseRecorder(scope, send)
        if scope["method"] == "HEAD":  # the routes answer GET; whoever sends drops the body
            scope = {**scope, "method": "GET"}
        try:
            headers = Headers(scope=scope)
            self._authorize(scope, headers)
            _check_content_type(scope, headers)
            body = _LimitedBody(
                receive,
                headers,
                max_bytes=self._max_bytes(scope),
                max_pause=self._state.settings.body_seconds,
            )
        except ApiError as error:
            await error.response()(scope, receive, recorder.send)
        else:
            await self._app(scope, body.receive, recorder.send)
        finally:
            self._report(scope, recorder)

    def _report(self, scope: Scope, recorder: _ResponseRecorder) -> None:
        """Log a request and tell the observer."""
        seconds = time.monotonic() - recorder.start_time
        # the path holds memory ids, the route does not
        route = getattr(scope.get("route"), "path", "unknown")
        method = recorder.method
        milliseconds, status = 1e3 * seconds, recorder.status
        _log.info("%s %s %d %.0f ms %s", method, route, status, milliseconds, recorder.request_id)
        self._state.observer.on_request(method=method, route=route, status=status, seconds=seconds)

    def _authorize(self, scope: Scope, headers: Headers) -> None:
        """Check who calls, and write their namespace into the scope's state.

        Raises:
            ApiError: 401, 403, 503.
        """
        scope.setdefault("state", {})["namespace"] = None
        keys = self._state.keys
        if keys is None:
            self._check_web_page(headers)
        if scope["path"] in PUBLIC_PATHS:
            return
        if keys is not None:
            scheme, _, key = headers.get("authorization", "").partition(" ")
            key = key if scheme.lower() == "bearer" else headers.get("x-api-key", "")
            namespace = keys.namespace(key.strip()) if key.strip() else None
            if namespace is None:
                raise ApiError(
                    401,
                    "This needs a valid API key: send the header `Authorization: Bearer KEY`, or "
                    "`x-api-key: KEY`.",
                    code="invalid_api_key",
                    headers={"www-authenticate": "Bearer"},
                )
            scope["state"]["namespace"] = namespace
        if self._state.draining:
            raise shutting_down()

    def _check_web_page(self, headers: Headers) -> None:
        """Refuse foreign web pages on a server without keys.

        Such a page talks to this machine through the browser of a person on it. It reveals itself
        by its origin, or, where its own name was made to point here (DNS rebinding), by the host
        that it asked for.

        Raises:
            ApiError: 403.
        """
        host = headers.get("host", "localhost")
        match = _HOST.fullmatch(host)
        if match is None or not is_loopback(match["name"]):
            raise ApiError(
                403,
                f"This server has no API keys and answers to localhost only, not to {host[:80]!r}.",
                code="host_not_allowed",
            )
        origin, site = headers.get("origin"), headers.get("sec-fetch-site")
        allowed = origin is not None and origin in self._state.settings.origins
        if site == "cross-site" and not allowed:
            # a link, an image or a script of another page: such requests have no origin
            raise ApiError(
                403,
                "Another web page asked for this: open the address itself, or allow the page with "
                "--origin.",
                code="origin_not_allowed",
            )
        if origin is not None and not allowed:
            raise ApiError(
                403,
                f"The web page {origin[:80]!r} may not call this server: allow it with --origin.",
                code="origin_not_allowed",
            )

    def _max_bytes(self, scope: Scope) -> int:
        settings = self._state.settings
        return (
            settings.max_import_bytes if scope["path"] == IMPORT_PATH else settings.max_body_bytes
        )


def _check_content_type(scope: Scope, headers: Headers) -> None:
    """Refuse a body that says that it is not JSON; the import of a file checks its own.

    Raises:
        ApiError: 415.
    """
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if scope["method"] != "POST" or scope["path"] == IMPORT_PATH or not kind:
        return
    if kind != "application/json" and not kind.endswith("+json"):
        raise ApiError(
            415,
            f"The body is sent as {kind[:80]!r}: send JSON with the header "
            "`Content-Type: application/json`.",
            code="unsupported_media_type",
        )


class _ResponseRecorder:
    """Records the status of a response, and adds the request id that the log has."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self.request_id = f"req-{secrets.token_hex(8)}"
        self.start_time = time.monotonic()
        self.status = 0
        self._send = send
        self.method = scope["method"] if scope["method"] in _METHODS else "other"
        scope.setdefault("state", {})["request_id"] = self.request_id

    async def send(self, message: Message) -> None:
        """Send a message of ASGI on."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            MutableHeaders(scope=message).update(
                {"x-request-id": self.request_id, "x-content-type-options": "nosniff"}
            )
        elif self.method == "HEAD":
            message = {**message, "body": b""}
        await self._send(message)


class _LimitedBody:
    """The body of a request, with a limit on its size and on the pauses in it.

    Raises:
        ApiError: 413 at once if the declared length is too large.
    """

    def __init__(
        self, receive: Receive, headers: Headers, *, max_bytes: int, max_pause: float
    ) -> None:
        self._receive = receive
        self._max_bytes = max_bytes
        self._max_pause = max_pause
        self._size = 0
        self._more_body = True
        declared = headers.get("content-length", "")
        if declared.isdecimal() and int(declared[:20]) > max_bytes:
            raise self._too_large()

    async def receive(self) -> Message:
        """Receive the next message of ASGI.

        Raises:
            ApiError: 408, 413.
        """
        if not self._more_body:
            return await self._receive()  # a disconnect, whenever it comes
        try:
            message = await asyncio.wait_for(self._receive(), self._max_pause)
        except TimeoutError as error:
            raise ApiError(
                408,
                f"Nothing of the body came for {self._max_pause:g} seconds.",
                code="request_timeout",
                headers={"connection": "close"},
            ) from error
        self._more_body = bool(message.get("more_body"))
        self._size += len(message.get("body", b""))
        if self._size > self._max_bytes:
            raise self._too_large()
        return message

    def _too_large(self) -> ApiError:
        return ApiError(
            413,
            f"The request is larger than {self._max_bytes:,} bytes, the limit: send less.",
            code="request_too_large",
            headers={"connection": "close"},
        )
