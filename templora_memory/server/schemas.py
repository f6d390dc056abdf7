"""Bodies of requests and responses, with examples for the OpenAPI schema.

Requests of OpenAI's interface may have fields that mean nothing here: they are ignored, and the
answer says so (`LenientRequest`). All others refuse unknown fields.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import accumulate
from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, model_validator

from templora_memory.domain.ids import MAX_ID_CHARACTERS
from templora_memory.domain.manifest import Revision
from templora_memory.domain.messages import Document, Message
from templora_memory.domain.results import (
    AbsorbReport,
    ForgetReceipt,
    PhaseName,
    Probe,
    RemovalReceipt,
    Reply,
    Status,
    StoredText,
    TextPage,
    TextState,
    TokenLogprob,
    Transcript,
)
from templora_memory.domain.settings import MAX_LOGPROBS, Sampling
from templora_memory.errors import TemploraError
from templora_memory.server.errors import ApiError, as_api_error, internal_error
from templora_memory.server.job_registry import JobEntry, JobKind, JobState
from templora_memory.service.jobs import Job
from templora_memory.tool_calls import format_call

MemoryName: TypeAlias = Annotated[
    str,
    Field(
        min_length=1,
        max_length=MAX_ID_CHARACTERS,
        description='A memory id: "ada", or "ada@bob" for what ada learned from bob alone.',
        examples=["ada"],
    ),
]
Count: TypeAlias = Annotated[int, Field(ge=0, le=1 << 53)]
Strength: TypeAlias = Annotated[
    float, Field(ge=0, le=16, description="Factor on the memory; 0 is exactly the base model.")
]
RevisionName: TypeAlias = Annotated[
    str, Field(min_length=1, max_length=64, description="A name, its first 8 letters, or head.")
]


class _StrictModel(BaseModel):
    """A request body that refuses unknown fields, NaN and infinity."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class ErrorDetail(BaseModel):
    """An error in OpenAI's form."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """The body of every answer that is not a success."""

    error: ErrorDetail


# --- chat --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RequestNote:
    """Something of a request that is ignored: a text for the client, and the field."""

    text: str
    param: str


class LenientRequest(BaseModel):
    """A request body of OpenAI's interface.

    A field with the value null asks for nothing. What is not known here is noted and ignored.
    """

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _without_null(cls, body: Any) -> Any:
        if isinstance(body, dict):
            return {key: value for key, value in body.items() if value is not None}
        return body

    def ignored(self) -> list[str]:
        """Return the names of fields whose value asks for something that there is not here."""
        extra = self.model_extra or {}
        return [name for name, value in extra.items() if name not in _MEANINGLESS and value]

    def notes(self) -> list[RequestNote]:
        """Return what is ignored of this request."""
        return [
            RequestNote(
                f"The field {name[:80]!r} was ignored: this server has nothing like it.", name
            )
            for name in self.ignored()
        ]


_MEANINGLESS = frozenset(
    {
        "user", "metadata", "store", "service_tier", "safety_identifier",
        "prompt_cache_key", "prompt_cache_retention", "include", "cache_prompt", "user_name",
        "char_name", "group_names", "verbosity",
    }
)  # fmt: skip
"""Fields that other services need and that change no answer."""
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "top_a": (0,),
    "typical_p": (1,),
    "logprobs": (False, 0),
    "top_logprobs": (0,),
    "logit_bias": ({}, []),
    "best_of": (1,),
    "reasoning_effort": ("none",),
    "modalities": (["text"],),
}
"""Fields of the sampler that this one lacks, with the values that ask for nothing."""


class ContentPart(BaseModel):
    """A piece of a message. Text is read; others (images, sound, files) are left out."""

    type: str
    text: str | None = None

    @property
    def is_text(self) -> bool:
        """True for "text" and the names that the Responses interface has for it."""
        return self.type in {"text", "input_text", "output_text"}


class FunctionCall(BaseModel):
    """A tool and the arguments for it, as JSON text; some clients send them as an object."""

    name: Annotated[str, Field(max_length=256)]
    arguments: str | dict[str, Any] = "{}"


class MessageToolCall(BaseModel):
    """A call of a tool in OpenAI's form."""

    id: str | None = None
    type: Literal["function"] = "function"
    function: FunctionCall

    def as_text(self) -> str:
        """Return it as the model would have written it."""
        arguments = self.function.arguments or {}
        if isinstance(arguments, str):
            with suppress(ValueError, RecursionError):  # what is no JSON is shown as it is
                parsed = json.loads(arguments)
                arguments = parsed if isinstance(parsed, dict) else arguments
        return format_call(self.function.name, arguments)


