"""Earlier text among the new, so that it is not forgotten."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from templora_memory.backends.local.recipes.base import Example, Tools
from templora_memory.backends.local.recipes.next_token import continue_, examples_of
from templora_memory.backends.local.recipes.sentences import sentences
from templora_memory.domain.messages import Document
from templora_memory.ports import LearnRequest


def with_replay(
    examples: Sequence[Example], request: LearnRequest, tools: Tools
) -> Sequence[Example]:
    """The same examples with those of `request.replay` at even distances among them.

    Whole documents come sentence by sentence, as `statements` learns them; parts of long ones, and
    conversations, as text.
    """
    again = [_again(items, request, tools) for items in request.replay]
    earlier = [replace(example, counted=False) for example in again if example is not None]
    if not earlier:
        return examples
    places = [
        ((at + shift) / len(kind), example)
        for kind, shift in ((examples, 0.0), (earlier, 0.5))
        for at, example in enumerate(kind)
    ]
    return [example for _, example in sorted(places, key=lambda place: place[0])]


def _again(items: Sequence[object], request: LearnRequest, tools: Tools) -> Example | None:
    """One chunk of earlier text."""
    alone = replace(request, items=tuple(items), before=(), replay=())  # type: ignore[arg-type]  # items
    first = items[0]
    if isinstance(first, Document) and not first.continues and not tools.text.plain:
        made = examples_of(tools.text.statements(sentences(first.text)), (), alone)
    else:
        made = continue_(alone, tools)
    return made[0] if made else None
