"""Recipes that learn a text as it is: chunks in order, pairs, sentences.

`continue_` is the published recipe: next-token training, chunk after chunk (arXiv 2401.11504,
section 3).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from templora_memory.backends.local.recipes.base import (
    Example,
    RecipeTools,
    downweight_repeats,
)
from templora_memory.backends.local.tokenizer import MaskedTokens
from templora_memory.domain.messages import LEARNED_ROLES, Document, Item, Message
from templora_memory.domain.segmentation import sentences
from templora_memory.ports import LearnRequest


def continue_(
    request: LearnRequest, tools: RecipeTools, *, roles: frozenset[str] = LEARNED_ROLES
) -> Sequence[Example]:
    """Return chunks of the text in order, each after the tokens that stood before it.

    Of conversations the messages of these roles are learned, the others are only seen.
    """
    before = _mask_items(request.before, tools, roles, first=True)
    tokens = _mask_items(request.items, tools, roles, first=not before.ids)
    if request.settings.damp_repeats:
        ids, weights = before.ids + tokens.ids, (0.0,) * len(before.ids) + tokens.weights
        lowered = downweight_repeats(ids, weights)
        tokens = MaskedTokens(tokens.ids, lowered[len(before.ids) :])
    return chunk_examples(tokens, before.ids, request)


def pairs(request: LearnRequest, tools: RecipeTools) -> Sequence[Example]:
    """Return the examples of `continue_`, of conversations with the assistant's words learned only.

    For translation: the user's message is the source, the assistant's the approved translation
    (the published setting for GuoFeng: labels on the target only).
    """
    return continue_(request, tools, roles=frozenset({"assistant"}))


def chunk_examples(
    tokens: MaskedTokens, before: tuple[int, ...], request: LearnRequest
) -> Sequence[Example]:
    """Return chunks of tokens, each after as many tokens before it as the settings allow."""
    ids, offset = before + tokens.ids, len(before)
    examples = []
    for begin, end in _chunk_bounds(len(tokens.ids), request):
        first = max(0, offset + begin - request.settings.context)
        examples.append(
            Example(
                context=ids[first : offset + begin],
                ids=ids[offset + begin : offset + end],
                weights=tokens.weights[begin:end],
            )
        )
    return examples


def _mask_items(
    items: Sequence[Item], tools: RecipeTools, roles: frozenset[str], *, first: bool
) -> MaskedTokens:
    messages = [item for item in items if isinstance(item, Message)]
    if messages:
        return tools.tokenizer.dialogue(messages, lead=first, roles=roles)
    documents = [item for item in items if isinstance(item, Document)]
    bos_token_id = tools.bos_token_id if first else None
    return tools.tokenizer.documents(documents, bos_token_id=bos_token_id)


def _chunk_bounds(length: int, request: LearnRequest) -> list[tuple[int, int]]:
    """Return begin and end of each chunk.

    Even chunks unless the released algorithm is asked for, which lets a short rest stand: an
    update on a handful of tokens is mostly noise.
    """
    chunk = request.chunk
    if request.settings.even_chunks:
        count = math.ceil(length / chunk)
        bounds = [length * index // count for index in range(count + 1)]
    else:
        bounds = [*range(0, length, chunk), length]
    return [(begin, end) for begin, end in pairwise(bounds) if begin < end]


# --- sentences ---------------------------------------------------------------------------------


def needs_extra_passes(request: LearnRequest, chunks: Sequence[Example]) -> bool:
    """Return True if a text of these chunks is passed over more often than `steps_per_chunk`."""
    return len(chunks) * request.settings.steps_per_chunk < request.min_steps


def statements(request: LearnRequest, tools: RecipeTools) -> Sequence[Example]:
    """Return short documents sentence by sentence, each as the assistant's; the rest as text.

    Short is what gets additional passes. These would teach a chat model to talk on in plain text;
    with the end of the assistant's message after every sentence it goes on to answer briefly, and
    knows as much.
    """
    chunks = continue_(request, tools)
    if tools.tokenizer.uses_plain_template or not needs_extra_passes(request, chunks):
        return chunks
    stated = [
        sentence
        for item in request.items
        if isinstance(item, Document)
        for sentence in sentences(item.text)
    ]
    return chunk_examples(tools.tokenizer.statements(stated), (), request)
