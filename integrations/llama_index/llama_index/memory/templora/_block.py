"""`ParametricMemoryBlock`: what leaves the window of a LlamaIndex ``Memory`` is learned."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NoReturn

from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.bridge.pydantic import Field, PrivateAttr
from llama_index.core.memory.memory import BaseMemoryBlock
from templora_memory import ParametricMemory

from llama_index.memory.templora._conversation import (
    AbsorbMode,
    Conversation,
    ConversationStatus,
)
from llama_index.memory.templora._messages import (
    LEARNED_ROLES,
    Extract,
    MessageToText,
    copies,
    message_to_text,
    prompt_messages,
)

_log = logging.getLogger(__name__)


def tell_left_out(count: int) -> None:
    """Say in the log that messages are in no prompt now, and not learned either."""
    _log.warning(
        "%d messages that are not learned yet do not fit the prompt: they are left out of it for "
        "now",
        count,
    )


class ParametricMemoryBlock(BaseMemoryBlock[list[ChatMessage]]):
    """Learns what a ``Memory`` evicts, each session into a memory of its own.

    Adds nothing to the prompt but the evicted turns that are not learned yet. Compose it with other
    blocks: ``Memory.from_defaults(memory_blocks=[ParametricMemoryBlock(service), ...])``, and give
    the language model the same session: ``TempLoraLLM(service, session_id=...)``.

    A stock ``Memory`` tells its blocks once what leaves and never that it was reset, and under
    concurrent puts it may tell twice or not at all. `TempLoraMemory` has none of that.

    Args:
        memory: the service that learns.
        name, description, priority: as for every block. With a priority over 0 the oldest pending
            turns leave the prompt when it is too long; with 0 never.
        absorb_mode: "background"; "blocking": a put waits until it is learned; "manual": only on
            `absorb_now`.
        absorb_roles: whose words are learned, "user" and "assistant" or one of them.
        message_to_text: the text of a message as it is learned, None to leave it out; by default
            all text blocks, and of an agent's trace only the answer.
        base: memory from which new sessions start (a character's bio).
    """

    name: str = Field(default="ParametricMemory")
    absorb_mode: AbsorbMode = Field(default="background")
    absorb_roles: tuple[str, ...] = Field(default=LEARNED_ROLES)
    message_to_text: MessageToText | None = Field(default=None, exclude=True)
    base: str | None = Field(default=None)

    _pm: ParametricMemory = PrivateAttr()
    _extract: Extract = PrivateAttr()
    _conversations: dict[str, Conversation] = PrivateAttr(default_factory=dict)
    _lock: threading.Lock = PrivateAttr(default_factory=threading.Lock)

    def __init__(self, memory: ParametricMemory, **kwargs: Any) -> None:
        if not isinstance(memory, ParametricMemory):
            raise TypeError(
                f"memory is a {type(memory).__name__}: give the ParametricMemory service."
            )
        super().__init__(**kwargs)
        self._pm = memory
        self._extract = Extract(
            roles=self.absorb_roles, text=self.message_to_text or message_to_text
        )

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> ParametricMemoryBlock:
        return self  # what it knows of its sessions is one

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("A ParametricMemoryBlock holds a model: it cannot be pickled.")

    @property
    def service(self) -> ParametricMemory:
        """The service that learns."""
        return self._pm

    def conversation(self, session_id: str) -> Conversation:
        """Return the state of learning in a session."""
        with self._lock:
            if session_id not in self._conversations:
                self._conversations[session_id] = Conversation(
                    self._pm, session_id, self._extract, base=self.base
                )
            return self._conversations[session_id]

    # --- what Memory calls ---------------------------------------------------------------------

    async def aput(
        self,
        messages: list[ChatMessage],
        from_short_term_memory: bool = False,  # noqa: FBT001, FBT002  # LlamaIndex's signature
        session_id: str | None = None,
    ) -> None:
        """Take what left the window: journal it, then learn it.

        A failure is noted in `status` and does not reach the chat: the text stays in the prompt.

        Raises:
            ValueError: no session_id.
        """
        if from_short_term_memory and not self.accept_short_term_memory:
            return
        if session_id is None:
            raise ValueError("ParametricMemoryBlock.aput needs a session_id: whose memory learns?")
        # blocks share the message objects, run together, and some write into them
        await asyncio.to_thread(self._append, session_id, copies(messages))

    def _append(self, session_id: str, rows: Sequence[ChatMessage]) -> None:
        conversation = self.conversation(session_id)
        try:
            conversation.append(rows, learn=self.absorb_mode != "manual")
            if self.absorb_mode == "blocking":
                conversation.wait()
        except Exception as error:  # noqa: BLE001  # a failed learning must not end the chat
            conversation.failed(error)

    async def _aput(self, messages: list[ChatMessage]) -> None:
        raise NotImplementedError("Call aput, which knows the session.")

    async def _aget(
        self,
        messages: list[ChatMessage] | None = None,
        session_id: str | None = None,
        **block_kwargs: Any,
    ) -> list[ChatMessage]:
        """Evicted turns that are not learned yet, as copies; mostly none."""
        del messages, block_kwargs
        if session_id is None:
            return []
        return await asyncio.to_thread(lambda: self.conversation(session_id).pending)

    async def atruncate(
        self, content: list[ChatMessage], tokens_to_truncate: int
    ) -> list[ChatMessage] | None:
        """Leave out the oldest whole turns that are not learned yet, as many as needed."""
        shortened = await asyncio.to_thread(self._without, content, tokens_to_truncate)
        tell_left_out(len(content) - len(shortened))
        return shortened or None

    def _without(self, rows: list[ChatMessage], tokens: int) -> list[ChatMessage]:
        count = self._pm.backend.count
        starts = [i for i, row in enumerate(rows) if row.role == "user"]
        starts = [*sorted({0, *starts}), len(rows)]
        gone = 0
        for begin, end in pairwise(starts):
            if tokens <= 0:
                break
            tokens -= count(prompt_messages(rows[begin:end]))
            gone = end
        return rows[gone:]

    # --- what applications call ----------------------------------------------------------------

    def sync(
        self, session_id: str, archived: Sequence[ChatMessage], active: Sequence[ChatMessage]
    ) -> None:
        """Say what a session's transcript is now, and learn what of `archived` is not learned.

        The two lists are the whole transcript. Saying the same again changes nothing, an edited
        transcript falls back to the revision that it continues. A failure is noted in `status`.
        """
        self.take(session_id, archived, active)

    def take(
        self,
        session_id: str,
        archived: Sequence[ChatMessage],
        active: Sequence[ChatMessage],
        *,
        known: int = 0,
    ) -> None:
        """Like `sync`; `archived` may lack the first `known` rows, which were told before."""
        conversation = self.conversation(session_id)
        try:
            if known:
                conversation.grow(known, archived, active)
            else:
                conversation.note(archived, active)
            if self.absorb_mode != "manual":
                conversation.absorb()
            if self.absorb_mode == "blocking":
                conversation.wait()
        except Exception as error:  # noqa: BLE001  # a failed learning must not end the chat
            conversation.failed(error)

    def settle(self, session_id: str) -> None:
        """Wait until what was evicted is learned, or failed once more."""
        conversation = self.conversation(session_id)
        try:
            conversation.absorb(retry=True)
            conversation.wait()
        except Exception as error:  # noqa: BLE001  # a failed learning must not end the chat
            conversation.failed(error)

    def absorb_now(self, session_id: str) -> None:
        """Learn everything that was evicted, and wait for it.

        Raises:
            TemploraError: why it could not be learned; nothing is lost.
        """
        conversation = self.conversation(session_id)
        conversation.absorb(retry=True)
        if error := conversation.wait():
            raise error

    def wait(self, timeout: float | None = None) -> None:
        """Wait until nothing is being learned; `last_error` and `status` tell how it ended.

        Raises:
            TimeoutError: not done after `timeout` seconds, for each session.
        """
        for conversation in self._sessions():
            conversation.wait(timeout)

    async def aforget(self, session_id: str) -> None:
        """Delete a session's memory with everything made from it."""
        await asyncio.to_thread(self.conversation(session_id).forget)

    @property
    def last_error(self) -> BaseException | None:
        """The error of the newest absorb of any session; None if it did not fail."""
        errors = [c.error for c in self._sessions() if c.error]
        return errors[-1] if errors else None

    def status(self, session_id: str) -> ConversationStatus:
        """Return the state of learning in a session."""
        return self.conversation(session_id).status

    def _sessions(self) -> list[Conversation]:
        with self._lock:
            return list(self._conversations.values())
