"""The published recipe: next-token training, chunk after chunk (arXiv 2401.11504, section 3)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from templora_memory.backends.local.recipes.base import Example, Tools
from templora_memory.backends.local.recipes.repeats import damped
from templora_memory.backends.local.tokenizer import Segments
from templora_memory.domain.messages import LEARNED_ROLES, Document, Item, Message
from templora_memory.ports import LearnRequest


def continue_(
    request: LearnRequest, tools: Tools, *, roles: frozenset[str] = LEARNED_ROLES
) -> Sequence[Example]:
    """Chunks of the text in order, each after the tokens that stood before it.

    Of conversations the messages of these roles are learned, the others are only seen.
    """
    before = _segments(request.before, tools, roles, first=True)
    own = _segments(request.items, tools, roles, first=not before.ids)
    if request.settings.damp_repeats:
        weights = damped(before.ids + own.ids, (0.0,) * len(before.ids) + own.weights)
        own = Segments(own.ids, weights[len(before.ids) :])
    return examples_of(own, before.ids, request)


def pairs(request: LearnRequest, tools: Tools) -> Sequence[Example]:
    """Like `continue_`, but of conversations only what the assistant says is learned.

    For translation: the user's message is the source, the assistant's the approved translation
    (the published setting for GuoFeng: labels on the target only).
    """
    return continue_(request, tools, roles=frozenset({"assistant"}))


def examples_of(own: Segments, before: tuple[int, ...], request: LearnRequest) -> Sequence[Example]:
    """Chunks of `own`, each after as many tokens before it as the settings allow."""
    ids, offset = before + own.ids, len(before)
    examples = []
    for begin, end in _cuts(len(own.ids), request):
        first = max(0, offset + begin - request.settings.context)
        examples.append(
            Example(
                context=ids[first : offset + begin],
                ids=ids[offset + begin : offset + end],
                weights=own.weights[begin:end],
            )
        )
    return examples


def _segments(
    items: Sequence[Item], tools: Tools, roles: frozenset[str], *, first: bool
) -> Segments:
    messages = [item for item in items if isinstance(item, Message)]
    if messages:
        return tools.text.dialogue(messages, lead=first, roles=roles)
    documents = [item for item in items if isinstance(item, Document)]
    return tools.text.documents(documents, start=tools.start if first else None)


def _cuts(length: int, request: LearnRequest) -> list[tuple[int, int]]:
    """Chunk borders.

    Even chunks unless the released algorithm is asked for, which lets a short rest stand: an
    update on a handful of tokens is mostly noise.
    """
    chunk = request.chunk
    if request.settings.even_chunks:
        count = math.ceil(length / chunk)
        borders = [length * index // count for index in range(count + 1)]
    else:
        borders = [*range(0, length, chunk), length]
    return [(begin, end) for begin, end in pairwise(borders) if begin < end]