class ChatMessage(BaseModel):
    """A message in OpenAI's form. Further fields of other services are ignored."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[ContentPart] | None = None
    name: Annotated[str | None, Field(max_length=256)] = None
    tool_calls: list[MessageToolCall] | None = None

    @property
    def left_out(self) -> list[str]:
        """The types of the parts that are not text."""
        if not isinstance(self.content, list):
            return []
        return [part.type for part in self.content if not part.is_text]

    def as_message(self) -> Message:
        """Return it as a message of this package.

        An assistant's message with tool calls gets the role "call", which is never learned. The
        name of who spoke stands before the text.
        """
        content = self.content or ""
        if not isinstance(content, str):
            content = "".join(part.text or "" for part in content if part.is_text)
        name = self.name or None
        if self.role == "assistant" and self.tool_calls:
            calls = "\n".join(call.as_text() for call in self.tool_calls)
            return Message("call", f"{content}\n{calls}" if content else calls, name)
        if self.role == "tool" or self.role == "function":  # noqa: PLR1714  # mypy follows this
            return Message("tool", content, name)
        if name and content and not content.startswith(f"{name}: "):
            content = f"{name}: {content}"  # templates show no names: who spoke would be lost
        return Message("system" if self.role == "developer" else self.role, content, name)


def text_messages(messages: Sequence[ChatMessage]) -> list[Message]:
    """Return messages of which nothing may be left out.

    Raises:
        ApiError: 400, a part is not text.
    """
    for number, message in enumerate(messages):
        if message.left_out:
            raise ApiError(
                400,
                f"messages.{number}.content has a part {message.left_out[0][:40]!r}: only text can "
                "be learned and measured, leave it out.",
                code="invalid_value",
                param=f"messages.{number}.content",
            )
    return [message.as_message() for message in messages]


def left_out_note(messages: Sequence[ChatMessage]) -> list[RequestNote]:
    """Return a note on the parts of messages that are not text; empty if there are none."""
    counts = Counter(kind for message in messages for kind in message.left_out)
    if not counts:
        return []
    what = ", ".join(f"{count} {kind[:40]}" for kind, count in counts.items())
    return [
        RequestNote(f"Left out of the messages: {what}. This model reads text only.", "messages")
    ]


class StreamOptions(BaseModel):
    """Options of a streamed answer."""

    include_usage: bool = False


class SamplingFields(LenientRequest):
    """The fields that say how tokens are chosen, in all of OpenAI's interfaces."""

    temperature: Annotated[float | None, Field(ge=0, le=100)] = None
    top_p: Annotated[float | None, Field(gt=0, le=1)] = None
    top_k: Annotated[int | None, Field(ge=-1, le=1 << 31)] = None
    min_p: Annotated[float | None, Field(ge=0, le=1)] = None
    repetition_penalty: Annotated[float | None, Field(gt=0, le=10)] = None
    frequency_penalty: Annotated[float | None, Field(ge=-2, le=2)] = None
    presence_penalty: Annotated[float | None, Field(ge=-2, le=2)] = None
    seed: Annotated[int | None, Field(ge=-1, lt=1 << 63)] = None
    stop: str | list[str] | None = None
    stream: bool | None = None

    def ignored(self) -> list[str]:
        """Return the names of fields that are ignored; neutral values ask for nothing."""
        extra = self.model_extra or {}
        return [
            name
            for name in super().ignored()
            if not any(extra[name] == neutral for neutral in _NEUTRAL.get(name, ()))
        ]

    @property
    def logprob_count(self) -> int | None:
        """How many tokens to report at each place beside the chosen one; None: nothing."""
        return None

    def sampling(
        self, *, schema: str | None = None, number: int = 0, stop: Sequence[str] = ()
    ) -> Sampling:
        """Return the settings of the sampler.

        Args:
            schema: JSON schema that the answer follows, as text.
            number: counts the answers to one request.
            stop: texts that end the answer, beside those of the request.
        """
        seeded = self.seed is not None and self.seed >= 0
        return Sampling(
            temperature=self.temperature or 0.0,
            top_p=1.0 if self.top_p is None else self.top_p,
            top_k=max(0, self.top_k or 0),
            min_p=self.min_p or 0.0,
            repetition_penalty=self.repetition_penalty or 1.0,
            frequency_penalty=self.frequency_penalty or 0.0,
            presence_penalty=self.presence_penalty or 0.0,
            logprobs=self.logprob_count,
            seed=((self.seed or 0) + number) % (1 << 63) if seeded else None,
            stop=(*self.stops, *stop),
            schema=schema,
        )

    @property
    def stops(self) -> tuple[str, ...]:
        """Texts that end the answer."""
        stops = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        return tuple(stop for stop in stops if stop)


