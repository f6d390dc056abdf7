"""The few HTTP calls that a vLLM server is asked for. Knows nothing of memories.

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


class Refused(Exception):  # caught where the status is understood
    """An answer that is not a success."""

    def __init__(self, status: int, said: str) -> None:
        super().__init__(f"HTTP {status}: {said[:_SHOWN]}")
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
        """A request and its whole answer.

        Raises:
            Refused: the answer is not a success.
            ModelError: there is no answer.
        """
        with contextlib.closing(self._send(method, path, body)) as asked:
            return asked.read()

    def stream(self, path: str, body: Mapping[str, Any]) -> Answer:
        """A request whose answer is read piece by piece."""
        return self._send("POST", path, body)

    def _send(self, method: str, path: str, body: Mapping[str, Any] | None) -> Answer:
        connection = self._make(self._host, self._port, timeout=self._seconds)
        answer = Answer(connection, self.url)
        try:
            with answer.talking():
                data = None if body is None else json.dumps(body).encode()
                answer.connect()
                connection.request(method, self._path + path, data, self._headers)
                answer.begin()
        except BaseException:
            answer.close()
            raise
        return answer


class Answer:
    """An answer under way."""

    def __init__(self, connection: http.client.HTTPConnection, url: str) -> None:
        self._connection = connection
        self._url = url
        self._response: http.client.HTTPResponse | None = None
        self._bound: socket.socket | None = None
        self._stopped = False

    def connect(self) -> None:
        self._connection.connect()
        self._bound = self._connection.sock  # which the connection forgets once an answer has begun

    def begin(self) -> None:
        """Read status and headers.

        Raises:
            Refused: not a success.
        """
        response = self._response = self._connection.getresponse()
        if response.status != _OK:
            raise Refused(response.status, response.read().decode("utf-8", "replace"))

    @contextlib.contextmanager
    def talking(self) -> Iterator[None]:
        try:
            yield
        except (OSError, http.client.HTTPException) as error:
            if not self._stopped:
                raise ModelError(
                    f"vLLM at {self._url} does not answer ({error}): check that it runs, and the "
                    "address. Nothing was lost."
                ) from error

    def read(self) -> str:
        body = b""
        with self.talking():
            assert self._response is not None  # noqa: S101  # it has begun
            body = self._response.read()
        return body.decode("utf-8", "replace")

    def events(self) -> Iterator[dict[str, Any]]:
        """The server-sent events, until the last or until it is stopped."""
        with self.talking():
            assert self._response is not None  # noqa: S101  # it has begun
            for line in self._response:
                kind, _, data = line.decode("utf-8", "replace").strip().partition(":")
                if kind == "data" and data.strip() != "[DONE]":
                    yield json.loads(data)

    def stop(self) -> None:
        """End the answer, from any thread: whoever reads it sees its end."""
        self._stopped = True
        if self._bound is not None:
            with contextlib.suppress(OSError):
                self._bound.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Give the connection back; on the reader's thread."""
        if self._response is not None:
            self._response.close()
        self._connection.close()
