"""Errors as people read them: what we know is said, the rest is logged under a number."""

from __future__ import annotations

import functools
import inspect
import logging
import secrets
from collections.abc import Callable, Iterator
from typing import Any

import gradio as gr

from templora_memory.errors import TemploraError

from .visitors import VisitExpired

_log = logging.getLogger(__name__)


def error_toast(error: Exception) -> gr.Error:
    """Return the toast for an error; nothing of the inside is shown."""
    if isinstance(error, gr.Error):
        return error
    if isinstance(error, (TemploraError, VisitExpired)):
        return gr.Error(" ".join(str(error).split()), duration=12, print_exception=False)
    number = secrets.token_hex(3)
    _log.error("Unexpected error %s", number, exc_info=error)
    return gr.Error(
        f"Something went wrong (reference {number}). Your characters are still there; try again.",
        duration=12,
        print_exception=False,
    )


def with_error_toasts(handler: Callable[..., Any]) -> Callable[..., Any]:
    """Return a handler whose errors become toasts. Closing a generator still reaches it."""
    if inspect.isgeneratorfunction(handler):

        @functools.wraps(handler)
        def steps(*inputs: Any) -> Iterator[Any]:
            try:
                yield from handler(*inputs)
            except Exception as error:
                raise error_toast(error) from error

        return steps

    @functools.wraps(handler)
    def call(*inputs: Any) -> Any:
        try:
            return handler(*inputs)
        except Exception as error:
            raise error_toast(error) from error

    return call
