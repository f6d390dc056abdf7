"""Taking texts out of a journal: the lines of the journal without them.

A text is named by a chain over all before it (`messages`). So what follows a text that is removed
or corrected gets another digest, and with it every revision that has learned it is of a history
that is no more. Pure values; replacing the journal is the store's business.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from templora_memory.domain.journal import (
    Journal,
    document_line,
    item_of,
    message_line,
    pin_line,
)
from templora_memory.domain.manifest import Revision
from templora_memory.domain.messages import Item, Message


@dataclass(frozen=True, slots=True, kw_only=True)
class Amendment:
    """A journal without some texts, or with other ones in their place.

    Args:
        records: its lines, in order.
        moved: of each text that was there its digest now. A message that was removed has that of
            the message before it, a document that was removed None.
    """

    records: tuple[dict[str, Any], ...]
    moved: Mapping[str, str | None]

    def dialogue(self, digest: str) -> str:
        """Return what a dialogue that ended in `digest` ends in now."""
        return self.moved.get(digest) or digest

    def documents(self, digests: Iterable[str]) -> tuple[str, ...]:
        """Return what is left of some documents, in order, each once.

        Documents that are not in the journal, because a memory began with them, stay as they are.
        """
        now = (self.moved.get(digest, digest) for digest in digests)
        return tuple(dict.fromkeys(digest for digest in now if digest is not None))

    def leaves(self, revision: Revision) -> bool:
        """Return whether a revision has learned nothing that was removed, corrected or moved."""
        return self.dialogue(revision.dialogue) == revision.dialogue and all(
            self.moved.get(digest, digest) == digest for digest in revision.documents
        )

    def journal(self, first: str) -> Journal:
        """Return the journal of these lines, in RAM."""
        journal = Journal(first, self.records.__getitem__)
        for position, record in enumerate(self.records):
            journal.add(record, position)
        return journal


def amend(journal: Journal, edits: Mapping[str, str | None]) -> Amendment:
    """Return a journal with some of its texts removed or corrected.

    Only texts and what holds of them now are written again: which conversation is the newest, what
    is withdrawn, what is pinned. Lists of learned documents are left to the store.

    Args:
        journal: what there is.
        edits: new texts by digest; None: the text is removed.
    """
    records: dict[str, dict[str, Any]] = {}  # by digest: two texts may have become one
    moved: dict[str, str | None] = {}
    behind: dict[str, str] = {}  # of each text the digest that what followed it follows now
    for body in journal.lines():
        digest = body["digest"]
        parent = behind.get(body["parent"], body["parent"])
        text = edits.get(digest)
        if text is None and digest in edits:
            behind[digest] = parent
            moved[digest] = parent if body["kind"] == "message" else None
            continue
        line = body if parent == body["parent"] and text is None else _line(body, parent, text)
        behind[digest] = moved[digest] = line["digest"]
        records.setdefault(line["digest"], line)
    pinned = [d for d in journal.pinned if d not in edits or edits[d] is not None]
    states = _states(journal, records, moved, pinned)
    return Amendment(records=(*records.values(), *states), moved=moved)


def _states(
    journal: Journal,
    records: Mapping[str, dict[str, Any]],
    moved: Mapping[str, str | None],
    pinned: Iterable[str],
) -> Iterator[dict[str, Any]]:
    """Yield the lines that say what holds of the texts that are left."""
    in_force = {moved[digest] for digest in journal.documents}
    for digest in dict.fromkeys(moved[digest] for digest in journal.withdrawn):
        if digest is not None and digest not in in_force:
            yield {"kind": "withdraw", "digest": digest}
    for digest in dict.fromkeys(moved[digest] for digest in pinned):
        if digest is not None:
            yield pin_line(digest, pinned=True)
    tip = moved.get(journal.tip, journal.tip) or journal.first
    last = [digest for digest, line in records.items() if line["kind"] == "message"][-1:]
    if tip != (last[0] if last else journal.first):
        yield {"kind": "tip", "digest": tip}


def _line(body: dict[str, Any], parent: str, text: str | None) -> dict[str, Any]:
    """Return the line of a text behind another parent, with another text if one is given."""
    item = item_of(body) if text is None else with_text(item_of(body), text)
    beside = {key: body[key] for key in ("id", "time") if key in body}
    if isinstance(item, Message):
        return message_line(parent, item) | beside
    return document_line(parent, item) | beside


def with_text(item: Item, text: str) -> Item:
    """Return a message or document that says something else.

    Raises:
        InvalidText: it is nothing that can be told.
    """
    if isinstance(item, Message):
        return replace(item, content=text)
    return replace(item, text=text)
