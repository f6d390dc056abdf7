"""Full-text search over what a memory was told, for what must be exact.

One index a memory, in this process's RAM, built from the journal as far as it is asked about;
SQLite's FTS5 ranks by BM25. It holds nothing that the journal does not hold, and goes with the
memory.

Words are found by their stem, in the language of the text; scripts that put no spaces between words
by two signs that stand side by side. However a text is coded in Unicode, it is found. The rules of
languages are loaded by the first search: most commands that look at a memory do not need them.

`recall` also looks at who said a text and when it was told, as far as a question asks for it
(`domain.recall_query`), and says how much of the question a memory was told about. The factors were
chosen on one conversation of LoCoMo: docs/results/retrieval.md.
"""

from __future__ import annotations

import math
import sqlite3
import threading
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import date, datetime
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING

from templora_memory.domain.journal import Journal, JournalEntry
from templora_memory.domain.lru import LruCache
from templora_memory.domain.manifest import Manifest
from templora_memory.domain.messages import Document, Message, passages
from templora_memory.domain.results import Passage
from templora_memory.domain.turns import turn_starts
from templora_memory.ports import Store

if TYPE_CHECKING:
    from templora_memory.domain.recall_query import RecallQuery

SIZE = 200  # characters of a passage of a document: two or three sentences
UNSPACED_SIZE = 80  # of a passage in signs that are a syllable or a word each
_MAX_HITS = 32  # passages that a search gives back
_CANDIDATES = 64  # passages that share words with a question and are looked at more closely
_INDEXES = 64  # memories whose index stays in RAM
SPEAKER_FACTOR = 1.25
"""On a passage whose words of the question were all said by whom it asks for."""
TIME_FACTOR = 2.0
"""On a passage that was told in the time asked for."""
DAYS_AFTER = 7
"""Within which people tell what happened."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecallResult:
    """What a question found.

    Args:
        passages: best first.
        coverage: how much of the question was found in one place, from 0 to 1; None: the question
            has no word that says what it is about.
    """

    passages: tuple[Passage, ...]
    coverage: float | None


@dataclass(frozen=True, slots=True)
class _Line:
    """Who says which part of a passage."""

    role: str
    names: tuple[str, ...]
    begin: int
    end: int

    def is_by(self, speakers: Collection[str]) -> bool:
        return self.role in speakers or any(name in speakers for name in self.names)


@dataclass(frozen=True)
class _Row:
    """A passage as the index keeps it; what it was asked for is kept with it."""

    text: str
    source: str
    language: str
    time: float | None
    lines: tuple[_Line, ...]

    @property
    def is_anonymous(self) -> bool:
        """True if nobody is known to have said it: a document, a system message."""
        return not any(line.names or line.role in {"user", "assistant"} for line in self.lines)

    def matches(self, query: RecallQuery) -> bool:
        """Return whether it was told when and by whom a question asks for."""
        by = not query.speakers or any(line.is_by(query.speakers) for line in self.lines)
        return by and (not query.spans or self.is_in_time(query))

    def is_in_time(self, query: RecallQuery, days_after: int = 0) -> bool:
        """Return whether it was told on one of the days that a question asks for."""
        moment = self.time
        return moment is not None and any(
            span.holds(moment, days_after=days_after) for span in query.spans
        )

    def terms(self, speakers: Collection[str] | None = None, *, others: bool = False) -> set[str]:
        """Return the terms of all lines, of those of some speakers, or of those of the others."""
        return {
            term
            for line, terms in zip(self.lines, self._line_terms, strict=True)
            if speakers is None or line.is_by(speakers) != others
            for term in terms
        }

    @cached_property
    def _line_terms(self) -> tuple[frozenset[str], ...]:
        from templora_memory.domain.stems import index_terms  # noqa: PLC0415  # rules of languages

        return tuple(
            frozenset(index_terms(self.text[line.begin : line.end], self.language))
            for line in self.lines
        )


class PassageIndex:
    """An index of the texts of one memory, in passages. Safe to use from any thread.

    Args:
        version: salt of the memory, and how often texts were removed from it.
    """

    def __init__(self, version: tuple[str, int]) -> None:
        self.version = version
        self._lock = threading.Lock()
        self._known: set[str] = set()
        self._base: sqlite3.Connection | None = sqlite3.connect(":memory:", check_same_thread=False)
        # terms come cut and stemmed: this tokenizer takes all that is not ASCII for letters
        self._base.execute(
            "CREATE VIRTUAL TABLE passages USING fts5(terms, content='', tokenize='ascii')"
        )
        self._base.execute("CREATE VIRTUAL TABLE vocabulary USING fts5vocab(passages, row)")
        self._rows: list[_Row] = []  # row 1, 2, ...
        self._names: dict[str, None] = {}
        self._languages: Counter[str] = Counter({"en": 0})

    def close(self) -> None:
        """Drop all text; a closed index takes in nothing and finds nothing."""
        with self._lock:
            if self._base is not None:
                self._base.close()
            self._base = None
            self._rows.clear()
            self._names.clear()

    @property
    def known(self) -> Collection[str]:
        """Digests of the documents and of the ends of turns that are in."""
        return self._known

    @property
    def languages(self) -> tuple[str, ...]:
        """The languages of the texts that are in."""
        with self._lock:
            return tuple(self._languages)

    def add_document(self, entry: JournalEntry) -> None:
        """Take in a document, in passages."""
        from templora_memory.domain.segmentation import is_unspaced  # noqa: PLC0415  # rules of languages

        document = entry.item
        if not isinstance(document, Document):
            raise TypeError("A message is taken in with its turn.")
        size = UNSPACED_SIZE if is_unspaced(document.text) else SIZE
        language = self._language(document.text)
        names = tuple(name for name in (document.author, document.character) if name)
        self._add(
            entry.digest,
            [
                _Row(text, entry.digest, language, entry.time, (_Line("", names, 0, len(text)),))
                for piece in passages(document, size)
                if (text := piece.text.strip())
            ],
        )

    def add_turns(self, entries: Sequence[JournalEntry]) -> None:
        """Take in turns of a conversation, each as one passage.

        Args:
            entries: messages in a row, beginning with a turn.
        """
        messages = [entry.item for entry in entries if isinstance(entry.item, Message)]
        starts = (*turn_starts(messages), len(messages))
        for begin, end in pairwise(starts):
            language = self._language("\n".join(m.content for m in messages[begin:end]))
            text, lines = "", []
            for message in messages[begin:end]:
                if message.content:
                    text += "\n" * bool(text)
                    names = (message.name,) if message.name else ()
                    spoken = _spoken(message)
                    lines.append(_Line(message.role, names, len(text), len(text) + len(spoken)))
                    text += spoken
            last = entries[end - 1]
            row = _Row(text, last.digest, language, last.time, tuple(lines))
            self._add(last.digest, [row] if text else [])

    def _language(self, text: str) -> str:
        """Return the language of a text; of one that does not say it, that of most others."""
        from templora_memory.domain.languages import language_of  # noqa: PLC0415  # rules of languages

        with self._lock:
            usual = max(self._languages, key=lambda language: self._languages[language])
        return language_of(text, usual)

    def _add(self, digest: str, rows: Sequence[_Row]) -> None:
        from templora_memory.domain.stems import index_terms  # noqa: PLC0415  # rules of languages

        terms = [(" ".join(index_terms(row.text, row.language)),) for row in rows]
        with self._lock:
            if self._base is None or digest in self._known:
                return
            first = len(self._rows) + 1
            numbered = [(number, *columns) for number, columns in enumerate(terms, first)]
            self._base.executemany("INSERT INTO passages (rowid, terms) VALUES (?, ?)", numbered)
            self._rows += rows
            self._names |= dict.fromkeys(
                name for row in rows for line in row.lines for name in line.names if name.strip()
            )
            if rows:
                self._languages[rows[0].language] += 1
            self._known.add(digest)

    def search(self, query: str, allowed: Collection[str]) -> tuple[Passage, ...]:
        """Return the passages of these sources that share words with a text, best first."""
        from templora_memory.domain.stems import query_terms  # noqa: PLC0415  # rules of languages

        hits = self._hits(query_terms(query, self.languages), allowed, _MAX_HITS)
        return tuple(_passage(row, score) for row, score in hits)

    def query(self, question: str, today: date) -> RecallQuery:
        """Take a question apart, by the speakers and languages of what is in.

        Args:
            question: in the user's words.
            today: what "yesterday" is counted from.
        """
        from templora_memory.domain.recall_query import RecallQuery  # noqa: PLC0415  # rules of languages

        with self._lock:
            names = tuple(self._names)
        return RecallQuery.of(question, names=names, languages=self.languages, today=today)

    def recall(
        self, query: RecallQuery, allowed: Collection[str], shown: Iterable[Message] = ()
    ) -> RecallResult:
        """Return the passages of these sources that fit a question best, and how well.

        Those that share words with it, by BM25, with a factor for those that were told when or said
        by whom it asks for. Where a time is asked for, what was told then follows, the newest
        first; where a question has no words but for time and speaker ("What did Ben say
        yesterday?"), that is all there is.

        Args:
            query: the question.
            allowed: digests of documents and of ends of turns.
            shown: what stands in the prompt anyway, which counts for the coverage.
        """
        languages = self.languages
        terms = list(dict.fromkeys(term for word in query.words for term in word))
        hits = self._hits(terms, allowed, _CANDIDATES)
        weights = self._weights(dict.fromkeys((*query.words, *query.about)))
        asked_only_who_or_when = not query.about and bool(query.speakers or query.spans)
        found = [] if asked_only_who_or_when else self._ranked(hits, query, weights)
        if asked_only_who_or_when or query.spans:
            taken = {id(row) for row, _ in found}
            with self._lock:
                rows = reversed(self._rows)
                told = [
                    row
                    for row in rows
                    if row.source in allowed and id(row) not in taken and row.matches(query)
                ]
            found += [(row, 0.0) for row in told]
        if asked_only_who_or_when:
            coverage: float | None = float(bool(found))
        else:
            beside = (_as_row(message, languages) for message in shown if message.content)
            coverage = _coverage([*(row for row, _ in hits), *beside], query, weights)
        return RecallResult(
            passages=tuple(_passage(row, score) for row, score in found[:_MAX_HITS]),
            coverage=coverage,
        )

    def _hits(
        self, terms: Sequence[str], allowed: Collection[str], limit: int
    ) -> list[tuple[_Row, float]]:
        """Return the rows that have one of these terms, best first, each with its BM25."""
        if not terms:
            return []
        # quoted: a word of a question is never an operator
        asked = " OR ".join(f'"{term}"' for term in terms)
        command = (
            "SELECT rowid, bm25(passages) FROM passages WHERE passages MATCH ? ORDER BY 2, rowid"
        )
        hits: list[tuple[_Row, float]] = []
        with self._lock:
            if self._base is None:
                return []
            with closing(self._base.execute(command, (asked,))) as rows:
                for number, rank in rows:
                    row = self._rows[number - 1]
                    if row.source in allowed:
                        hits.append((row, -rank))
                    if len(hits) == limit:
                        break
        return hits

    def _weights(self, words: Iterable[tuple[str, ...]]) -> dict[tuple[str, ...], float]:
        """Return how rare each word is among all passages: BM25's idf, never below 0."""
        weights: dict[tuple[str, ...], float] = {}
        command = "SELECT max(doc) FROM vocabulary WHERE term = ?"
        with self._lock:
            if self._base is None:
                return dict.fromkeys(words, 1.0)
            count = len(self._rows)
            for word in words:
                counts = [self._base.execute(command, (term,)).fetchone()[0] or 0 for term in word]
                having = max(counts, default=0)
                weights[word] = math.log(1 + (count - having + 0.5) / (having + 0.5))
        return weights

    @staticmethod
    def _ranked(
        hits: Iterable[tuple[_Row, float]],
        query: RecallQuery,
        weights: dict[tuple[str, ...], float],
    ) -> list[tuple[_Row, float]]:
        """Return hits in the order of their scores with the factors for speaker and time."""
        ranked = []
        for row, score in hits:
            factor = 1.0
            if len(query.speakers) == 1:
                every = _share(row.terms(), query.words, weights)
                own = _share(row.terms(query.speakers), query.words, weights)
                factor *= 1 + (SPEAKER_FACTOR - 1) * (own / every if every else 0.0)
            if query.spans and row.is_in_time(query, DAYS_AFTER):
                factor *= TIME_FACTOR
            ranked.append((row, score * factor))
        return sorted(ranked, key=lambda hit: -hit[1])


def _share(
    terms: Collection[str],
    words: Iterable[tuple[str, ...]],
    weights: dict[tuple[str, ...], float],
) -> float:
    """Return the share of words, by weight, that have a term among these."""
    words = tuple(words)
    total = sum(weights[word] for word in words)
    found = sum(weights[word] for word in words if not set(word).isdisjoint(terms))
    return found / total if total else 0.0


def _coverage(
    rows: Iterable[_Row], query: RecallQuery, weights: dict[tuple[str, ...], float]
) -> float | None:
    """Return how much of what a question is about stands in one row.

    Where it asks for one speaker, what that one said counts, less what another one said of it
    beyond that: told of somebody else is not told.
    """
    if not query.about:
        return None
    if len(query.speakers) != 1:
        return max((_share(row.terms(), query.about, weights) for row in rows), default=0.0)
    own = other = 0.0
    for row in rows:
        said = row.terms(None if row.is_anonymous else query.speakers)
        own = max(own, _share(said, query.about, weights))
        if row.is_anonymous:
            continue
        other = max(other, _share(row.terms(query.speakers, others=True), query.about, weights))
    return min(1.0, max(0.0, own + (own - other)))


def _passage(row: _Row, score: float) -> Passage:
    return Passage(text=row.text, score=score, source=row.source)


def _as_row(message: Message, languages: Sequence[str]) -> _Row:
    """Return a message of the prompt as a passage to compare a question with."""
    names = (message.name,) if message.name else ()
    line = _Line(message.role, names, 0, len(message.content))
    return _Row(message.content, "", languages[0], None, (line,))


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
        """Search some documents, those for recall only, and one conversation of a memory by words.

        Args:
            manifest: which memory.
            query: what is looked for.
            documents: their digests; of a memory that began from another one, also that one's.
            dialogue: digest of the last message of the conversation; the start value for none.
        """
        index, allowed = self._filled(manifest, documents, dialogue)
        return index.search(query, allowed)

    def recall(
        self,
        manifest: Manifest,
        question: str,
        *,
        documents: Sequence[str],
        dialogue: str,
        shown: Iterable[Message] = (),
    ) -> RecallResult:
        """As `search`, also by speaker and time: see `PassageIndex.recall`.

        Args:
            manifest: which memory.
            question: what is asked.
            documents: as for `search`.
            dialogue: as for `search`.
            shown: what stands in the prompt anyway.
        """
        index, allowed = self._filled(manifest, documents, dialogue)
        today = datetime.now().astimezone().date()
        return index.recall(index.query(question, today), allowed, shown)

    def _filled(
        self, manifest: Manifest, documents: Sequence[str], dialogue: str
    ) -> tuple[PassageIndex, set[str]]:
        """Return the index with these texts in it, and the digests of all that may be found."""
        index = self._index(manifest)
        journal = self._store.journal(manifest.id)
        documents = (*documents, *self._for_recall(manifest, journal))
        wanted = [d for d in documents if d not in index.known]
        for entry in self._texts(manifest, journal, wanted):
            index.add_document(entry)
        path = journal.path(dialogue)
        start = next((i for i in range(len(path), 0, -1) if path[i - 1] in index.known), 0)
        index.add_turns([journal.entry(digest) for digest in path[start:]])
        return index, {*documents, *path}

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
                entry = journal.entry(digest)
                if entry.text.strip() not in shown:
                    item = entry.item
                    text = _spoken(item) if isinstance(item, Message) else entry.text
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
    ) -> list[JournalEntry]:
        """Documents, those of the memory that this one began from read there while it exists."""
        local = set(journal.documents)
        entries = [journal.entry(digest) for digest in digests if digest in local]
        origin = manifest.origin.id if manifest.origin else None
        missing = [digest for digest in digests if digest not in local]
        if missing and origin is not None and self._store.manifest(origin) is not None:
            other = self._store.journal(origin)
            readable = set(other.documents)
            entries += [other.entry(digest) for digest in missing if digest in readable]
        return entries

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
