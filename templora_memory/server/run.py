"""One server in one process on one port, which stops cleanly when it is told to."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from templora_memory.domain.settings import Policy
from templora_memory.errors import InvalidSetting
from templora_memory.ports import Backend
from templora_memory.server.api_keys import ApiKeys
from templora_memory.server.app import create_app
from templora_memory.server.metrics import Observer
from templora_memory.server.settings import ServerSettings, is_loopback
from templora_memory.server.state import ServerState
from templora_memory.stores import Key

_SPARE_SECONDS = 5  # replies that the grace period ends must still send their error


def serve(
    backend: Backend,
    root: Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    policy: Policy | None = None,
    keys: ApiKeys | None = None,
    settings: ServerSettings | None = None,
    observer: Observer | None = None,
    objects: str | None = None,
    encryption: Key | None = None,
    on_started: Callable[[str], None] = lambda _: None,
) -> None:
    """Serve until told to stop (SIGINT, SIGTERM).

    Then no new requests are taken, replies under way get `settings.grace_seconds`, absorbs stop
    between two training steps and go on at the next start. A second signal ends at once; even
    then nothing that was acknowledged is lost.

    Args:
        backend: the base model.
        root: folder of all memories.
        host: address to bind. Other than this machine's own (loopback) ones need `keys`.
        port: 0 takes a free one.
        policy: as for `create_app`.
        keys: as for `create_app`.
        settings: as for `create_app`.
        observer: as for `create_app`.
        objects: as for `create_app`.
        encryption: as for `create_app`.
        on_started: called with the address once requests are taken.

    Raises:
        InvalidSetting: an address beyond this machine without keys, or one that cannot be bound.
        ModelError, StoreError: with what to do.
    """
    if keys is None and not is_loopback(host):
        raise InvalidSetting(
            f"host is {host!r}, which others can reach, and there is no API key: make one with "
            "`templora key NAMESPACE --keys FILE` and start with --keys FILE, or keep to 127.0.0.1."
        )
    settings = settings or ServerSettings()
    app = create_app(
        backend,
        root,
        policy=policy,
        keys=keys,
        settings=settings,
        observer=observer,
        objects=objects,
        encryption=encryption,
    )
    with _bind(host, port) as listener:
        state: ServerState = app.state.server
        state.tenants.open()  # before uvicorn, which would end with a traceback if this fails
        _UvicornServer(app, settings, on_started).run(sockets=[listener])


def _bind(host: str, port: int) -> socket.socket:
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family, backlog=2048)
    except (OSError, OverflowError) as error:  # OverflowError: a port beyond 65535
        raise InvalidSetting(f"Cannot listen on {host!r}, port {port}: {error}.") from error


def header_limited_protocol(header_seconds: float) -> type[asyncio.Protocol]:
    """Return uvicorn's protocol, which also ends connections whose request does not arrive.

    uvicorn itself waits without end for the rest of a request's head.
    """

    class HeaderLimitedProtocol(AutoHTTPProtocol):  # type: ignore[misc, valid-type]
        _timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:
            super().connection_made(transport)
            self._await_head()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.cycle is not None and not self.cycle.response_complete:
                self._stop_timer()  # the head is here: the body has a limit of its own
            elif self._timer is None:
                self._await_head()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_timer()
            super().connection_lost(exc)

        def on_response_complete(self) -> None:
            self._stop_timer()
            super().on_response_complete()

        def _await_head(self) -> None:
            self._timer = self.loop.call_later(header_seconds, self.transport.close)

        def _stop_timer(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

    return HeaderLimitedProtocol


class _UvicornServer(uvicorn.Server):
    """uvicorn's server, which also tells the application when it is asked to stop."""

    def __init__(
        self, app: FastAPI, settings: ServerSettings, on_started: Callable[[str], None]
    ) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=header_limited_protocol(settings.header_seconds),
                log_config=None,
                access_log=False,  # it would write paths, which hold memory ids
                server_header=False,
                timeout_graceful_shutdown=int(settings.grace_seconds) + _SPARE_SECONDS,
            )
        )
        self._state: ServerState = app.state.server
        self._grace_seconds = settings.grace_seconds
        self._on_started = on_started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start uvicorn and report the address."""
        await super().startup(sockets)
        for listener in sockets or ():
            host, port = listener.getsockname()[:2]
            self._on_started(f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}")

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Handle SIGINT and SIGTERM: new requests are refused from now on."""
        self._state.drain()
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop uvicorn, and end replies that are longer under way than the grace period."""
        loop = asyncio.get_running_loop()
        loop.call_later(self._grace_seconds, self._state.cancel_replies)
        await super().shutdown(sockets)
