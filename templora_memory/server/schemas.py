"""What goes over the wire, with examples for the OpenAPI schema. Unknown fields are refused."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

from templora_memory.domain.ids import MAX_ID_CHARACTERS
from templora_memory.domain.manifest import Revision
from templora_memory.domain.messages import Document, Message
from templora_memory.domain.results import (
    AbsorbReport,
    ForgetReceipt,
    Probe,
    Reply,
    Status,
    Transcript,
)
from templora_memory.errors import TemploraError
from templora_memory.server.errors import ApiError, as_api_error, internal_error
from templora_memory.server.job_registry import Entry, Kind, State
from templora_memory.service.jobs import Job

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


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class ErrorDetail(BaseModel):
    """What went wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """The body of every answer that is not a success."""

    error: ErrorDetail


# --- chat --------------------------------------------------------------------------------------


class TextPart(BaseModel):
    """A piece of a message; only text is understood."""

    type: Literal["text"]
    text: str


class ChatMessage(BaseModel):
    """A message in OpenAI's form. Further fields of other services are ignored."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[TextPart] | None = None
    name: Annotated[str | None, Field(max_length=256)] = None
    tool_calls: list[dict[str, Any]] | None = None

    def as_message(self) -> Message:
        """The message of this package; what an assistant said to a tool is never learned."""
        content = self.content or ""
        if not isinstance(content, str):
            content = "".join(part.text for part in content)
        name = self.name or None
        if self.role == "assistant" and self.tool_calls:
            calls = json.dumps(self.tool_calls, ensure_ascii=False)
            return Message("call", f"{content}\n{calls}" if content else calls, name)
        match self.role:
            case "developer":
                return Message("system", content, name)
            case "function":
                return Message("tool", content, name)
            case role:
                return Message(role, content, name)


class StreamOptions(BaseModel):
    """What a stream tells beside the text."""

    include_usage: bool = False


class ChatRequest(_Model):
    """A conversation to answer.

    `model` is the base model's name, or that name, a colon and a memory id.
    """

    model: Annotated[str, Field(min_length=1, max_length=512, examples=["templora/tiny:ada"])]
    messages: Annotated[
        list[ChatMessage],
        Field(min_length=1, examples=[[{"role": "user", "content": "Where do you live?"}]]),
    ]
    memory: MemoryName | None = None
    max_tokens: Annotated[int | None, Field(ge=1, le=1 << 31)] = None
    max_completion_tokens: Annotated[int | None, Field(ge=1, le=1 << 31)] = None
    temperature: Annotated[float | None, Field(ge=0, le=2)] = None
    top_p: Annotated[float | None, Field(gt=0, le=1)] = None
    top_k: Annotated[int | None, Field(ge=0, le=1 << 31)] = None
    repetition_penalty: Annotated[float | None, Field(gt=0, le=10)] = None
    seed: Annotated[int | None, Field(ge=0, lt=1 << 63)] = None
    stop: Annotated[str, Field(min_length=1)] | list[Annotated[str, Field(min_length=1)]] | None = (
        None
    )
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    strength: Strength = 1.0
    context: Annotated[
        list[str],
        Field(description="Retrieved texts for this turn; neither kept nor learned."),
    ] = []
    recall_tokens: Annotated[int | None, Field(ge=0, le=1 << 31)] = None
    revision: RevisionName | None = None
    # accepted where they ask for nothing
    n: Literal[1] | None = None
    frequency_penalty: Literal[0] | None = None
    presence_penalty: Literal[0] | None = None
    logprobs: Literal[False] | None = None
    top_logprobs: Literal[0] | None = None
    logit_bias: Annotated[dict[str, float] | None, Field(max_length=0)] = None
    tools: Annotated[list[Any] | None, Field(max_length=0)] = None
    tool_choice: Literal["none", "auto"] | None = None
    response_format: TextFormat | None = None
    # accepted and ignored: notes of clients to other services
    parallel_tool_calls: bool | None = None
    user: str | None = None
    metadata: dict[str, str] | None = None
    store: bool | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None

    @property
    def stops(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())


class TextFormat(BaseModel):
    """The only response format there is."""

    type: Literal["text"]


class Usage(BaseModel):
    """Tokens of a call."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class MemoryUse(BaseModel):
    """Which memory answered: its revision, and how many tokens live in weights instead."""

    memory: str | None
    revision: str | None
    absorbed_tokens: int


class AnswerMessage(BaseModel):
    """The answer."""

    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class Choice(BaseModel):
    """The one answer."""

    index: Literal[0] = 0
    message: AnswerMessage
    finish_reason: Literal["stop", "length"]
    logprobs: None = None


