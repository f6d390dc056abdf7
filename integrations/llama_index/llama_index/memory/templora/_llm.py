"""`TempLoraLLM`: one light language model object for each memory, over one shared service."""

from __future__ import annotations

import asyncio
import contextlib
import json
import warnings
from collections.abc import AsyncGenerator, Callable, Generator, Mapping, Sequence
from dataclasses import replace
from os import PathLike
from typing import Any, NoReturn

from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    ChatResponseAsyncGen,
    ChatResponseGen,
    CompletionResponse,
    CompletionResponseAsyncGen,
    CompletionResponseGen,
    LLMMetadata,
    MessageRole,
    ToolCallBlock,
)
from llama_index.core.bridge.pydantic import BaseModel, Field, PrivateAttr
from llama_index.core.callbacks import CallbackManager
from llama_index.core.llms.callbacks import llm_chat_callback, llm_completion_callback
from llama_index.core.llms.custom import CustomLLM
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.llms.llm import ToolSelection
from llama_index.core.prompts import PromptTemplate
from llama_index.core.tools.types import BaseTool
from llama_index.core.types import BaseOutputParser, Model, PydanticProgramMode
from templora_memory import (
    Message,
    ParametricMemory,
    Policy,
    Reply,
    ReplyOptions,
    ReplyStream,
    Sampling,
)
from templora_memory.errors import PromptTooLong, UnknownMemory, UnknownRevision
from templora_memory.json_schemas import bounded_schema
from templora_memory.tool_calls import ToolPlan, knows_tools, plan_tools

from llama_index.memory.templora._conversation import Conversation, current, shown_by
from llama_index.memory.templora._messages import prompt_messages
from llama_index.memory.templora._tokens import tokenizer_of
from llama_index.memory.templora._tools import AnswerReader

_TRIES = 4  # a revision may be retired between asking for its name and using it
_SAMPLING = ("temperature", "top_p", "top_k", "repetition_penalty", "seed", "stop", "do_sample")
_OPTIONS = (*_SAMPLING, "max_new_tokens", "max_tokens", "session_id", "strength", "revision",
            "schema")  # fmt: skip


