"""Results: the values that the verbs return. Frozen, with numbers, never with weights."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

from templora_memory.domain.manifest import Revision
from templora_memory.domain.messages import Document, Message

FinishReason: TypeAlias = Literal["stop", "length", "cancelled"]
TextState: TypeAlias = Literal["learned", "waiting", "recall", "superseded"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """A piece of what a memory was told.

    Args:
        text: as it was told; of a conversation one turn, each message after its name or role.
        score: BM25, with factors for speaker and time, higher is better; comparable within one
            search only. 0: found by speaker and time alone, or pinned.
        source: digest of the document, or of the last message of the turn.
    """

    text: str
    score: float
    source: str


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token and its natural-log probability.

    Args:
        token: its text; U+FFFD stands for a part of a character.
        logprob: of the model with the memory, before temperature, penalties and the like.
        top_logprobs: the likeliest tokens at its place, the likeliest first, if asked for.
    """

    token: str
    logprob: float
    top_logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """An answer.

    Args:
        text: the answer; ends before a stop text.
        finish_reason: "stop" (end token or stop text), "length", or "cancelled".
        prompt_tokens: tokens that the model was shown.
        completion_tokens: tokens it produced, the end token included.
        absorbed_tokens: tokens of this memory that live in weights instead.
        revision: name of the revision that answered; None: the base model.
        recalled: passages of what the memory was told that stood in the prompt, best first.
        coverage: how much of what the newest message asks about was found in one place of what the
            memory was told or the prompt says, from 0 to 1, rare words counting more; of a speaker
            who is asked for, in what that one said, less what others said beyond it. None: nothing
            was looked for, or the message has no words that say what it is about.
        strength: factor on the memory that it was answered with.
        omitted_messages: messages of the conversation, as the memory holds it, that come before
            the first one of the history: what a client with a full window left out.
        logprobs: of its tokens, those of a stop text included; empty unless `Sampling.logprobs`
            asks for them.
    """

    text: str
    finish_reason: FinishReason
    prompt_tokens: int
    completion_tokens: int
    absorbed_tokens: int
    revision: str | None
    recalled: tuple[Passage, ...] = ()
    coverage: float | None = None
    strength: float = 1.0
    omitted_messages: int = 0
    logprobs: tuple[TokenLogprob, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkStats:
    """The figures of one chunk: tokens learned, its loss before and after its own training.

    `nll_after` and `recalled` are None where the chunk was not measured. `recalled` counts tokens
    with a probability over one half, which greedy decoding repeats verbatim (arXiv 2605.30260).
    """

    tokens: int
    nll_before: float
    nll_after: float | None
    recalled: int | None
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnStats:
    """The report of a learner about one call.

    Args:
        chunks: in order.
        kl: how much the new adapter changes text that has nothing to do with it: mean
            KL(base || adapter) on neutral text, in nats per token; None where measuring was off.
    """

    chunks: tuple[ChunkStats, ...]
    kl: float | None = None

    @property
    def tokens(self) -> int:
        """Tokens of all chunks."""
        return sum(chunk.tokens for chunk in self.chunks)


@dataclass(frozen=True, slots=True, kw_only=True)
class AbsorbReport:
    """Receipt of an absorb.

    Args:
        revision: name of the newest revision; None if the memory has none.
        tokens: tokens trained in now; 0 if everything was known already.
        chunks: updates made.
        perplexity_before: of the text, each chunk measured just before it was learned, with the
            memory as it was then; None if nothing was learned.
        perplexity_after: of the same chunks right after their own update. Of a long text one chunk
            in `Learning.measure_every` is measured; the others count with their mean gain.
        recalled: share of the measured tokens that greedy decoding now repeats verbatim (p > 0.5).
        kl: how much the memory now changes text that has nothing to do with it: mean
            KL(base || memory) on neutral text, in nats per token.
        seconds: time from start to commit.
        bytes: size of the new revision on disk.
    """

    revision: str | None
    tokens: int
    chunks: int
    perplexity_before: float | None
    perplexity_after: float | None
    recalled: float | None
    kl: float | None
    seconds: float
    bytes: int

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class AbsorbProgress:
    """The progress of an absorb.

    `chunk` counts from 1 to `chunks`; chunks that are learned in several rounds (short documents)
    count once a round. `tokens` are distinct ones. `perplexity` is that of the chunk just learned.
    """

    chunk: int
    chunks: int
    tokens: int
    perplexity: float


PhaseName: TypeAlias = Literal["queued", "tokenising", "writing", "learning", "committing", "ended"]


@dataclass(frozen=True, slots=True, kw_only=True)
class JobPhase:
    """What an absorb is doing. A long text goes through all but the first again and again.

    Args:
        name: "queued" behind others; "tokenising" what it learns; "writing" questions or the like
            about it, where the recipe does so; "learning"; "committing" a revision; "ended".
        step: how much of the phase is done, where that is known: texts written, chunks learned.
        steps: how much there is, at most; 0: not known (yet).
    """

    name: PhaseName
    step: int = 0
    steps: int = 0

    def __str__(self) -> str:
        return f"{self.name} {self.step} of at most {self.steps}" if self.steps else self.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """Natural-log probability of an answer with and without the memory.

    Args:
        with_memory, without_memory: sum over the tokens of the answer.
        tokens: how many there are.
        recalled: share of them with p > 0.5 with the memory.
        revision: the revision asked; None if the memory has none (both sums are then equal).
    """

    with_memory: float
    without_memory: float
    tokens: int
    recalled: float
    revision: str | None

    @property
    def gain(self) -> float:
        """Nats per token by which the memory makes the answer more likely."""
        return (self.with_memory - self.without_memory) / self.tokens

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return {**asdict(self), "gain": self.gain}


@dataclass(frozen=True, slots=True, kw_only=True)
class Covered:
    """The part of a history that lives in weights: its first `messages` messages, in `revision`.

    `messages` counts positions in the list that was given, so `history[covered.messages:]` is
    what the prompt still needs (besides system messages).
    """

    messages: int
    revision: Revision | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RemovedFile:
    """A file that is gone: path relative to the store's root (if it lay there), and its size."""

    path: str
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ForgetReceipt:
    """The files that a forget removed, and the copies that it could not reach.

    Args:
        ids: memories that are gone.
        files: every file that was removed.
        forks: memories that are left and were copied from these, or began from them: they still
            know what these knew until they are forgotten, too.
        exports: files that a memory was exported to and that are still there. One that was moved
            or copied since, sent over HTTP or kept by a backup is not known.
        remote: adapters that the backend gave to a server, which was told to forget them and may
            hold them in its memory until it needs the place: its address and their name there.
    """

    ids: tuple[str, ...]
    files: tuple[RemovedFile, ...]
    forks: tuple[str, ...] = ()
    exports: tuple[str, ...] = ()
    remote: tuple[str, ...] = ()

    @property
    def bytes(self) -> int:
        """Size of all removed files."""
        return sum(file.bytes for file in self.files)

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return {**asdict(self), "bytes": self.bytes}


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """A memory at a glance.

    Args:
        id: its id.
        head_name: name of the newest revision; None: nothing is learned yet.
        revisions: how many are on disk.
        message_count: messages of the conversation in the journal (its newest branch).
        absorbed_messages: messages that the head has learned.
        document_count: documents in the journal.
        absorbed_documents: documents that the head has learned.
        absorbed_tokens: tokens trained into the head.
        bytes: size of everything on disk.
        jobs: absorbs waiting or running in this process.
        last_error: text of the newest failed background absorb in this process, if any.
        base: name of the base model it was learned on.
        origin: memory it started from, if any.
    """

    id: str
    head_name: str | None
    revisions: int
    message_count: int
    absorbed_messages: int
    document_count: int
    absorbed_documents: int
    absorbed_tokens: int
    bytes: int
    jobs: int
    last_error: str | None
    base: str
    origin: str | None

    def as_dict(self) -> dict[str, Any]:
        """Return plain values under the names of the JSON output: head, messages, documents."""
        short = {"head_name": "head", "message_count": "messages", "document_count": "documents"}
        return {short.get(name, name): value for name, value in asdict(self).items()}


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Transcript:
    """The text of a memory as the journal holds it: documents, and the newest conversation."""

    documents: tuple[Document, ...]
    messages: tuple[Message, ...]

    def __repr__(self) -> str:
        return f"Transcript({len(self.documents)} documents, {len(self.messages)} messages)"


# --- texts one by one --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class StoredText:
    """One text that a memory was told: a message, or a document (a long one comes in parts).

    Args:
        id: names it as long as it is there, also when other texts are removed or it is corrected.
        text: as it was told.
        kind: "message" or "document".
        speaker: of a message its name, or else its role; of a document its author, if it has one.
        role: of a message.
        title: of a document.
        continues: a document that goes on from the one before it.
        time: when it was told, in seconds since 1970; None: by a version that took no note of it.
        state: "learned", by the newest revision; "waiting", to be learned; "recall", a document
            that is never learned; "superseded", no longer in force: left behind by an edit of the
            conversation, or withdrawn by a rollback.
        pinned: always among what is replayed and recalled.
    """

    id: str
    text: str
    kind: Literal["message", "document"]
    speaker: str | None
    role: str | None
    title: str | None
    continues: bool
    time: float | None
    state: TextState
    pinned: bool

    def __repr__(self) -> str:
        return f"StoredText({self.id[:16]!r}, {self.kind}, {len(self.text)} characters)"

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class TextPage:
    """Some of the texts of a memory; iterate for them.

    Args:
        texts: this page.
        offset: how many come before them.
        total: how many there are in all.
    """

    texts: tuple[StoredText, ...]
    offset: int
    total: int

    def __iter__(self) -> Iterator[StoredText]:
        return iter(self.texts)

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def next_offset(self) -> int | None:
        """Offset of the next page; None: this is the last one."""
        end = self.offset + len(self.texts)
        return end if self.texts and end < self.total else None


@dataclass(frozen=True, slots=True, kw_only=True)
class RecallChange:
    """How likely an answer was before texts were removed, how likely it is now, and for the base.

    Args:
        id: the removed text that was measured (its beginning); None: an answer that was asked for.
        before, after, base: natural-log probability of the answer, the sum over its tokens: with
            the memory as it was, as it is now, and with the base model alone.
        tokens: how many there are.
    """

    id: str | None
    before: float
    after: float
    base: float
    tokens: int

    @property
    def over_base(self) -> float:
        """Probability of a token now over that of the base model, the geometric mean."""
        return math.exp(max(-700.0, min(700.0, (self.after - self.base) / self.tokens)))

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return {**asdict(self), "over_base": self.over_base}


@dataclass(frozen=True, slots=True, kw_only=True)
class RemovalReceipt:
    """The receipt of a remove or a correct.

    Args:
        ids: texts that were removed, or are corrected.
        files: files that are gone.
        revisions: names of the revisions that had learned any of it, or what followed it; they are
            gone.
        start: the revision that learning began from again; None: from nothing, or what the memory
            began with.
        relearned: receipt of learning the rest again; of 0 tokens where nothing had to be.
        changes: how likely the removed texts, and the answers that were asked for, were before
            and are now. Texts of a single token, and too long ones, are not measured.
        forks: memories that are left and were copied from this one, or began from it, and may
            know what was removed: remove it there, or `rebuild` those that began from this one.
        exports: files that the memory was exported to and that are still there.
        remote: adapters that a server which was told to forget them may hold for a while.
    """

    ids: tuple[str, ...]
    files: tuple[RemovedFile, ...]
    revisions: tuple[str, ...]
    start: str | None
    relearned: AbsorbReport
    changes: tuple[RecallChange, ...]
    forks: tuple[str, ...] = ()
    exports: tuple[str, ...] = ()
    remote: tuple[str, ...] = ()

    @property
    def bytes(self) -> int:
        """Size of all files that are gone."""
        return sum(file.bytes for file in self.files)

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        changes = [change.as_dict() for change in self.changes]
        return {**asdict(self), "changes": changes, "bytes": self.bytes}
