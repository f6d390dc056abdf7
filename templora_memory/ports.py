"""Ports: the interfaces that a backend and a store implement, and the values that cross them.

The contracts stand in the docstrings; `templora_memory.testing.contracts` has a test class for
each port. No tensor crosses a port, only frozen values, text and folders. So a backend may live in
another process or on another machine, and a fake is a page of code.

Everything that an implementation needs can be imported from here. Recipes do know tensors: their
types are in `templora_memory.backends.local.recipes`.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, TypeVar

from templora_memory.domain.journal import Journal
from templora_memory.domain.manifest import Manifest, ModelIdentity, Revision
from templora_memory.domain.messages import Document, Item, Message
from templora_memory.domain.results import (
    AbsorbProgress,
    ChunkStats,
    FinishReason,
    JobPhase,
    LearnStats,
    RemovedFile,
    TokenLogprob,
)
from templora_memory.domain.settings import ModelLimits, ResolvedLearning, Sampling
from templora_memory.errors import Conflict, UnknownMemory

__all__ = [
    "AbsorbProgress",
    "Adapter",
    "Backend",
    "ChunkStats",
    "Completion",
    "Document",
    "FinishReason",
    "GenerateRequest",
    "Generator",
    "Item",
    "JobPhase",
    "Journal",
    "LearnRequest",
    "LearnStats",
    "Learner",
    "LearningControl",
    "Manifest",
    "Message",
    "ModelIdentity",
    "ModelLimits",
    "RemovedFile",
    "ResolvedLearning",
    "Revision",
    "Sampling",
    "ScoreRequest",
    "Scorer",
    "Store",
    "TextSession",
    "TokenLogprob",
    "TokenStream",
    "retry_on_conflict",
]

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """A committed adapter: its folder, and a version that no other content will ever have.

    Everything cached about an adapter is keyed by its version. Versions of one memory share the
    beginning ``<id>/``.
    """

    folder: Path
    version: str


# --- learning ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnRequest:
    """A request to learn: the text, the adapter to start from, the settings.

    Args:
        items: what is trained on, in order: messages of one dialogue, or documents.
        before: what stood directly before `items`; seen as context, not trained on.
        start: adapter to go on from; None: a fresh one.
        chunk: tokens per update.
        recipe: name of the recipe.
        min_steps: optimizer steps to take in all, also if that means more than
            `settings.steps_per_chunk` passes.
        replay: earlier text to learn again among the new: each a document, a part of one (then it
            `continues`) or some messages of a conversation; about a chunk of each is used.
        settings: rank, rate and so on, every number known.
    """

    items: tuple[Item, ...]
    before: tuple[Item, ...]
    start: Adapter | None
    chunk: int
    recipe: str
    settings: ResolvedLearning
    min_steps: int = 0
    replay: tuple[tuple[Item, ...], ...] = ()


def _ignore(_: AbsorbProgress) -> None:
    """Take no notice of progress."""


def _ignore_phase(_: JobPhase) -> None:
    """Take no notice of a phase."""


def _never() -> bool:
    """Return False."""
    return False


@dataclass(frozen=True, slots=True, kw_only=True)
class LearningControl:
    """The functions by which a caller follows and stops one `learn` that is under way.

    All of them may be called from another thread. ``LearningControl()`` follows nothing and never
    stops it.

    Args:
        progress: called after each chunk.
        phase: called when the learner begins another kind of work, and as far as that goes;
            `progress` stands for "learning" once a chunk is learned.
        cancelled: asked at least once between optimizer steps; True ends the learning.
        urgent: True while somebody waits for an answer that needs this, which may begin at any
            time: such learning should go before other learning.
        owner: whose learning it is. Owners take turns, so that one with much to learn does not
            hold up another.
    """

    progress: Callable[[AbsorbProgress], None] = _ignore
    phase: Callable[[JobPhase], None] = _ignore_phase
    cancelled: Callable[[], bool] = _never
    urgent: Callable[[], bool] = _never
    owner: str = ""


class Learner(Protocol):
    """Turns text and an adapter into a new adapter."""

    def learn(
        self,
        request: LearnRequest,
        *,
        into: Path,
        control: LearningControl,
    ) -> LearnStats:
        """Train and write the new adapter into the existing, empty folder `into`.

        Writes only safetensors and JSON. Never changes `request.start` or the base model. The
        same request gives the same bytes on the same machine (dropout 0).

        Raises:
            Cancelled: `control.cancelled()` became true; `into` may hold anything.
            LearningFailed: NaN or infinite loss, or the items hold nothing to train on.
            UnknownRevision: the folder of `start` is gone.
        """
        ...


# --- generating --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateRequest:
    """A prompt of messages, the adapter to answer with, and how to choose tokens.

    `adapter` None or `strength` 0 is exactly the base model. The answer begins with `prefill`,
    which is no part of the completion.
    """

    messages: tuple[Message, ...]
    adapter: Adapter | None
    strength: float
    sampling: Sampling
    max_tokens: int
    prefill: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """The text of a generation, how it ended, and its tokens where `Sampling.logprobs` asks."""

    text: str
    finish_reason: FinishReason
    prompt_tokens: int
    completion_tokens: int
    logprobs: tuple[TokenLogprob, ...] = ()


class TokenStream(Protocol):
    """A generation under way: iterate for text, then ask for `completion`."""

    def __iter__(self) -> Iterator[str]:
        """Pieces of text as they come; joined they are `completion.text`.

        Raises whatever went wrong in the backend, here and nowhere else.
        """
        ...

    @property
    def completion(self) -> Completion:
        """The result; waits for the rest if it was not iterated to the end."""
        ...

    @property
    def logprobs(self) -> Sequence[TokenLogprob]:
        """Those of the tokens that the pieces given out so far are made of."""
        ...

    def close(self) -> None:
        """Stop generating; safe to call twice, from any thread, and after the end."""
        ...


class TextSession(Protocol):
    """Text of unlimited length: the backend keeps the newest window of it."""

    def generate(
        self,
        *,
        adapter: Adapter | None,
        strength: float,
        sampling: Sampling,
        max_tokens: int,
        reuse: bool,
    ) -> TokenStream:
        """Go on with the text by at most `max_tokens` tokens.

        With `reuse`, keys and values computed under older adapters stay until the window is full
        and only then are computed again (the paper's cache reuse); otherwise each call computes
        them again with the adapter given.
        """
        ...

    def close(self) -> None:
        """Give back what the text occupies; safe to call twice."""
        ...


class Generator(Protocol):
    """Answers with an adapter chosen per request; requests may run in one batch."""

    def stream(self, request: GenerateRequest) -> TokenStream:
        """Start answering. Two streams never influence each other.

        Raises:
            InvalidText: the model's chat template refuses these messages.
            UnknownRevision: the adapter's folder is gone.
        """
        ...

    def open_text(self, prompt: str, *, window: int) -> TextSession:
        """Start a text of unlimited length with a prompt (it may be empty)."""
        ...

    def count(self, messages: Sequence[Message]) -> int:
        """Exact tokens of the prompt that `stream` would make of these messages."""
        ...

    def split(self, text: str, tokens: int) -> tuple[str, ...]:
        """Cut text into pieces of `tokens` tokens each (the last may be shorter).

        The pieces, joined, are the text.
        """
        ...


# --- scoring -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreRequest:
    """A request for the log-probabilities of `target` after `context`.

    A context of messages makes the target an assistant's answer in the chat format; a context
    that is a string is plain text that the target continues.
    """

    context: tuple[Message, ...] | str
    target: str
    adapter: Adapter | None
    strength: float = 1.0


class Scorer(Protocol):
    """Measures: what probes, receipts and benchmarks stand on."""

    def score(self, requests: Sequence[ScoreRequest]) -> tuple[tuple[float, ...], ...]:
        """Natural-log probability of each token of each target.

        The first token of a text without context has no prediction and is left out.

        Raises:
            PromptTooLong: context and target exceed the model's length.
            InvalidText: an empty target.
        """
        ...


class Backend(Learner, Generator, Scorer, Protocol):
    """A base model that learns, answers and measures. Construction is free; `open` loads."""

    def open(self) -> None:
        """Load. Calling it again does nothing.

        Raises:
            ModelNotFound, UnsupportedModel: with what to do.
        """
        ...

    def close(self) -> None:
        """Stop work and give the memory back; open streams end with `Closed`."""
        ...

    @property
    def identity(self) -> ModelIdentity:
        """The base model's name and hashes."""
        ...

    @property
    def limits(self) -> ModelLimits:
        """The model's length, its width, the recipes that the backend knows."""
        ...

    def release(self, prefix: str) -> tuple[str, ...]:
        """Drop everything cached under versions that begin with `prefix`.

        Returns copies that other programs were given and may hold for a while, each by its place
        and name: a receipt tells of them.
        """
        ...


# --- storing -----------------------------------------------------------------------------------


class Store(Protocol):
    """Keeps text and revisions.

    Atomic: every method happens wholly or not at all, also when the process is killed; what was
    journalled or committed before stays. Several processes may use one store; the one that comes
    second with an outdated manifest gets `Conflict`.

    Raises (any method): StoreDamaged, StoreWriteFailed; UnknownMemory where an id must exist.
    """

    def open(self) -> None:
        """Make the place ready. What killed processes left behind is cleared now or at first use.

        Costs about the same however many memories there are: none of them needs to be read.
        """
        ...

    def ids(self) -> tuple[str, ...]:
        """Ids of all memories, sorted."""
        ...

    def expiring(self) -> tuple[str, ...]:
        """Ids of the memories whose manifest has a `ttl`, sorted; asked whenever a store opens."""
        ...

    def manifest(self, memory_id: str) -> Manifest | None:
        """Return the newest manifest; None if there is no such memory. Never cached."""
        ...

    def create(
        self, manifest: Manifest, *, source: str | None = None, journal: bool = False
    ) -> None:
        """Make a memory from its first manifest.

        With `source`, the revisions named in the manifest are copied from that memory, and with
        `journal` its text too.

        Raises:
            Conflict: it exists already.
        """
        ...

    def journal(self, memory_id: str) -> Journal:
        """Its text; a view that reads on demand."""
        ...

    def record(
        self, memory_id: str, dialogue: Sequence[Message], *, after: str | None = None
    ) -> str:
        """Journal a dialogue durably and make it the newest; known parts cost nothing.

        `after` is the digest of a dialogue in the journal that these messages continue; None: they
        are a whole dialogue. Returns the digest of the dialogue that ends in the last message.
        """
        ...

    def record_documents(
        self, memory_id: str, documents: Sequence[Document], *, after: str | None = None
    ) -> tuple[str, ...]:
        """Journal documents durably and return their digests; known ones are not repeated.

        A document that continues is named after the one before it in the list; the first one after
        the document `after` (a digest), or after the newest in the journal.
        """
        ...

    def withdraw_documents(self, memory_id: str, digests: Sequence[str]) -> None:
        """Note that documents are not to be learned again. Their text stays until it is removed."""
        ...

    def pin(self, memory_id: str, digests: Sequence[str], *, pinned: bool) -> None:
        """Note durably that texts of the journal are pinned, or are not any more.

        Raises:
            StoreDamaged: the journal has no such text.
        """
        ...

    def stage(self, memory_id: str) -> AbstractContextManager[Path]:
        """Return an empty folder for a new revision; gone afterwards unless it was committed."""
        ...

    def commit(
        self, manifest: Manifest, revision: Revision, staged: Path, *, keep: int
    ) -> Manifest:
        """Move a staged folder into place as the new head of `manifest`; returns the new one.

        The `files` of the revision are filled in here. Retention keeps the newest `keep`
        revisions (`Manifest.with_revision`) and removes the others.

        Raises:
            Conflict: the stored epoch is not `manifest.epoch` any more.
            StoreError: a revision that is stored has this name.
        """
        ...

    def replace(self, manifest: Manifest, *, epoch: int) -> None:
        """Swap the manifest and drop folders of revisions it no longer names.

        Raises:
            Conflict: the stored epoch is not `epoch` any more.
        """
        ...

    def amend(
        self,
        manifest: Manifest,
        *,
        epoch: int,
        edits: Mapping[str, str | None],
        staged: Mapping[str, Path],
    ) -> tuple[Manifest, tuple[RemovedFile, ...]]:
        """Replace manifest and journal at once: texts are removed or corrected.

        The journal afterwards is that of `amendment.amend`, of all that is journalled by then.
        Once this returns nothing is left under the root of what was removed.

        Args:
            manifest: the new one, with the next of `Manifest.edits`. Its revisions are stored
                already, or are in `staged`; their `files` are then filled in here.
            epoch: what the stored manifest must be at.
            edits: new texts by digest; None: the text is removed.
            staged: folders of new revisions, by name (`stage`).

        Returns:
            The manifest as it is stored, and the files that are gone.

        Raises:
            Conflict: the stored epoch is not `epoch` any more; nothing was changed.
            StoreWriteFailed: either nothing was changed, or some files that should be gone are
                left; the next process that uses the memory removes them.
        """
        ...

    def folder(self, memory_id: str, revision: Revision) -> Path:
        """Return the folder of a revision, after checking that its files are what was committed.

        Raises:
            UnknownRevision: it was retired in between.
        """
        ...

    def size(self, memory_id: str) -> int:
        """Bytes of everything kept for a memory."""
        ...

    def last_used(self, memory_id: str) -> float:
        """Seconds since 1970 of the last change."""
        ...

    def delete(self, memory_id: str) -> tuple[RemovedFile, ...]:
        """Remove every file; once this returns nothing of the memory is under the root."""
        ...

    def export(self, memory_id: str, target: Path) -> None:
        """Write everything as one file; an existing file is replaced only when it is complete."""
        ...

    def import_(self, source: Path, memory_id: str | None) -> Manifest:
        """Make a memory from an exported file, which is treated as hostile until checked.

        `memory_id` None keeps the id it was exported under.

        Raises:
            StoreDamaged: not such a file, or damaged.
            Conflict: the id exists already.
        """
        ...


def retry_on_conflict(attempt: Callable[[], T], *, tries: int = 8, pause: float = 0.0) -> T:
    """Return what `attempt` returns, calling it again while another writer is faster.

    Each attempt must read what it compares with anew: what the last one read is out of date.

    Args:
        attempt: a read, a change and a compare-and-swap, which raises `Conflict` if it lost.
        tries: attempts in all.
        pause: seconds to wait at most after the first attempt, growing to eleven times as much.
            Random, so that two writers do not meet again and again.

    Raises:
        Conflict: the last attempt lost too.
    """
    for number in range(tries - 1):
        try:
            return attempt()
        except Conflict:
            if pause:
                time.sleep(random.uniform(0, pause * (1 + min(number, 10))))  # noqa: S311  # a pause
    return attempt()


def fence(store: Store, memory_id: str) -> int:
    """Take a memory over: nothing that another writer has read or staged can be committed.

    Raises the epoch by one and changes nothing else, so every commit that was planned before fails
    with `Conflict`, however late it comes. Text that the other writer journals is still kept: text
    never conflicts. Returns the new epoch.

    Raises:
        UnknownMemory: there is no such memory.
        Conflict: others change it all the time.
    """

    def raise_epoch() -> int:
        manifest = store.manifest(memory_id)
        if manifest is None:
            raise UnknownMemory(f"There is no memory {memory_id!r} to take over.")
        store.replace(replace(manifest, epoch=manifest.epoch + 1), epoch=manifest.epoch)
        return manifest.epoch + 1

    return retry_on_conflict(raise_epoch)
