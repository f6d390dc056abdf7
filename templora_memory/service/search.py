"""Full-text search over what a memory was told, for what must be exact.

One index a memory, in this process's RAM, built from the journal as far as it is asked about;
SQLite's FTS5 ranks by BM25. It holds nothing that the journal does not hold, and goes with the
memory.

Words are found by their stem, in the language of the text; scripts that put no spaces between words
by two signs that stand side by side. However a text is coded in Unicode, it is found. The rules of
languages are loaded by the first search: most commands that look at a memory do not need them.
"""

from __future__ import annotations

import sqlite3
import threading
from collections import Counter
from collections.abc import Collection, Sequence
from contextlib import closing
from itertools import pairwise

from templora_memory.domain.journal import Journal
from templora_memory.domain.lru import LruCache
from templora_memory.domain.manifest import Manifest
from templora_memory.domain.messages import Document, Message, passages
from templora_memory.domain.results import Passage
from templora_memory.domain.turns import turn_starts
from templora_memory.ports import Store

SIZE = 200  # characters of a passage of a document: two or three sentences
UNSPACED_SIZE = 80  # of a passage in signs that are a syllable or a word each
_MAX_HITS = 32  # passages that a search gives back
_INDEXES = 64  # memories whose index stays in RAM


class PassageIndex:
    """An index of the texts of one memory, in passages. Safe to use from any thread.

    Args:
        version: salt of the memory, and how often texts were removed from it.
    """

    def __init__(self, version: tuple[str, int]) -> None:
        from templora_memory.domain.languages import DEFAULT  # noqa: PLC0415  # rules of languages

        self.version = version
        self._lock = threading.Lock()
        self._known: set[str] = set()
        self._base: sqlite3.Connection | None = sqlite3.connect(":memory:", check_same_thread=False)
        # terms come cut and stemmed: this tokenizer takes all that is not ASCII for letters
        self._base.execute(
            "CREATE VIRTUAL TABLE passages USING fts5(terms, content='', tokenize='ascii')"
        )
        self._passages: list[tuple[str, str]] = []  # text and source of row 1, 2, ...
        self._languages: Counter[str] = Counter({DEFAULT: 0})

    def close(self) -> None:
        """Drop all text; a closed index takes in nothing and finds nothing."""
        with self._lock:
            if self._base is not None:
                self._base.close()
            self._base = None
            self._passages.clear()

    @property
    def known(self) -> Collection[str]:
        """Digests of the documents and of the ends of turns that are in."""
        return self._known

    @property
    def languages(self) -> tuple[str, ...]:
        """The languages of the texts that are in."""
        with self._lock:
            return tuple(self._languages)

    def add_document(self, digest: str, document: Document) -> None:
        """Take in a document, in passages."""
        from templora_memory.domain.segmentation import is_unspaced  # noqa: PLC0415  # rules of languages

        size = UNSPACED_SIZE if is_unspaced(document.text) else SIZE
        pieces = [piece.text.strip() for piece in passages(document, size)]
        self._add(digest, pieces, self._language(document.text))

    def add_turns(self, digests: Sequence[str], messages: Sequence[Message]) -> None:
        """Take in turns of a conversation, each as one passage.

        Args:
            digests: of the conversation after each message.
            messages: as many, beginning with a turn.
        """
        starts = (*turn_starts(messages), len(messages))
        for begin, end in pairwise(starts):
            lines = [_spoken(m) for m in messages[begin:end] if m.content]
            language = self._language("\n".join(m.content for m in messages[begin:end]))
            self._add(digests[end - 1], ["\n".join(lines)], language)

    def _language(self, text: str) -> str:
        """Return the language of a text; of one that does not say it, that of most others."""
        from templora_memory.domain.languages import language_of  # noqa: PLC0415  # rules of languages

        with self._lock:
            usual = max(self._languages, key=lambda language: self._languages[language])
        return language_of(text, usual)

    def _add(self, digest: str, texts: Sequence[str], language: str) -> None:
        from templora_memory.domain.stems import index_terms  # noqa: PLC0415  # rules of languages

        texts = [text for text in texts if text]
        terms = [(" ".join(index_terms(text, language)),) for text in texts]
        with self._lock:
            if self._base is None or digest in self._known:
                return
            first = len(self._passages) + 1
            rows = [(row, *columns) for row, columns in enumerate(terms, first)]
            self._base.executemany("INSERT INTO passages (rowid, terms) VALUES (?, ?)", rows)
            self._passages += [(text, digest) for text in texts]
            self._languages[language] += 1
            self._known.add(digest)

    def search(self, query: str, allowed: Collection[str]) -> tuple[Passage, ...]:
        """Return the passages of these sources that share words with a text, best first."""
        from templora_memory.domain.stems import query_terms  # noqa: PLC0415  # rules of languages

        terms = query_terms(query, self.languages)
        if not terms:
            return ()
        # quoted: a word of a question is never an operator
        asked = " OR ".join(f'"{term}"' for term in terms)
        command = (
            "SELECT rowid, bm25(passages) FROM passages WHERE passages MATCH ? ORDER BY 2, rowid"
        )
        hits: list[Passage] = []
        with self._lock:
            if self._base is None:
                return ()
            with closing(self._base.execute(command, (asked,))) as rows:
                for row, rank in rows:
                    text, source = self._passages[row - 1]
                    if source in allowed:
                        hits.append(Passage(text=text, score=-rank, source=source))
                    if len(hits) == _MAX_HITS:
                        break
        return tuple(hits)


