"""`ChatTempLora`: a local chat model whose long-term memory lives in a small LoRA."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from typing import Any, Literal, Protocol, Self, cast, runtime_checkable

from langchain_core.callbacks import (
    AsyncCallbackManagerForLLMRun,
    CallbackManagerForLLMRun,
    Callbacks,
)
from langchain_core.exceptions import ContextOverflowError, OutputParserException
from langchain_core.language_models import LangSmithParams, LanguageModelInput, ModelProfile
from langchain_core.language_models.chat_models import (
    BaseChatModel,
    agenerate_from_stream,
    generate_from_stream,
)
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.outputs import ChatGenerationChunk, ChatResult, LLMResult
from langchain_core.runnables import (
    ConfigurableFieldSpec,
    Runnable,
    RunnableConfig,
    RunnableLambda,
    ensure_config,
)
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_json_schema, convert_to_openai_tool
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, model_validator
from templora_memory import (
    Message,
    ParametricMemory,
    Reply,
    ReplyOptions,
    ReplyStream,
    Sampling,
)
from templora_memory.errors import PromptTooLong, UnknownMemory
from templora_memory.json_schemas import bounded_schema
from templora_memory.models import TINY
from templora_memory.tool_calls import ToolPlan, plan_tools

from langchain_templora._bridge import pieces
from langchain_templora._messages import as_history
from langchain_templora._tools import ToolReader
from langchain_templora._version import __version__

_log = logging.getLogger("langchain_templora")
PROVIDER = "templora"
BASE = "base"
"""As a revision: answer with the base model alone; the messages go into the prompt as they are."""
HEAD = "head"
"""As a revision: the memory's newest one at the time of the call."""
_ROUTE = ("memory_id", "memory_revision", "memory_head")
_SAMPLING = ("temperature", "top_p", "top_k", "repetition_penalty", "seed")
_OF_SERVICE = ("policy", "device", "dtype", "admit", "checks", "key")
_ALIASES = {"model_name", "stop_sequences"}
_OF_SERVERS = ("api_key", "max_retries", "timeout")
"""LangChain's standard parameters that mean nothing to a model on this machine: taken, not used."""
_MAX_TOKENS = ("max_new_tokens", "max_completion_tokens")  # as transformers and OpenAI call it
_IGNORED = ("stream_usage",)
"""What agents pass to every model; this one always does as if it were true."""
_TOKEN_LIMITS = frozenset({"max_input_tokens", "max_output_tokens"})
_KNOWN = frozenset(
    {*_ROUTE, *_SAMPLING, "max_tokens", "strength", "tools", "tool_choice", "response_format"}
    | {"model", "parallel_tool_calls", "stream", "strict"}
)


class ContextOverflow(ContextOverflowError, PromptTooLong):
    """The prompt does not fit the window: LangChain's error and the core's in one."""


@runtime_checkable
class _KnowsTokens(Protocol):
    def token_ids(self, text: str) -> list[int]: ...


