"""Earlier text among what is learned now, so that it does not fade."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from random import Random

from templora_memory.backends.local.recipes.base import Example, RecipeTools, pack_turns
from templora_memory.backends.local.recipes.facts import facts_of
from templora_memory.backends.local.recipes.next_token import continue_
from templora_memory.backends.local.recipes.questions import (
    MAX_FACTS,
    TURNS_PER_EXAMPLE,
    leads_of,
    word_question,
)
from templora_memory.domain.messages import Document, Item
from templora_memory.ports import LearnRequest


def with_replay(
    examples: Sequence[Example], request: LearnRequest, tools: RecipeTools
) -> Sequence[Example]:
    """Return the same examples with those of `request.replay` at even distances among them.

    Whole documents come as answers to questions made of their words, as `study` learns them, some
    of their facts at a time; parts of long ones, and conversations, as text.
    """
    replayed = [
        _example(items, number, request, tools) for number, items in enumerate(request.replay)
    ]
    earlier = [replace(example, in_receipt=False) for example in replayed if example is not None]
    if not earlier:
        return examples
    placed = [
        ((at + shift) / len(kind), example)
        for kind, shift in ((examples, 0.0), (earlier, 0.5))
        for at, example in enumerate(kind)
    ]
    return [example for _, example in sorted(placed, key=lambda item: item[0])]


def _example(
    items: Sequence[Item], number: int, request: LearnRequest, tools: RecipeTools
) -> Example | None:
    """Return one step of earlier text."""
    first = items[0]
    if (
        isinstance(first, Document)
        and not first.continues
        and not tools.tokenizer.uses_plain_template
        and (asked := _asked_again(first, number, request, tools)) is not None
    ):
        return asked
    examples = continue_(replace(request, items=tuple(items), before=(), replay=()), tools)
    return examples[0] if examples else None


def _asked_again(
    document: Document, number: int, request: LearnRequest, tools: RecipeTools
) -> Example | None:
    """Return some facts of a document as answers to questions; None: it has none, or too many."""
    content = facts_of(document)
    count = len(content.facts) + len(content.exchanges)
    if not 0 < count <= MAX_FACTS:
        return None
    now = [item.text if isinstance(item, Document) else item.content for item in request.items]
    rng = Random(repr((request.settings.seed, number, now)))  # noqa: S311  # others every time
    turns: list[tuple[str, str]] = [
        *((word_question(fact, content, (), rng), fact) for fact in content.facts),
        *content.exchanges,
    ]
    chosen = rng.sample(turns, min(TURNS_PER_EXAMPLE, len(turns)))
    return pack_turns(chosen, tools.tokenizer, lead=rng.choice(leads_of([content.character])))
