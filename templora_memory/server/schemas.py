"""Bodies of requests and responses, with examples for the OpenAPI schema.

Requests with unknown fields are refused.
"""

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
from templora_memory.server.job_registry import JobEntry, JobKind, JobState
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
        """Return it as a message of this package.

        An assistant's message with tool calls gets the role "call", which is never learned. The
        name of who spoke stands before the text.
        """
        content = self.content or ""
        if not isinstance(content, str):
            content = "".join(part.text for part in content)
        name = self.name or None
        if name and content and not content.startswith(f"{name}: "):
            content = f"{name}: {content}"  # templates show no names: who spoke would be lost
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
    """Options of a streamed answer."""

    include_usage: bool = False


class ChatRequest(_StrictModel):
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
    continue_final_message: bool | None = None
    add_generation_prompt: bool | None = None
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
    # accepted and ignored: meant for other services
    parallel_tool_calls: bool | None = None
    user: str | None = None
    metadata: dict[str, str] | None = None
    store: bool | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None

    @property
    def continues(self) -> bool:
        """True if an assistant's message at the end is to be continued, not followed by another."""
        if self.continue_final_message is None:
            return not self.add_generation_prompt
        return self.continue_final_message

    @property
    def stops(self) -> tuple[str, ...]:
        """Texts that end the answer."""
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
    """The memory that answered: its revision, and how many tokens live in weights instead.

    `omitted_messages` of the conversation, as the memory holds it, come before the first one sent.
    """

    memory: str | None
    revision: str | None
    absorbed_tokens: int
    omitted_messages: int


class AssistantMessage(BaseModel):
    """The message of an answer."""

    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class Choice(BaseModel):
    """The only choice of an answer."""

    index: Literal[0] = 0
    message: AssistantMessage
    finish_reason: Literal["stop", "length"]
    logprobs: None = None


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


def usage_of(reply: Reply) -> Usage:
    """Return the token counts of a reply."""
    return Usage(
        prompt_tokens=reply.prompt_tokens,
        completion_tokens=reply.completion_tokens,
        total_tokens=reply.prompt_tokens + reply.completion_tokens,
    )


def memory_use_of(memory_id: str | None, reply: Reply) -> MemoryUse:
    """Return which memory and revision a reply came from."""
    return MemoryUse(
        memory=memory_id,
        revision=reply.revision,
        absorbed_tokens=reply.absorbed_tokens,
        omitted_messages=reply.omitted_messages,
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
            return [message.as_message() for message in self.messages]
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


class JobBody(BaseModel):
    """An absorb: its state and progress, and its receipt or error once it has ended."""

    id: str
    object: Literal["job"] = "job"
    kind: JobKind
    memory: str
    state: JobState
    created: float
    resumed: bool
    progress: ProgressBody | None
    report: AbsorbBody | None
    error: ErrorDetail | None

    @classmethod
    def of(cls, entry: JobEntry) -> JobBody:
        """Make it from an entry of the registry."""
        # the state first: a job that ends in between is then shown as running, never as one that
        # has ended without a report
        job, state = entry.job, entry.state
        progress = job.progress
        return cls(
            id=entry.record.id,
            kind=entry.record.kind,
            memory=entry.record.memory,
            state=state,
            created=entry.record.created,
            resumed=entry.resumed,
            progress=None if progress is None else ProgressBody(**asdict(progress)),
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
