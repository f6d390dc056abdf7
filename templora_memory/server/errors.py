"""Errors as OpenAI's clients expect them: ``{"error": {message, type, param, code}}``.

A fault of the caller says what was wrong. A fault of this machine (a damaged file, a full disk)
says only that; paths and details go to the log.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from templora_memory.errors import (
    BaseMismatch,
    Cancelled,
    Closed,
    Conflict,
    InputError,
    LearningFailed,
    ModelError,
    PromptTooLong,
    StoreDamaged,
    StoreError,
    StoreWriteFailed,
    TemploraError,
    UnknownMemory,
    UnknownRevision,
    UnknownText,
)

_log = logging.getLogger("templora_memory.server")
_SERVER_ERROR = 500


class ApiError(HTTPException):
    """An error that the server answers with an error object.

    Args:
        status: HTTP status.
        message: what happened, with which value, and what to do.
        code: a short name for programs.
        param: the request's field that was wrong.
        retry_after: seconds after which trying again makes sense.
        headers: further headers of the response.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str,
        param: str | None = None,
        retry_after: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        all_headers = dict(headers or {})
        if retry_after is not None:
            all_headers["retry-after"] = str(retry_after)
        super().__init__(status, detail=message, headers=all_headers)
        self.code = code
        self.param = param

    def body(self) -> dict[str, Any]:
        """Return the error object."""
        return error_body(self.status_code, str(self.detail), code=self.code, param=self.param)

    def response(self) -> JSONResponse:
        """Return the response with status, headers and the error object."""
        return JSONResponse(self.body(), self.status_code, headers=dict(self.headers or {}))


def internal_error() -> ApiError:
    """Return the error for a fault that nobody foresaw."""
    return ApiError(
        _SERVER_ERROR, "Something went wrong; see the server's log.", code="internal_error"
    )


_ERROR_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


def error_body(
    status: int, message: str, *, code: str | None, param: str | None = None
) -> dict[str, Any]:
    """Return the error object for a status."""
    default = "server_error" if status >= _SERVER_ERROR else "invalid_request_error"
    error_type = _ERROR_TYPES.get(status, default)
    encodable = message.encode("utf-8", "replace").decode()  # clients may send surrogates
    return {"error": {"message": encodable, "type": error_type, "param": param, "code": code}}


# (type, status, code, message): the first type that fits counts, so special ones come before
# general ones. An empty message stands for the error's own; None: that one is not for the caller.
_RESPONSES: tuple[tuple[type[TemploraError], int, str, str | None], ...] = (
    (PromptTooLong, 400, "context_length_exceeded", ""),
    (InputError, 400, "invalid_value", ""),
    (UnknownMemory, 404, "memory_not_found", "There is no such memory, or it has learned nothing."),
    (UnknownRevision, 404, "revision_not_found", ""),
    (UnknownText, 404, "text_not_found", ""),
    (BaseMismatch, 409, "base_mismatch", ""),
    (ModelError, 500, "model_error", None),
    (
        Conflict,
        409,
        "conflict",
        "The memory exists already, or another request changed it in between: try again.",
    ),
    (
        StoreDamaged,
        500,
        "memory_damaged",
        "A file of this memory is damaged: rebuild it, roll back, or restore a backup.",
    ),
    (
        StoreWriteFailed,
        507,
        "store_write_failed",
        "The server could not write (disk full?). Nothing was lost: try again later.",
    ),
    (StoreError, 500, "store_error", "The server could not use the memory's files; see its log."),
    (LearningFailed, 422, "learning_failed", ""),
    (Cancelled, 409, "cancelled", ""),
    (Closed, 503, "shutting_down", "The server is shutting down: try again later."),
)


def as_api_error(error: TemploraError) -> ApiError:
    """Return the HTTP error for an error of the service; faults of this machine are logged."""
    unexpected = (TemploraError, _SERVER_ERROR, "internal_error", None)
    _, status, code, public = next(
        (row for row in _RESPONSES if isinstance(error, row[0])), unexpected
    )
    if status >= _SERVER_ERROR:
        _log.error("%s: %s", type(error).__name__, error)
    message = public or "Something went wrong; see the server's log."
    if public == "":
        message = str(error)
    return ApiError(status, message, code=code, retry_after=1 if error.retry else None)


async def on_templora_error(_: Request, error: Exception) -> JSONResponse:
    """Answer an error of the service."""
    assert isinstance(error, TemploraError)  # noqa: S101  # registered for these
    return as_api_error(error).response()


async def on_http_error(_: Request, error: Exception) -> JSONResponse:
    """Answer an `ApiError`, or an error of the framework such as 404 for an unknown path."""
    assert isinstance(error, HTTPException)  # noqa: S101  # registered for these
    if isinstance(error, ApiError):
        return error.response()
    phrase = HTTPStatus(error.status_code).phrase
    body = error_body(error.status_code, f"{error.detail or phrase}.", code=_slug(phrase))
    return JSONResponse(body, error.status_code, headers=dict(error.headers or {}))


async def on_invalid_request(_: Request, error: Exception) -> JSONResponse:
    """Answer a request that breaks the schema: which field and why, never its value."""
    assert isinstance(error, RequestValidationError)  # noqa: S101  # registered for these
    # where a field may be one of several things, the deepest error is about the one that was meant
    deepest = max(error.errors(), key=lambda detail: len(detail["loc"]))
    name = _field_name(deepest["loc"], error.body)
    message = f"{name or 'body'}: {deepest['msg']}."
    body = error_body(400, message, code=deepest["type"], param=name)
    return JSONResponse(body, 400)


async def on_unexpected_error(_: Request, error: Exception) -> JSONResponse:
    """Answer an exception that nobody foresaw; the log gets its type only."""
    _log.error("a request failed with %s", type(error).__name__)
    return internal_error().response()


def _slug(phrase: str) -> str:
    return phrase.lower().replace(" ", "_").replace("'", "")


def _field_name(location: Sequence[str | int], body: object) -> str | None:
    """Join a location such as ("body", "messages", 0) to "messages.0"; None: the body itself.

    Between the fields of the body a location names the kinds that a value may be of; the client
    wrote none of these.
    """
    parts: list[str] = []
    value = body
    for position, part in enumerate(location[1:], start=2):
        inside = part in value if isinstance(value, dict) else _is_index(part, value)
        last = position == len(location)
        if inside or (last and isinstance(value, dict)):  # a field that is missing stands last
            parts.append(str(part))
        if inside:
            value = value[part]  # type: ignore[index]
    if not parts and location[0] != "body":
        parts = [str(part) for part in location[1:]]
    return ".".join(parts).encode("utf-8", "replace").decode() or None


def _is_index(part: str | int, value: object) -> bool:
    return isinstance(value, list) and isinstance(part, int) and part < len(value)