MaxTokens: TypeAlias = Annotated[int | None, Field(ge=-1, le=1 << 31)]
"""Length of an answer; 0 and -1 are what some clients send for "as the server likes"."""
Messages: TypeAlias = Annotated[
    list[ChatMessage],
    Field(min_length=1, examples=[[{"role": "user", "content": "Where do you live?"}]]),
]
ModelName: TypeAlias = Annotated[
    str, Field(min_length=1, max_length=512, examples=["templora/tiny:ada"])
]


MAX_TOOLS = 128
ToolChoice: TypeAlias = Literal["none", "auto", "required"]


class ToolFunction(BaseModel):
    """A function that the model may call; `parameters` is a JSON schema."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:-]{1,64}$")]
    description: str | None = None
    parameters: dict[str, Any] | None = None


class ChatTool(BaseModel):
    """A tool in OpenAI's form."""

    type: Literal["function"]
    function: ToolFunction


class NamedFunction(BaseModel):
    """The name of a function."""

    name: str


class NamedTool(BaseModel):
    """The tool that has to be called."""

    type: Literal["function"]
    function: NamedFunction


class ChatRequest(SamplingFields):
    """A conversation to answer.

    `model` is the base model's name, or that name, a colon and a memory id.
    """

    model: ModelName
    messages: Messages
    memory: MemoryName | None = None
    max_tokens: MaxTokens = None
    max_completion_tokens: MaxTokens = None
    n: Annotated[int | None, Field(ge=0, le=8)] = None
    stream_options: StreamOptions | None = None
    strength: Strength = 1.0
    context: Annotated[
        list[str],
        Field(description="Retrieved texts for this turn; neither kept nor learned."),
    ] = []
    recall_tokens: Annotated[int | None, Field(ge=0, le=1 << 31)] = None
    revision: RevisionName | None = None
    continue_final_message: bool | None = None
    add_generation_prompt: bool | None = None
    tools: Annotated[list[ChatTool] | None, Field(max_length=MAX_TOOLS)] = None
    tool_choice: ToolChoice | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int | None, Field(ge=0, le=MAX_LOGPROBS)] = None

    @property
    def logprob_count(self) -> int | None:
        """How many tokens to report at each place beside the chosen one; None: nothing."""
        return (self.top_logprobs or 0) if self.logprobs else None

    @property
    def continues(self) -> bool:
        """True if an assistant's message at the end is to be continued, not followed by another."""
        if self.continue_final_message is None:
            return not self.add_generation_prompt
        return self.continue_final_message

    def notes(self) -> list[RequestNote]:
        """Return what is ignored of this request."""
        notes = super().notes() + left_out_note(self.messages)
        if self.top_logprobs and not self.logprobs:
            text = "The field 'top_logprobs' was ignored: it needs logprobs to be true."
            notes.append(RequestNote(text, "top_logprobs"))
        return notes


class JsonSchema(BaseModel):
    """The schema of an answer, under OpenAI's name for it."""

    model_config = ConfigDict(populate_by_name=True)

    json_schema: Annotated[dict[str, Any] | None, Field(alias="schema")] = None


class ResponseFormat(BaseModel):
    """The form of an answer: free text, any JSON object, or one that follows a schema."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @property
    def schema_text(self) -> str | None:
        """The JSON schema that the answer follows, as text; None: free text."""
        if self.type == "text":
            return None
        schema = self.json_schema.json_schema if self.json_schema else None
        return json.dumps(schema or {"type": "object"})


class Usage(BaseModel):
    """Tokens of a call."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class RecalledPassage(BaseModel):
    """A passage of what a memory was told that stood in the prompt.

    `source` names its text in the routes of texts; of a turn it is the last message.
    """

    text: str
    score: float
    source: str


