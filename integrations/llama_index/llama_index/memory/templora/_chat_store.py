"""`ParametricChatStore`: a chat store that learns what a ``ChatMemoryBuffer`` no longer shows."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Callable, Sequence
from os import PathLike, fspath
from pathlib import PurePosixPath
from typing import Any, NoReturn
from weakref import WeakValueDictionary

import fsspec  # type: ignore[import-untyped]  # it ships no types
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.bridge.pydantic import Field, PrivateAttr, model_serializer
from llama_index.core.storage.chat_store import BaseChatStore
from llama_index.core.storage.chat_store.loading import RECOGNIZED_CHAT_STORES
from templora_memory import ParametricMemory

from llama_index.memory.templora._conversation import Conversation, ConversationStatus
from llama_index.memory.templora._llm import TempLoraLLM
from llama_index.memory.templora._messages import (
    LEARNED_ROLES,
    Extract,
    MessageToText,
    copies,
    message_to_text,
)
from llama_index.memory.templora._tokens import Budget, message_overhead, tokenizer_of

FORMAT = 1
_HIGH, _LOW = 0.75, 0.5  # shares of the window between which turns wait to be learned
_RATIO = 0.7

_LIVE: WeakValueDictionary[str, ParametricChatStore] = WeakValueDictionary()


class _DictStore(BaseChatStore):
    """Transcripts in a dictionary, and nothing else."""

    _rows: dict[str, list[ChatMessage]] = PrivateAttr(default_factory=dict)

    @classmethod
    def class_name(cls) -> str:
        return "DictChatStore"

    def set_messages(self, key: str, messages: list[ChatMessage]) -> None:
        self._rows[key] = list(messages)

    def get_messages(self, key: str) -> list[ChatMessage]:
        return self._rows.get(key, [])

    def add_message(self, key: str, message: ChatMessage) -> None:
        self._rows.setdefault(key, []).append(message)

    def delete_messages(self, key: str) -> list[ChatMessage] | None:
        return self._rows.pop(key, None)

    def delete_message(self, key: str, idx: int) -> ChatMessage | None:
        return self._rows[key].pop(idx)

    def delete_last_message(self, key: str) -> ChatMessage | None:
        return self._rows[key].pop()

    def get_keys(self) -> list[str]:
        return list(self._rows)


class ParametricChatStore(BaseChatStore):
    """Full transcripts, and for each key a memory that learns their older part.

    For ``ChatMemoryBuffer``, which shows the newest messages only and keeps the rest from the
    model: give it this store, a `token_limit` of at least `window_tokens`, and `llm(key)` as the
    language model. Whole turns are learned, oldest first, some time before the buffer drops them;
    where learning is slower than talking, `add_message` waits for it. The newest exchange is never
    learned. Deleting a key deletes its transcript and its memory.

    Args:
        memory: the service that learns.
        inner: keeps the transcripts; None: a dictionary, see `persist`.
        window_tokens: tokens of the newest messages that need not be learned; None: what the
            model's window leaves beside an answer and retrieved text.
        absorb_roles: whose words are learned, "user" and "assistant" or one of them.
        message_to_text: the text of a message as it is learned, None to leave it out.
    """

    window_tokens: int | None = Field(default=None, description="Tokens that need not be learned.")
    absorb_roles: tuple[str, ...] = Field(default=LEARNED_ROLES)

    _pm: ParametricMemory = PrivateAttr()
    _inner: BaseChatStore = PrivateAttr()
    _extract: Extract = PrivateAttr()
    _handle: str = PrivateAttr(default_factory=lambda: uuid.uuid4().hex)
    _lock: threading.RLock = PrivateAttr(default_factory=threading.RLock)
    _conversations: dict[str, Conversation] = PrivateAttr(default_factory=dict)
    _counting: tuple[Callable[[str], list[Any]], int] | None = PrivateAttr(default=None)

    def __init__(
        self,
        memory: ParametricMemory,
        inner: BaseChatStore | None = None,
        window_tokens: int | None = None,
        *,
        absorb_roles: Sequence[str] = LEARNED_ROLES,
        message_to_text: MessageToText = message_to_text,
    ) -> None:
        if not isinstance(memory, ParametricMemory):
            raise TypeError(
                f"memory is a {type(memory).__name__}: give the ParametricMemory service."
            )
        if window_tokens is not None and window_tokens < 1:
            raise ValueError(f"window_tokens is {window_tokens!r}: it must be at least 1.")
        fields: dict[str, Any] = {
            "window_tokens": window_tokens,
            "absorb_roles": tuple(absorb_roles),
        }
        super().__init__(**fields)
        self._pm = memory
        self._inner = inner or _DictStore()
        self._extract = Extract(roles=self.absorb_roles, text=message_to_text)
        _LIVE[self._handle] = self

    @classmethod
    def class_name(cls) -> str:
        """Return the name in serialised stores."""
        return "ParametricChatStore"

    # --- copies --------------------------------------------------------------------------------

    @model_serializer
    def _as_handle(self) -> dict[str, Any]:
        return {"handle": self._handle}

    @classmethod
    def from_dict(cls, data: dict[str, Any], **kwargs: Any) -> ParametricChatStore:
        """The living store that ``to_dict`` spoke of.

        Raises:
            LookupError: it does not live in this process; see `persist`.
        """
        del kwargs
        if (store := _LIVE.get(str(data.get("handle")))) is None:
            raise LookupError(
                "The ParametricChatStore of this dictionary does not live in this process. Make it "
                "again: ParametricChatStore.from_persist_path(path, memory=service)."
            )
        return store

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> ParametricChatStore:
        return self

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("A ParametricChatStore holds a model: use persist and from_persist_path.")

    # --- reading -------------------------------------------------------------------------------

    def llm(self, key: str) -> TempLoraLLM:
        """A language model that answers with what was learned under this key."""
        return TempLoraLLM(self._pm).bound_to(self._conversation(key))

    @property
    def service(self) -> ParametricMemory:
        """The service that learns."""
        return self._pm

    def get_messages(self, key: str) -> list[ChatMessage]:
        """The full transcript, as copies; what is learned stays in it."""
        return copies(self._inner.get_messages(key))

    def get_keys(self) -> list[str]:
        """Keys with a transcript."""
        return self._inner.get_keys()

    def status(self, key: str) -> ConversationStatus:
        """Return the state of learning under a key."""
        return self._conversation(key).status

    # --- writing -------------------------------------------------------------------------------

    def set_messages(self, key: str, messages: list[ChatMessage]) -> None:
        """Replace a transcript; what was learned of turns that are gone is not used any more."""
        with self._lock:
            self._attach(key, messages)
            self._inner.set_messages(key, copies(messages))
        self._learn(key)

    def add_message(self, key: str, message: ChatMessage, idx: int | None = None) -> None:
        """Add a message at the end, or before position `idx`."""
        with self._lock:
            self._attach(key)
            if idx is None:
                self._inner.add_message(key, *copies([message]))
            else:
                rows = [*self._inner.get_messages(key)]
                rows.insert(idx, *copies([message]))
                self._inner.set_messages(key, rows)
        self._learn(key)

    def delete_message(self, key: str, idx: int) -> ChatMessage | None:
        """Delete a message by its position; None if there is none.

        If it was learned, answers come from an older revision until the rest is learned again.
        """
        with self._lock:
            self._attach(key)
            rows = [*self._inner.get_messages(key)]
            if not -len(rows) <= idx < len(rows):
                return None
            gone = rows.pop(idx)
            self._inner.set_messages(key, rows)
        self._learn(key)
        return gone

    def delete_last_message(self, key: str) -> ChatMessage | None:
        """Delete the newest message; None if there is none."""
        return self.delete_message(key, -1)

    def delete_messages(self, key: str) -> list[ChatMessage] | None:
        """Delete a transcript with everything learned of it; returns the transcript, or None."""
        with self._lock:
            before = self.get_messages(key) if key in self._inner.get_keys() else None
            self._inner.delete_messages(key)
            self._conversation(key).forget()
        return before

    # --- learning ------------------------------------------------------------------------------

    def _conversation(self, key: str) -> Conversation:
        with self._lock:
            if key not in self._conversations:
                self._conversations[key] = Conversation(self._pm, key, self._extract)
            return self._conversations[key]

    def _attach(self, key: str, coming: Sequence[ChatMessage] = ()) -> None:
        """Before the first change: compare the transcript with what is learned.

        Where there is no transcript yet, the one that is `coming` is compared.
        """
        conversation = self._conversation(key)
        if conversation.attached:
            return
        if rows := self._inner.get_messages(key):
            conversation.note((), rows)
        else:
            conversation.attach(coming)

    def _window(self) -> int:
        if self.window_tokens is not None:
            return self.window_tokens
        policy = self._pm.policy
        window, reply = policy.window, policy.reply_tokens
        return Budget.of(window=window, reply=reply, ratio=_RATIO).history

    def _learn(self, key: str) -> None:
        """Evict the oldest turns beyond the window and have them learned in the background."""
        conversation = self._conversation(key)
        try:
            with self._lock:
                rows = self._inner.get_messages(key)
                cut = self._cut(rows, conversation)
                conversation.note(rows[:cut], rows[cut:])
                conversation.absorb()
                waiting = self._tokens(conversation.pending) + self._tokens(rows[cut:])
            if waiting > self._window():
                conversation.wait()
        except Exception as error:  # noqa: BLE001  # a failed learning must not end the chat
            conversation.failed(error)

    def _cut(self, rows: Sequence[ChatMessage], conversation: Conversation) -> int:
        """Where the part begins that is not evicted: a turn's beginning, before the newest one."""
        starts = [i for i, row in enumerate(rows) if row.role == "user"]
        cut = conversation.shared_with(rows)
        if not starts:
            return min(cut, len(rows))
        window = self._window()
        costs = [self._tokens([row]) for row in rows[cut:]]
        left = sum(costs)
        if left <= window * _HIGH:
            return cut
        for start in starts:
            if start > cut:
                left -= sum(costs[: start - cut])
                costs, cut = costs[start - cut :], start
                if left <= window * _LOW:
                    break
        return cut

    def _tokens(self, rows: Sequence[ChatMessage]) -> int:
        if self._counting is None:
            self._counting = tokenizer_of(self._pm), message_overhead(self._pm)
        tokens, overhead = self._counting
        messages = [message for message in map(self._extract.message, rows) if message]
        return sum(len(tokens(message.content)) + overhead for message in messages)

    def wait_absorbed(self, timeout: float | None = None) -> None:
        """Wait until nothing is being learned any more.

        Raises:
            TimeoutError: not done after `timeout` seconds.
            TemploraError: what an absorb failed with; its text stays in the transcript.
        """
        with self._lock:
            conversations = list(self._conversations.values())
        for error in [conversation.wait(timeout) for conversation in conversations]:
            if error:
                raise error

    # --- files ---------------------------------------------------------------------------------

    def persist(
        self,
        persist_path: str | PathLike[str] = "chat_store.json",
        fs: fsspec.AbstractFileSystem | None = None,
    ) -> None:
        """Write all transcripts to a JSON file; memories are kept by the service anyway.

        The file is complete before it takes the place of an old one.
        """
        fs, path = fs or fsspec.filesystem("file"), fspath(persist_path)
        with self._lock:
            store = {
                key: [row.model_dump(mode="json") for row in self._inner.get_messages(key)]
                for key in self._inner.get_keys()
            }
        body = {"format": FORMAT, "class_name": self.class_name(), "store": store}
        folder = str(PurePosixPath(path).parent)
        if not fs.exists(folder):
            fs.makedirs(folder)
        with fs.open(path + ".new", "w", encoding="utf-8") as file:
            json.dump(body, file, ensure_ascii=False)
        fs.mv(path + ".new", path)

    @classmethod
    def from_persist_path(
        cls,
        persist_path: str | PathLike[str] = "chat_store.json",
        fs: fsspec.AbstractFileSystem | None = None,
        *,
        memory: ParametricMemory,
        **kwargs: Any,
    ) -> ParametricChatStore:
        """A store with the transcripts of a file; without the file, an empty one.

        What is not learned yet is learned with the next message of its key.

        Raises:
            ValueError: the file is damaged, or something else.
        """
        fs, path = fs or fsspec.filesystem("file"), fspath(persist_path)
        loaded = cls(memory, **kwargs)
        if not fs.exists(path):
            return loaded
        try:
            with fs.open(path, "r", encoding="utf-8") as file:
                document = json.load(file)
            store = _transcripts(document)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{path!r} holds no transcripts of a ParametricChatStore: {error}. Restore it from "
                "a copy, or remove it to begin anew; what was learned is not in it."
            ) from error
        for key, rows in store.items():
            loaded._inner.set_messages(key, rows)
        return loaded


def _transcripts(document: Any) -> dict[str, list[ChatMessage]]:
    kind, version = document["class_name"], document["format"]
    if (kind, version) != (ParametricChatStore.class_name(), FORMAT):
        raise ValueError(f"it is of {kind!r}, format {version!r}")
    return {
        str(key): [ChatMessage.model_validate(row) for row in rows]
        for key, rows in document["store"].items()
    }


# LlamaIndex restores a ChatMemoryBuffer only with stores that it knows by name
_KNOWN: dict[str, Any] = RECOGNIZED_CHAT_STORES
_KNOWN[ParametricChatStore.class_name()] = ParametricChatStore
