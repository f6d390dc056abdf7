"""What a recipe gets, and what it makes of it, as text."""

from __future__ import annotations

import pytest

from templora_memory import Document, Learning
from templora_memory.backends.local.recipes import RECIPES, Continuation, RecipeTools
from templora_memory.ports import LearnRequest

BIO = 'Ada keeps bees. "Where?" On the roof!\n\nName: Ada\nPet: a cat'
REQUEST = LearnRequest(
    items=(Document(BIO),), before=(), start=None, chunk=300, recipe="statements",
    settings=Learning(steps_per_chunk=2, context=64), min_steps=64,
)  # fmt: skip


def silent(prompts, *, max_tokens):  # noqa: ARG001  # as the port is
    pytest.fail("nothing is to be written")


def still(before, texts, *, max_tokens, stop):  # noqa: ARG001  # as the port is
    pytest.fail("nothing is to be gone on with")


def blank(before, texts, *, max_tokens, stop):  # noqa: ARG001  # as the port is
    """Come to no end within the tokens that there are."""
    return [""] * len(texts)


def tools(text, complete=still, *, room=600, topics=()):
    def scored(before, texts, *, against, max_tokens, stop):
        assert len(against) == len(texts)
        rest = complete(before, texts, max_tokens=max_tokens, stop=stop)
        return [one if isinstance(one, Continuation) else Continuation(one, 9.0) for one in rest]

    return RecipeTools(
        tokenizer=text, bos_token_id=None, max_length=room, generate=silent, complete=scored,
        topics=lambda before, texts, *, others: [topics for _ in texts],  # noqa: ARG005  # as the port is
    )  # fmt: skip


def shown(text, examples):
    """What examples show, and what of it they teach."""
    seen = "".join(text.decode(e.ids, special=True) for e in examples)
    learned = "".join(
        text.decode([i for i, w in zip(e.ids, e.weights, strict=True) if w], special=True)
        for e in examples
    )
    return seen, learned


def made(recipe, request, text, complete=still):
    """What the examples of a recipe show, and what of it they teach."""
    return shown(text, RECIPES[recipe](request, tools(text, complete)))
