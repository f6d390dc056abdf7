"""HTTP calls to a vLLM server, without any knowledge of memories.

Only the standard library: a stream is ended from another thread by shutting its socket.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from templora_memory.errors import InvalidSetting, ModelError

_OK = 200
_SHOWN = 300


class HttpError(Exception):  # caught where the status is understood
    """A response whose status is not a success."""

    def __init__(self, status: int, body: str) -> None:
        super().__init__(f"HTTP {status}: {body[:_SHOWN]}")
        self.status = status


class Client:
    """Calls one server.

    Args:
        url: ``http://host:port``, without ``/v1``.
        key: sent as a bearer token, if the server or a proxy before it wants one.
        seconds: longest wait for a connection, and for the next piece of an answer.
    """

    def __init__(self, url: str, *, key: str | None, seconds: float) -> None:
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query:
            raise InvalidSetting(f"{url!r} is no address of a server: give http://HOST:PORT.")
        self.url = url.rstrip("/")
        self._host, self._port = parts.hostname, parts.port
        self._make = (
            http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        )
        self._path = parts.path.rstrip("/")
        self._headers = {"content-type": "application/json"}
        if key is not None:
            self._headers["authorization"] = f"Bearer {key}"
        self._seconds = seconds

    def call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> str:
        """Send a request and return its whole response.

        Raises:
            HttpError: the response is not a success.
            ModelError: there is no response.
        """
        with contextlib.closing(self._send(method, path, body)) as asked:
            return asked.read()

    def stream(self, path: str, body: Mapping[str, Any]) -> ResponseStream:
        """Send a request whose response is read piece by piece.

        Raises:
            HttpError: the response is not a success.
            ModelError: there is no response.
        """
        return self._send("POST", path, body)

    def _send(self, method: str, path: str, body: Mapping[str, Any] | None) -> ResponseStream:
        connection = self._make(self._host, self._port, timeout=self._seconds)
        response = ResponseStream(connection, self.url)
        try:
            with response.talking():
                data = None if body is None else json.dumps(body).encode()
                response.connect()
                connection.request(method, self._path + path, data, self._headers)
                response.begin()
        except BaseException:
            response.close()
            raise
        return response


class ResponseStream:
    """A response under way."""

    def __init__(self, connection: http.client.HTTPConnection, url: str) -> None:
        self._connection = connection
        self._url = url
        self._response: http.client.HTTPResponse | None = None
        self._bound: socket.socket | None = None
        self._stopped = False

    def connect(self) -> None:
        """Open the socket, which `stop` may shut."""
        self._connection.connect()
        self._bound = self._connection.sock  # which the connection forgets once an answer has begun

    def begin(self) -> None:
        """Read status and headers.

        Raises:
            HttpError: not a success.
        """
        response = self._response = self._connection.getresponse()
        if response.status != _OK:
            raise HttpError(response.status, response.read().decode("utf-8", "replace"))

    @contextlib.contextmanager
    def talking(self) -> Iterator[None]:
        """Turn what a socket raises into `ModelError`, unless the response was stopped."""
        try:
            yield
        except (OSError, http.client.HTTPException) as error:
            if not self._stopped:
                raise ModelError(
                    f"vLLM at {self._url} does not answer ({error}): check that it runs, and the "
                    "address. Nothing was lost."
                ) from error

    def read(self) -> str:
        """Return all of the body."""
        body = b""
        with self.talking():
            assert self._response is not None  # noqa: S101  # it has begun
            body = self._response.read()
        return body.decode("utf-8", "replace")

    def events(self) -> Iterator[dict[str, Any]]:
        """Yield the server-sent events, until the last or until it is stopped."""
        with self.talking():
            assert self._response is not None  # noqa: S101  # it has begun
            for line in self._response:
                kind, _, data = line.decode("utf-8", "replace").strip().partition(":")
                if kind == "data" and data.strip() != "[DONE]":
                    yield json.loads(data)

    def stop(self) -> None:
        """End the response, from any thread: whoever reads it sees its end."""
        self._stopped = True
        if self._bound is not None:
            with contextlib.suppress(OSError):
                self._bound.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Give the connection back; on the reader's thread."""
        if self._response is not None:
            self._response.close()
        self._connection.close()