class TempLoraLLM(CustomLLM, FunctionCallingLLM):
    """A local language model that answers with what one memory has learned.

    Messages go into the prompt as they are: what a memory keeps out of it is the memory's business.
    Retrieved text, tool output and whatever else stands in a prompt is never learned. Every prompt
    takes the model's own chat template; several system messages become one.

    Objects are light: make one for each session with `for_session`. All of them share the model.

    Args:
        memory: the service that owns model and memories.
        session_id: whose memory answers; None: the base model, without any.
        context_window: tokens of prompt and answer together; None: the service's window.
        max_new_tokens: of an answer; None: the service's ``policy.reply_tokens``.
        generate_kwargs: defaults of a call's options: max_new_tokens, temperature, top_p, top_k,
            repetition_penalty, seed, stop, do_sample, strength (of the memory; 0 is the base
            model), schema (JSON schema that the answer follows). A call's own keyword arguments
            override them, and may name a session_id and a revision as well.
        stopping_ids: not available without a tokenizer; use ``generate_kwargs={"stop": [...]}``.
        is_chat_model: what query engines are told. Leave it, or they build prompts of their own.
        is_function_calling_model: whether it can call tools, which ``FunctionAgent`` insists on;
            None: if the model's chat template speaks of tools.
        system_prompt: put before prompts of completions and of `predict`.
        messages_to_prompt: turns messages into one prompt of your own, sent as a user's message.
        completion_to_prompt: wraps the prompts of completions.

    Raises:
        ValueError: an unknown option, or a value out of its range.
    """

    session_id: str | None = Field(default=None, description="Whose memory answers.")
    context_window: int | None = Field(default=None, description="Tokens of prompt and answer.")
    max_new_tokens: int | None = Field(default=None, description="Most tokens of an answer.")
    generate_kwargs: dict[str, Any] = Field(default_factory=dict, description="Default options.")
    is_chat_model: bool = Field(default=True, description="Whether it takes chat messages.")
    is_function_calling_model: bool | None = Field(
        default=None, description="Whether it calls tools."
    )

    _pm: ParametricMemory = PrivateAttr()
    _conversation: Conversation | None = PrivateAttr(default=None)
    _own_prompt: bool = PrivateAttr(default=False)
    _warned: bool = PrivateAttr(default=False)

    def __init__(
        self,
        memory: ParametricMemory,
        session_id: str | None = None,
        *,
        context_window: int | None = None,
        max_new_tokens: int | None = None,
        generate_kwargs: Mapping[str, Any] | None = None,
        stopping_ids: Sequence[int] | None = None,
        is_chat_model: bool = True,
        is_function_calling_model: bool | None = None,
        system_prompt: str | None = None,
        messages_to_prompt: Callable[[Sequence[ChatMessage]], str] | None = None,
        completion_to_prompt: Callable[[str], str] | None = None,
        callback_manager: CallbackManager | None = None,
        output_parser: BaseOutputParser | None = None,
        pydantic_program_mode: PydanticProgramMode = PydanticProgramMode.DEFAULT,
    ) -> None:
        if not isinstance(memory, ParametricMemory):
            raise TypeError(
                f"memory is a {type(memory).__name__}: give the ParametricMemory service, for "
                "example ParametricMemory.from_pretrained(...)."
            )
        if stopping_ids:
            raise ValueError(
                f"stopping_ids is {list(stopping_ids)!r}: give the texts instead, "
                'generate_kwargs={"stop": ["..."]}. The model\'s own end tokens always end one.'
            )
        super().__init__(
            session_id=session_id,
            context_window=context_window,
            max_new_tokens=max_new_tokens,
            generate_kwargs=dict(generate_kwargs or {}),
            is_chat_model=is_chat_model,
            is_function_calling_model=is_function_calling_model,
            system_prompt=system_prompt,
            messages_to_prompt=messages_to_prompt,
            completion_to_prompt=completion_to_prompt,
            callback_manager=callback_manager or CallbackManager([]),
            output_parser=output_parser,
            pydantic_program_mode=pydantic_program_mode,
        )
        self._pm = memory
        self._own_prompt = messages_to_prompt is not None
        _options(self.generate_kwargs)

    @classmethod
    def from_huggingface_llm(
        cls,
        llm: Any,
        session_id: str | None = None,
        *,
        root: str | PathLike[str] | None = None,
        policy: Policy | None = None,
        **kwargs: Any,
    ) -> TempLoraLLM:
        """Take over the model of a ``HuggingFaceLLM``, with its generation settings.

        The model is frozen and belongs to the new service from then on; `service` returns that.

        Args:
            llm: a ``llama_index.llms.huggingface.HuggingFaceLLM``.
            session_id: whose memory answers.
            root: folder of the memories; None: ``$TEMPLORA_ROOT`` or ``~/.templora``.
                They are encrypted if ``$TEMPLORA_ENCRYPTION_KEY`` or ``..._KEY_FILE`` is set.
            policy: how memories are kept; None: the defaults, within the model's window.
            kwargs: as for the constructor; they override what `llm` has.

        Raises:
            TypeError: not such an object.
        """
        import os  # noqa: PLC0415  # with the backend, which loads torch
        from pathlib import Path  # noqa: PLC0415

        from templora_memory.backends.local import LocalBackend  # noqa: PLC0415
        from templora_memory.stores import DirectoryStore, Key  # noqa: PLC0415

        model, tokenizer = getattr(llm, "_model", None), getattr(llm, "_tokenizer", None)
        if model is None or tokenizer is None:
            raise TypeError(
                f"{type(llm).__name__} holds no model and tokenizer: a HuggingFaceLLM is needed."
            )
        where = root or os.environ.get("TEMPLORA_ROOT") or Path.home() / ".templora"
        backend = LocalBackend.of(model, tokenizer, name=llm.model_name)
        store = DirectoryStore(where, key=Key.from_environment())
        service = ParametricMemory(backend, store, policy)
        generate_kwargs = {k: v for k, v in llm.generate_kwargs.items() if k in _OPTIONS}
        stops = [tokenizer.decode([token]) for token in getattr(llm, "stopping_ids", None) or ()]
        if stops:
            generate_kwargs["stop"] = [*_as_stops(generate_kwargs.get("stop")), *stops]
        settings: dict[str, Any] = {
            "generate_kwargs": generate_kwargs,
            "max_new_tokens": llm.max_new_tokens,
            "system_prompt": llm.system_prompt or None,
            "callback_manager": llm.callback_manager,
            "output_parser": llm.output_parser,
            "pydantic_program_mode": llm.pydantic_program_mode,
        }
        return cls(service, session_id, **(settings | kwargs))

    @classmethod
    def class_name(cls) -> str:
        """Return the name in serialised models."""
        return "TempLoraLLM"

    # --- copies --------------------------------------------------------------------------------

    def for_session(self, session_id: str | None) -> TempLoraLLM:
        """The same model and settings for another session; None: the base model. Costs nothing."""
        return self._copy(session_id, None)

    def bound_to(self, conversation: Conversation) -> TempLoraLLM:
        """The same, answering with the revision that fits this conversation."""
        return self._copy(conversation.session_id, conversation)

    def _copy(self, session_id: str | None, conversation: Conversation | None) -> TempLoraLLM:
        other = self.model_copy(update={"session_id": session_id})
        other._conversation = conversation  # noqa: SLF001  # of our own kind
        return other

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> TempLoraLLM:
        return self.model_copy()  # the service is one, however often settings are copied

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("A TempLoraLLM holds a model: it cannot be pickled. Make it where it runs.")

    # --- what it is ----------------------------------------------------------------------------

    @property
    def service(self) -> ParametricMemory:
        """The service behind it."""
        return self._pm

    @property
    def metadata(self) -> LLMMetadata:
        """Window, answer length and name; loads the model if it is not loaded yet."""
        policy = self._pm.policy
        window, reply = policy.window, policy.reply_tokens
        calls = self.is_function_calling_model
        return LLMMetadata(
            context_window=min(self.context_window or window, window),
            num_output=self.max_new_tokens or reply,
            is_chat_model=self.is_chat_model,
            is_function_calling_model=(knows_tools(self._pm.backend) if calls is None else calls),
            model_name=self._pm.base.name,
        )

    @property
    def tokenizer_fn(self) -> Callable[[str], list[Any]]:
        """The model's own tokenizer, for ``Settings.tokenizer``: LlamaIndex then counts exactly."""
        return tokenizer_of(self._pm)

    # --- answering -----------------------------------------------------------------------------

    def _stream(self, messages: Sequence[Message], options: Mapping[str, Any]) -> ReplyStream:
        merged = {**self.generate_kwargs, **options}
        plan = plan_tools(merged.pop("tools", None), merged.pop("tool_choice", None))
        merged.pop("parallel_tool_calls", None)
        messages = [*messages, *self._tools_messages(plan)]
        sampling = _options(merged)
        max_tokens = self._answer_tokens(merged)
        if schema := _schema(merged, plan, max_tokens):
            sampling = replace(sampling, schema=schema)
        session_id = merged.get("session_id", self.session_id)
        reply_options = ReplyOptions(
            strength=merged.get("strength", 1.0), sampling=sampling, max_tokens=max_tokens
        )
        try:
            for attempt in range(_TRIES):
                revision = merged.get("revision") or self._revision(session_id)
                try:
                    reply_options["revision"] = revision
                    if session_id is None or not revision:
                        return self._pm.without_memory.stream(messages, **reply_options)
                    return self._pm[session_id].stream(messages, **reply_options)
                except (UnknownRevision, UnknownMemory):
                    if "revision" in merged or attempt == _TRIES - 1:
                        raise
        except PromptTooLong as error:
            error.add_note(
                "Give retrieved text less room (similarity_top_k, chunk_size), or let LlamaIndex "
                "count with this model's tokenizer: Settings.tokenizer = llm.tokenizer_fn. A stock "
                "Memory counts neither tool calls nor tools: lower its token_limit, or use "
                "TempLoraMemory, which makes room."
            )
            raise
        raise AssertionError("unreachable")  # the loop returns or raises

    def _chat_stream(
        self, messages: Sequence[ChatMessage], options: Mapping[str, Any]
    ) -> ReplyStream:
        """Begin to answer; where the prompt does not fit, its memory gets to make room."""
        self._warn_of_another_session(messages, options.get("session_id", self.session_id))
        try:
            return self._stream(self._chat_prompt(messages), options)
        except PromptTooLong:
            shorter = self._shortened(messages, {**self.generate_kwargs, **options})
            if shorter is None:
                raise
        return self._stream(self._chat_prompt(shorter), options)

    def _warn_of_another_session(
        self, messages: Sequence[ChatMessage], session_id: str | None
    ) -> None:
        """Say, once, that a prompt shows the turns of a session that answers would not know."""
        if session_id is None or self._warned:
            return  # the base model was asked for
        shown = shown_by(self._pm, messages)
        if shown and session_id not in shown:
            self._warned = True
            warnings.warn(
                f"The prompt shows the conversation of session {shown[0]!r}, and the language "
                f"model answers with the memory of {session_id!r}: what has left the window is not "
                "known to it. Use memory.llm.",
                UserWarning,
                stacklevel=2,
            )

    def _shortened(
        self, messages: Sequence[ChatMessage], options: Mapping[str, Any]
    ) -> list[ChatMessage] | None:
        """A prompt without its oldest turns, which the memory has learned; None: nothing helps."""
        bound = self._bound(options.get("session_id", self.session_id))
        make_room = bound.make_room() if bound else None
        if make_room is None or self._own_prompt or options.get("revision"):
            return None
        count = self._pm.backend.count
        room = self._pm.policy.window - self._answer_tokens(options)
        tools = self._tools_messages(plan_tools(options.get("tools"), options.get("tool_choice")))
        return make_room(messages, lambda rest: count([*prompt_messages(rest), *tools]) <= room)

    def _answer_tokens(self, options: Mapping[str, Any]) -> int:
        """Most tokens of the answer to a call."""
        asked: int | None = options.get(
            "max_new_tokens", options.get("max_tokens", self.max_new_tokens)
        )
        return self._pm.policy.reply_tokens if asked is None else asked

    def _tools_messages(self, plan: ToolPlan) -> list[Message]:
        """What a prompt says about the tools of a call."""
        description = plan.describe(self._pm.backend)
        return [Message("system", description)] if description else []

    def _bound(self, session_id: str | None) -> Conversation | None:
        """The conversation that a session's answers belong to, if there is one."""
        if session_id is None:
            return None
        bound = self._conversation
        if bound is None or bound.session_id != session_id:
            bound = current(self._pm, session_id)
        return bound

    def _revision(self, session_id: str | None) -> str | None:
        """The revision to answer with: what the conversation asks for, or the newest."""
        if session_id is None:
            return None
        if (bound := self._bound(session_id)) is not None:
            return bound.revision
        try:
            head = self._pm[session_id].head()
        except UnknownMemory:
            return None
        return head.name if head else None

    def _chat_prompt(self, messages: Sequence[ChatMessage]) -> list[Message]:
        if self._own_prompt and self.messages_to_prompt is not None:
            return [Message("user", self.messages_to_prompt(messages))]
        return prompt_messages(messages)

    def _text_prompt(self, prompt: str, *, formatted: bool) -> list[Message]:
        if formatted:
            return [Message("user", prompt)]
        if self.completion_to_prompt is not None:
            prompt = self.completion_to_prompt(prompt)
        system = [Message("system", self.system_prompt)] if self.system_prompt else []
        return [*system, Message("user", prompt)]

    @llm_chat_callback()
    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """Return the answer to a conversation."""
        with self._chat_stream(messages, kwargs) as stream:
            return _chat_end(stream.reply, kwargs)

    @llm_chat_callback()
    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseGen:
        """Yield the answer to a conversation as it grows."""
        stream = self._chat_stream(messages, kwargs)
        reader = _reader(kwargs)

        def responses() -> Generator[ChatResponse, None, None]:
            with contextlib.closing(_pieces(stream)) as pieces:
                for text, delta in pieces:
                    shown = reader.piece(delta) if reader else _chat_piece(text, delta)
                    if shown:
                        yield shown
            if reader and (rest := reader.end()):
                yield rest

        return responses()

    @llm_chat_callback()
    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """Return the answer to a conversation."""
        stream = await asyncio.to_thread(self._chat_stream, messages, kwargs)
        async for _ in _apieces(stream):
            pass
        return _chat_end(await asyncio.to_thread(lambda: stream.reply), kwargs)

    @llm_chat_callback()
    async def astream_chat(
        self, messages: Sequence[ChatMessage], **kwargs: Any
    ) -> ChatResponseAsyncGen:
        """Yield the answer to a conversation as it grows."""
        stream = await asyncio.to_thread(self._chat_stream, messages, kwargs)
        reader = _reader(kwargs)

        async def responses() -> ChatResponseAsyncGen:
            async with contextlib.aclosing(_apieces(stream)) as pieces:
                async for text, delta in pieces:
                    shown = reader.piece(delta) if reader else _chat_piece(text, delta)
                    if shown:
                        yield shown
            if reader and (rest := reader.end()):
                yield rest

        return responses()

    @llm_completion_callback()
    def complete(
        self,
        prompt: str,
        formatted: bool = False,  # noqa: FBT001, FBT002  # LlamaIndex's signature
        **kwargs: Any,
    ) -> CompletionResponse:
        """Return the continuation of a prompt, or the answer to it."""
        with self._stream(self._text_prompt(prompt, formatted=formatted), kwargs) as stream:
            return _text_end(stream.reply)

    @llm_completion_callback()
    def stream_complete(
        self,
        prompt: str,
        formatted: bool = False,  # noqa: FBT001, FBT002  # LlamaIndex's signature
        **kwargs: Any,
    ) -> CompletionResponseGen:
        """Yield the continuation of a prompt as it grows."""
        stream = self._stream(self._text_prompt(prompt, formatted=formatted), kwargs)
        return (CompletionResponse(text=text, delta=delta) for text, delta in _pieces(stream))

    @llm_completion_callback()
    async def acomplete(
        self,
        prompt: str,
        formatted: bool = False,  # noqa: FBT001, FBT002  # LlamaIndex's signature
        **kwargs: Any,
    ) -> CompletionResponse:
        """Return the continuation of a prompt, or the answer to it."""
        asked = self._text_prompt(prompt, formatted=formatted)
        stream = await asyncio.to_thread(self._stream, asked, kwargs)
        async for _ in _apieces(stream):
            pass
        return _text_end(await asyncio.to_thread(lambda: stream.reply))

    @llm_completion_callback()
    async def astream_complete(
        self,
        prompt: str,
        formatted: bool = False,  # noqa: FBT001, FBT002  # LlamaIndex's signature
        **kwargs: Any,
    ) -> CompletionResponseAsyncGen:
        """Yield the continuation of a prompt as it grows."""
        asked = self._text_prompt(prompt, formatted=formatted)
        stream = await asyncio.to_thread(self._stream, asked, kwargs)

        async def responses() -> CompletionResponseAsyncGen:
            async with contextlib.aclosing(_apieces(stream)) as pieces:
                async for text, delta in pieces:
                    yield CompletionResponse(text=text, delta=delta)

        return responses()

    # --- tools ---------------------------------------------------------------------------------

    def _prepare_chat_with_tools(  # noqa: PLR0917  # LlamaIndex's signature
        self,
        tools: Sequence[BaseTool],
        user_msg: str | ChatMessage | None = None,
        chat_history: list[ChatMessage] | None = None,
        verbose: bool = False,  # noqa: FBT001, FBT002  # LlamaIndex's signature, as the rest
        allow_parallel_tool_calls: bool = False,  # noqa: FBT001, FBT002
        tool_required: bool = False,  # noqa: FBT001, FBT002
        **kwargs: Any,
    ) -> dict[str, Any]:
        del verbose
        messages = list(chat_history or ())
        if user_msg is not None:
            messages.append(
                ChatMessage(role=MessageRole.USER, content=user_msg)
                if isinstance(user_msg, str)
                else user_msg
            )
        specs = [tool.metadata.to_openai_tool(skip_length_check=True) for tool in tools]
        choice = kwargs.pop("tool_choice", None)
        if choice is None and tool_required and specs:
            choice = "required"
        plan_tools(specs, choice)  # refuse a wrong choice here, not within a stream
        return {
            "messages": messages,
            "tools": specs,
            "tool_choice": choice,
            "parallel_tool_calls": allow_parallel_tool_calls,
            **kwargs,
        }

    def get_tool_calls_from_response(
        self,
        response: ChatResponse,
        error_on_no_tool_call: bool = True,  # noqa: FBT001, FBT002  # LlamaIndex's signature
        **kwargs: Any,
    ) -> list[ToolSelection]:
        """The tool calls of an answer to a chat with tools.

        Raises:
            ValueError: there is none, and `error_on_no_tool_call`.
        """
        del kwargs
        calls = [b for b in response.message.blocks if isinstance(b, ToolCallBlock)]
        if not calls and error_on_no_tool_call:
            raise ValueError(f"The model called no tool, it said {response.message.content!r}.")
        return [
            ToolSelection(
                tool_id=call.tool_call_id or "",
                tool_name=call.tool_name,
                tool_kwargs=call.tool_kwargs if isinstance(call.tool_kwargs, dict) else {},
            )
            for call in calls
        ]

    # --- structured output -----------------------------------------------------------------------

    def structured_predict(
        self,
        output_cls: type[Model],
        prompt: PromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> Model:
        """Return an answer in the form of a pydantic class, which it follows token by token.

        Texts without a `max_length` get as many characters as the answer may have tokens.
        """
        llm, options = self._held(output_cls, llm_kwargs)
        answer: Model = super(TempLoraLLM, llm).structured_predict(
            output_cls, prompt, options, **prompt_args
        )
        return answer

    async def astructured_predict(
        self,
        output_cls: type[Model],
        prompt: PromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> Model:
        """See `structured_predict`."""
        llm, options = self._held(output_cls, llm_kwargs)
        answer: Model = await super(TempLoraLLM, llm).astructured_predict(
            output_cls, prompt, options, **prompt_args
        )
        return answer

    def _structured_stream_call(
        self,
        output_cls: type[Model],
        prompt: PromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> Generator[Any, None, None]:
        llm, options = self._held(output_cls, llm_kwargs)
        return super(TempLoraLLM, llm)._structured_stream_call(  # LlamaIndex's
            output_cls, prompt, options, **prompt_args
        )

    async def _structured_astream_call(
        self,
        output_cls: type[Model],
        prompt: PromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> AsyncGenerator[Any, None]:
        llm, options = self._held(output_cls, llm_kwargs)
        return await super(TempLoraLLM, llm)._structured_astream_call(
            output_cls, prompt, options, **prompt_args
        )

    def _held(
        self, output_cls: type[BaseModel], options: dict[str, Any] | None
    ) -> tuple[TempLoraLLM, dict[str, Any]]:
        """This model and its options for answers that follow the schema of a class.

        By default LlamaIndex then takes the program that shows the schema and reads JSON: the one
        with calls of tools streams nothing of a model whose calls are text.
        """
        mode, given = self.pydantic_program_mode, options or {}
        if mode not in {PydanticProgramMode.DEFAULT, PydanticProgramMode.LLM}:
            return self, given
        llm = self.model_copy(update={"pydantic_program_mode": PydanticProgramMode.LLM})
        return llm, {"schema": output_cls.model_json_schema(), **given}


# --- options -------------------------------------------------------------------------------------


def _reader(options: Mapping[str, Any]) -> AnswerReader | None:
    """What reads the calls out of an answer; None: there are no tools."""
    plan = plan_tools(options.get("tools"), options.get("tool_choice"))
    parallel = options.get("parallel_tool_calls", True)
    return AnswerReader(plan, parallel=parallel) if plan.tools else None


def _schema(options: Mapping[str, Any], plan: ToolPlan, characters: int) -> str | None:
    """The JSON schema that the answer to a call has to follow."""
    schema = options.get("schema")
    if schema is None:
        return plan.schema(characters)
    if plan.tools:
        raise ValueError("schema and tools do not go together: offer the schema as a tool.")
    return json.dumps(bounded_schema(schema, characters))


def _options(options: Mapping[str, Any]) -> Sampling:
    if unknown := sorted(set(options) - set(_OPTIONS)):
        raise ValueError(f"Unknown options {unknown}: use {sorted(_OPTIONS)}.")
    chosen = {k: options[k] for k in _SAMPLING if options.get(k) is not None}
    if chosen.pop("do_sample", True) is False:
        chosen["temperature"] = 0.0
    elif options.get("do_sample"):
        chosen.setdefault("temperature", 1.0)
    if "stop" in chosen:
        chosen["stop"] = _as_stops(chosen["stop"])
    return Sampling(**chosen)


def _as_stops(value: str | Sequence[str] | None) -> tuple[str, ...]:
    if value is None:
        return ()
    return (value,) if isinstance(value, str) else tuple(value)


# --- streams -------------------------------------------------------------------------------------


def _pieces(stream: ReplyStream) -> Generator[tuple[str, str], None, None]:
    """The text so far and what is new of it; a consumer who goes away stops the model."""
    text = ""
    with stream:
        for piece in stream:
            text += piece
            yield text, piece


async def _apieces(stream: ReplyStream) -> AsyncGenerator[tuple[str, str], None]:
    """The same, waiting in a thread, so that the event loop goes on."""
    text, pieces = "", iter(stream)
    try:
        while (piece := await asyncio.to_thread(next, pieces, None)) is not None:
            text += piece
            yield text, piece
    finally:
        stream.close()


# --- responses -----------------------------------------------------------------------------------


def _counts(reply: Reply) -> dict[str, Any]:
    return {
        "prompt_tokens": reply.prompt_tokens,
        "completion_tokens": reply.completion_tokens,
        "total_tokens": reply.prompt_tokens + reply.completion_tokens,
    }


def _chat_end(reply: Reply, options: Mapping[str, Any]) -> ChatResponse:
    if reader := _reader(options):
        reader.piece(reply.text)
        message = reader.message()
    else:
        message = ChatMessage(role=MessageRole.ASSISTANT, content=reply.text)
    return ChatResponse(message=message, raw=reply.as_dict(), additional_kwargs=_counts(reply))


def _chat_piece(text: str, delta: str) -> ChatResponse:
    message = ChatMessage(role=MessageRole.ASSISTANT, content=text)
    return ChatResponse(message=message, delta=delta)


def _text_end(reply: Reply) -> CompletionResponse:
    return CompletionResponse(
        text=reply.text, raw=reply.as_dict(), additional_kwargs=_counts(reply)
    )
