"""Recording: text is checked, admitted and journalled before anything of it is learned."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import TypeAlias

from templora_memory.domain.ids import MemoryId
from templora_memory.domain.journal import Journal
from templora_memory.domain.manifest import Manifest
from templora_memory.domain.messages import (
    Document,
    Message,
    MessageLike,
    as_message,
    dialogue,
    passages,
)
from templora_memory.domain.results import AbsorbReport
from templora_memory.errors import InvalidSetting, InvalidText
from templora_memory.ports import Backend, Store
from templora_memory.service.catalog import Catalog
from templora_memory.service.jobs import Job
from templora_memory.service.learning import Absorber

AbsorbInput: TypeAlias = str | Document | Iterable[Document] | Iterable[MessageLike]
"""What `absorb` takes: a text, a document, several documents, or messages."""
Work: TypeAlias = Callable[[Job], AbsorbReport]


class Recorder:
    """Journals the text of an absorb, and returns the learning that is left to do.

    Args:
        backend: says which base model a memory must be of.
        store: keeps the journal.
        catalog: makes the memory and asks for admission.
        absorber: what the work is done by.
    """

    def __init__(
        self, backend: Backend, store: Store, catalog: Catalog, absorber: Absorber
    ) -> None:
        self._backend = backend
        self._store = store
        self._catalog = catalog
        self._absorber = absorber

    def record(
        self, name: MemoryId, text: AbsorbInput, *, after: int | None, exact: bool, create: bool
    ) -> tuple[str, Work]:
        """Journal a text; returns the memory's id and the work of a job that learns it.

        Arguments and errors as for `Memory.absorb`.
        """
        documents, messages = _items(text)
        if documents and after is not None:
            raise InvalidSetting("after is for messages; documents have no place in a dialogue.")
        self._catalog.check_admitted(name, documents or messages, after=after)
        manifest = self._catalog.ensure(name, create=create)
        manifest.check_base(self._backend.identity)
        if documents:
            digests = self._store.record_documents(
                manifest.id, documents, after=self._predecessor(manifest, documents[0])
            )
            journal = self._store.journal(manifest.id)
            new = [digest for digest in digests if not journal.is_recall_only(digest)]
            return manifest.id, partial(self._absorber.documents, new)
        journal = self._store.journal(manifest.id)
        known = None if after is None else journal.beginning(journal.tip, after)
        target = manifest.digest_after(known or journal.first, messages)
        if known is None or not _is_beginning(journal, target):
            self._store.record(manifest.id, messages, after=known)
        return manifest.id, partial(self._absorber.dialogue, target, resent=not exact)

    def _predecessor(self, manifest: Manifest, first: Document) -> str | None:
        """Return what a continuing document follows if it is the newest one, sent once more.

        Only one that is not learned yet, so that trying again after a failure does not journal
        the text twice; None: it follows the newest document.
        """
        journal = self._store.journal(manifest.id)
        newest = journal.newest_document
        if not first.continues or newest is None:
            return None
        if manifest.newest and newest in manifest.newest.documents:
            return None
        if journal.document(newest) != first:
            return None
        return journal.document_before(newest) or manifest.first


def _items(text: AbsorbInput) -> tuple[tuple[Document, ...], tuple[Message, ...]]:
    """Return the documents of a text in passages, or its messages; one of the two is empty.

    Raises:
        InvalidText: nothing to absorb, or documents and messages in one list.
    """
    if isinstance(text, str):
        text = Document(text)
    if isinstance(text, Document):
        return passages(text), ()
    if isinstance(text, (Message, dict)):
        raise InvalidText("absorb takes a list of messages: [message].")
    items = tuple(text)
    if not items:
        raise InvalidText("There is nothing to absorb: the list is empty.")
    documents = [item for item in items if isinstance(item, Document)]
    if not documents:
        messages = dialogue(as_message(item) for item in items if not isinstance(item, Document))
        if not messages:
            raise InvalidText("There is nothing to absorb: only system messages were given.")
        return (), messages
    if len(documents) != len(items):
        raise InvalidText("Absorb documents and messages in two calls, not in one list.")
    return tuple(piece for document in documents for piece in passages(document)), ()


def _is_beginning(journal: Journal, digest: str) -> bool:
    """Return whether this dialogue is a beginning of the newest conversation, or all of it."""
    return journal.nearest(journal.tip, {digest}) == digest
