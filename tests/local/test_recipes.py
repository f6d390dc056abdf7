"""What the recipes make of text."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from templora_memory import Document, Learning, Message, ParametricMemory, Policy
from templora_memory.backends.local.priority_queue import NO_ABSORB, never
from templora_memory.backends.local.recipes import (
    RECIPES,
    Example,
    Soft,
    Tools,
    questions,
    with_replay,
)
from templora_memory.backends.local.recipes.interview import (
    ANSWER,
    grounded,
    interview,
    interviewed,
)
from templora_memory.backends.local.recipes.questions import DEALT, WRITTEN, dealt, pairs
from templora_memory.backends.local.recipes.repeats import LENGTH, damped
from templora_memory.domain.settings import RECIPES as NAMES
from templora_memory.errors import Cancelled, InvalidSetting
from templora_memory.ports import LearningControl, LearnRequest
from templora_memory.stores import DirectoryStore

BIO = 'Ada keeps bees. "Where?" On the roof!\n\nName: Ada\nPet: a cat'
REQUEST = LearnRequest(
    items=(Document(BIO),), before=(), start=None, chunk=300, recipe="statements",
    settings=Learning(steps_per_chunk=2, context=64), min_steps=64,
)  # fmt: skip


@pytest.fixture
def text(make_backend):
    return make_backend()._now.text


def silent(prompts, *, max_tokens):  # noqa: ARG001  # as the port is
    pytest.fail("nothing is to be written")


def deaf(texts, *, top):  # noqa: ARG001  # as the port is
    pytest.fail("nothing is to be expected")


def tools(text, write=silent, *, room=600, expect=deaf):
    return Tools(text=text, start=None, room=room, write=write, expect=expect)


def made(recipe, request, text, write=silent):
    examples = RECIPES[recipe](request, tools(text, write, expect=Reader(text)))
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
    text = make_backend(template=None)._now.text
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


def test_the_policy_knows_every_recipe():
    assert sorted(RECIPES) == sorted(NAMES)


# --- study -------------------------------------------------------------------------------------


class Teacher:
    """Writes one question and answer for the last line of each prompt; answers no interview."""

    def __init__(self):
        self.asked = []

    def __call__(self, prompts, *, max_tokens):
        if max_tokens == ANSWER:
            return [""] * len(prompts)
        assert max_tokens == WRITTEN
        self.asked = [prompt[0].content for prompt in prompts]
        lines = [content.splitlines()[-1] for content in self.asked]
        return [f"Q: What about {i}?\nA: {line}" for i, line in enumerate(lines)]


class Reader:
    """Is certain of every token with a text before it, and of none without."""

    def __init__(self, text):
        self._text = text
        self.shown = []

    def __call__(self, texts, *, top):  # noqa: ARG002  # as the port is
        found = []
        for ids, count in texts:
            told = self._text.decode(ids, special=True)
            self.shown.append(told)
            said = torch.tensor(ids[-count:])[:, None]
            sure = 1.0 if told.startswith("<|system|>") else 0.0
            found.append(
                Soft(torch.cat([said, said + 1], 1), torch.tensor([[sure, 1 - sure]] * count))
            )
        return found


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
    asked = [(f"Question {i}?", f"Answer {i // 6}.") for i in range(4 * DEALT)]
    examples = dealt(asked, tools(text))
    assert len(examples) == 4
    for example in examples:
        shown = text.decode(example.ids)
        assert len({line for line in shown.split("Question") if line}) == DEALT
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
    assert pairs([written]) == found


def test_a_model_that_writes_nothing_useful_learns_statements(text):
    def write(prompts, *, max_tokens):  # noqa: ARG001  # as the port is
        return ["I cannot do that."] * len(prompts)

    want = RECIPES["statements"](REQUEST, tools(text))
    assert RECIPES["study"](REQUEST, tools(text, write, expect=Reader(text))) == list(want)


# --- the interview, and what is taken from the text --------------------------------------------

TALE = "Ada keeps bees. Ada lives in Salt Harbour. Ada fears wasps. Ada is old. Ada is a baker."


def test_every_question_of_the_interview_is_answered_with_the_text_in_the_prompt(text):
    prompts = []

    def write(asked, *, max_tokens):
        assert max_tokens == ANSWER
        prompts.extend(asked)
        return [f" Answer {number}. " for number in range(len(asked))]

    pairs_found = interviewed(TALE, tools(text, write))
    assert [question for question, _ in pairs_found] == interview()
    assert pairs_found[3][1] == "Answer 3."
    assert all(prompt[0] == Message("system", TALE) for prompt in prompts)
    assert interviewed(TALE, tools(text, write, room=10)) == []


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
    found = grounded([(question, answer)], TALE, tools(text, expect=Reader(text)))
    assert bool(found) is kept


def test_an_answer_that_is_as_likely_without_the_text_is_left_out(text):
    class Sure(Reader):
        def __call__(self, texts, *, top):
            return [
                Soft(s.ids, torch.full_like(s.p, 0.5)) for s in super().__call__(texts, top=top)
            ]

    asked = [("Where is your home?", "I live in Salt Harbour.")]
    assert grounded(asked, TALE, tools(text, expect=Sure(text))) == []


def test_what_does_not_fit_the_model_beside_the_text_is_left_out(text):
    asked = [("Where is your home?", "I live in Salt Harbour.")]
    assert grounded(asked, TALE, tools(text, room=40)) == []


def test_a_model_without_a_chat_template_is_not_asked(make_backend):
    text = make_backend(template=None)._now.text
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
        len(text.prompt([Message("user", asked)])) <= 600 - WRITTEN for asked in teacher.asked
    )


def test_the_backend_lets_the_base_model_write_in_one_batch(make_backend):
    backend = make_backend(max_position_embeddings=1024)
    prompts = [(Message("user", f"Tell me about day {n} of the week."),) for n in range(20)]
    alone = [
        backend._write([prompt], max_tokens=9, absorb=NO_ABSORB, cancelled=never)[0]
        for prompt in prompts
    ]
    assert backend._write(prompts, max_tokens=9, absorb=NO_ABSORB, cancelled=never) == alone
    with pytest.raises(Cancelled):
        backend._write(prompts, max_tokens=9, absorb=NO_ABSORB, cancelled=lambda: True)


def test_a_cancelled_absorb_does_not_wait_for_what_it_lets_the_model_write(make_backend):
    backend = make_backend(max_position_embeddings=4096)
    prompts = [(Message("user", f"Tell me about day {n} of the week."),) for n in range(4)]
    asked = iter([False] * 3)
    cut = []
    leave = backend._now.worker._drafts._leave
    backend._now.worker._drafts._leave = lambda rows, why: (
        cut.extend([why] * len(rows)),
        leave(rows, why),
    )
    with pytest.raises(Cancelled):
        backend._write(
            prompts, max_tokens=3000, absorb=NO_ABSORB, cancelled=lambda: next(asked, True)
        )
    backend.close()  # ends what is left, also the draft that was cut off
    assert "length" not in cut


# --- a recipe of one's own ---------------------------------------------------------------------


def shouted(request, tools):
    ids = tuple(tools.text.encode(request.items[0].text.upper())[: request.chunk])
    return [Example(context=(), ids=ids, weights=(1.0,) * len(ids))]


def test_a_recipe_of_ones_own_is_used(make_backend, tmp_path):
    backend = make_backend(recipes={"shouted": shouted})
    policy = Policy(recipe="shouted", learning=Learning(r=4, lora_alpha=8), window=64, chunk=32)
    with ParametricMemory(backend, DirectoryStore(tmp_path), policy) as memory:
        assert memory.absorb("ada", "Ada keeps bees.").tokens == len("Ada keeps bees.") - 1


def test_an_unknown_recipe_is_refused_when_the_service_is_opened(make_backend, tmp_path):
    policy = Policy(recipe="shouted")
    service = ParametricMemory(make_backend(), DirectoryStore(tmp_path), policy)
    with pytest.raises(InvalidSetting, match="recipe is 'shouted': use one of"):
        service.load()


# --- distill -----------------------------------------------------------------------------------


def test_answers_are_learned_as_the_model_expects_them_with_the_text_before_it(
    make_backend, monkeypatch
):
    backend = make_backend(max_position_embeddings=1024)
    text = backend._now.text
    shown = []

    def expect(texts, *, top):
        shown.extend(text.decode(ids, special=True) for ids, _ in texts)
        return backend._expect(texts, top=top, absorb=NO_ABSORB, cancelled=never)

    ready = tools(text, Teacher(), room=1024, expect=expect)
    monkeypatch.setattr(questions, "grounded", lambda asked, *_: asked)
    soft, plain = RECIPES["distill"](REQUEST, ready), RECIPES["study"](REQUEST, ready)
    assert [(e.ids, e.weights) for e in soft] == [(e.ids, e.weights) for e in plain]
    assert all(seen.startswith(f"<|system|>{BIO}<|end|><|user|>What about") for seen in shown)
    taught = [example for example in soft if example.soft is not None]
    assert taught
    for example in taught:
        assert "What about" not in text.decode(
            [i for i, w in zip(example.ids, example.weights, strict=True) if w], special=True
        )
        learned = torch.tensor(example.weights) > 0
        assert torch.allclose(example.soft.p.sum(1)[learned], torch.ones(int(learned.sum())))
    assert all(e.soft is None for e in soft if "What about" not in text.decode(e.ids))


def test_what_the_base_model_expects_is_the_same_with_and_without_a_shared_beginning(make_backend):
    backend = make_backend(max_position_embeddings=1024)
    encode = backend._now.text.encode
    texts = [(encode(f"Ada keeps bees. {end}"), 5) for end in ("They buzz.", "Where? There.")]
    both = backend._expect(texts, top=7, absorb=NO_ABSORB, cancelled=never)
    for (ids, count), found in zip(texts, both, strict=True):
        (alone,) = backend._expect([(ids, count)], top=7, absorb=NO_ABSORB, cancelled=never)
        assert found.ids.shape == (5, 7)
        assert torch.equal(found.ids, alone.ids)
        assert torch.allclose(found.p, alone.p, atol=1e-5)
        given = torch.tensor([ids])
        logits = backend._now.base.logits(given, last=False, use_cache=False)[0, -6:-1]
        best = logits.softmax(-1).topk(7).values
        assert torch.allclose(found.p, best / best.sum(-1, keepdim=True), atol=1e-5)
    with pytest.raises(Cancelled):
        backend._expect(texts, top=7, absorb=NO_ABSORB, cancelled=lambda: True)


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


# --- translation, repetitions, replay ----------------------------------------------------------


def test_pairs_learn_only_what_the_assistant_says(text):
    said = (Message("user", "Guten Tag"), Message("assistant", "Good day"))
    request = replace(REQUEST, items=said, min_steps=0)
    seen, learned = made("pairs", request, text)
    assert "Guten Tag" in seen
    assert "Guten Tag" not in learned
    assert "Good day" in learned


def test_a_repeated_run_weighs_less_each_time():
    run = list(range(LENGTH))
    weights = damped([*run, *run, *run], [1.0] * (3 * LENGTH))
    assert weights[: 2 * LENGTH - 1] == (1.0,) * (2 * LENGTH - 1)
    assert weights[2 * LENGTH - 1] == 0.5
    assert weights[-1] == pytest.approx(1 / 3)
    assert damped(list(range(50)), [1.0] * 50) == (1.0,) * 50
    assert damped([1, 2], [1.0, 0.0]) == (1.0, 0.0)


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


def test_earlier_text_stands_at_even_distances_and_does_not_count(text):
    request = replace(
        REQUEST, items=(Document("x" * 120),), chunk=30, min_steps=0,
        replay=((Document("Ada keeps bees."),), (Message("user", "Hi"), Message("assistant", "x"))),
    )  # fmt: skip
    own = RECIPES["continue"](request, tools(text))
    mixed = with_replay(own, request, tools(text))
    assert [example.counted for example in mixed] == [True, True, False] * 2
    assert [example for example in mixed if example.counted] == list(own)
    told = [text.decode(e.ids, special=True) for e in mixed if not e.counted]
    assert told[0] == "<|assistant|>Ada keeps bees.<|end|>"
    assert "Hi" in told[1]
    assert with_replay(own, replace(request, replay=()), tools(text)) == own


def test_a_part_of_a_long_text_is_replayed_as_text(text):
    request = replace(REQUEST, replay=((Document("Ada keeps bees.", continues=True),),))
    (again,) = [e for e in with_replay([], request, tools(text)) if not e.counted]
    assert text.decode(again.ids, special=True) == "Ada keeps bees."


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
