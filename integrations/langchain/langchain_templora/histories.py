"""A chat history for LangChain's older interfaces: the window in text, older turns in weights.

For `RunnableWithMessageHistory` and the classic memories. New applications use `ChatTempLora` with
a memory id, or the middleware.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from typing import Literal

from langchain_core.chat_history import BaseChatMessageHistory, InMemoryChatMessageHistory
from langchain_core.messages import BaseMessage
from langchain_core.messages.utils import convert_to_messages
from templora_memory import ParametricMemory
from templora_memory.errors import (
    Cancelled,
    LearningFailed,
    StoreError,
    TemploraError,
    UnknownMemory,
)

from langchain_templora._learning import Known, OneConversation, Teacher, busy, default_include
from langchain_templora._limits import ContextSize, LearningLimits, TokenCounter, Trigger
from langchain_templora._messages import as_history

_log = logging.getLogger("langchain_templora")
SURVIVABLE: tuple[type[TemploraError], ...] = (LearningFailed, StoreError, Cancelled)
"""Errors of learning after which the text simply stays in the prompt."""


class TempLoraChatMessageHistory(BaseChatMessageHistory):
    """The history of one conversation; what leaves the window is learned.

    `messages` is the window: what is not learned yet. It only moves inside `add_messages`, so a
    chain sees the same window before and after a call. A `ChatTempLora` inside
    `RunnableWithMessageHistory` finds the revision that belongs to the window by itself; other
    callers pass ``with_memory(memory_id, revision="head")``.

    Args:
        memory: the service.
        memory_id: which memory; it need not be the session id, the history itself tells the model.
        trigger, keep, token_counter: when to learn and what stays, in the forms of LangChain's
            `SummarizationMiddleware`. Fractions are of the policy's window; None counts with the
            model's own tokenizer.
        transcript: where everything is kept; None: in this object. Give a persistent one, or
            return the same object for an id, to continue after a restart.
        background: learn beside the next call instead of before it; the text stays in the window
            until then.
        on_error: "keep_text" logs a failed learning and keeps the text in the window.

    Raises:
        ValueError: an empty id, a wrong limit.
    """

    def __init__(
        self,
        memory: ParametricMemory,
        memory_id: str,
        *,
        trigger: Trigger = ("fraction", 0.5),
        keep: ContextSize = ("messages", 6),
        token_counter: TokenCounter | None = None,
        transcript: BaseChatMessageHistory | None = None,
        background: bool = False,
        on_error: Literal["keep_text", "raise"] = "keep_text",
    ) -> None:
        if not isinstance(memory_id, str) or not memory_id.strip():
            raise ValueError(
                f"memory_id is {memory_id!r}: pass the id of one conversation. A chain's "
                "session_id is empty when its configuration names none."
            )
        self.memory_id = memory_id
        self.transcript = InMemoryChatMessageHistory() if transcript is None else transcript
        self._memory = memory
        self._limits = LearningLimits.of(trigger, keep)
        self._counter = token_counter
        self._background = background
        self._on_error = on_error
        self._scope = OneConversation(Teacher(memory, default_include))
        self._now: Known | None = None

    def __repr__(self) -> str:
        return f"TempLoraChatMessageHistory({self.memory_id!r})"

    @property
    def _known(self) -> Known:
        if self._now is None:
            self._now = self._scope.known(self.memory_id, self.transcript.messages)
        return self._now

    @property
    def messages(self) -> list[BaseMessage]:  # type: ignore[override]  # LangChain allows either
        """The window: the messages that are not in weights."""
        return list(self.transcript.messages[self._known.messages :])

    @property
    def revision(self) -> str | None:
        """Name of the revision that belongs to the window; None: the base model."""
        return self._known.revision

    @property
    def window_revision(self) -> str:
        """The same as `ChatTempLora` takes it: a name, or "base"."""
        return self.revision or "base"

    def add_messages(self, messages: Sequence[BaseMessage]) -> None:
        """Keep messages, and learn what is due to leave the window.

        Raises:
            ValueError: a message of a kind that has no role.
            TemploraError: with ``on_error="raise"``, whatever went wrong while learning; the
                messages are kept.
        """
        as_history(messages)  # refuse now what could not be shown later
        self.transcript.add_messages(messages)
        every = self.transcript.messages
        self._now = self._scope.known(self.memory_id, every)
        window = self._memory.policy.window
        if self._background and busy(self._memory, self.memory_id):
            return
        if not self._limits.due(every[self._now.messages :], self._count, window):
            return
        end = self._limits.cut(every, self._now.messages, self._count, window)
        if end <= self._now.messages:
            return
        try:
            job = self._scope.learn(self.memory_id, every, end)
            if job is None or self._background:
                return
            job.wait()
        except SURVIVABLE as error:
            if self._on_error == "raise":
                raise
            _log.warning("%r was not learned, its text stays in the prompt: %s", self, error)
        self._now = self._scope.known(self.memory_id, every)

    async def aadd_messages(self, messages: Sequence[BaseMessage]) -> None:
        """Add messages; see `add_messages`."""
        await asyncio.to_thread(self.add_messages, messages)

    def _count(self, messages: object) -> int:
        if self._counter is not None:
            return self._counter(messages)  # type: ignore[arg-type]  # messages, as it wants
        return self._memory.backend.count(as_history(convert_to_messages(messages)))  # type: ignore[arg-type]

    def clear(self) -> None:
        """Forget everything: weights, journal, transcript."""
        with contextlib.suppress(UnknownMemory):  # nothing was learned yet
            self._memory[self.memory_id].forget()
        self.transcript.clear()
        self._now = None

    async def aclear(self) -> None:
        """Delete the history; see `clear`."""
        await asyncio.to_thread(self.clear)