class Completion(BaseModel):
    """A whole answer."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[Choice]
    usage: Usage
    system_fingerprint: str | None = None
    templora: MemoryUse


def usage(reply: Reply) -> Usage:
    return Usage(
        prompt_tokens=reply.prompt_tokens,
        completion_tokens=reply.completion_tokens,
        total_tokens=reply.prompt_tokens + reply.completion_tokens,
    )


def memory_use(memory_id: str | None, reply: Reply) -> MemoryUse:
    return MemoryUse(
        memory=memory_id, revision=reply.revision, absorbed_tokens=reply.absorbed_tokens
    )


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


class CreateRequest(_Model):
    """A new memory; `base` is another one to start from."""

    id: MemoryName
    base: MemoryName | None = None


class NewDocument(_Model):
    """A text to learn as it is."""

    text: Annotated[str, Field(min_length=1)]
    title: Annotated[str | None, Field(max_length=4096)] = None
    continues: bool = False


class AbsorbRequest(_Model):
    """What to learn: one of `text`, `documents` and `messages`."""

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
        """What is given.

        Raises:
            ApiError: nothing or several.
            InvalidText.
        """
        given = [name for name in ("text", "documents", "messages") if getattr(self, name)]
        if len(given) != 1:
            found = ", ".join(given) or "none"
            raise ApiError(
                400,
                f"Give one of text, documents and messages, not {found}.",
                code="invalid_value",
                param="text",
            )
        if self.messages:
            return [message.as_message() for message in self.messages]
        if self.documents:
            return [Document(one.text, one.title, one.continues) for one in self.documents]
        return [Document(self.text or "")]


class ProbeRequest(_Model):
    """A question, or a conversation that ends in one, and the answer to measure."""

    question: Annotated[str | None, Field(min_length=1, examples=["Where do you live?"])] = None
    messages: Annotated[list[ChatMessage] | None, Field(min_length=1)] = None
    answer: Annotated[str, Field(min_length=1, examples=["I live in Salt Harbour."])]
    strength: Strength = 1.0


class ForkRequest(_Model):
    """Where to copy a memory, and as of which revision."""

    target: MemoryName
    revision: RevisionName | None = None


class RollbackRequest(_Model):
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
        return cls(**{**status.as_dict(), "last_error": _public(status.last_error)})


def _public(failure: str | None) -> str | None:
    """The failure of a background absorb, without what only the server's operator may see."""
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
    """A revision."""

    name: str
    parent: str | None
    messages: int
    documents: int
    tokens: int
    created: float
    bytes: int

    @classmethod
    def of(cls, one: Revision) -> RevisionCard:
        return cls(
            name=one.name,
            parent=one.parent,
            messages=one.messages,
            documents=len(one.documents),
            tokens=one.tokens,
            created=one.created,
            bytes=one.bytes,
        )


class MemoryDetail(MemoryCard):
    """A memory with its revisions, oldest first."""

    history: list[RevisionCard]


class TranscriptDocument(BaseModel):
    """A document as the journal holds it."""

    text: str
    title: str | None
    continues: bool


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
    def of(cls, text: Transcript) -> TranscriptBody:
        return cls(
            documents=[
                TranscriptDocument(text=d.text, title=d.title, continues=d.continues)
                for d in text.documents
            ],
            messages=[
                TranscriptMessage(role=m.role, content=m.content, name=m.name)
                for m in text.messages
            ],
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
        return cls(**probe.as_dict())


class Removed(BaseModel):
    """A file that is gone."""

    path: str
    bytes: int


class Receipt(BaseModel):
    """What was removed."""

    ids: list[str]
    files: list[Removed]
    forks: list[str] = Field(description="Memories that are left and were copied from these.")
    remote: list[str] = Field(
        description="Adapters that a server which answers may hold until it needs the place."
    )
    bytes: int

    @classmethod
    def of(cls, receipt: ForgetReceipt) -> Receipt:
        return cls(**receipt.as_dict())


# --- jobs --------------------------------------------------------------------------------------


class ProgressBody(BaseModel):
    """How far a job is."""

    chunk: int
    chunks: int
    tokens: int
    perplexity: float


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
        return cls(**report.as_dict())


class JobBody(BaseModel):
    """An absorb: its state, how far it is, and its receipt or error once it has ended."""

    id: str
    object: Literal["job"] = "job"
    kind: Kind
    memory: str
    state: State
    created: float
    resumed: bool
    progress: ProgressBody | None
    report: AbsorbBody | None
    error: ErrorDetail | None

    @classmethod
    def of(cls, entry: Entry) -> JobBody:
        job, state = entry.job, entry.state
        now = job.progress
        return cls(
            id=entry.note.id,
            kind=entry.note.kind,
            memory=entry.note.memory,
            state=state,
            created=entry.note.created,
            resumed=entry.resumed,
            progress=None if now is None else ProgressBody(**asdict(now)),
            report=AbsorbBody.of(job.wait(0)) if state == "succeeded" else None,
            error=_job_error(job) if state in {"failed", "cancelled"} else None,
        )


def _job_error(job: Job) -> ErrorDetail:
    if isinstance(job.error, TemploraError):
        return ErrorDetail(**as_api_error(job.error).body()["error"])
    return ErrorDetail(**internal_error().body()["error"])


class JobList(BaseModel):
    """Jobs under way and the newest that have ended, oldest first."""

    object: Literal["list"] = "list"
    data: list[JobBody]
