"""Admission: the text that may be told to a memory, and what learning it must not do.

Text that is refused here is neither journalled nor learned. Knows nothing of stores and models.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from templora_memory.domain.journal import Journal
from templora_memory.domain.messages import (
    Item,
    Message,
    author_of,
    chain,
    characters,
    extend,
)
from templora_memory.domain.settings import positive
from templora_memory.errors import InvalidSetting, NotAdmitted

Admit: TypeAlias = Callable[[str, tuple[Item, ...]], str | None]
"""Asked with a memory id and the text that is new to it; None admits it, a text says why not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """An answer that learning must not make likely, or must not take away.

    Measured before every commit, as the mean log-probability of a token of the answer, against
    the base model without any memory. A revision that fails is not committed (`Unhealthy`).

    Args:
        question: what a user asks.
        answer: the answer that is measured.
        keep: True: learning must not take this answer away (a refusal). False: it must not make it
            likelier (a canary).
        nats: by how much it may change, per token.
        name: what an error calls it; None: its number.
    """

    question: str
    answer: str
    keep: bool
    nats: float = 1.0
    name: str | None = None

    def __post_init__(self) -> None:
        positive("nats", self.nats)
        if not self.question.strip() or not self.answer.strip():
            raise InvalidSetting("A check needs a question and an answer.")


class Admission:
    """Asks the application about new text, and counts what each author has taught.

    Args:
        admit: the application's hook; None: everything is admitted.
        limit: characters that one author may teach one memory; None: no limit.
    """

    def __init__(self, admit: Admit | None, limit: int | None) -> None:
        self._admit = admit
        self._limit = limit

    @property
    def asks(self) -> bool:
        """True if there is anything to check."""
        return self._admit is not None or self._limit is not None

    def check(self, memory_id: str, items: Sequence[Item], journal: Journal | None) -> None:
        """Refuse text before it is journalled.

        Args:
            memory_id: whose.
            items: text that the journal does not hold, see `new_items`.
            journal: what the memory was told so far; None: it does not exist yet.

        Raises:
            NotAdmitted: by the hook, or an author has taught enough.
        """
        if not items:
            return
        if self._limit is not None:
            self._check_limit(memory_id, items, journal, self._limit)
        reason = None if self._admit is None else self._admit(memory_id, tuple(items))
        if reason is not None:
            raise NotAdmitted(
                f"Text for memory {memory_id!r} was refused: {reason} Nothing of it was journalled."
            )

    @staticmethod
    def _check_limit(
        memory_id: str, items: Sequence[Item], journal: Journal | None, limit: int
    ) -> None:
        counts: dict[str, int] = {}
        for item in items:
            if (author := author_of(item)) is not None:
                counts[author] = counts.get(author, 0) + characters(item)
        for author, new in counts.items():
            before = 0 if journal is None else journal.taught(author)
            if before + new > limit:
                raise NotAdmitted(
                    f"{author!r} has taught memory {memory_id!r} {before:,} characters and would "
                    f"teach it {new:,} more; author_limit is {limit:,}. Nothing was journalled. "
                    "Answer with revision='head', which learns nothing, or raise the limit."
                )


def new_items(
    items: Sequence[Item], journal: Journal | None, *, after: str | None
) -> tuple[Item, ...]:
    """Return what of these a journal does not hold yet.

    Args:
        items: documents, or messages of one dialogue.
        journal: None: it holds nothing.
        after: digest of the dialogue that the messages follow; None: they are a whole one.
    """
    if journal is None:
        return tuple(items)
    messages = tuple(item for item in items if isinstance(item, Message))
    if messages:
        missing = journal.missing(chain(after or journal.first, messages))
        return messages[len(messages) - missing :]
    return tuple(item for item in items if not journal.keeps(extend(journal.first, item)))
