"""Records that a journal lacks: what every store appends, however it appends it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

from templora_memory.domain.journal import (
    Journal,
    document_line,
    learned_line,
    message_line,
    name_list,
    pin_line,
    stamped,
)
from templora_memory.domain.manifest import Revision
from templora_memory.domain.messages import Document, Message, chain
from templora_memory.errors import StoreDamaged

MAX_OPEN_JOURNALS = 256
"""Journals whose index stays in RAM."""

JournalRecord: TypeAlias = dict[str, Any]
"""One line of a journal, as JSON."""


def dialogue_records(
    journal: Journal, dialogue: Sequence[Message], after: str | None, memory_id: str
) -> tuple[list[JournalRecord], str]:
    """Return the records to append for a dialogue, and the digest it ends in.

    Raises:
        StoreDamaged: there is no conversation `after`.
    """
    if after is not None and not journal.knows(after):
        raise StoreDamaged(f"The journal of {memory_id!r} has no conversation {after[:12]}.")
    digests = chain(after or journal.first, dialogue)
    known_count = len(dialogue) - journal.missing(digests)
    records = [
        stamped(message_line(parent, message))
        for parent, message in zip(digests[known_count:], dialogue[known_count:], strict=False)
    ]
    if not records and journal.tip != digests[-1]:
        # nothing new was said, and another conversation was the newest: only the tip moves
        records = [{"kind": "tip", "digest": digests[-1]}]
    return records, digests[-1]


def document_records(
    journal: Journal, documents: Sequence[Document], after: str | None
) -> tuple[list[JournalRecord], tuple[str, ...]]:
    """Return the records to append for documents, and the digests of all of them."""
    records: dict[str, JournalRecord] = {}
    newest = after or journal.newest_document or journal.first
    for document in documents:
        record = stamped(document_line(newest if document.continues else journal.first, document))
        newest = str(record["digest"])
        records[newest] = record
    new = [
        record
        for digest, record in records.items()
        if not journal.keeps(digest)
        or (journal.is_recall_only(digest) and not record.get("recall_only"))
    ]
    return new, tuple(records)


def learned_records(journal: Journal, revisions: Iterable[Revision]) -> list[JournalRecord]:
    """Return the records to append so that the journal has the document lists of revisions.

    They are written before the manifest that names the lists: a crash in between leaves a list
    that nothing names.
    """
    records: dict[str, JournalRecord] = {}
    for revision in revisions:
        parent, rest = journal.split_list(revision.documents)
        name = name_list(parent, rest)
        if not journal.has_list(name):
            records[name] = learned_line(parent, rest, name)
    return list(records.values())


def withdraw_records(journal: Journal, digests: Sequence[str]) -> list[JournalRecord]:
    """Return the records to append so that documents are not learned again."""
    return [{"kind": "withdraw", "digest": digest} for digest in digests if journal.keeps(digest)]


def pin_records(journal: Journal, digests: Sequence[str], *, pinned: bool) -> list[JournalRecord]:
    """Return the records to append so that texts are pinned, or are not any more.

    Raises:
        StoreDamaged: the journal has no such text.
    """
    for digest in digests:
        if not journal.holds(digest):
            raise StoreDamaged(f"The journal has no text {digest[:12]}.")
    return [
        pin_line(digest, pinned=pinned)
        for digest in dict.fromkeys(digests)
        if journal.is_pinned(digest) != pinned
    ]
