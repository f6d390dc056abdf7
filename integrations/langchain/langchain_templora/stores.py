"""A LangGraph store whose items are found by their words: for what must be exact.

Beside a memory, not instead of it: nothing in a store is learned.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from langgraph.store.base import BaseStore, Item, Op, PutOp, Result, SearchItem, SearchOp
from langgraph.store.memory import InMemoryStore
from templora_memory import Document
from templora_memory.domain.journal import JournalEntry
from templora_memory.service.search import PassageIndex

_ALL = 2**31 - 1  # items that a search by words looks at
_OF_NO_MEMORY = ("", 0)  # the index belongs to no version of a memory


class FullTextStore(BaseStore):
    """Adds search by words, in any language and without an embedding model, to another store.

    For ``create_agent(store=...)`` and everything else that takes a LangGraph store. A search with
    a query ranks items as a memory's recall does (BM25 over stems, in every script); the best have
    a score, and those that share no word with the query come after them, without one. All else
    (values, namespaces, filters, deleting, expiry) is the other store's.

    The index lives in the memory of this process, is built as it is asked for, and goes as soon as
    an item is deleted or replaced. It covers all items under a namespace, so it is meant for what
    users keep, not for corpora.

    Args:
        inner: where items are kept; None: in this object.
    """

    def __init__(self, inner: BaseStore | None = None) -> None:
        self._inner = InMemoryStore() if inner is None else inner
        self.supports_ttl = self._inner.supports_ttl
        self.ttl_config = self._inner.ttl_config
        self._lock = threading.Lock()
        self._index = PassageIndex(_OF_NO_MEMORY)
        self._indexed: set[tuple[tuple[str, ...], str]] = set()

    def batch(self, ops: Iterable[Op]) -> list[Result]:
        """Do several operations at once."""
        asked = list(ops)
        self._drop_replaced(asked)
        return self._ranked(asked, self._inner.batch(map(_without_query, asked)))

    async def abatch(self, ops: Iterable[Op]) -> list[Result]:
        """Do several operations at once."""
        asked = list(ops)
        self._drop_replaced(asked)
        found = await self._inner.abatch(map(_without_query, asked))
        return await asyncio.to_thread(self._ranked, asked, found)

    def _drop_replaced(self, ops: Sequence[Op]) -> None:
        """Begin a new index where an item in it is replaced or deleted: no text outlives that."""
        put = {(op.namespace, op.key) for op in ops if isinstance(op, PutOp)}
        with self._lock:
            if put & self._indexed:
                self._index.close()
                self._index, self._indexed = PassageIndex(_OF_NO_MEMORY), set()

    def _ranked(self, ops: Sequence[Op], found: Sequence[Result]) -> list[Result]:
        return [
            self._best(op, items) if isinstance(op, SearchOp) and op.query else items
            for op, items in zip(ops, found, strict=True)
        ]

    def _best(self, op: SearchOp, items: Any) -> list[SearchItem]:
        """The items that a search asks for, best first."""
        assert op.query is not None  # noqa: S101  # the caller looked
        by_digest: dict[str, SearchItem] = {}
        with self._lock:
            for item in items:
                digest, text = _entry(item)
                by_digest[digest] = item
                if text.strip() and digest not in self._index.known:
                    self._index.add_document(_as_entry(digest, text))
                    self._indexed.add((item.namespace, item.key))
            hits = self._index.search(op.query, by_digest.keys())
        scores: dict[str, float] = {}
        for hit in hits:  # best first: the first passage of an item is its best
            scores.setdefault(hit.source, hit.score)
        order = [*scores, *(digest for digest in by_digest if digest not in scores)]
        return [
            _scored(by_digest[digest], scores.get(digest))
            for digest in order[op.offset : op.offset + op.limit]
        ]


def _without_query(op: Op) -> Op:
    if isinstance(op, SearchOp) and op.query:
        return op._replace(query=None, limit=_ALL, offset=0)
    return op


def _as_entry(digest: str, text: str) -> JournalEntry:
    """A text as the index takes it; when it was told is the store's to know."""
    return JournalEntry(id=digest, digest=digest, item=Document(text), time=None)


def _entry(item: Item) -> tuple[str, str]:
    """The name of an item as it is now, and its text."""
    text = "\n".join(_texts(item.value))
    name = json.dumps([item.namespace, item.key, text], ensure_ascii=False)
    return hashlib.sha256(name.encode()).hexdigest(), text


def _texts(value: object) -> Iterator[str]:
    """All texts and numbers in a JSON value; names of fields are no content."""
    match value:
        case str():
            yield value
        case dict():
            for part in value.values():
                yield from _texts(part)
        case list() | tuple():
            for part in value:
                yield from _texts(part)
        case int() | float() if not isinstance(value, bool):
            yield str(value)


def _scored(item: SearchItem, score: float | None) -> SearchItem:
    return SearchItem(
        namespace=item.namespace,
        key=item.key,
        value=item.value,
        created_at=item.created_at,
        updated_at=item.updated_at,
        score=score,
    )
