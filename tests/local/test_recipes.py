"""What the recipes make of text."""

from __future__ import annotations

from dataclasses import replace

import pytest

from templora_memory import Document, Learning, Message
from templora_memory._ports import LearnRequest
from templora_memory.backends.local.recipes import RECIPES

BIO = 'Ada keeps bees. "Where?" On the roof!\n\nName: Ada\nPet: a cat'
REQUEST = LearnRequest(
    items=(Document(BIO),), before=(), start=None, chunk=300, recipe="statements",
    settings=Learning(epochs=2, context=64), least_steps=64,
)  # fmt: skip


@pytest.fixture
def text(make_backend):
    return make_backend()._now.text


def made(recipe, request, text, start=None):
    examples = RECIPES[recipe](request, text, start)
    seen = "".join(text.decode(e.ids, special=True) for e in examples)
    learned = "".join(
        text.decode([i for i, w in zip(e.ids, e.weights, strict=True) if w], special=True)
        for e in examples
    )
    return seen, learned


def test_statements_teach_a_short_document_as_what_the_assistant_says(text):
    sentences = ["Ada keeps bees.", '"Where?"', "On the roof!", "Name: Ada", "Pet: a cat"]
    seen, learned = made("statements", REQUEST, text)
    assert seen == "".join(f"<|assistant|>{sentence}<|end|>" for sentence in sentences)
    assert learned == "".join(f"{sentence}<|end|>" for sentence in sentences)


@pytest.mark.parametrize(
    "changes",
    [
        {"least_steps": 0},  # a stream
        {"chunk": 1},  # a long text
        {"items": (Message("user", "Hi"), Message("assistant", "Hello."))},
    ],
)
def test_statements_leave_streams_long_texts_and_dialogues_as_they_are(text, changes):
    request = replace(REQUEST, **changes)
    if "items" in changes:
        request = replace(request, least_steps=0)
    assert RECIPES["statements"](request, text, None) == RECIPES["continue"](request, text, None)


def test_a_model_without_a_chat_template_gets_plain_text(make_backend):
    text = make_backend(template=None)._now.text
    assert RECIPES["statements"](REQUEST, text, None) == RECIPES["continue"](REQUEST, text, None)


def test_continue_cuts_even_chunks_each_after_what_stood_before(text):
    request = replace(
        REQUEST, items=(Document("x" * 100),), chunk=40, least_steps=0,
        before=(Document("what stood before "),),
    )  # fmt: skip
    examples = RECIPES["continue"](request, text, None)
    assert [len(example.ids) for example in examples] == [33, 33, 34]
    assert text.decode(examples[0].context) == "what stood before \n\n"[:18]
    assert text.decode(examples[1].context).endswith("x" * 33)
    assert all(len(example.context) <= 64 for example in examples)


def test_the_released_form_cuts_exact_chunks_and_lets_a_rest_stand(text):
    settings = Learning(even_chunks=False, context=64)
    request = replace(REQUEST, items=(Document("x" * 100),), chunk=40, settings=settings)
    assert [len(e.ids) for e in RECIPES["continue"](request, text, None)] == [40, 40, 20]
