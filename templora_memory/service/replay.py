"""Replay: earlier text that a memory learns again beside the new.

Drawn from everything that the revision before has learned, with a seed: a sample of the journal,
which holds all of it, in place of a reservoir that would have to be kept. Half of the pieces are
drawn evenly by length; for the others first a source is drawn, so that a bio of ten lines is not
lost behind a book. Pinned texts come first, in turn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from templora_memory.domain.journal import Journal
from templora_memory.domain.manifest import Revision
from templora_memory.domain.messages import Document, Item

_MESSAGE = 160  # characters of a message, roughly
_MESSAGES = 16  # of a conversation at once


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplaySample:
    """The size of a sample of earlier text.

    Args:
        count: pieces.
        size: characters of a piece, about.
        seed: the same draw again for the same seed.
    """

    count: int
    size: int
    seed: int


def sample_earlier(
    journal: Journal, known: Revision, sample: ReplaySample
) -> tuple[tuple[Item, ...], ...]:
    """Pieces of what a revision has learned; none if it has learned nothing.

    Up to half of them, and at least one, are pinned texts, if any are learned.
    """
    journalled = set(journal.documents)  # a memory that started from another one has not its text
    documents = [digest for digest in known.documents if digest in journalled]
    lengths = [*map(journal.characters, documents), known.messages * _MESSAGE]
    if not sum(lengths):
        return ()
    starts = [journal.document_before(digest) is None for digest in documents]
    sources = _sources(starts, talk=known.messages > 0)
    rng = Random(sample.seed)  # noqa: S311  # a sample, not a secret
    pieces = _pinned(journal, known, sample, rng)
    for _ in range(sample.count - len(pieces)):
        indexes = rng.choice((range(len(lengths)), rng.choice(sources)))
        (index,) = rng.choices(indexes, [lengths[i] for i in indexes])
        if index == len(documents):
            pieces.append(_talk(journal, known, rng))
        else:
            pieces.append((_part(journal.document(documents[index]), sample.size, rng),))
    return tuple(pieces)


def _pinned(
    journal: Journal, known: Revision, sample: ReplaySample, rng: Random
) -> list[tuple[Item, ...]]:
    """Return pieces of pinned texts: half of the sample, from a random one on."""
    if not journal.pinned:
        return []
    learned = {*known.documents, *journal.path(known.dialogue)}
    pinned = [digest for digest in journal.pinned if digest in learned]
    if not pinned:
        return []
    first = rng.randrange(len(pinned))
    pieces: list[tuple[Item, ...]] = []
    for digest in (*pinned[first:], *pinned[:first])[: (sample.count + 1) // 2]:
        item = journal.entry(digest).item
        if isinstance(item, Document):
            pieces.append((_part(item, sample.size, rng),))
        else:  # with what it answers
            pieces.append(journal.messages(digest, limit=2))
    return pieces


def _sources(alone: Sequence[bool], *, talk: bool) -> list[range]:
    """Places of what belongs together: a document and all that continue it; the conversation.

    `alone`: of each document whether it continues none.
    """
    starts = [at for at, begins in enumerate(alone) if at == 0 or begins]
    ends = [*starts[1:], len(alone)] if starts else []
    sources = [range(start, end) for start, end in zip(starts, ends, strict=True)]
    return [*sources, range(len(alone), len(alone) + 1)] if talk else sources


def _part(document: Document, size: int, rng: Random) -> Document:
    """Return a document, or a part of a long one that begins at a word."""
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
    return journal.messages(journal.beginning(known.dialogue, end), limit=_MESSAGES)
