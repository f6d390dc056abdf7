"""The cut between what stays in the prompt and what is absorbed, between whole turns.

Knows nothing of tokenisation: token counts come in as numbers. A turn begins at a user message
and reaches to the next one; whatever stands before the first user message (a greeting) belongs to
the first turn. So a tool call and its result are never separated.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from templora_memory.domain.messages import Message


def turn_starts(messages: Sequence[Message]) -> tuple[int, ...]:
    """Positions at which turns of a dialogue begin; the first is 0. Empty for no messages."""
    if not messages:
        return ()
    users = [index for index, message in enumerate(messages) if message.role == "user"]
    return (0, *users[1:])


def newest_exchange(messages: Sequence[Message]) -> int:
    """Return the position of the newest exchange: the last user message and what followed it.

    Nothing from there on is ever absorbed by itself, so retry, undo and edit touch no weights.
    """
    starts = turn_starts(messages)
    return starts[-1] if starts else 0


def oldest_turns(costs: Sequence[int], *, budget: int, chunk: int, keep: int, needed: bool) -> int:
    """Return how many of the oldest turns to absorb now; 0 for none.

    The smallest number of turns with at least `chunk` tokens whose removal brings the rest under
    `budget`, while the newest `keep` turns stay. The window so moves in chunks, not turn by turn.

    Args:
        costs: tokens of each turn in the prompt, oldest first.
        budget: tokens that the turns may take.
        chunk: tokens that must leave at once.
        keep: newest turns that stay in any case.
        needed: the prompt does not fit now. Then even fewer than `chunk` tokens are absorbed if
            that makes it fit, and `keep` gives way down to the newest turn.
    """
    total = sum(costs)
    if total <= budget:
        return 0
    gone = (0, *accumulate(costs))
    movable = len(costs) - max(1, keep)
    for count in range(1, movable + 1):
        if gone[count] >= chunk and total - gone[count] <= budget:
            return count
    if not needed:
        enough = [count for count in range(1, movable + 1) if gone[count] >= chunk]
        return enough[-1] if enough else 0
    for count in range(1, len(costs)):
        if total - gone[count] <= budget:
            return count
    return max(0, len(costs) - 1)