def _spoken(message: Message) -> str:
    """Return a message after the name or role of who said it."""
    return f"{message.name or message.role}: {message.content}"


class Searcher:
    """The indexes of many memories, the most recently used of them kept."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._indexes: LruCache[str, PassageIndex] = LruCache(_INDEXES, on_evict=PassageIndex.close)

    def search(
        self, manifest: Manifest, query: str, *, documents: Sequence[str], dialogue: str
    ) -> tuple[Passage, ...]:
        """Search some documents, those for recall only, and one conversation of a memory.

        Args:
            manifest: which memory.
            query: what is looked for.
            documents: their digests; of a memory that began from another one, also that one's.
            dialogue: digest of the last message of the conversation; the start value for none.
        """
        index = self._index(manifest)
        journal = self._store.journal(manifest.id)
        documents = (*documents, *self._for_recall(manifest, journal))
        wanted = [d for d in documents if d not in index.known]
        for digest, document in self._texts(manifest, journal, wanted).items():
            index.add_document(digest, document)
        path = journal.path(dialogue)
        start = next((i for i in range(len(path), 0, -1) if path[i - 1] in index.known), 0)
        if start < len(path):
            after = path[start - 1] if start else None
            index.add_turns(path[start:], journal.messages(dialogue, after=after))
        return index.search(query, {*documents, *path})

    def turn_ends(self, manifest: Manifest, path: Sequence[str]) -> list[str]:
        """Return which digests of a conversation, as far as it was searched, are ends of turns."""
        known = self._index(manifest).known
        return [digest for digest in path if digest in known]

    def languages(self, manifest: Manifest) -> tuple[str, ...]:
        """Return the languages of what was searched of a memory."""
        return self._index(manifest).languages

    def pinned(self, manifest: Manifest, shown: Collection[str] = ()) -> tuple[Passage, ...]:
        """Return the pinned texts in force, the newest pin first, but none that is among `shown`.

        They are as they were told, with a score of 0.
        """
        journal = self._store.journal(manifest.id)
        if not journal.pinned:
            return ()
        path = set(journal.path(journal.tip))
        passages: list[Passage] = []
        for digest in reversed(journal.pinned):
            if digest in path or journal.keeps(digest):
                item = journal.entry(digest).item
                said = item.text if isinstance(item, Document) else item.content
                if said.strip() not in shown:
                    text = said if isinstance(item, Document) else _spoken(item)
                    passages.append(Passage(text=text.strip(), score=0.0, source=digest))
        return tuple(passages)

    def _for_recall(self, manifest: Manifest, journal: Journal) -> tuple[str, ...]:
        """Documents for recall only, also those of the memory that this one began from."""
        origin = manifest.origin.id if manifest.origin else None
        if origin is None or self._store.manifest(origin) is None:
            return journal.for_recall
        return (*journal.for_recall, *self._store.journal(origin).for_recall)

    def _texts(
        self, manifest: Manifest, journal: Journal, digests: Sequence[str]
    ) -> dict[str, Document]:
        """Documents by digest, those of the memory it began from read there while it exists."""
        local = set(digests) & set(journal.documents)
        texts = {digest: journal.document(digest) for digest in digests if digest in local}
        origin = manifest.origin.id if manifest.origin else None
        missing = [digest for digest in digests if digest not in local]
        if missing and origin is not None and self._store.manifest(origin) is not None:
            other = self._store.journal(origin)
            readable = set(other.documents)
            texts |= {digest: other.document(digest) for digest in missing if digest in readable}
        return texts

    def _index(self, manifest: Manifest) -> PassageIndex:
        with self._lock:
            index = self._indexes.get(manifest.id)
            version = (manifest.salt, manifest.edits)
            if index is not None and index.version == version:
                return index
            # none yet, or one that is closed: of a memory that was forgotten elsewhere, or from
            # which texts were removed
            return self._indexes.put(manifest.id, PassageIndex(version))

    def drop(self, memory_id: str | None = None) -> None:
        """Drop the index of a memory, or all."""
        with self._lock:
            self._indexes.drop(lambda name: memory_id in {None, name})