class MemoryUse(BaseModel):
    """The memory that answered: its revision, and how many tokens live in weights instead.

    `omitted_messages` of the conversation, as the memory holds it, come before the first one sent;
    `recalled` are the passages of its texts that the prompt had, best first, and `coverage` is the
    share of the newest message that was found in what it was told, from 0 to 1.
    """

    memory: str | None
    revision: str | None
    absorbed_tokens: int
    omitted_messages: int
    recalled: list[RecalledPassage] = []
    coverage: float | None = None
    notes: list[str] = Field(default=[], description="What of the request was ignored.")


class AssistantMessage(BaseModel):
    """The message of an answer."""

    role: Literal["assistant"] = "assistant"
    content: str | None
    refusal: None = None
    tool_calls: list[MessageToolCall] | None = None


class TopLogprob(BaseModel):
    """A token that was likely, with its natural-log probability."""

    token: str
    logprob: float
    bytes: list[int] | None

    @classmethod
    def of(cls, token: TokenLogprob) -> Self:
        """Make it from the service's value; a part of a character has no bytes here."""
        text = token.token
        return cls(
            token=text,
            logprob=max(token.logprob, _LEAST_LOGPROB),
            bytes=None if "\ufffd" in text else list(text.encode()),
        )


class ChosenLogprob(TopLogprob):
    """A token of the answer, and the likeliest ones at its place."""

    top_logprobs: list[TopLogprob] = []

    @classmethod
    def of(cls, token: TokenLogprob) -> Self:
        """Make it from the service's value."""
        chosen = super().of(token)
        chosen.top_logprobs = [TopLogprob.of(other) for other in token.top_logprobs]
        return chosen


_LEAST_LOGPROB = -9999.0
"""Stands for minus infinity, which JSON has no number for; OpenAI's value."""


class ChoiceLogprobs(BaseModel):
    """The tokens of an answer."""

    content: list[ChosenLogprob]
    refusal: None = None

    @classmethod
    def of(cls, tokens: Sequence[TokenLogprob]) -> ChoiceLogprobs:
        """Make it from the service's values."""
        return cls(content=[ChosenLogprob.of(token) for token in tokens])


class Choice(BaseModel):
    """One of the answers to a request."""

    index: int = 0
    message: AssistantMessage
    finish_reason: Literal["stop", "length", "tool_calls"]
    logprobs: ChoiceLogprobs | None = None


class ChatCompletion(BaseModel):
    """A whole answer in OpenAI's form."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[Choice]
    usage: Usage
    system_fingerprint: str | None = None
    templora: MemoryUse


def usage_of(*replies: Reply) -> Usage:
    """Return the token counts of the replies to one prompt."""
    prompt_tokens = replies[0].prompt_tokens
    completion_tokens = sum(reply.completion_tokens for reply in replies)
    return Usage(
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        total_tokens=prompt_tokens + completion_tokens,
    )


def memory_use_of(memory_id: str | None, reply: Reply, notes: Sequence[str] = ()) -> MemoryUse:
    """Return which memory and revision a reply came from."""
    return MemoryUse(
        memory=memory_id,
        revision=reply.revision,
        absorbed_tokens=reply.absorbed_tokens,
        omitted_messages=reply.omitted_messages,
        recalled=[RecalledPassage(**asdict(passage)) for passage in reply.recalled],
        coverage=reply.coverage,
        notes=list(notes),
    )


# --- completions and responses -----------------------------------------------------------------


class CompletionRequest(SamplingFields):
    """A prompt to answer. Without `max_tokens` the answer is as long as the policy's."""

    model: ModelName
    prompt: str | Annotated[list[str], Field(min_length=1, max_length=1)]
    memory: MemoryName | None = None
    max_tokens: MaxTokens = None
    n: Annotated[int | None, Field(ge=0, le=8)] = None
    logprobs: bool | Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    echo: Literal[False] = False
    suffix: Annotated[str, Field(max_length=0)] = ""
    stream_options: StreamOptions | None = None
    strength: Strength = 1.0

    @property
    def logprob_count(self) -> int | None:
        """How many tokens to report at each place beside the chosen one; None: nothing."""
        return None if self.logprobs is None or self.logprobs is False else int(self.logprobs)

    @property
    def text(self) -> str:
        """The prompt."""
        return self.prompt if isinstance(self.prompt, str) else self.prompt[0]