class ChatTempLora(BaseChatModel):
    """A local chat model that remembers conversations in weights instead of in its prompt.

    Which memory answers is decided per call: that of the `TempLoraChatMessageHistory` at hand, else
    the argument `memory_id`, else ``config["configurable"]["memory_id"]`` or ``["session_id"]``,
    else the field `memory_id`, else none (the base model). The whole conversation comes in; what
    the memory has learned of it stays out of the prompt, and what no longer fits the window is
    learned. `memory_revision` pins a revision (a name, "head", or "base" for the base model): the
    messages then go into the prompt as they are, and nothing is learned.

    Example::

        model = ChatTempLora(model="Qwen/Qwen3-0.6B", memory_id="ada")
        model.invoke("Hello", config={"configurable": {"memory_id": "ada@bob"}})

    Args:
        model: "templora/smollm2", "templora/tiny" (embedded), a Hugging Face id, a folder, or a
            GGUF file. With `memory` given it is only the name that traces show.
        memory: the service to use; None: one over `model`, with its memories in `root`. Copies of
            this object share it; it loads when it is first needed.
        root: folder of the memories of a service made here; None: the core's default.
        memory_id: memory of calls that name none; never an empty text.
        memory_revision: revision of such calls; None: the one that the conversation continues.
        memory_id_keys: keys looked up in ``configurable``, in this order.
        strength: factor on the memory; 0 is exactly the base model.
        temperature, top_p, top_k, repetition_penalty, seed: how to choose tokens; None: greedy.
        max_tokens: of a reply; None: the policy's.
        stop: texts that end a reply, where a call gives none.
        streaming: whether `invoke` streams inside.
        policy, device, dtype, admit, checks, key: of a service made here, as
            `ParametricMemory.from_pretrained` takes them. Anything else is refused.

    Raises (when called):
        ValueError: an empty or unusable id, an unknown option.
        ContextOverflow: system message, retrieved text and newest turn do not fit the window.
        templora_memory.errors.TemploraError: whatever the core reports.
    """

    model: str = Field(default=TINY, validation_alias="model_name")  # or `model`
    memory: ParametricMemory = Field(default=None, exclude=True, repr=False)  # type: ignore[assignment]  # the validator fills it in
    root: str | None = Field(default=None, exclude=True)
    memory_id: str | None = None
    memory_revision: str | None = None
    memory_id_keys: tuple[str, ...] = ("memory_id", "session_id")
    strength: float = 1.0
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    repetition_penalty: float | None = None
    seed: int | None = None
    max_tokens: int | None = None
    stop: list[str] | None = Field(default=None, validation_alias="stop_sequences")  # or `stop`
    streaming: bool = False

    model_config = ConfigDict(populate_by_name=True, arbitrary_types_allowed=True)

    @model_validator(mode="before")
    @classmethod
    def _make_templora_service(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        values = _renamed(values)
        of_service = {name: values.pop(name) for name in _OF_SERVICE if name in values}
        values = {name: value for name, value in values.items() if name not in _OF_SERVERS}
        fields = {name for name, field in cls.model_fields.items()} | _ALIASES
        if unknown := sorted(set(values) - fields):
            raise ValueError(
                f"Received unknown arguments {unknown}: ChatTempLora takes "
                f"{sorted(fields | set(_OF_SERVICE))}."
            )
        if values.get("memory") is not None:
            if of_service:
                raise ValueError(
                    f"{sorted(of_service)} belong to the service, and memory= already gives one: "
                    "pass them where it is made (ParametricMemory.from_pretrained)."
                )
            return values
        model: str = values.get("model") or values.get("model_name") or TINY
        # construction is free: the model loads when it is first needed
        service = ParametricMemory.from_pretrained(model, root=values.get("root"), **of_service)
        return {**values, "memory": service}

    @model_validator(mode="after")
    def _check_templora_settings(self) -> Self:
        _check_id(self.memory_id, "memory_id")
        return self

    @model_validator(mode="after")
    def _set_templora_version(self) -> Self:
        self._add_version("langchain-templora", __version__)
        return self

    @classmethod
    def from_model_id(cls, model_id: str, **settings: Any) -> Self:
        """Return a model by its Hugging Face id, folder, or "templora/tiny"."""
        return cls(model=model_id, **settings)

    def with_memory(self, memory_id: str | None, revision: str | None = None) -> Self:
        """The same model and service, with another memory: a chat model, unlike ``bind``.

        Use this where a configuration does not reach the model (classic chains) or bound arguments
        are dropped (``create_agent`` with tools).

        Args:
            memory_id: which memory; None: the base model.
            revision: "head", a name, or "base"; None: the one that the conversation continues.
        """
        _check_id(memory_id, "memory_id")
        return self.model_copy(update={"memory_id": memory_id, "memory_revision": revision})

    # --- what LangChain asks about a model --------------------------------------------------------

    @property
    def _llm_type(self) -> str:
        return "chat-templora"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        """The revision of a call is added to these by the call itself; see `_routed`."""
        names = ("model", "memory_id", "memory_revision", "strength", *_SAMPLING, "max_tokens")
        return {name: getattr(self, name) for name in names} | {"stop_sequences": self.stop}

    @property
    def config_specs(self) -> list[ConfigurableFieldSpec]:
        """The memory id shows in the configuration schema of chains."""
        spec = ConfigurableFieldSpec(
            id="memory_id",
            annotation=str | None,
            name="Memory id",
            description="Whose memory answers; none: the base model.",
            default=None,
            is_shared=True,
        )
        return [*super().config_specs, spec]

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        named = kwargs.get("model")
        params = LangSmithParams(
            ls_provider=PROVIDER,
            ls_model_name=named if isinstance(named, str) else self.model,
            ls_model_type="chat",
        )
        if (temperature := kwargs.get("temperature", self.temperature)) is not None:
            params["ls_temperature"] = temperature
        if (max_tokens := kwargs.get("max_tokens", self.max_tokens)) is not None:
            params["ls_max_tokens"] = max_tokens
        if ends := stop or self.stop:
            params["ls_stop"] = ends
        return params

    def _resolve_model_profile(self) -> ModelProfile | None:
        known = ModelProfile(
            text_inputs=True,
            text_outputs=True,
            image_inputs=False,
            audio_inputs=False,
            video_inputs=False,
            pdf_inputs=False,
            tool_calling=True,
            tool_choice=True,
        )
        profile: Any = _LazyProfile(known, self._token_limits)
        return cast("ModelProfile", profile)

    def _token_limits(self) -> dict[str, int]:
        """The limits of a profile; loads the model, whose window decides them."""
        policy = self.memory.policy
        reply = policy.reply_tokens if self.max_tokens is None else self.max_tokens
        return {"max_input_tokens": policy.window - reply, "max_output_tokens": reply}

    # --- tokens -----------------------------------------------------------------------------------

    def get_token_ids(self, text: str) -> list[int]:
        """The model's own tokens of a text.

        Raises:
            NotImplementedError: the backend counts, but does not tell token ids.
        """
        if self.custom_get_token_ids is not None:
            return self.custom_get_token_ids(text)
        backend = self.memory.backend
        if not isinstance(backend, _KnowsTokens):
            raise NotImplementedError(
                f"{type(backend).__name__} tells no token ids: use get_num_tokens, or set "
                "custom_get_token_ids."
            )
        return backend.token_ids(text)

    def get_num_tokens(self, text: str) -> int:
        """Return the number of tokens of a text."""
        if self.custom_get_token_ids is None and not isinstance(self.memory.backend, _KnowsTokens):
            return len(self.memory.backend.split(text, 1))
        return len(self.get_token_ids(text))

    def get_num_tokens_from_messages(
        self,
        messages: list[BaseMessage],
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool] | None = None,
    ) -> int:
        """Exact tokens of the prompt that these messages and tools make, nothing absorbed."""
        backend = self.memory.backend
        tools_text = plan_tools([convert_to_openai_tool(t) for t in tools or ()]).describe(backend)
        system = (Message("system", tools_text),) if tools_text else ()
        return backend.count((*system, *as_history(messages)))

    # --- tools and structured output --------------------------------------------------------------

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: str | bool | dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Let the model call tools.

        Without a choice the model decides; whether it does well depends on its training. With
        "any" or a name its answer follows the JSON schema of a call, whatever the model. With
        ``parallel_tool_calls=False`` an answer has one call at most.

        Raises:
            ValueError: an unknown choice.
        """
        openai_tools = [convert_to_openai_tool(tool) for tool in tools]
        plan_tools(openai_tools, tool_choice)  # refuse a wrong choice here, not at the first call
        if tool_choice is not None:
            kwargs["tool_choice"] = tool_choice
        return self.bind(tools=openai_tools, **kwargs)

    def with_structured_output(
        self,
        schema: dict[str, Any] | type,
        *,
        include_raw: bool = False,
        method: Literal["function_calling", "json_schema", "json_mode"] = "function_calling",
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, dict[str, Any] | BaseModel]:
        """Answers in the form of a schema; they follow it token by token.

        Texts without a `maxLength` get as many characters as the reply may have tokens, so that
        the JSON is complete.

        Args:
            schema: a pydantic class, a TypedDict, an OpenAI function or a JSON schema.
            include_raw: give out ``{"raw", "parsed", "parsing_error"}``.
            method: "function_calling" describes the schema as a tool; "json_schema" only holds
                the answer to it, which keeps the prompt short; "json_mode" only makes it JSON, so
                say in the prompt what it has to hold.
            kwargs: `strict` is accepted and always holds.

        Raises:
            ValueError: an unknown method or option.
            OutputParserException: (when called) the reply ended before the JSON was complete.
        """
        kwargs.pop("strict", None)
        if method == "function_calling":
            chain = super().with_structured_output(schema, include_raw=include_raw, **kwargs)
            return chain if include_raw else chain | RunnableLambda(_there)
        if method not in {"json_schema", "json_mode"} or kwargs:
            raise ValueError(
                f"Received method={method!r} and {kwargs}: the methods are 'function_calling', "
                "'json_schema' and 'json_mode', and there are no other options."
            )
        form: dict[str, Any] = {"type": "json_object"}
        if method == "json_schema":
            json_schema = {"name": "answer", "schema": convert_to_json_schema(schema)}
            form = {"type": "json_schema", "json_schema": json_schema}
        raw = self.bind(response_format=form)
        parse = RunnableLambda(_parser(schema))
        if not include_raw:
            return raw | parse
        return raw | RunnableLambda(_parsed_beside(parse))

    # --- which memory answers ---------------------------------------------------------------------

    def _routed(self, config: RunnableConfig | None, kwargs: dict[str, Any]) -> dict[str, Any]:
        """The arguments of a call with its memory in them, decided once and early.

        They are part of the key of an LLM cache, so `memory_head` (or the resolved revision) keeps
        an answer of an older memory from being served.
        """
        if "memory_head" in kwargs:
            return kwargs  # an outer entry point has decided
        configurable = ensure_config(config).get("configurable") or {}
        memory_id = self._memory_id(configurable, kwargs)
        _check_id(memory_id, "memory_id")
        revision = kwargs.get("memory_revision")
        if revision is None:
            revision = _window_revision(configurable.get("message_history"), memory_id)
        if revision is None and memory_id == self.memory_id:
            revision = self.memory_revision
        head = None
        if memory_id is not None and revision in {None, HEAD}:
            head = self._head(memory_id)
            if revision == HEAD:
                revision = head or BASE  # nothing is learned yet
        return {
            **kwargs,
            "memory_id": memory_id,
            "memory_revision": revision,
            "memory_head": head,
        }

    def _memory_id(self, configurable: Mapping[str, Any], kwargs: Mapping[str, Any]) -> str | None:
        """The memory of a call; a history that keeps a window decides, for its rest lives there.

        Raises:
            ValueError: the call, the configuration or this model names another memory.
        """
        history = configurable.get("message_history")
        if not isinstance(history, _Window):
            if "memory_id" in kwargs:
                memory_id: str | None = kwargs["memory_id"]
                return memory_id
            values = (configurable.get(key) for key in self.memory_id_keys)
            return next((value for value in values if value is not None), self.memory_id)
        named = {
            "argument": kwargs.get("memory_id"),
            "configuration": configurable.get("memory_id"),
            "model": self.memory_id,
        }
        for where, other in named.items():
            if other is not None and other != history.memory_id:
                raise ValueError(
                    f"The history at hand belongs to memory {history.memory_id!r}, and the "
                    f"memory_id of the {where} is {other!r}: the turns that have left the history "
                    "live in its own memory alone. Name the same one, or none."
                )
        if "memory_id" in kwargs and kwargs["memory_id"] is None:
            return None  # the base model was asked for by name
        return history.memory_id

    def _head(self, memory_id: str) -> str | None:
        try:
            head = self.memory[memory_id].head()
        except UnknownMemory:
            return None
        return head.name if head else None

    async def _arouted(
        self, config: RunnableConfig | None, kwargs: dict[str, Any]
    ) -> dict[str, Any]:
        return await asyncio.to_thread(self._routed, config, kwargs)

    def invoke(
        self,
        input: LanguageModelInput,  # noqa: A002  # the name is LangChain's
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> AIMessage:
        """Return the answer to a conversation."""
        return super().invoke(input, config, stop=stop, **self._routed(config, kwargs))

    async def ainvoke(
        self,
        input: LanguageModelInput,  # noqa: A002
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> AIMessage:
        """Return the answer to a conversation."""
        routed = await self._arouted(config, kwargs)
        return await super().ainvoke(input, config, stop=stop, **routed)

    def stream(
        self,
        input: LanguageModelInput,  # noqa: A002
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> Iterator[AIMessageChunk]:
        """Yield the answer to a conversation in pieces."""
        with _told_if_left_early(config):
            yield from super().stream(input, config, stop=stop, **self._routed(config, kwargs))

    async def astream(
        self,
        input: LanguageModelInput,  # noqa: A002
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[AIMessageChunk]:
        """Yield the answer to a conversation in pieces."""
        routed = await self._arouted(config, kwargs)
        chunks: Any = super().astream(input, config, stop=stop, **routed)
        async with aclosing(chunks):
            with _told_if_left_early(config):
                async for chunk in chunks:
                    yield chunk

    def generate(
        self,
        messages: list[list[BaseMessage]],
        stop: list[str] | None = None,
        callbacks: Callbacks = None,
        **kwargs: Any,
    ) -> LLMResult:
        """Return the answers to several conversations."""
        return super().generate(messages, stop, callbacks, **self._routed(None, kwargs))

    async def agenerate(
        self,
        messages: list[list[BaseMessage]],
        stop: list[str] | None = None,
        callbacks: Callbacks = None,
        **kwargs: Any,
    ) -> LLMResult:
        """Return the answers to several conversations."""
        routed = await self._arouted(None, kwargs)
        return await super().agenerate(messages, stop, callbacks, **routed)

    def stream_events(
        self,
        input: LanguageModelInput,  # noqa: A002
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> Any:
        """Yield the events of a run."""
        # the older versions go through `astream`, which decides
        routed = self._routed(config, kwargs) if kwargs.get("version") == "v3" else kwargs
        return super().stream_events(input, config, **routed)

    def astream_events(
        self,
        input: LanguageModelInput,  # noqa: A002
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> Any:
        """Yield the events of a run."""
        if kwargs.get("version") != "v3":
            return super().astream_events(input, config, **kwargs)
        return self._astream_events_v3(input, config, kwargs)

    async def _astream_events_v3(
        self, model_input: LanguageModelInput, config: RunnableConfig | None, kwargs: dict[str, Any]
    ) -> Any:
        routed = await self._arouted(config, kwargs)
        events: Awaitable[Any] = super().astream_events(model_input, config, **routed)
        return await events

    # --- answering --------------------------------------------------------------------------------

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return generate_from_stream(self._stream(messages, stop, run_manager, **kwargs))

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return await agenerate_from_stream(self._astream(messages, stop, run_manager, **kwargs))

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        call = self._call(messages, stop, kwargs)
        reader = ToolReader(call.tools, parallel=call.parallel)
        with call.start() as stream:  # leaving early stops the model; no lock is held meanwhile
            for piece in stream:
                for chunk in _chunks(reader.feed(piece)):
                    if run_manager is not None:
                        run_manager.on_llm_new_token(_said(chunk), chunk=chunk)
                    yield chunk
            reply = stream.reply
        for chunk in (*_chunks(reader.finish()), call.last(reply)):
            if run_manager is not None:
                run_manager.on_llm_new_token(_said(chunk), chunk=chunk)
            yield chunk

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        call = self._call(messages, stop, kwargs)
        reader = ToolReader(call.tools, parallel=call.parallel)
        async with aclosing(pieces(call.start)) as arriving:
            async for piece in arriving:
                if isinstance(piece, Reply):
                    ready = (*_chunks(reader.finish()), call.last(piece))
                else:
                    ready = tuple(_chunks(reader.feed(piece)))
                for chunk in ready:
                    if run_manager is not None:
                        await run_manager.on_llm_new_token(_said(chunk), chunk=chunk)
                    yield chunk

    def _call(
        self, messages: list[BaseMessage], stop: list[str] | None, kwargs: dict[str, Any]
    ) -> _ModelCall:
        """The arguments of one call, checked; nothing is done yet.

        Raises:
            ValueError: an option that this model does not have.
        """
        kwargs = {k: v for k, v in _renamed(kwargs).items() if k not in _IGNORED}
        if unknown := sorted(set(kwargs) - _KNOWN):
            raise ValueError(
                f"Received unsupported arguments {unknown}: ChatTempLora takes "
                f"{sorted(_KNOWN - {'memory_head'})} and stop."
            )
        if kwargs.get("model") not in {None, self.model}:
            raise ValueError(
                f"This service runs {self.model!r}, not {kwargs['model']!r}: make another "
                "ChatTempLora."
            )
        chosen = {name: kwargs.get(name, getattr(self, name)) for name in _SAMPLING}
        routed = kwargs if "memory_head" in kwargs else self._routed(None, kwargs)
        return _ModelCall(
            model=self,
            history=as_history(messages),
            memory_id=routed["memory_id"],
            revision=routed["memory_revision"],
            tools=plan_tools(kwargs.get("tools"), kwargs.get("tool_choice")),
            parallel=kwargs.get("parallel_tool_calls") is not False,
            form=kwargs.get("response_format"),
            sampling=Sampling(
                **{name: value for name, value in chosen.items() if value is not None},
                stop=tuple(stop or self.stop or ()),
            ),
            max_tokens=kwargs.get("max_tokens", self.max_tokens),
            strength=kwargs.get("strength", self.strength),
        )


@dataclass(frozen=True, slots=True)
class _ModelCall:
    """One call of the model: everything decided, nothing done."""

    model: ChatTempLora
    history: tuple[Message, ...]
    memory_id: str | None
    revision: str | None
    tools: ToolPlan
    parallel: bool
    form: Any
    sampling: Sampling
    max_tokens: int | None
    strength: float

    def start(self) -> ReplyStream:
        """Begin to answer; learns first if the conversation outgrew the window.

        Raises:
            ContextOverflow: the newest turn does not fit.
        """
        service = self.model.memory
        max_tokens = service.policy.reply_tokens if self.max_tokens is None else self.max_tokens
        tools_text = self.tools.describe(service.backend)
        try:
            options = ReplyOptions(
                context=[tools_text] if tools_text else (),
                strength=self.strength,
                sampling=self._held(max_tokens or 1),
                max_tokens=max_tokens,
            )
            if self.memory_id is None or self.revision == BASE:
                return service.without_memory.stream(self.history, **options)
            options["revision"] = self.revision
            return service[self.memory_id].stream(self.history, **options)
        except PromptTooLong as error:
            raise ContextOverflow(str(error)) from error

    def _held(self, max_tokens: int) -> Sampling:
        """The sampling, held to the schema of a forced call or of `response_format`."""
        schema = self.tools.schema(max_tokens)
        if self.form is not None:
            if self.tools.tools:
                raise ValueError(
                    "response_format and tools do not go together: offer the schema as a tool "
                    "(ToolStrategy, or with_structured_output)."
                )
            schema = json.dumps(bounded_schema(_form(self.form), max_tokens))
        return Sampling(
            temperature=self.sampling.temperature,
            top_p=self.sampling.top_p,
            top_k=self.sampling.top_k,
            repetition_penalty=self.sampling.repetition_penalty,
            seed=self.sampling.seed,
            stop=self.sampling.stop,
            schema=schema,
        )

    def last(self, reply: Reply) -> ChatGenerationChunk:
        """The chunk that ends a stream: usage and what answered."""
        usage = UsageMetadata(
            input_tokens=reply.prompt_tokens,
            output_tokens=reply.completion_tokens,
            total_tokens=reply.prompt_tokens + reply.completion_tokens,
        )
        about = {
            "model_name": self.model.model,
            "model_provider": PROVIDER,
            "finish_reason": reply.finish_reason,
            "memory_id": self.memory_id,
            "memory_revision": reply.revision,
            "absorbed_tokens": reply.absorbed_tokens,
        }
        message = AIMessageChunk(
            content="", usage_metadata=usage, response_metadata=about, chunk_position="last"
        )
        return ChatGenerationChunk(
            message=message, generation_info={"finish_reason": reply.finish_reason}
        )


class _LazyProfile(dict[str, Any]):
    """A model's profile; its token limits are found out when somebody asks for them.

    LangChain reads profiles when a model is made, and then ours is not loaded yet.
    """

    def __init__(self, known: Mapping[str, Any], limits: Callable[[], dict[str, int]]) -> None:
        super().__init__(known)
        self._limits = limits

    def __missing__(self, name: str) -> Any:
        if name not in _TOKEN_LIMITS:
            raise KeyError(name)
        self.update(self._limits())
        return self[name]

    def get(self, name: str, default: Any = None) -> Any:
        """Return an entry; of a limit that was not asked for yet as well."""
        return self[name] if name in _TOKEN_LIMITS else super().get(name, default)

    def __contains__(self, name: object) -> bool:
        return name in _TOKEN_LIMITS or super().__contains__(name)


def _renamed(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options with other libraries' names for `max_tokens` under that one.

    Raises:
        ValueError: several of them, with different numbers.
    """
    values = dict(options)
    for name in _MAX_TOKENS:
        if name not in values:
            continue
        number = values.pop(name)
        if values.setdefault("max_tokens", number) != number:
            raise ValueError(
                f"{name} is {number!r} and max_tokens is {values['max_tokens']!r}: give one."
            )
    return values


