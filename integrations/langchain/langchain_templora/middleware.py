"""Middleware for `create_agent`: old turns leave the request and live in weights instead."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import warnings
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Literal, NoReturn, TypeAlias
from urllib.parse import quote

from langchain.agents.middleware import AgentMiddleware, AgentState, ModelRequest, ModelResponse
from langchain.agents.middleware.types import (
    ContextT,
    ModelCallResult,
    ResponseT,
    TracePolicy,
    omit_payload,
)
from langchain_core.messages import AnyMessage, BaseMessage
from langchain_core.messages.utils import convert_to_messages
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.runtime import Runtime
from templora_memory import AbsorbProgress, ForgetReceipt, Message, ParametricMemory
from templora_memory.errors import UnknownMemory

from langchain_templora._learning import (
    Include,
    Known,
    ManyConversations,
    OneConversation,
    Scope,
    Teacher,
    busy,
    default_include,
    follow,
)
from langchain_templora._limits import (
    ContextSize,
    LearningLimits,
    TokenCounter,
    Trigger,
    first_fitting,
    turns_after,
)
from langchain_templora._messages import as_history, as_message
from langchain_templora.chat_models import BASE, ChatTempLora
from langchain_templora.histories import SURVIVABLE

__all__ = [
    "ParametricMemoryMiddleware",
    "aforget_thread",
    "default_include",
    "forget_thread",
    "thread_memory_id",
]

_log = logging.getLogger("langchain_templora")
MemoryIdOf: TypeAlias = Callable[[Any, Any], str | None]
_LONG_THREAD_ID = 200  # characters, encoded
_THREAD_ID_HEAD = 120
CallSettings: TypeAlias = Callable[[str, str | None], Mapping[str, Any]]


def thread_memory_id(thread_id: str | int) -> str:
    """The id of the memory of a LangGraph thread: "thread:" and the thread id.

    Characters that mean something in memory ids (``@``, ``/``, space ...) are encoded, and a long
    id is cut and ends in its SHA-256, so two threads never share a memory. A number is the same
    thread as its digits, as in LangGraph.

    Raises:
        ValueError: an empty thread id.
    """
    if isinstance(thread_id, int) and not isinstance(thread_id, bool):
        thread_id = str(thread_id)
    if not isinstance(thread_id, str) or not thread_id:
        raise ValueError(
            f"thread_id is {thread_id!r}: it must be a text that is not empty, or a whole number."
        )
    quoted = quote(thread_id, safe=":")
    if len(quoted) > _LONG_THREAD_ID:
        digest = hashlib.sha256(thread_id.encode()).hexdigest()
        quoted = f"{quoted[:_THREAD_ID_HEAD]} {digest}"  # no short id has a space in it
    return f"thread:{quoted}"


def local_settings(memory_id: str, revision: str | None) -> dict[str, Any]:
    """Return the arguments that tell `ChatTempLora` which memory answers."""
    return {"memory_id": memory_id, "memory_revision": revision or BASE}


class ParametricMemoryMiddleware(AgentMiddleware[AgentState[ResponseT], ContextT, ResponseT]):
    """Learns old turns into a memory and leaves them out of the model's request.

    A drop-in for `SummarizationMiddleware`: same `trigger`, `keep` and `token_counter`. It changes
    no state: the transcript stays whole in the checkpointer. Text leaves the request only once the
    revision that learned it is committed. System messages, tool calls and tool results (retrieved
    text) are never learned. After an edit, a fork or time travel, the request gets the revision
    that has learned exactly a beginning of this conversation, or the base model and all the text.

    Put it last in the list of middleware, where it sees what the others made of the state. What
    they edit in the request alone (`ContextEditingMiddleware`) is shown as they edited it and
    recognised by the state, so any order works for those. Messages that are deleted from the state
    (`RemoveMessage`, LangChain's way to trim) are learned first: what is trimmed is what should be
    remembered. Say `forget_thread` to have a conversation forgotten.

    The newest turn always stays. Where the rest of the request would not fit the window any more,
    older turns are learned before the call, whatever the trigger says. A model that other
    middleware puts in the place of the agent's (`ModelFallbackMiddleware` further out) gets the
    conversation whole and no memory.

    Args:
        memory: the service; the same object that the agent's `ChatTempLora` has.
        memory_id: a fixed id, or a function of state and runtime; None: the LangGraph thread
            (`thread_memory_id`). A function that returns None switches the memory off for the call.
        trigger: when to learn. Counts what still stands in the request, without system message and
            tools. Fractions are of the policy's window.
        keep: what stays in the request then; whole turns, so it may be a little more.
        token_counter: None: the model's own tokenizer.
        when: learn "after_agent" (after the answer), or also "before_model" (in long runs).
        background: go on at once and learn beside the next turn, which still gets the text.
        scope: "thread": one conversation a memory. "shared": several threads teach one memory, for
            example one a user; its newest revision answers in all of them.
        base_memory: a memory (a character) that new ones start from.
        include: what is learned of a human or AI message; None or an empty text: nothing.
        on_error: "keep_text" logs a failed learning and leaves the text in the request.
        settings: arguments of the model call that select memory and revision; replace it for other
            chat models that take an adapter's name per call.

    Several of these can stand in one agent: the first one in the list whose id is not None answers,
    the others only learn.

    Raises:
        ValueError, TypeError: wrong limits, here. When running: no thread id, an empty id, a model
            with another service.
    """

    trace_policy = TracePolicy(process_inputs=omit_payload)

    def __init__(
        self,
        memory: ParametricMemory,
        *,
        memory_id: str | MemoryIdOf | None = None,
        trigger: Trigger = ("fraction", 0.5),
        keep: ContextSize = ("messages", 6),
        token_counter: TokenCounter | None = None,
        when: Literal["after_agent", "before_model"] = "after_agent",
        background: bool = False,
        scope: Literal["thread", "shared"] = "thread",
        base_memory: str | None = None,
        include: Include = default_include,
        on_error: Literal["keep_text", "raise"] = "keep_text",
        settings: CallSettings = local_settings,
    ) -> None:
        super().__init__()
        _one_of("when", when, ("after_agent", "before_model"))
        _one_of("scope", scope, ("thread", "shared"))
        _one_of("on_error", on_error, ("keep_text", "raise"))
        if isinstance(memory_id, str) and not memory_id.strip():
            raise ValueError("memory_id is empty: pass an id, a function, or None for the thread.")
        self.memory = memory
        self._memory_id = memory_id
        self._limits = LearningLimits.of(trigger, keep)
        self._counter = token_counter
        self._when = when
        self._background = background
        teacher = Teacher(memory, include, base=base_memory)
        self._scope: Scope = (
            OneConversation(teacher) if scope == "thread" else ManyConversations(teacher)
        )
        self._scope_name = scope
        self._on_error = on_error
        self._settings = settings
        self._warned = False
        self._served = False
        self._replaced = False
        self._strangers: set[str] = set()

    @property
    def name(self) -> str:
        """Scope and id are part of it, so that two of these can stand in one agent."""
        which = self._memory_id
        if callable(which):
            which = getattr(which, "__name__", "function").strip("<>")
        label = quote(which or "thread", safe="")
        return f"{type(self).__name__}.{self._scope_name}.{label}"

    # --- hooks ------------------------------------------------------------------------------------

    def before_agent(
        self, state: AgentState[Any], runtime: Runtime[ContextT]
    ) -> dict[str, Any] | None:
        """Take down the conversation, before another middleware trims it."""
        self._note(state, runtime)
        return None

    async def abefore_agent(
        self, state: AgentState[Any], runtime: Runtime[ContextT]
    ) -> dict[str, Any] | None:
        """Take down the conversation, before another middleware trims it."""
        await asyncio.to_thread(self._note, state, runtime)
        return None

    def before_model(
        self, state: AgentState[Any], runtime: Runtime[ContextT]
    ) -> dict[str, Any] | None:
        """Learn before a call of the model, where `when` says so."""
        if self._when == "before_model":
            self._learn(state, runtime)
        return None

    async def abefore_model(
        self, state: AgentState[Any], runtime: Runtime[ContextT]
    ) -> dict[str, Any] | None:
        """Learn before a call of the model, where `when` says so."""
        if self._when == "before_model":
            await asyncio.to_thread(self._learn, state, runtime)
        return None

    def wrap_model_call(
        self,
        request: ModelRequest[ContextT],
        handler: Callable[[ModelRequest[ContextT]], ModelResponse[ResponseT]],
    ) -> ModelCallResult[ResponseT]:
        """Leave learned text out of the request, and answer with the revision that learned it."""
        return handler(self._shortened(request))

    async def awrap_model_call(
        self,
        request: ModelRequest[ContextT],
        handler: Callable[[ModelRequest[ContextT]], Awaitable[ModelResponse[ResponseT]]],
    ) -> ModelCallResult[ResponseT]:
        """Leave learned text out of the request, and answer with the revision that learned it."""
        return await handler(await asyncio.to_thread(self._shortened, request))

    def after_agent(
        self, state: AgentState[Any], runtime: Runtime[ContextT]
    ) -> dict[str, Any] | None:
        """Learn after the answer."""
        self._learn(state, runtime)
        return None

    async def aafter_agent(
        self, state: AgentState[Any], runtime: Runtime[ContextT]
    ) -> dict[str, Any] | None:
        """Learn after the answer."""
        await asyncio.to_thread(self._learn, state, runtime)
        return None

    # --- what they do -----------------------------------------------------------------------------

    def _id(self, state: Any, runtime: Runtime[ContextT]) -> str | None:
        if callable(self._memory_id):
            memory_id = self._memory_id(state, runtime)
            if memory_id is not None and (not isinstance(memory_id, str) or not memory_id.strip()):
                raise ValueError(
                    f"The memory_id function returned {memory_id!r}: an id is a text that is not "
                    "empty; return None to do without a memory."
                )
            return memory_id
        if self._memory_id is not None:
            return self._memory_id
        info = runtime.execution_info
        if info is None or info.thread_id in {None, ""}:
            raise ValueError(
                "There is no thread id to name the memory after: give the agent a checkpointer and "
                'invoke it with {"configurable": {"thread_id": "..."}}, or pass memory_id=...'
            )
        return thread_memory_id(info.thread_id)

    def _shortened(self, request: ModelRequest[ContextT]) -> ModelRequest[ContextT]:
        """The request without what the memory has learned, and with the memory to answer it."""
        memory_id = self._id(request.state, request.runtime)
        if memory_id is None or "memory_id" in request.model_settings:
            return request  # another memory, further out, answers
        if not self._answers(request.model):
            return request
        self._warn_of_summaries(request.messages)
        thread = self._thread(request)
        known = self._scope.known(memory_id, thread)
        if known.gone:
            known = self._learn_gone(memory_id, thread, request.runtime)
        if self._overflows(request, _left(request, thread, known.messages)):
            known = self._make_room(request, thread, memory_id, known)
        if not known.revision:
            self._warn_of_strangers(memory_id, thread)
        return request.override(
            messages=self._with_gone(request, known.gone, _left(request, thread, known.messages)),
            model_settings={
                **self._settings(memory_id, known.revision),
                **request.model_settings,
            },
        )

    def _thread(self, request: ModelRequest[ContextT]) -> Sequence[BaseMessage]:
        """The conversation as the graph's state has it, which middleware further out cannot edit.

        Messages of the request find their place in it by their ids, which LangGraph gives them.
        """
        thread: Sequence[BaseMessage] = request.state.get("messages") or ()
        shown = {message.id for message in request.messages if message.id is not None}
        if any(message.id in shown for message in thread):
            return thread
        return request.messages  # somebody wrote another conversation

    def _warn_of_strangers(self, memory_id: str, thread: Sequence[BaseMessage]) -> None:
        """Say, once a memory, that nothing of what it has learned stands in this conversation."""
        if self._scope_name != "thread" or memory_id in self._strangers or not thread:
            return
        try:
            head = self.memory[memory_id].head()
        except UnknownMemory:
            return
        if head is not None and head.messages:
            self._strangers.add(memory_id)
            _log.warning(
                "%r has learned %d messages, and this conversation does not begin with any of "
                "them: the base model answers. Something has rewritten the beginning of the "
                "conversation, or another one uses the same memory id.",
                memory_id,
                head.messages,
            )

    def _with_gone(
        self,
        request: ModelRequest[ContextT],
        gone: Sequence[Message],
        left: list[AnyMessage],
    ) -> list[AnyMessage]:
        """The messages of a request after what was trimmed and could not be learned.

        It stands nowhere else. Where it does not fit, its oldest messages are left out.
        """
        said: list[Any] = [message for message in map(as_message, gone) if message is not None]
        count = len(said)
        while said and self._overflows(request, [*said, *left]):
            said = said[1:]
        if len(said) < count:
            _log.warning(
                "%d messages that were trimmed and are not learned yet do not fit the prompt: they "
                "are left out of it for now",
                count - len(said),
            )
        return [*said, *left]

    def _answers(self, model: object) -> bool:
        """Return whether a model can answer with the memory.

        Another one that a middleware further out has put in its place (a fallback, a router) gets
        the whole conversation as it is.

        Raises:
            TypeError, ValueError: it cannot, and no other has been asked here before.
        """
        if self._settings is not local_settings:
            return True
        if isinstance(model, ChatTempLora) and model.memory is self.memory:
            self._served = True
            return True
        if not self._served:
            self._refuse(model)
        if not self._replaced:
            self._replaced = True
            _log.warning(
                "%s answers in place of the agent's ChatTempLora: it gets the conversation whole, "
                "and no memory",
                type(model).__name__,
            )
        return False

    def _refuse(self, model: object) -> NoReturn:
        if not isinstance(model, ChatTempLora):
            raise TypeError(
                f"{type(model).__name__} cannot answer with a memory: use ChatTempLora, or pass "
                "settings=... that select an adapter for your model."
            )
        raise ValueError(
            "The agent's ChatTempLora has another memory service than this middleware: pass "
            "the same object to both (ChatTempLora(memory=service))."
        )

    def _warn_of_summaries(self, messages: Sequence[BaseMessage]) -> None:
        summary = bool(messages) and (
            messages[0].additional_kwargs.get("lc_source") == "summarization"
        )
        if summary and not self._warned:
            self._warned = True
            warnings.warn(
                "SummarizationMiddleware rewrites the history, so the memory starts anew with "
                "every summary. Use one of the two.",
                UserWarning,
                stacklevel=2,
            )

    def _count(self, messages: Any) -> int:
        if self._counter is not None:
            return self._counter(messages)
        return self._exact(messages)

    def _exact(self, messages: Any) -> int:
        return self.memory.backend.count(as_history(convert_to_messages(messages)))

    def _overflows(self, request: ModelRequest[ContextT], left: Sequence[BaseMessage]) -> bool:
        """Return whether these messages of a request would not fit the window beside a reply."""
        policy, model = self.memory.policy, request.model
        if not isinstance(model, ChatTempLora):
            return False  # its window is not ours to know
        asked = request.model_settings.get("max_tokens", model.max_tokens)
        room = policy.window - (asked or policy.reply_tokens)
        system = [] if request.system_message is None else [request.system_message]
        return model.get_num_tokens_from_messages([*system, *left], tools=request.tools) > room

    def _make_room(
        self,
        request: ModelRequest[ContextT],
        thread: Sequence[BaseMessage],
        memory_id: str,
        known: Known,
    ) -> Known:
        """Learn the fewest oldest turns that make the rest fit, now."""
        start = known.messages
        turns = turns_after(thread, start)
        sizes = {len(thread) - turn: turn for turn in turns}
        end = first_fitting(
            thread,
            turns,
            start,
            lambda rest: not self._overflows(request, _left(request, thread, sizes[len(rest)])),
        )
        if end == start:
            return known  # one turn alone: the model's own error says what to do
        self._teach(memory_id, thread, end, request.runtime, wait=True)
        return self._scope.known(memory_id, thread)

    def _learn_gone(
        self, memory_id: str, messages: Sequence[BaseMessage], runtime: Runtime[ContextT]
    ) -> Known:
        """Learn what was trimmed, now, for it stands nowhere else.

        A turn of what is left is learned with it: by that one the rest of the conversation is
        recognised, also after a restart.
        """
        turns = turns_after(messages, 0)
        end = next((turn for turn in turns if turn > 1), turns[-1] if turns else 0)
        self._teach(memory_id, messages, end, runtime, wait=True)
        return self._scope.known(memory_id, messages)

    def _note(self, state: Any, runtime: Runtime[ContextT]) -> None:
        if (memory_id := self._id(state, runtime)) is not None:
            self._scope.note(memory_id, state["messages"])

    def _learn(self, state: Any, runtime: Runtime[ContextT]) -> None:
        memory_id = self._id(state, runtime)
        if memory_id is None:
            return
        messages: list[AnyMessage] = state["messages"]
        self._learn_due(memory_id, messages, runtime)
        self._scope.note(memory_id, messages)

    def _learn_due(
        self, memory_id: str, messages: Sequence[BaseMessage], runtime: Runtime[ContextT]
    ) -> None:
        if self._background and busy(self.memory, memory_id):
            return
        window = self.memory.policy.window
        known = self._scope.known(memory_id, messages)
        if known.gone:
            known = self._learn_gone(memory_id, messages, runtime)
        start = known.messages
        if not self._limits.due(messages[start:], self._count, window):
            return
        end = self._limits.cut(messages, start, self._count, window)
        if end > start:
            self._teach(memory_id, messages, end, runtime, wait=not self._background)

    def _teach(
        self,
        memory_id: str,
        messages: Sequence[BaseMessage],
        end: int,
        runtime: Runtime[ContextT],
        *,
        wait: bool,
    ) -> None:
        def note(progress: AbsorbProgress | None) -> None:
            runtime.heartbeat()
            share = progress.chunk / progress.chunks if progress else 0.0
            runtime.stream_writer({"type": "templora", "phase": "absorb", "progress": share})

        try:
            job = self._scope.learn(memory_id, messages, end)
            if job is not None and wait:
                follow(job, note)
        except SURVIVABLE as error:
            if self._on_error == "raise":
                raise
            _log.warning("%r was not learned, its text stays in the prompt: %s", memory_id, error)


def _left(
    request: ModelRequest[Any], thread: Sequence[BaseMessage], count: int
) -> list[AnyMessage]:
    """The messages of a request without the first `count` of its thread."""
    if thread is request.messages:
        return list(request.messages[count:])
    gone = {message.id for message in thread[:count] if message.id is not None}
    return [message for message in request.messages if message.id not in gone]


def forget_thread(
    memory: ParametricMemory,
    checkpointer: BaseCheckpointSaver[Any],
    thread_id: str | int,
    *,
    memory_id: str | None = None,
) -> ForgetReceipt:
    """Delete a thread's checkpoints and its memory together; LangGraph tells nobody of the first.

    Learning under way is cancelled, so that nothing comes back.

    Args:
        memory: the service.
        checkpointer: where the thread's state is kept.
        thread_id: which thread.
        memory_id: the thread's memory, where it is not that of `thread_memory_id`.

    Returns:
        Every removed file of the memory; an empty receipt if nothing had been learned.
    """
    receipt = _forget(memory, memory_id or thread_memory_id(thread_id))
    checkpointer.delete_thread(str(thread_id))
    return receipt


async def aforget_thread(
    memory: ParametricMemory,
    checkpointer: BaseCheckpointSaver[Any],
    thread_id: str | int,
    *,
    memory_id: str | None = None,
) -> ForgetReceipt:
    """`forget_thread` for asynchronous checkpointers."""
    receipt = await asyncio.to_thread(_forget, memory, memory_id or thread_memory_id(thread_id))
    await checkpointer.adelete_thread(str(thread_id))
    return receipt


def _forget(memory: ParametricMemory, memory_id: str) -> ForgetReceipt:
    try:
        return memory[memory_id].forget()
    except UnknownMemory:
        return ForgetReceipt(ids=(), files=())


def _one_of(name: str, value: object, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"{name} is {value!r}: use one of {known}.")
