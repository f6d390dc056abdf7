"""A real retriever without a network: BM25 over a few paragraphs, by SQLite's full-text search."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterable
from typing import Any, Self

from langchain_core.callbacks import CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever

MANUAL = (
    "To light the lamp, turn the brass valve twice to the left and wait for the hiss of the gas.",
    "The fog horn sounds for four seconds every minute. Its key hangs behind the pantry door.",
    "The boat is painted every April. Use two coats of white lead and one of green.",
    "In a storm close the iron shutters first and then the west window of the lantern room.",
    "The clockwork that turns the lens is wound at six in the morning and at six in the evening.",
)


class BM25(BaseRetriever):
    """The paragraphs that fit a question best, by BM25."""

    index: Any
    k: int = 1

    @classmethod
    def of(cls, texts: Iterable[str], *, k: int = 1) -> Self:
        """A retriever over texts, in memory."""
        index = sqlite3.connect(":memory:", check_same_thread=False)
        index.execute("CREATE VIRTUAL TABLE texts USING fts5(text, tokenize='porter')")
        index.executemany("INSERT INTO texts VALUES (?)", [(text,) for text in texts])
        return cls(index=index, k=k)

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun
    ) -> list[Document]:
        del run_manager  # there are no runs below this one
        words = " OR ".join(f'"{word}"' for word in re.findall(r"\w+", query))
        if not words:
            return []
        rows = self.index.execute(
            "SELECT text FROM texts WHERE texts MATCH ? ORDER BY rank LIMIT ?", (words, self.k)
        )
        return [Document(text) for (text,) in rows]