class CompletionLogprobs(BaseModel):
    """The tokens of a completion, in OpenAI's older form: four lists of one length."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]

    @classmethod
    def of(cls, tokens: Sequence[TokenLogprob], offset: int = 0) -> CompletionLogprobs:
        """Make it from the service's values; the first token begins at `offset`."""
        lengths = (len(token.token) for token in tokens)
        return cls(
            tokens=[token.token for token in tokens],
            token_logprobs=[max(token.logprob, _LEAST_LOGPROB) for token in tokens],
            top_logprobs=[
                {top.token: max(top.logprob, _LEAST_LOGPROB) for top in token.top_logprobs}
                for token in tokens
            ],
            text_offset=[*accumulate(lengths, initial=offset)][:-1],
        )


class CompletionChoice(BaseModel):
    """One of the answers to a prompt."""

    index: int = 0
    text: str
    finish_reason: Literal["stop", "length"]
    logprobs: CompletionLogprobs | None = None


class CompletionBody(BaseModel):
    """A whole completion in OpenAI's form."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage
    templora: MemoryUse


class TokenizeRequest(LenientRequest):
    """A text, or messages, to count the tokens of."""

    model: ModelName | None = None
    prompt: str | None = None
    messages: Messages | None = None


class TokenCount(BaseModel):
    """The number of tokens, and how many prompt and reply may have together."""

    count: int
    max_model_len: int


class InputMessage(ChatMessage):
    """A message of the Responses interface."""

    type: Literal["message"] = "message"

    def as_chat_message(self) -> ChatMessage:
        """Return it as a message of a chat completion."""
        return self


class FunctionCallItem(BaseModel):
    """A call that the model made, as the Responses interface has it."""

    type: Literal["function_call"]
    call_id: str | None = None
    name: Annotated[str, Field(max_length=256)]
    arguments: str = "{}"

    def as_chat_message(self) -> ChatMessage:
        """Return it as a message of a chat completion."""
        function = FunctionCall(name=self.name, arguments=self.arguments)
        return ChatMessage(role="assistant", tool_calls=[MessageToolCall(function=function)])


class FunctionCallOutput(BaseModel):
    """The result of a call, as the Responses interface has it."""

    type: Literal["function_call_output"]
    call_id: str | None = None
    output: str | list[ContentPart]

    def as_chat_message(self) -> ChatMessage:
        """Return it as a message of a chat completion."""
        return ChatMessage(role="tool", content=self.output)


class ResponsesTool(ToolFunction):
    """A tool in the form of the Responses interface."""

    type: Literal["function"]

    def as_chat_tool(self) -> dict[str, Any]:
        """Return it in the form of chat completions."""
        function = self.model_dump(exclude={"type"}, exclude_none=True)
        return {"type": "function", "function": function}


class NamedResponsesTool(NamedFunction):
    """The tool that has to be called, in the form of the Responses interface."""

    type: Literal["function"]


class TextOptions(BaseModel):
    """The form of the text of a response."""

    format: ResponseTextFormat | None = None


class ResponseTextFormat(BaseModel):
    """As `ResponseFormat`; the Responses interface has the schema beside the type."""

    model_config = ConfigDict(populate_by_name=True)

    type: Literal["text", "json_object", "json_schema"]
    json_schema: Annotated[dict[str, Any] | None, Field(alias="schema")] = None

    @property
    def schema_text(self) -> str | None:
        """The JSON schema that the answer follows, as text; None: free text."""
        return None if self.type == "text" else json.dumps(self.json_schema or {"type": "object"})


class ResponsesRequest(SamplingFields):
    """A conversation to answer, in the form of OpenAI's Responses interface; text and functions.

    The whole conversation comes with every request: `previous_response_id` is refused.
    """

    model: ModelName
    input: (
        str
        | Annotated[list[InputMessage | FunctionCallItem | FunctionCallOutput], Field(min_length=1)]
    )
    instructions: str | None = None
    memory: MemoryName | None = None
    max_output_tokens: MaxTokens = None
    text: TextOptions | None = None
    strength: Strength = 1.0
    recall_tokens: Annotated[int | None, Field(ge=0, le=1 << 31)] = None
    tools: Annotated[list[ResponsesTool] | None, Field(max_length=MAX_TOOLS)] = None
    tool_choice: ToolChoice | NamedResponsesTool | None = None
    parallel_tool_calls: bool | None = None
    truncation: Literal["auto", "disabled"] | None = None
    background: Literal[False] | None = None

    @property
    def sent(self) -> list[ChatMessage]:
        """The messages, with the instructions before them."""
        messages: list[ChatMessage] = []
        if self.instructions:
            messages.append(ChatMessage(role="system", content=self.instructions))
        if isinstance(self.input, str):
            return [*messages, ChatMessage(role="user", content=self.input)]
        return [*messages, *(item.as_chat_message() for item in self.input)]

    @property
    def schema_text(self) -> str | None:
        """The JSON schema that the answer follows, as text; None: free text."""
        return self.text.format.schema_text if self.text and self.text.format else None

    def notes(self) -> list[RequestNote]:
        """Return what is ignored of this request."""
        return super().notes() + left_out_note(self.sent)


class ModelCard(BaseModel):
    """A model, or a memory as one."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "templora"


