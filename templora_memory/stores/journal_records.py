"""Which lines a journal lacks: what every store appends, however it appends it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

from templora_memory.domain.journal import Journal, document_line, message_line
from templora_memory.domain.messages import Document, Message, chain
from templora_memory.errors import StoreDamaged

Line: TypeAlias = dict[str, Any]


def dialogue_lines(
    journal: Journal, dialogue: Sequence[Message], after: str | None, memory_id: str
) -> tuple[list[Line], str]:
    """What to append for a dialogue, and the digest it ends in.

    Raises:
        StoreDamaged: there is no conversation `after`.
    """
    if after is not None and not journal.knows(after):
        raise StoreDamaged(f"The journal of {memory_id!r} has no conversation {after[:12]}.")
    digests = chain(after or journal.first, dialogue)
    known = len(dialogue) - journal.missing(digests)
    lines = [
        message_line(parent, message)
        for parent, message in zip(digests[known:], dialogue[known:], strict=False)
    ]
    if not lines and journal.tip != digests[-1]:
        lines = [{"kind": "tip", "digest": digests[-1]}]
    return lines, digests[-1]


def document_lines(
    journal: Journal, documents: Sequence[Document], after: str | None
) -> tuple[list[Line], tuple[str, ...]]:
    """What to append for documents, and the digests of all of them."""
    lines: dict[str, Line] = {}
    newest = after or next(reversed(journal.documents), journal.first)
    for document in documents:
        line = document_line(newest if document.continues else journal.first, document)
        newest = str(line["digest"])
        lines[newest] = line
    known = set(journal.documents)
    return [line for digest, line in lines.items() if digest not in known], tuple(lines)


def withdraw_lines(journal: Journal, digests: Sequence[str]) -> list[Line]:
    """What to append so that documents are not learned again."""
    kept = journal.documents
    return [{"kind": "withdraw", "digest": digest} for digest in digests if digest in kept]
