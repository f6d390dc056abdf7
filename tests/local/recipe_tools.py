"""What a recipe gets, and what it makes of it, as text."""

from __future__ import annotations

import pytest
import torch

from templora_memory import Document, Learning
from templora_memory.backends.local.recipes import RECIPES, RecipeTools, TopKTargets
from templora_memory.ports import LearnRequest

BIO = 'Ada keeps bees. "Where?" On the roof!\n\nName: Ada\nPet: a cat'
REQUEST = LearnRequest(
    items=(Document(BIO),), before=(), start=None, chunk=300, recipe="statements",
    settings=Learning(steps_per_chunk=2, context=64), min_steps=64,
)  # fmt: skip


def silent(prompts, *, max_tokens):  # noqa: ARG001  # as the port is
    pytest.fail("nothing is to be written")


def deaf(texts, *, top_k):  # noqa: ARG001  # as the port is
    pytest.fail("nothing is to be expected")


def tools(text, write=silent, *, room=600, expect=deaf):
    return RecipeTools(
        tokenizer=text, bos_token_id=None, max_length=room, generate=write, teacher=expect
    )


def made(recipe, request, text, write=silent):
    """What the examples of a recipe show, and what of it they teach."""
    examples = RECIPES[recipe](request, tools(text, write, expect=Reader(text)))
    seen = "".join(text.decode(e.ids, special=True) for e in examples)
    learned = "".join(
        text.decode([i for i, w in zip(e.ids, e.weights, strict=True) if w], special=True)
        for e in examples
    )
    return seen, learned


class Reader:
    """Is certain of every token with a text before it, and of none without."""

    def __init__(self, text):
        self._text = text
        self.shown = []

    def __call__(self, texts, *, top_k):  # noqa: ARG002  # as the port is
        found = []
        for ids, count in texts:
            told = self._text.decode(ids, special=True)
            self.shown.append(told)
            said = torch.tensor(ids[-count:])[:, None]
            sure = 1.0 if told.startswith("<|system|>") else 0.0
            found.append(
                TopKTargets(
                    torch.cat([said, said + 1], 1), torch.tensor([[sure, 1 - sure]] * count)
                )
            )
        return found
