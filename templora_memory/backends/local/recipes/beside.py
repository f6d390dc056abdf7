"""An answer with a text before it and without: what a teacher and a student see."""

from __future__ import annotations

from collections.abc import Sequence

from templora_memory.backends.local.recipes.base import Tools
from templora_memory.domain.messages import Message

Shown = tuple[Sequence[int], int]
"""Tokens, and how many of the last ones are the answer's."""


def beside(
    turn: tuple[Message, Message], text: str, tools: Tools, *, seen: int
) -> tuple[Shown, Shown] | None:
    """A question and its answer with the text as a system message, and without.

    `seen`: tokens of the bare question before the answer's. None where nothing is compared: both do
    not fit the model, or its template writes the answer differently beside a text.
    """
    bare = tools.text.dialogue(turn, lead=True).ids
    whole = tools.text.dialogue((Message("system", text), *turn), lead=True).ids
    count = len(bare) - seen
    if count <= 0 or whole[-count:] != bare[-count:] or len(whole) > tools.room:
        return None
    return (whole, count), (bare, count)