def _check_id(memory_id: object, what: str) -> None:
    if memory_id is None:
        return
    if not isinstance(memory_id, str) or not memory_id.strip():
        raise ValueError(
            f"{what} is {memory_id!r}: it must be a text that is not empty, so that two users "
            "never share a memory by accident. Pass None for the base model."
        )


@runtime_checkable
class _Window(Protocol):
    """A history that keeps only a window, and knows which revision belongs to it."""

    memory_id: str

    @property
    def window_revision(self) -> str: ...


def _window_revision(history: object, memory_id: str | None) -> str | None:
    if isinstance(history, _Window) and history.memory_id == memory_id:
        return history.window_revision
    return None


@contextmanager
def _told_if_left_early(config: RunnableConfig | None) -> Iterator[None]:
    """Say it in the log where a reader leaves a stream and LangChain keeps nothing of the turn."""
    try:
        yield
    except GeneratorExit:
        history = (ensure_config(config).get("configurable") or {}).get("message_history")
        if isinstance(history, _Window):
            _log.warning(
                "the reader left the answer of %r before its end: RunnableWithMessageHistory adds "
                "neither question nor answer to the history. Add both with add_messages, or read "
                "to the end.",
                history,
            )
        raise


def _chunks(parts: Iterator[Any]) -> Iterator[ChatGenerationChunk]:
    for part in parts:
        if isinstance(part, str):
            if part:
                yield ChatGenerationChunk(message=AIMessageChunk(content=part))
        else:
            yield ChatGenerationChunk(message=AIMessageChunk(content="", tool_call_chunks=[part]))


