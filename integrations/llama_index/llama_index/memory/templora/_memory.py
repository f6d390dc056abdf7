"""`TempLoraMemory`: LlamaIndex's ``Memory``, with what it evicts in weights instead of nowhere."""

from __future__ import annotations

import asyncio
import uuid
import warnings
from collections.abc import Callable, Sequence
from itertools import dropwhile
from typing import Any
from weakref import WeakMethod, WeakValueDictionary

from llama_index.core.async_utils import asyncio_run
from llama_index.core.base.llms.types import ChatMessage, MessageRole
from llama_index.core.bridge.pydantic import Field, PrivateAttr
from llama_index.core.memory.memory import BaseMemoryBlock, InsertMethod, Memory
from llama_index.core.prompts import RichPromptTemplate
from llama_index.core.schema import BaseNode, MetadataMode
from llama_index.core.storage.chat_store.base_db import AsyncDBChatStore, MessageStatus
from llama_index.core.storage.chat_store.sql import SQLAlchemyChatStore
from templora_memory import Document, Job, ParametricMemory
from templora_memory.errors import UnknownMemory

from llama_index.memory.templora._block import ParametricMemoryBlock, tell_left_out
from llama_index.memory.templora._conversation import (
    AbsorbMode,
    Conversation,
    ConversationStatus,
)
from llama_index.memory.templora._llm import TempLoraLLM
from llama_index.memory.templora._messages import (
    LEARNED_ROLES,
    MessageToText,
    copies,
    is_system,
    prompt_messages,
)
from llama_index.memory.templora._overflow import Fits, Prompt, ShownRows
from llama_index.memory.templora._tokens import Budget, message_overhead, tokenizer_of
from llama_index.memory.templora._turns import Turns

_LIVE: WeakValueDictionary[str, TempLoraMemory] = WeakValueDictionary()