class ModelList(BaseModel):
    """The base model, and every memory of this key as a model."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


# --- memories ----------------------------------------------------------------------------------


class CreateRequest(_StrictModel):
    """A new memory; `base` is another one to start from."""

    id: MemoryName
    base: MemoryName | None = None


class NewDocument(_StrictModel):
    """A text to learn as it is."""

    text: Annotated[str, Field(min_length=1)]
    title: Annotated[str | None, Field(max_length=4096)] = None
    continues: bool = False
    character: Annotated[
        str | None,
        Field(
            min_length=1,
            max_length=4096,
            description="Whom the text is about, if the memory is to speak as them.",
        ),
    ] = None


class AbsorbRequest(_StrictModel):
    """A text to learn: one of `text`, `documents` and `messages`."""

    text: Annotated[
        str | None, Field(min_length=1, examples=["Ada keeps bees on the roof of the observatory."])
    ] = None
    documents: Annotated[list[NewDocument] | None, Field(min_length=1)] = None
    messages: Annotated[list[ChatMessage] | None, Field(min_length=1)] = None
    after: Annotated[
        Count | None,
        Field(
            description="For messages: they follow that many of the memory's conversation. "
            "Without it they are the whole conversation."
        ),
    ] = None

    def items(self) -> list[Document] | list[Message]:
        """Return the documents or messages to learn.

        Raises:
            ApiError: 400, none or several of the three fields are given.
            InvalidText: a text that cannot be learned.
        """
        given = [name for name in ("text", "documents", "messages") if getattr(self, name)]
        if len(given) != 1:
            names = ", ".join(given) or "none"
            raise ApiError(
                400,
                f"Give one of text, documents and messages, not {names}.",
                code="invalid_value",
                param="text",
            )
        if self.messages:
            return text_messages(self.messages)
        if self.documents:
            return [
                Document(d.text, d.title, d.continues, character=d.character)
                for d in self.documents
            ]
        return [Document(self.text or "")]


class ProbeRequest(_StrictModel):
    """A question, or a conversation that ends in one, and the answer to measure."""

    question: Annotated[str | None, Field(min_length=1, examples=["Where do you live?"])] = None
    messages: Annotated[list[ChatMessage] | None, Field(min_length=1)] = None
    answer: Annotated[str, Field(min_length=1, examples=["I live in Salt Harbour."])]
    strength: Strength = 1.0


class QuestionAnswer(_StrictModel):
    """A question, and the answer to measure before and after."""

    question: Annotated[str, Field(min_length=1, examples=["What is the code?"])]
    answer: Annotated[str, Field(min_length=1, examples=["The code is 1234."])]


class _EditRequest(_StrictModel):
    ask: Annotated[
        list[QuestionAnswer],
        Field(
            max_length=100, description="What the receipt measures, beside the texts themselves."
        ),
    ] = []

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """The questions with their answers."""
        return [(one.question, one.answer) for one in self.ask]


class RemoveRequest(_EditRequest):
    """The texts to remove, by their ids or the first 8 letters or more of these."""

    ids: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=64)]],
        Field(min_length=1, max_length=10_000, examples=[["5f1c0e9a77d2b340"]]),
    ]


class CorrectRequest(_EditRequest):
    """What a text should have said."""

    text: Annotated[str, Field(min_length=1, examples=["Ada lives in Leeds."])]


class ForkRequest(_StrictModel):
    """The target of a copy, and the revision to copy."""

    target: MemoryName
    revision: RevisionName | None = None


class RollbackRequest(_StrictModel):
    """The revision to go back to."""

    revision: RevisionName


class MemoryCard(BaseModel):
    """A memory at a glance."""

    id: str
    object: Literal["memory"] = "memory"
    head: str | None
    revisions: int
    messages: int
    absorbed_messages: int
    documents: int
    absorbed_documents: int
    absorbed_tokens: int
    bytes: int
    jobs: int
    last_error: str | None
    base: str
    origin: str | None

    @classmethod
    def of(cls, status: Status) -> MemoryCard:
        """Make it from the service's status."""
        return cls(**{**status.as_dict(), "last_error": _public_failure(status.last_error)})


