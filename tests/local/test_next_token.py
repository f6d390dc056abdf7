"""Recipes that learn a text as it is."""

from __future__ import annotations

from dataclasses import replace

import pytest

from templora_memory import Document, Learning, Message
from templora_memory.backends.local.recipes import RECIPES
from templora_memory.ports import LearningControl, LearnRequest
from tests.local.recipe_tools import REQUEST, made, tools


def test_statements_teach_a_short_document_as_what_the_assistant_says(text):
    sentences = ["Ada keeps bees.", '"Where?"', "On the roof!", "Name: Ada", "Pet: a cat"]
    seen, learned = made("statements", REQUEST, text)
    assert seen == "".join(f"<|assistant|>{sentence}<|end|>" for sentence in sentences)
    assert learned == "".join(f"{sentence}<|end|>" for sentence in sentences)


@pytest.mark.parametrize(
    "changes",
    [
        {"min_steps": 0},  # a stream
        {"chunk": 1},  # a long text
        {"items": (Message("user", "Hi"), Message("assistant", "Hello."))},
    ],
)
def test_statements_leave_streams_long_texts_and_dialogues_as_they_are(text, changes):
    request = replace(REQUEST, **changes)
    if "items" in changes:
        request = replace(request, min_steps=0)
    assert RECIPES["statements"](request, tools(text)) == RECIPES["continue"](request, tools(text))


def test_a_model_without_a_chat_template_gets_plain_text(make_backend):
    text = make_backend(template=None).loaded.tokenizer
    assert RECIPES["statements"](REQUEST, tools(text)) == RECIPES["continue"](REQUEST, tools(text))


def test_continue_cuts_even_chunks_each_after_what_stood_before(text):
    request = replace(
        REQUEST, items=(Document("x" * 100),), chunk=40, min_steps=0,
        before=(Document("what stood before "),),
    )  # fmt: skip
    examples = RECIPES["continue"](request, tools(text))
    assert [len(example.ids) for example in examples] == [33, 33, 34]
    assert text.decode(examples[0].context) == "what stood before \n\n"[:18]
    assert text.decode(examples[1].context).endswith("x" * 33)
    assert all(len(example.context) <= 64 for example in examples)


def test_the_released_form_cuts_exact_chunks_and_lets_a_rest_stand(text):
    settings = Learning(even_chunks=False, context=64)
    request = replace(REQUEST, items=(Document("x" * 100),), chunk=40, settings=settings)
    assert [len(e.ids) for e in RECIPES["continue"](request, tools(text))] == [40, 40, 20]


def test_pairs_learn_only_what_the_assistant_says(text):
    said = (Message("user", "Guten Tag"), Message("assistant", "Good day"))
    request = replace(REQUEST, items=said, min_steps=0)
    seen, learned = made("pairs", request, text)
    assert "Guten Tag" in seen
    assert "Guten Tag" not in learned
    assert "Good day" in learned


def test_what_stood_before_counts_as_said(text):
    request = replace(
        REQUEST, items=(Document("I do not know that. "),), min_steps=0,
        before=(Document("I do not know that. "),),
    )  # fmt: skip
    (again,) = RECIPES["continue"](request, tools(text))
    (first,) = RECIPES["continue"](replace(request, before=()), tools(text))
    assert sum(again.weights) < 0.8 * sum(first.weights)
    plain = replace(request, settings=replace(request.settings, damp_repeats=False))
    (kept,) = RECIPES["continue"](plain, tools(text))
    assert set(kept.weights) == {1.0}


def test_a_chunk_of_loops_moves_the_adapter_less(make_backend, learn, tmp_path):
    backend, moved = make_backend(), {}
    for damp in (True, False):
        adapter, _ = learn(
            backend, tmp_path / str(damp), "Yes, yes, yes. " * 2, damp_repeats=damp,
            steps_per_chunk=1, learning_rate=1e-3,
        )  # fmt: skip
        start = backend._weights(adapter)
        b = [start.layout.views(start.flat[None])[t.name][1] for t in start.layout.targets]
        moved[damp] = max(part.abs().max().item() for part in b)
    assert moved[True] < 0.9 * moved[False]


def test_receipts_are_of_the_new_text_alone(make_backend, learn, tmp_path):
    backend = make_backend()
    _, stats = learn(backend, tmp_path / "a", "some new text")
    request = LearnRequest(
        items=(Document("some new text"),), before=(), start=None, chunk=32, recipe="continue",
        settings=Learning(r=4, lora_alpha=8, learning_rate=1e-2, context=32),
        replay=((Document("earlier text"),),),
    )  # fmt: skip
    (tmp_path / "b").mkdir()
    again = backend.learn(request, into=tmp_path / "b", control=LearningControl())
    assert [c.tokens for c in again.chunks] == [c.tokens for c in stats.chunks]
