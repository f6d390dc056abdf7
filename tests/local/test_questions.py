"""Recipes that learn questions and answers about a text."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from templora_memory import Document, Learning, Message
from templora_memory.backends.local.recipes import (
    RECIPES,
    TopKTargets,
)
from templora_memory.backends.local.recipes.questions import (
    ANSWER_TOKENS,
    PAIRS_PER_EXAMPLE,
    QUESTION_TOKENS,
    answer_interview,
    interleave_pairs,
    interview_questions,
    keep_grounded,
    parse_pairs,
)
from templora_memory.backends.local.scheduler import DEFAULT_PRIORITY, never
from templora_memory.ports import LearningControl
from tests.local.recipe_tools import BIO, REQUEST, Reader, made, tools

QUESTIONS = "templora_memory.backends.local.recipes.questions"


class Teacher:
    """Writes one question and answer for the last line of each prompt; answers no interview."""

    def __init__(self):
        self.asked = []

    def __call__(self, prompts, *, max_tokens):
        if max_tokens == ANSWER_TOKENS:
            return [""] * len(prompts)
        assert max_tokens == QUESTION_TOKENS
        self.asked = [prompt[0].content for prompt in prompts]
        lines = [content.splitlines()[-1] for content in self.asked]
        return [f"Q: What about {i}?\nA: {line}" for i, line in enumerate(lines)]


def test_a_document_is_studied_sentence_by_sentence_with_the_text_in_the_prompt(text):
    teacher = Teacher()
    seen, learned = made("study", REQUEST, text, teacher)
    stated = ["Ada keeps bees.", "On the roof!", "Name: Ada", "Pet: a cat"]
    assert [asked.splitlines()[-1] for asked in teacher.asked] == [s for s in stated for _ in "ab"]
    assert all(asked.startswith(BIO) for asked in teacher.asked)
    assert "<|user|>What about 0?<|end|><|assistant|>Ada keeps bees.<|end|>" in seen
    assert "What about" not in learned
    assert learned.count("Pet: a cat<|end|>") == 3  # two answers, and what the text says itself


def test_questions_about_one_sentence_stand_in_different_examples(text):
    asked = [(f"Question {i}?", f"Answer {i // 6}.") for i in range(4 * PAIRS_PER_EXAMPLE)]
    examples = interleave_pairs(asked, tools(text))
    assert len(examples) == 4
    for example in examples:
        shown = text.decode(example.ids)
        assert len({line for line in shown.split("Question") if line}) == PAIRS_PER_EXAMPLE
        assert shown.count("Answer 0.") <= 2


@pytest.mark.parametrize(
    ("written", "found"),
    [
        ("Q: Who?\nA: Ada.", [("Who?", "Ada.")]),
        ("Sure!\nQ:  Who?\n\nA: Ada. \nQ: Who?\nA: Ada.", [("Who?", "Ada.")]),
        ("Q: Who?\nQ: Where?\nA: There.", [("Where?", "There.")]),
        ("Q: Who?", []),
        ("A: Ada.\nQ: Who?", []),
        ("Q: \nA: Ada.", []),
        ("no pair at all", []),
    ],
)
def test_what_is_no_pair_is_left_out(written, found):
    assert parse_pairs([written]) == found


def test_a_model_that_writes_nothing_useful_learns_statements(text):
    def write(prompts, *, max_tokens):  # noqa: ARG001  # as the port is
        return ["I cannot do that."] * len(prompts)

    want = RECIPES["statements"](REQUEST, tools(text))
    assert RECIPES["study"](REQUEST, tools(text, write, expect=Reader(text))) == list(want)


TALE = "Ada keeps bees. Ada lives in Salt Harbour. Ada fears wasps. Ada is old. Ada is a baker."


def test_every_question_of_the_interview_is_answered_with_the_text_in_the_prompt(text):
    prompts = []

    def write(asked, *, max_tokens):
        assert max_tokens == ANSWER_TOKENS
        prompts.extend(asked)
        return [f" Answer {number}. " for number in range(len(asked))]

    pairs_found = answer_interview(TALE, tools(text, write))
    assert [question for question, _ in pairs_found] == interview_questions()
    assert pairs_found[3][1] == "Answer 3."
    assert all(prompt[0] == Message("system", TALE) for prompt in prompts)
    assert answer_interview(TALE, tools(text, write, room=10)) == []


@pytest.mark.parametrize(
    ("question", "answer", "kept"),
    [
        ("Where is your home?", "I live in Salt Harbour.", True),
        ("Is it Salt Harbour, or where is it?", "Salt Harbour.", False),  # it was in the question
        ("What is your name?", "Ada.", False),  # in every sentence: the hero's name proves nothing
        ("What do you eat?", "I eat pear soup.", False),  # made up
        ("What do you fear?", "WASPS!", True),
    ],
)
def test_an_answer_is_kept_if_it_takes_something_from_the_text(text, question, answer, kept):
    found = keep_grounded([(question, answer)], TALE, tools(text, expect=Reader(text)))
    assert bool(found) is kept


def test_an_answer_that_is_as_likely_without_the_text_is_left_out(text):
    class Sure(Reader):
        def __call__(self, texts, *, top_k):
            return [
                TopKTargets(s.ids, torch.full_like(s.p, 0.5))
                for s in super().__call__(texts, top_k=top_k)
            ]

    asked = [("Where is your home?", "I live in Salt Harbour.")]
    assert keep_grounded(asked, TALE, tools(text, expect=Sure(text))) == []


def test_what_does_not_fit_the_model_beside_the_text_is_left_out(text):
    asked = [("Where is your home?", "I live in Salt Harbour.")]
    assert keep_grounded(asked, TALE, tools(text, room=40)) == []


def test_a_model_without_a_chat_template_is_not_asked(make_backend):
    text = make_backend(template=None).loaded.tokenizer
    assert RECIPES["study"](REQUEST, tools(text)) == RECIPES["continue"](REQUEST, tools(text))


def test_dialogues_are_not_studied(text):
    said = (Message("user", "Hi"), Message("assistant", "Hello."))
    request = replace(REQUEST, items=said, min_steps=0)
    assert RECIPES["study"](request, tools(text)) == RECIPES["continue"](request, tools(text))


def test_auto_studies_short_documents_and_continues_the_rest(text):
    teacher = Teacher()
    assert made("auto", REQUEST, text, teacher) == made("study", REQUEST, text, Teacher())
    long = replace(REQUEST, chunk=1)
    assert RECIPES["auto"](long, tools(text)) == RECIPES["continue"](long, tools(text))


def test_a_text_longer_than_the_model_is_studied_in_pieces(text):
    teacher = Teacher()
    items = (Document("Ada keeps bees on the roof. " * 40),)
    RECIPES["study"](replace(REQUEST, items=items), tools(text, teacher, expect=Reader(text)))
    assert teacher.asked
    assert all(
        len(text.prompt([Message("user", asked)])) <= 600 - QUESTION_TOKENS
        for asked in teacher.asked
    )


def test_answers_are_learned_as_the_model_expects_them_with_the_text_before_it(
    make_backend, monkeypatch
):
    backend = make_backend(max_position_embeddings=1024)
    text = backend.loaded.tokenizer
    shown = []

    def expect(texts, *, top_k):
        shown.extend(text.decode(ids, special=True) for ids, _ in texts)
        return backend._teacher_targets(
            texts, top_k=top_k, priority=DEFAULT_PRIORITY, cancelled=never
        )

    ready = tools(text, Teacher(), room=1024, expect=expect)
    monkeypatch.setattr(f"{QUESTIONS}.keep_grounded", lambda asked, *_: asked)
    soft, plain = RECIPES["distill"](REQUEST, ready), RECIPES["study"](REQUEST, ready)
    assert [(e.ids, e.weights) for e in soft] == [(e.ids, e.weights) for e in plain]
    assert all(seen.startswith(f"<|system|>{BIO}<|end|><|user|>What about") for seen in shown)
    taught = [example for example in soft if example.top_k_targets is not None]
    assert taught
    for example in taught:
        assert "What about" not in text.decode(
            [i for i, w in zip(example.ids, example.weights, strict=True) if w], special=True
        )
        learned = torch.tensor(example.weights) > 0
        assert torch.allclose(
            example.top_k_targets.p.sum(1)[learned], torch.ones(int(learned.sum()))
        )
    assert all(e.top_k_targets is None for e in soft if "What about" not in text.decode(e.ids))


def test_distilling_moves_the_student_towards_the_teacher(make_backend, tmp_path):
    backend = make_backend(max_position_embeddings=1024)
    request = replace(
        REQUEST, recipe="distill", min_steps=40,
        settings=Learning(r=4, lora_alpha=8, learning_rate=1e-2, context=64, kl_weight=0.0),
    )  # fmt: skip
    told = []
    stats = backend.learn(request, into=tmp_path, control=LearningControl(progress=told.append))
    assert told[-1].chunk == told[-1].chunks
    assert all(math.isfinite(chunk.nll_after) for chunk in stats.chunks)