def _public_failure(failure: str | None) -> str | None:
    """Remove from the failure of an absorb what only the server's operator may see."""
    if failure is None or failure.startswith(("LearningFailed", "Unhealthy")):
        return failure
    return f"{failure.partition(':')[0]}: see the server's log."


class DamagedMemory(BaseModel):
    """A memory whose files are not what was written."""

    id: str
    object: Literal["memory.damaged"] = "memory.damaged"
    error: str


class MemoryList(BaseModel):
    """Some memories, by id; `has_more` says whether others follow `data`."""

    object: Literal["list"] = "list"
    data: list[MemoryCard | DamagedMemory]
    has_more: bool


class RevisionCard(BaseModel):
    """A revision of a memory at a glance."""

    name: str
    parent: str | None
    messages: int
    documents: int
    tokens: int
    created: float
    bytes: int

    @classmethod
    def of(cls, revision: Revision) -> RevisionCard:
        """Make it from a revision of the manifest."""
        return cls(
            name=revision.name,
            parent=revision.parent,
            messages=revision.messages,
            documents=len(revision.documents),
            tokens=revision.tokens,
            created=revision.created,
            bytes=revision.bytes,
        )


class MemoryDetail(MemoryCard):
    """A memory with its revisions, oldest first."""

    history: list[RevisionCard]


class TranscriptDocument(BaseModel):
    """A document as the journal holds it."""

    text: str
    title: str | None
    continues: bool
    character: str | None


class TranscriptMessage(BaseModel):
    """A message as the journal holds it."""

    role: str
    content: str
    name: str | None


class TranscriptBody(BaseModel):
    """Every text of a memory that is in force."""

    documents: list[TranscriptDocument]
    messages: list[TranscriptMessage]

    @classmethod
    def of(cls, transcript: Transcript) -> TranscriptBody:
        """Make it from the service's transcript."""
        return cls(
            documents=[
                TranscriptDocument(
                    text=d.text, title=d.title, continues=d.continues, character=d.character
                )
                for d in transcript.documents
            ],
            messages=[
                TranscriptMessage(role=m.role, content=m.content, name=m.name)
                for m in transcript.messages
            ],
        )


class TextBody(BaseModel):
    """One text that a memory was told: a message, or a document (a long one comes in parts)."""

    id: str
    object: Literal["memory.text"] = "memory.text"
    text: str
    kind: Literal["message", "document"]
    speaker: str | None
    role: str | None
    title: str | None
    continues: bool
    time: float | None = Field(description="When it was told, in seconds since 1970.")
    state: TextState
    pinned: bool

    @classmethod
    def of(cls, text: StoredText) -> TextBody:
        """Make it from the service's text."""
        return cls(**text.as_dict())


class TextList(BaseModel):
    """Some texts of a memory; `next_offset` is where the next page begins, null after the last."""

    object: Literal["list"] = "list"
    data: list[TextBody]
    total: int
    next_offset: int | None

    @classmethod
    def of(cls, page: TextPage) -> TextList:
        """Make it from the service's page."""
        return cls(
            data=[TextBody.of(text) for text in page],
            total=page.total,
            next_offset=page.next_offset,
        )


class ProbeBody(BaseModel):
    """Natural-log probability of an answer with and without the memory."""

    with_memory: float
    without_memory: float
    tokens: int
    recalled: float
    revision: str | None
    gain: float

    @classmethod
    def of(cls, probe: Probe) -> ProbeBody:
        """Make it from the service's probe."""
        return cls(**probe.as_dict())


