"""Which earlier text a memory learns again beside the new.

Drawn evenly from everything that the revision before has learned, by length, with a seed: a sample
of the journal, which holds all of it, in place of a reservoir that would have to be kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from templora_memory._journal import Journal
from templora_memory._manifest import Revision
from templora_memory._messages import Document, Item

_MESSAGE = 160  # characters of a message, roughly
_MESSAGES = 16  # of a conversation at once


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """How much to draw.

    Args:
        count: pieces.
        size: characters of a piece, about.
        seed: the same draw again for the same seed.
    """

    count: int
    size: int
    seed: int


def earlier(journal: Journal, known: Revision, draw: Draw) -> tuple[tuple[Item, ...], ...]:
    """Pieces of what a revision has learned; none if it has learned nothing."""
    kept = set(journal.documents)  # a memory that started from another one has not its text
    documents = [journal.document(digest) for digest in known.documents if digest in kept]
    lengths = [len(document.text) for document in documents]
    lengths.append(known.messages * _MESSAGE)
    if not sum(lengths):
        return ()
    rng = Random(draw.seed)  # noqa: S311  # a sample, not a secret
    picked = rng.choices(range(len(lengths)), lengths, k=draw.count)
    return tuple(
        (_part(documents[index], draw.size, rng),)
        if index < len(documents)
        else _talk(journal, known, rng)
        for index in picked
    )


def _part(document: Document, size: int, rng: Random) -> Document:
    """A document, or a part of a long one that begins at a word."""
    text = document.text
    if len(text) <= size:
        return document
    begin = rng.randrange(len(text) - size + 1)
    if begin:
        gap = text.find(" ", begin, begin + size // 2)
        begin = gap + 1 if gap >= 0 else begin
    part = text[begin : begin + size]
    return Document(part, document.title, continues=True) if part.strip() else document


def _talk(journal: Journal, known: Revision, rng: Random) -> tuple[Item, ...]:
    """Some messages of the conversation, in order."""
    end = rng.randint(min(_MESSAGES, known.messages), known.messages)
    return journal.messages(journal.beginning(known.dialogue, end), most=_MESSAGES)