def _said(chunk: ChatGenerationChunk) -> str:
    return str(chunk.message.text)


def _form(form: Any) -> dict[str, Any]:
    """The JSON schema of OpenAI's `response_format`."""
    match form:
        case {"type": "json_object"}:
            return {"type": "object"}
        case {"type": "json_schema", "json_schema": {"schema": dict() as schema}}:
            return schema
        case _:
            raise ValueError(
                f"response_format is {form!r}: use {{'type': 'json_schema', 'json_schema': "
                "{'schema': ...}} or {'type': 'json_object'}."
            )


def _there(answer: Any) -> Any:
    if answer is None:
        raise OutputParserException(
            "The answer is no complete call of the schema: allow more max_tokens or simplify the "
            "schema."
        )
    return answer


def _parser(schema: dict[str, Any] | type) -> Callable[[AIMessage], Any]:
    adapter: TypeAdapter[Any] | None = TypeAdapter(schema) if isinstance(schema, type) else None

    def parse(message: AIMessage) -> Any:
        try:
            value = json.loads(str(message.text))
            return value if adapter is None else adapter.validate_python(value)
        except ValueError as error:
            raise OutputParserException(
                f"The answer is no complete JSON of the schema ({error}): allow more max_tokens."
            ) from error

    return parse


def _parsed_beside(parse: Runnable[AIMessage, Any]) -> Callable[[AIMessage], dict[str, Any]]:
    def both(message: AIMessage) -> dict[str, Any]:
        try:
            return {"raw": message, "parsed": parse.invoke(message), "parsing_error": None}
        except OutputParserException as error:
            return {"raw": message, "parsed": None, "parsing_error": error}

    return both