class RemovedFileBody(BaseModel):
    """A file that was removed."""

    path: str
    bytes: int


class ForgetBody(BaseModel):
    """The receipt of a forget: memories and files that were removed."""

    ids: list[str]
    files: list[RemovedFileBody]
    forks: list[str] = Field(description="Memories that are left and were copied from these.")
    remote: list[str] = Field(
        description="Adapters that a server which answers may hold until it needs the place."
    )
    bytes: int

    @classmethod
    def of(cls, receipt: ForgetReceipt) -> ForgetBody:
        """Make it from the service's receipt."""
        return cls(**receipt.as_dict())


# --- jobs --------------------------------------------------------------------------------------


class ProgressBody(BaseModel):
    """Progress of a job."""

    chunk: int
    chunks: int
    tokens: int
    perplexity: float


class PhaseBody(BaseModel):
    """What a job is doing; `steps` 0: how much there is to do is not known."""

    name: PhaseName
    step: int
    steps: int


class AbsorbBody(BaseModel):
    """The receipt of an absorb."""

    revision: str | None
    tokens: int
    chunks: int
    perplexity_before: float | None
    perplexity_after: float | None
    recalled: float | None
    kl: float | None
    seconds: float
    bytes: int

    @classmethod
    def of(cls, report: AbsorbReport) -> AbsorbBody:
        """Make it from the service's report."""
        return cls(**report.as_dict())


class RecallChangeBody(BaseModel):
    """How likely an answer was, is now, and is for the base model: natural logarithms."""

    id: str | None = Field(description="The removed text; null: an answer that was asked for.")
    before: float
    after: float
    base: float
    tokens: int
    over_base: float = Field(description="Probability of a token now over that of the base model.")


class RemovalBody(BaseModel):
    """The receipt of a removal or correction."""

    ids: list[str]
    files: list[RemovedFileBody]
    revisions: list[str] = Field(description="Revisions that had learned any of it; they are gone.")
    start: str | None = Field(description="The revision that learning began from again.")
    relearned: AbsorbBody
    changes: list[RecallChangeBody]
    forks: list[str] = Field(description="Memories that are left and may know what was removed.")
    remote: list[str] = Field(
        description="Adapters that a server which answers may hold until it needs the place."
    )
    bytes: int

    @classmethod
    def of(cls, receipt: RemovalReceipt) -> RemovalBody:
        """Make it from the service's receipt."""
        return cls(**receipt.as_dict())


class JobBody(BaseModel):
    """Learning: its state and progress, and its receipts or error once it has ended.

    That is an absorb, a rebuild, or the removal or correction of texts.
    """

    id: str
    object: Literal["job"] = "job"
    kind: JobKind
    memory: str
    state: JobState
    created: float
    resumed: bool
    phase: PhaseBody
    progress: ProgressBody | None
    report: AbsorbBody | None = Field(description="Of what was learned.")
    receipt: RemovalBody | None = Field(description="Of texts that were removed or corrected.")
    error: ErrorDetail | None

    @classmethod
    def of(cls, entry: JobEntry) -> JobBody:
        """Make it from an entry of the registry."""
        # the state first: a job that ends in between is then shown as running, never as one that
        # has ended without a report
        job, state = entry.job, entry.state
        progress = job.progress
        result = job.wait(0) if state == "succeeded" else None
        removed = result if isinstance(result, RemovalReceipt) else None
        report = removed.relearned if removed else result
        return cls(
            id=entry.record.id,
            kind=entry.record.kind,
            memory=entry.record.memory,
            state=state,
            created=entry.record.created,
            resumed=entry.resumed,
            phase=PhaseBody(**asdict(job.phase)),
            progress=None if progress is None else ProgressBody(**asdict(progress)),
            report=None if report is None else AbsorbBody.of(report),
            receipt=None if removed is None else RemovalBody.of(removed),
            error=_job_error(job) if state in {"failed", "cancelled"} else None,
        )


def _job_error(job: Job[Any]) -> ErrorDetail:
    if isinstance(job.error, TemploraError):
        return ErrorDetail(**as_api_error(job.error).body()["error"])
    return ErrorDetail(**internal_error().body()["error"])


class JobList(BaseModel):
    """Jobs under way and the newest that have ended, oldest first."""

    object: Literal["list"] = "list"
    data: list[JobBody]
