"""Errors as people read them: what we know is a note, the rest is logged under a number.

Nothing is raised to Gradio, which would paint a bare "Error" over every component that the event
might have changed, the chat among them.
"""

from __future__ import annotations

import functools
import inspect
import logging
import secrets
from collections.abc import Callable, Iterator
from typing import Any

import gradio as gr

from templora_memory.errors import TemploraError

from .studio import ActionRefused
from .visitors import VisitExpired

_log = logging.getLogger(__name__)
_SECONDS = 12


def error_text(error: Exception) -> str:
    """Return what people read about an error; nothing of the inside is shown."""
    if isinstance(error, (TemploraError, VisitExpired)):
        return " ".join(str(error).split())
    number = secrets.token_hex(3)
    _log.error("Unexpected error %s", number, exc_info=error)
    return f"Something went wrong (reference {number}). Your characters are still there; try again."


def show_error(error: Exception) -> None:
    """Show an error: what was refused on purpose as a note, everything else as a warning."""
    show = gr.Info if isinstance(error, ActionRefused) else gr.Warning
    show(error_text(error), duration=_SECONDS)


def with_error_toasts(handler: Callable[..., Any]) -> Callable[..., Any]:
    """Return a handler whose errors become toasts, and that then changes nothing on the page.

    Closing a generator still reaches it.
    """
    if inspect.isgeneratorfunction(handler):

        @functools.wraps(handler)
        def steps(*inputs: Any) -> Iterator[Any]:
            try:
                yield from handler(*inputs)
            except Exception as error:  # noqa: BLE001  # shown, and logged if it is not known
                show_error(error)
                yield gr.skip()

        return steps

    @functools.wraps(handler)
    def call(*inputs: Any) -> Any:
        try:
            return handler(*inputs)
        except Exception as error:  # noqa: BLE001  # shown, and logged if it is not known
            show_error(error)
            return gr.skip()

    return call
