"""When text leaves the prompt, and where the cut falls: the forms of LangChain's summarisation.

Cuts fall between whole turns, before the newest human message at the latest: a tool call and its
result are never separated, and what remains begins with a human message.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self, TypeAlias

from langchain_core.messages import BaseMessage, HumanMessage, MessageLikeRepresentation

ContextSize: TypeAlias = (
    tuple[Literal["tokens"], int]
    | tuple[Literal["messages"], int]
    | tuple[Literal["fraction"], float]
)
TriggerClause: TypeAlias = Mapping[str, int | float]
Trigger: TypeAlias = ContextSize | TriggerClause | Sequence[ContextSize | TriggerClause]
TokenCounter: TypeAlias = Callable[[Iterable[MessageLikeRepresentation]], int]
_KINDS = ("tokens", "messages", "fraction")


@dataclass(frozen=True, slots=True)
class LearningLimits:
    """When to learn, and how much stays.

    Args:
        clauses: learning is due when all numbers of one of them are reached.
        keep: what stays in the prompt afterwards.
    """

    clauses: tuple[Mapping[str, int | float], ...]
    keep: ContextSize

    @classmethod
    def of(cls, trigger: Trigger, keep: ContextSize) -> Self:
        """LearningLimits from the forms that `SummarizationMiddleware` takes.

        A tuple is one number, a mapping several that must all be reached, a list of these means
        any of them.

        Raises:
            ValueError, TypeError: with the value.
        """
        items: Sequence[Any] = trigger if isinstance(trigger, list) else [trigger]
        if not items:
            raise ValueError("trigger is an empty list: give at least one size.")
        clauses = tuple(_clause(item) for item in items)
        (kind, value), *others = _clause(keep).items()
        if others or not isinstance(keep, tuple):
            raise ValueError(f"keep is {keep!r}: it must be one (kind, number).")
        return cls(clauses, (kind, value))  # type: ignore[arg-type]  # checked just now

    def due(self, rest: Sequence[BaseMessage], count: TokenCounter, window: int) -> bool:
        """Return whether the messages that still stand in the prompt reach one of the limits."""
        tokens: int | None = None
        for clause in self.clauses:
            reached = True
            for kind, value in clause.items():
                if kind == "messages":
                    reached = reached and len(rest) >= value
                    continue
                if tokens is None:
                    tokens = count(rest) if rest else 0
                limit = value if kind == "tokens" else max(1, int(window * value))
                reached = reached and tokens >= limit
            if reached:
                return True
        return False

    def cut(
        self, messages: Sequence[BaseMessage], start: int, count: TokenCounter, window: int
    ) -> int:
        """Where the part to learn ends; `start` (where the prompt begins now) if nothing may go."""
        turns = turns_after(messages, start)
        kind, value = self.keep
        if kind == "messages":
            return max((i for i in turns if len(messages) - i >= value), default=start)
        limit = value if kind == "tokens" else max(1, int(window * value))
        if count(messages[start:]) <= limit:
            return start
        return first_fitting(messages, turns, start, lambda rest: count(rest) <= limit)


def turns_after(messages: Sequence[BaseMessage], start: int) -> list[int]:
    """Where turns begin behind `start`; the last is the newest exchange."""
    return [
        index
        for index in range(start + 1, len(messages))
        if isinstance(messages[index], HumanMessage)
    ]


def first_fitting(
    messages: Sequence[BaseMessage],
    turns: Sequence[int],
    start: int,
    fits: Callable[[Sequence[BaseMessage]], bool],
) -> int:
    """The first of the turns from which on the messages fit; the last turn if none does."""
    if not turns:
        return start
    low, high = 0, len(turns) - 1
    while low < high:  # what remains only shrinks, so one may search by halves
        middle = (low + high) // 2
        low, high = (low, middle) if fits(messages[turns[middle] :]) else (middle + 1, high)
    return turns[low]


def newest_exchange(messages: Sequence[BaseMessage]) -> int:
    """Where the newest exchange begins; it is never learned. 0 if nobody asked anything."""
    return next(
        (i for i in range(len(messages) - 1, -1, -1) if isinstance(messages[i], HumanMessage)), 0
    )


def _clause(item: object) -> dict[str, int | float]:
    match item:
        case (str() as kind, value):
            return {kind: _size(kind, value)}
        case Mapping() if item:
            return {kind: _size(kind, value) for kind, value in item.items()}
        case _:
            raise TypeError(
                f"{item!r} is no size: use (kind, number) or a mapping of kinds to numbers, with "
                f"the kinds {_KINDS}."
            )


def _size(kind: object, value: object) -> int | float:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    fits = kind in _KINDS and number and value > 0  # type: ignore[operator]
    if fits and kind == "fraction":
        fits = value <= 1  # type: ignore[operator]
    elif fits:
        fits = isinstance(value, int)
    if not fits:
        raise ValueError(
            f"({kind!r}, {value!r}) is no size: use a whole number of 'tokens' or 'messages', or a "
            "'fraction' of the window in (0, 1]."
        )
    return value  # type: ignore[return-value]