class TempLoraMemory(Memory):
    """A ``Memory`` whose evicted turns are learned into the weights of a small LoRA.

    Make it with `from_defaults`; give engines and agents `llm` along with it. The transcript in the
    chat store is the write-ahead log: evicted turns stay in the prompt until a revision has learned
    them, each is learned once and in order, an edited transcript falls back to the revision that it
    still continues, and after a crash what is missing is found by comparing.

    With a chat store that outlives the process a conversation goes on where it was; with the
    default one (in memory) a new transcript begins, on top of what the memory has learned.
    """

    forget_on_reset: bool = Field(
        default=True,
        description="Whether reset() deletes what was learned, or only the transcript.",
    )

    _block: ParametricMemoryBlock = PrivateAttr()
    _llm: TempLoraLLM = PrivateAttr()
    _overhead: int = PrivateAttr(default=0)
    _handle: str = PrivateAttr(default_factory=lambda: uuid.uuid4().hex)
    _turns: Turns = PrivateAttr(default_factory=Turns)

    @classmethod
    def class_name(cls) -> str:
        """Return the name in serialised memories."""
        return "TempLoraMemory"

    @classmethod
    def from_defaults(  # type: ignore[override]  # the service comes first
        cls,
        memory: ParametricMemory | None = None,
        session_id: str | None = None,
        *,
        llm: TempLoraLLM | None = None,
        chat_history: list[ChatMessage] | None = None,
        token_limit: int | None = None,
        rag_token_reserve: int | None = None,
        chat_history_token_ratio: float = 0.7,
        token_flush_size: int | None = None,
        absorb: AbsorbMode = "background",
        absorb_roles: Sequence[str] = LEARNED_ROLES,
        message_to_text: MessageToText | None = None,
        base: str | None = None,
        forget_on_reset: bool = True,
        memory_blocks: Sequence[BaseMemoryBlock[Any]] | None = None,
        insert_method: InsertMethod = InsertMethod.SYSTEM,
        memory_blocks_template: RichPromptTemplate | None = None,
        chat_store: AsyncDBChatStore | None = None,
        tokenizer_fn: Callable[[str], list[Any]] | None = None,
        table_name: str = "llama_index_memory",
        **kwargs: Any,
    ) -> TempLoraMemory:
        """A memory for one session; loads the model, whose window decides the limits.

        Args:
            memory: the service that learns; None: that of `llm`.
            session_id: id of the memory, one for each user or conversation; None: that of `llm`,
                or a new one.
            llm: a language model to take the service and generation settings from.
            chat_history: the transcript so far.
            token_limit: tokens of turns in the prompt; None: the window less the answer, retrieved
                text and a margin for prompts.
            rag_token_reserve: tokens kept free for retrieved text; None: a quarter of the window,
                but at least 704 from a window of 1,024 on, because LlamaIndex itself keeps 500
                free where it packs retrieved text. Ignored where `token_limit` is given.
            chat_history_token_ratio: share of `token_limit` above which turns are evicted.
            token_flush_size: tokens evicted at once; None: 30 % of `token_limit`, or less, so that
                they fit beside the others until they are learned. Larger means fewer, longer
                updates.
            absorb: "background"; "blocking": a put waits until it is learned; "manual": only on
                `absorb_now`.
            absorb_roles: whose words are learned, "user" and "assistant" or one of them.
            message_to_text: the text of a message as it is learned, None to leave it out.
            base: memory to start from where this one does not exist yet, such as a character.
            forget_on_reset: whether `reset` deletes what was learned, or only the transcript.
            memory_blocks: further blocks.
            insert_method: where the content of further blocks goes.
            memory_blocks_template: how it is written.
            chat_store: where the transcript is kept: any ``AsyncDBChatStore``.
            tokenizer_fn: counts tokens; None: the model's own tokenizer, template included.
            table_name: of the transcript, without `chat_store`.
            kwargs: async_database_uri, async_engine and db_schema of the transcript, without
                `chat_store`; image_token_size_estimate and the like.

        Raises:
            ValueError: no service; a limit that leaves no room.
            InvalidId: the session_id cannot be the id of a memory.
            UnknownMemory: `base` does not exist.
        """
        service = memory or (llm.service if llm else None)
        if service is None:
            raise ValueError(
                "TempLoraMemory needs the service that learns: TempLoraMemory.from_defaults(service"
                ", session_id=...) or from_defaults(llm=...). An engine cannot make one from "
                "memory_cls alone: pass it the memory."
            )
        name = _session(service, session_id, llm)
        bound = llm or TempLoraLLM(service)
        metadata = bound.metadata
        budget = Budget.of(
            window=metadata.context_window,
            reply=metadata.num_output,
            ratio=chat_history_token_ratio,
            retrieval=rag_token_reserve,
            history=token_limit,
            flush=token_flush_size,
        )
        block = ParametricMemoryBlock(
            service,
            accept_short_term_memory=False,  # the transcript says what to learn, not the pushes
            absorb_mode=absorb,
            absorb_roles=tuple(absorb_roles),
            message_to_text=message_to_text,
            base=base,
        )
        if base is not None:
            service.open(name, base=base)
        database = {k: kwargs.pop(k) for k in ("async_database_uri", "async_engine", "db_schema")
                 if k in kwargs}  # fmt: skip
        store = chat_store or SQLAlchemyChatStore(table_name, **database)
        if memory_blocks_template is not None:
            kwargs["memory_blocks_template"] = memory_blocks_template
        chat_memory = cls(
            session_id=name,
            token_limit=budget.history,
            token_flush_size=budget.flush,
            chat_history_token_ratio=chat_history_token_ratio,
            memory_blocks=[block, *(memory_blocks or ())],
            insert_method=insert_method,
            sql_store=store,
            tokenizer_fn=tokenizer_fn or tokenizer_of(service),
            forget_on_reset=forget_on_reset,
            **_known(cls, kwargs),
        )
        chat_memory._bind(block, bound, overhead=0 if tokenizer_fn else message_overhead(service))
        if chat_history:
            chat_memory.set(chat_history)
        return chat_memory

    def _bind(self, block: ParametricMemoryBlock, llm: TempLoraLLM, *, overhead: int) -> None:
        """Put in what a field cannot hold."""
        self._block = block
        self._llm = llm.bound_to(block.conversation(self.session_id))
        self._overhead = overhead
        self._conversation.make_room = WeakMethod(self._make_room)
        _LIVE[self._handle] = self

    # --- copies --------------------------------------------------------------------------------

    def to_dict(self, **kwargs: Any) -> dict[str, Any]:
        """A handle that JSON can carry, so that a reused agent ``Context`` keeps this memory."""
        del kwargs
        return {
            "class_name": self.class_name(),
            "session_id": self.session_id,
            "handle": self._handle,
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any], **kwargs: Any) -> TempLoraMemory:
        """The living memory that `to_dict` spoke of, or the newest one of the same session.

        Raises:
            LookupError: there is none in this process, make it first; or the dictionary is of
                something else.
        """
        del kwargs
        session_id, handle = data.get("session_id"), data.get("handle")
        if not isinstance(session_id, str) or not isinstance(handle, str):
            raise LookupError(  # noqa: TRY004  # what is wrong is the dictionary
                f"Not a stored TempLoraMemory: it has the keys {sorted(data)}."
            )
        if (memory := _LIVE.get(handle)) is not None:
            return memory
        same = [m for m in _LIVE.values() if m.session_id == session_id]
        services = {id(memory.service) for memory in same}
        if len(services) != 1:
            raise LookupError(
                f"There are {len(services)} services with a memory of session {session_id!r} in "
                "this process, one is needed: make it with TempLoraMemory.from_defaults(...) "
                "before you restore the context, and keep a reference to it."
            )
        return same[-1]  # the newest

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> TempLoraMemory:
        return self  # there is one transcript and one memory behind it

    def __reduce_ex__(self, protocol: object) -> tuple[Any, ...]:
        return TempLoraMemory.from_dict, (self.to_dict(),)

    # --- what it is ----------------------------------------------------------------------------

    @property
    def llm(self) -> TempLoraLLM:
        """The language model that answers with what this memory has learned."""
        return self._llm

    @property
    def service(self) -> ParametricMemory:
        """The service that learns."""
        return self._block.service

    @property
    def _conversation(self) -> Conversation:
        return self._block.conversation(self.session_id)

    def status(self) -> ConversationStatus:
        """The state of learning, with the reason if it failed."""
        return self._conversation.status

    def _estimate_token_count(self, message_or_blocks: Any) -> int:
        count = super()._estimate_token_count(message_or_blocks)
        several = message_or_blocks if isinstance(message_or_blocks, list) else [message_or_blocks]
        for row in several:
            if isinstance(row, ChatMessage):
                parts = prompt_messages([row])
                # LlamaIndex leaves calls out, and they stand in the prompt like everything else
                calls = (part.content for part in parts if part.role == "call")
                count += self._overhead * len(parts)
                count += sum(len(self.tokenizer_fn(call)) for call in calls)
        return count

    # --- putting -------------------------------------------------------------------------------

    async def _manage_queue(self) -> None:
        try:
            await super()._manage_queue()
        finally:  # also if another block failed: what is archived is told
            await self._sync()

    async def aput_messages(self, messages: list[ChatMessage]) -> None:
        """Add messages; none at all is fine."""
        if messages:
            async with self._turns.mine():
                await self._attach()
                await super().aput_messages(messages)

    async def aput(self, message: ChatMessage) -> None:
        """Add a message, and evict and learn what does not fit any more."""
        async with self._turns.mine():
            await self._attach()
            await super().aput(message)

    async def aset(self, messages: list[ChatMessage]) -> None:
        """Replace the transcript: the same again, a longer, a shorter or an edited one."""
        async with self._turns.mine():
            await self._attach(messages)
            await super().aset(messages)
            await self._manage_queue()

    async def areset(self, status: MessageStatus | None = None) -> None:
        """Delete the transcript, and what was learned of it (unless `forget_on_reset` is off).

        With status ACTIVE only the turns in the window go and nothing is forgotten.
        """
        async with self._turns.mine():
            await self._attach()
            await super().areset(status)
            if status is MessageStatus.ACTIVE:
                await self._sync()
            elif self.forget_on_reset:
                await self._block.aforget(self.session_id)
            else:
                await asyncio.to_thread(self._conversation.restart)

    # --- the transcript and what is learned of it ----------------------------------------------

    async def _attach(self, coming: Sequence[ChatMessage] = ()) -> None:
        """Before the first use: compare the transcript with what the memory knows.

        Where there is no transcript yet, the one that is `coming` is compared.
        """
        if self._conversation.attached:
            return
        if coming and not await self.sql_store.get_messages(self.session_id, status=None):
            await asyncio.to_thread(self._conversation.attach, coming)
        else:
            await self._sync()

    async def _sync(self, active: Sequence[ChatMessage] | None = None) -> None:
        """Tell what has left the window since the last time."""
        store, key, known = self.sql_store, self.session_id, self._conversation.evicted
        if active is None:
            active = await store.get_messages(key, status=MessageStatus.ACTIVE)
        rows: list[ChatMessage] = []
        if known and await store.count_messages(key, status=MessageStatus.ARCHIVED) >= known:
            # only what is new, and one row to see that the others are still the same
            rows = await store.get_messages(key, status=MessageStatus.ARCHIVED, offset=known - 1)
        if rows and self._conversation.ends_with(rows[0]):
            rows = rows[1:]
        else:
            known, rows = 0, await store.get_messages(key, status=MessageStatus.ARCHIVED)
        await asyncio.to_thread(self._block.take, key, rows, active, known=known)

    # --- getting -------------------------------------------------------------------------------

    async def aget(
        self,
        input: str | ChatMessage | None = None,  # noqa: A002  # LlamaIndex's name
        **block_kwargs: Any,
    ) -> list[ChatMessage]:
        """The turns of the prompt: those that nobody has learned yet, and the newest.

        Copies: agents write into them. Waits for learning only where the prompt would not fit.
        """
        async with self._turns.mine():
            await self._attach()
            await self._evict_long_exchange(input)
            crowded = await self._crowded()
        if crowded:
            await asyncio.to_thread(self._block.settle, self.session_id)
        async with self._turns.mine():
            return copies(await super().aget(input=input, **block_kwargs))

    async def aget_all(self, status: MessageStatus | None = None) -> list[ChatMessage]:
        """The whole transcript, or what of it stands in the window or has left it."""
        async with self._turns.mine():
            await self._attach()
            return await super().aget_all(status=status)

    async def _evict_long_exchange(self, coming: str | ChatMessage | None) -> None:
        """Evict a newest exchange that alone is over the limit, once another message comes.

        Chat engines put that message into the memory only when it is answered; where LlamaIndex
        finds no room for retrieved text beside the history, it never would be.
        """
        if coming is None or self._block.absorb_mode == "manual":
            return
        active = await self.sql_store.get_messages(self.session_id, status=MessageStatus.ACTIVE)
        asked = next((row for row in reversed(active) if row.role is MessageRole.USER), None)
        if asked is None or asked is active[-1] or self._is_text_of(asked, coming):
            return  # it is being answered
        if self._estimate_token_count(active) > self.token_limit:
            await self._archive(active)

    @staticmethod
    def _is_text_of(row: ChatMessage, coming: str | ChatMessage) -> bool:
        return row.content == (coming if isinstance(coming, str) else coming.content)

    async def _crowded(self) -> bool:
        """Return whether turns wait to be learned and do not fit into the prompt any more."""
        if self._block.absorb_mode == "manual":
            return False
        active = await self.sql_store.get_messages(self.session_id, status=MessageStatus.ACTIVE)
        await self._sync(active)
        pending = await asyncio.to_thread(lambda: self._conversation.pending)
        return bool(pending) and self._estimate_token_count([*pending, *active]) > self.token_limit

    async def _get_memory_blocks_content(
        self, chat_history: list[ChatMessage], *args: Any, **kwargs: Any
    ) -> dict[str, Any]:
        # the window was read before: a row that left it since is then shown twice, not never
        await self._sync(chat_history)
        return await super()._get_memory_blocks_content(chat_history, *args, **kwargs)

    async def _truncate_memory_blocks(
        self,
        content_per_memory_block: dict[str, Any],
        memory_blocks_tokens: int,
        chat_history_tokens: int,
    ) -> dict[str, Any]:
        """Other blocks' content leaves the prompt before turns that nobody has learned yet."""
        content = await super()._truncate_memory_blocks(
            content_per_memory_block, memory_blocks_tokens, chat_history_tokens
        )
        name = self._block.name
        tokens = chat_history_tokens + sum(map(self._estimate_token_count, content.values()))
        if name in content and tokens > self.token_limit:
            shortened = await self._block.atruncate(content[name], tokens - self.token_limit)
            return {**content, name: shortened or []}
        return content

    # --- a prompt that does not fit --------------------------------------------------------------

    def _make_room(self, prompt: Prompt, fits: Fits) -> list[ChatMessage] | None:
        """Evict turns of a prompt that does not fit as it is sent, and return the rest of it."""
        shorter: list[ChatMessage] | None = asyncio_run(self._amake_room(prompt, fits))
        return shorter

    async def _amake_room(self, prompt: Prompt, fits: Fits) -> list[ChatMessage] | None:
        learns = self._block.absorb_mode != "manual"
        async with self._turns.mine():
            await self._attach()
            active = await self.sql_store.get_messages(self.session_id, status=MessageStatus.ACTIVE)
            await self._sync(active)
            pending = [row for row in self._conversation.pending if not is_system(row)]
            window = list(dropwhile(is_system, active))  # instructions at the beginning stay
            shown = ShownRows.find(prompt, [*pending, *window])
            if shown is None:
                return None
            count = shown.surplus(fits, self._estimate_token_count, self.token_flush_size)
            if not count:
                return None
            evicted = shown.skipped + count - len(pending)
            if learns and evicted > 0:
                await self._archive(active[: evicted + len(active) - len(window)])
                await self._sync()
        if learns:
            await asyncio.to_thread(self._block.settle, self.session_id)
        status = self.status()
        if not learns or status.learned < status.evicted:
            tell_left_out(count)
        return shown.without(count)

    async def _archive(self, gone: list[ChatMessage]) -> None:
        """Move the oldest turns out of the window; other blocks hear of it as always."""
        await self.sql_store.archive_oldest_messages(self.session_id, n=len(gone))
        others = [block for block in self.memory_blocks if block is not self._block]
        await asyncio.gather(
            *[
                block.aput(gone, from_short_term_memory=True, session_id=self.session_id)
                for block in others
            ]
        )

    # --- learning --------------------------------------------------------------------------------

    async def aabsorb_now(self) -> None:
        """Learn everything but the newest exchange now, and wait for it.

        Raises:
            TemploraError: why it could not be learned; the text stays in the prompt.
        """
        async with self._turns.mine():
            await self._attach()
            rows = await self.sql_store.get_messages(self.session_id, status=MessageStatus.ACTIVE)
            users = [i for i, row in enumerate(rows) if row.role == MessageRole.USER]
            if users and users[-1]:
                await self._archive(rows[: users[-1]])
            await self._sync()
        await asyncio.to_thread(self._block.absorb_now, self.session_id)

    def absorb_now(self) -> None:
        """See `aabsorb_now`."""
        asyncio_run(self.aabsorb_now())

    def absorb_documents(self, docs: Sequence[BaseNode | str]) -> Job:
        """Learn texts themselves, such as a character's bio: documents, nodes or strings.

        This is the only way in which documents are learned; retrieved ones never are.

        Returns:
            The job; `wait_absorbed` waits for it too.

        Raises:
            ValueError: nothing to learn, or a document without text.
        """
        documents = [_document(doc) for doc in docs]
        if not documents:
            raise ValueError("There is nothing to absorb: the list of documents is empty.")
        job = self.service[self.session_id].absorb(documents, wait=False)
        self._conversation.follow(job, len(documents))
        if self._block.absorb_mode == "blocking":
            job.wait()
        return job

    async def aabsorb_documents(self, docs: Sequence[BaseNode | str]) -> Job:
        """See `absorb_documents`."""
        return await asyncio.to_thread(self.absorb_documents, docs)

    def wait_absorbed(self, timeout: float | None = None) -> None:
        """Wait until nothing is being learned any more.

        Raises:
            TimeoutError: not done after `timeout` seconds.
            TemploraError: what the newest absorb failed with; its text stays in the prompt.
        """
        if error := self._conversation.wait(timeout):
            raise error


def _session(service: ParametricMemory, session_id: str | None, llm: TempLoraLLM | None) -> str:
    asked = llm.session_id if llm else None
    if session_id and asked and session_id != asked:
        warnings.warn(
            f"The language model is of session {asked!r} and the memory of {session_id!r}: answers "
            "would come from another memory than the one that learns. Use memory.llm.",
            UserWarning,
            stacklevel=3,
        )
    name = session_id or asked or str(uuid.uuid4())
    try:
        service[name].head()  # raises on an id that cannot be one
    except UnknownMemory:
        return name
    return name


def _known(cls: type[TempLoraMemory], settings: dict[str, Any]) -> dict[str, Any]:
    if unknown := sorted(set(settings) - set(cls.model_fields)):
        raise ValueError(f"Unknown settings {unknown} of TempLoraMemory.")
    return settings


def _document(doc: BaseNode | str) -> Document:
    if isinstance(doc, str):
        return Document(doc)
    if not isinstance(doc, BaseNode):
        raise TypeError(f"A {type(doc).__name__} is no document: give Documents, nodes or texts.")
    return Document(doc.get_content(metadata_mode=MetadataMode.NONE))
