"""The recipe for documents: facts as answers to questions."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from random import Random

import pytest

from templora_memory import Document, Learning, Message
from templora_memory.backends.local.recipes import RECIPES, questions as recipe
from templora_memory.backends.local.recipes.facts import facts_of
from templora_memory.backends.local.recipes.questions import (
    MAX_WRITTEN_FOR,
    name_topics,
    question_forms,
    word_question,
    write_questions,
)
from templora_memory.domain.segmentation import content_words
from templora_memory.errors import LearningFailed
from templora_memory.ports import LearningControl
from tests.local.recipe_tools import BIO, REQUEST, blank, made, shown, tools

FACTS = (
    "Ada has kept bees on the roof of the old observatory for years.",
    "The honey is sold at the market in Salt Harbour every autumn.",
    "Her cat Pim is grey and sleeps all day on the warm kitchen stove.",
    "In 1921 the town built a second bridge over the slow brown river.",
)
STUDIED = replace(REQUEST, recipe="study", items=(Document(" ".join(FACTS)),))


def draws(seed):
    return Random(seed)  # noqa: S311  # no secret


class Writer:
    """Goes on with a question about the words of each fact, another one for each beginning."""

    def __init__(self):
        self.before = ""
        self.texts = []

    def __call__(self, before, texts, *, max_tokens, stop):  # noqa: ARG002  # as the port is
        self.before = before
        self.texts += texts
        return [f" of {text.split()[1]} and {text.split()[-4]}?" for text in texts]


def facts_begun(turns):
    """Which facts the answers are, or the beginnings of."""
    return Counter(fact for _, said in turns for fact in FACTS if fact.startswith(said))


def turns_of(text, example):
    """The questions and answers of an example."""
    told = text.decode(example.ids, special=True)
    parts = told.split("<|user|>")[1:]
    return [tuple(part.removesuffix("<|end|>").split("<|end|><|assistant|>")) for part in parts]


def passes_of(text, examples):
    """The questions and answers of every pass with questions of its own."""
    rounds = 1 + len(examples[0].variants)
    return [
        [
            turn
            for example in examples
            for turn in turns_of(text, example.in_pass(number, last=False))
        ]
        for number in range(rounds)
    ]


# --- a document as turns -----------------------------------------------------------------------


def test_every_fact_stands_in_every_pass_exactly_once(text):
    examples = RECIPES["study"](STUDIED, tools(text, Writer(), room=4000))
    for turns in passes_of(text, examples):
        assert facts_begun(turns) == Counter(FACTS)


def test_passes_ask_different_questions(text):
    examples = RECIPES["study"](STUDIED, tools(text, blank, room=4000))
    asked = [frozenset(question for question, _ in turns) for turns in passes_of(text, examples)]
    assert len(set(asked)) > len(asked) // 2


def test_only_answers_and_their_ends_are_learned(text):
    examples = RECIPES["study"](STUDIED, tools(text, blank, room=4000))
    _, learned = shown(text, examples)
    assert sorted(learned.removesuffix("<|end|>").split("<|end|>")) == sorted(FACTS)


def test_every_answer_of_a_step_counts_alike(text):
    (example,) = RECIPES["study"](STUDIED, tools(text, blank, room=4000))
    start, sums = example.segments[0], []
    for size in example.segments[1:]:
        sums.append(sum(example.weights[start : start + size]))
        start += size
    assert sums == pytest.approx([1.0] * len(FACTS))


def test_a_step_has_few_questions_and_there_are_as_many_steps_as_it_takes(text):
    lines = "\n".join(f"Place {n}: the {n}th house behind the harbour" for n in range(30))
    examples = RECIPES["study"](
        replace(STUDIED, items=(Document(lines),)), tools(text, blank, room=4000)
    )
    counts = [len(example.segments) - 1 for example in examples]
    assert sum(counts) == 30
    assert max(counts) <= recipe.TURNS_PER_EXAMPLE
    assert max(counts) - min(counts) <= 1


def test_what_was_said_in_dialogue_is_learned_as_it_was_said(text):
    items = (Document("Tom: Where do you live?\nAda: On the roof.", character="Ada"),)
    examples = RECIPES["study"](replace(STUDIED, items=items), tools(text, blank, room=4000))
    for turns in passes_of(text, examples):
        ((question, answer),) = turns
        assert question == "Where do you live?"
        assert "On the roof.".startswith(answer)


def test_a_character_is_also_asked_under_their_name(text):
    items = (Document("Ada keeps bees on the roof.", character="Ada"),)
    (example,) = RECIPES["study"](replace(STUDIED, items=items), tools(text, blank, room=4000))
    told = [text.decode(e.ids, special=True) for e in (example, *example.variants)]
    named = [one for one in told if one.startswith("<|system|>You are Ada.<|end|><|user|>")]
    assert 0 < len(named) < len(told)


def test_nobody_is_named_where_there_is_no_character(text):
    (example,) = RECIPES["study"](STUDIED, tools(text, blank, room=4000))
    told = [text.decode(e.ids, special=True) for e in (example, *example.variants)]
    assert not any("<|system|>" in one for one in told)


def test_examples_depend_on_the_seed_alone(text):
    def studied(seed):
        settings = replace(STUDIED.settings, seed=seed)
        request = replace(STUDIED, settings=settings)
        return RECIPES["study"](request, tools(text, Writer(), room=4000))

    assert studied(1) == studied(1)
    assert studied(1) != studied(2)


def test_the_last_pass_is_over_the_first_ones_questions(text):
    (example,) = RECIPES["study"](STUDIED, tools(text, blank, room=4000))
    assert example.in_pass(7, last=True) is example.in_pass(0, last=False) is example
    assert example.in_pass(1, last=False) is not example


# --- questions that the model writes -----------------------------------------------------------


def test_the_model_goes_on_with_each_fact_and_each_beginning_after_examples(text):
    writer = Writer()
    told = facts_of(STUDIED.items[0])
    written = write_questions(told, tools(text, writer, room=4000))
    forms = question_forms("en")
    assert all(said in writer.before and ask in writer.before for said, ask, _ in forms["examples"])
    assert len(writer.texts) == len(FACTS) * len(forms["starts"])
    for fact, asks in zip(FACTS, written, strict=True):
        assert asks
        assert all(ask.partition(" of ")[0] in forms["starts"] for ask in asks)
        assert all(f" of {fact.split()[1]} " in ask for ask in asks)


def test_a_question_that_is_written_for_many_facts_is_left_out(text):
    def write(_, texts, **__):
        return [" about it?" for _ in texts]

    assert len(FACTS) > MAX_WRITTEN_FOR
    assert write_questions(facts_of(STUDIED.items[0]), tools(text, write, room=4000)) == [
        [] for _ in FACTS
    ]


def test_a_question_that_is_written_for_one_fact_stays(text):
    told = facts_of(Document(FACTS[0]))

    def write(_, texts, **__):
        return [" about it?" for _ in texts]

    (asks,) = write_questions(told, tools(text, write, room=4000))
    assert asks == [f"{start} about it?" for start in question_forms("en")["starts"]]


@pytest.mark.parametrize("rest", ["", " it is.", " kept the bees"])
def test_what_comes_to_no_end_or_asks_nothing_is_left_out(text, rest):
    def write(_, texts, **__):
        return [rest for _ in texts]

    told = facts_of(Document(FACTS[0]))
    assert write_questions(told, tools(text, write, room=4000)) == [[]]


def test_a_question_of_the_examples_is_left_out(text):
    def write(_, texts, **__):
        return [" were you born?" for _ in texts]

    told = facts_of(Document(FACTS[0]))
    (asks,) = write_questions(told, tools(text, write, room=4000))
    assert "Where were you born?" in [ask for _, ask, _ in question_forms("en")["examples"]]
    assert "Where were you born?" not in asks


def test_a_fact_longer_than_half_of_the_model_is_not_gone_on_with(text):
    writer = Writer()
    told = facts_of(Document("Ada sings. " + "\n\n" + "la " * 100))
    written = write_questions(told, tools(text, writer, room=100))
    assert len(written) == len(told.facts)
    assert writer.texts
    assert all(len(one) < 100 for one in writer.texts)


def test_a_language_without_question_words_is_asked_for_its_own_words(text):
    told = facts_of(Document("Ада держит пчёл на крыше старой обсерватории."))
    assert told.language == "ru"
    assert write_questions(told, tools(text, room=4000)) == [[]]
    question = word_question(told.facts[0], told, (), draws(0))
    assert question.endswith("?")
    assert question[:-1].lower().split()[0] in told.facts[0].lower()


# --- questions of a word -----------------------------------------------------------------------


@pytest.mark.parametrize("language", ["de", "en", "es", "fr", "ja", "zh"])
def test_every_language_with_forms_has_all_of_them(language):
    forms = question_forms(language)
    assert forms["starts"]
    assert all(len(example) == 3 for example in forms["examples"])
    for form in [*forms["about"], *forms.get("about_other", ())]:
        asked = form.format(w="honey", W="Honey")
        assert "honey" in asked.lower()
        assert "{" not in asked


def test_a_question_asks_for_a_word_of_the_fact():
    told = facts_of(Document(FACTS[1]))
    for seed in range(30):
        question = word_question(FACTS[1], told, (), draws(seed)).lower()
        assert any(word in question for word in content_words(FACTS[1]))


def test_a_question_may_ask_for_a_topic():
    told = facts_of(Document(FACTS[1]))
    asked = [word_question(FACTS[1], told, ("insects",), draws(seed)).lower() for seed in range(60)]
    assert 0 < sum("insects" in question for question in asked) < len(asked)


def test_topics_are_named_after_examples_and_beside_their_sentences(text):
    told = facts_of(STUDIED.items[0])
    calls = []

    def named(before, texts, *, others):
        calls.append((before, texts, others))
        return [("a", "b")] * len(texts)

    known = replace(tools(text, room=4000), topics=named)
    assert name_topics(told, known) == [("a", "b")] * len(told.facts)
    ((before, texts, others),) = calls
    assert [one.removesuffix(" =>") for one in texts] == list(told.facts)
    for sentence, _, topics in question_forms("en")["examples"]:
        assert f"{sentence} => {topics}\n" in before
        assert f"{sentence} =>" in others


def test_a_fact_longer_than_half_of_the_model_is_given_no_topics(text):
    told = facts_of(STUDIED.items[0])
    known = tools(text, room=2 * len(text.encode(told.facts[0])), topics=("a",))
    named = dict(zip(told.facts, name_topics(told, known), strict=True))
    assert named[told.facts[0]] == ()
    assert ("a",) in named.values()


def test_later_passes_learn_some_answers_whole_and_of_some_the_beginning(text):
    examples = RECIPES["study"](STUDIED, tools(text, blank, room=4000))
    first, *later = passes_of(text, examples)
    assert all(answer in FACTS for _, answer in first)
    cut = [answer not in FACTS for turns in later for _, answer in turns]
    assert 0.3 < sum(cut) / len(cut) < 0.7
    assert all(
        any(fact.startswith(answer) for fact in FACTS) for turns in later for _, answer in turns
    )


def test_a_chinese_fact_is_asked_for_by_signs_that_stand_in_it():
    fact = "阿达在屋顶上养蜂，她的猫叫皮姆。"  # noqa: RUF001
    told = facts_of(Document(fact))
    assert told.language == "zh"
    known = {form.format(w="|", W="|") for form in question_forms("zh")["about"]}
    for seed in range(30):
        question = word_question(fact, told, (), draws(seed))
        assert any(
            question.startswith(before) and question.endswith(after)
            for before, _, after in (form.partition("|") for form in known)
        )
        assert any(pair in question for pair in (fact[n : n + 2] for n in range(len(fact) - 1)))


def test_a_fact_of_small_words_alone_is_still_asked_for():
    told = facts_of(Document("That is what it was."))
    assert word_question(told.facts[0], told, (), draws(0))


# --- what is not studied -----------------------------------------------------------------------


def test_a_document_of_too_many_facts_is_continued(text, monkeypatch):
    monkeypatch.setattr(recipe, "MAX_FACTS", len(FACTS) - 1)
    assert RECIPES["study"](STUDIED, tools(text, room=4000)) == RECIPES["continue"](
        STUDIED, tools(text)
    )


def test_a_list_of_500_names_is_learned_whole(text):
    names = [f"Person {chr(65 + n % 26)}{chr(97 + n // 26)}" for n in range(500)]
    request = replace(STUDIED, items=(Document("\n".join(names)),))
    seen, _ = shown(text, RECIPES["study"](request, tools(text, blank, room=4000)))
    assert all(name in seen for name in names)


def test_a_document_without_a_letter_is_continued(text):
    request = replace(STUDIED, items=(Document("12345 67890"),))
    seen, learned = made("study", request, text)
    assert learned == "12345 67890"[-len(learned) :]
    assert seen.endswith("12345 67890")


def test_a_single_sign_fails_with_a_reason(make_backend, tmp_path):
    request = replace(
        STUDIED, items=(Document("7"),), chunk=32, settings=Learning(learning_rate=1e-3, context=32)
    )
    with pytest.raises(LearningFailed, match="nothing to train on"):
        make_backend().learn(request, into=tmp_path, control=LearningControl())


def test_a_model_without_a_chat_template_is_not_asked(make_backend):
    text = make_backend(template=None).loaded.tokenizer
    assert RECIPES["study"](STUDIED, tools(text)) == RECIPES["continue"](STUDIED, tools(text))


def test_dialogues_are_not_studied(text):
    said = (Message("user", "Hi"), Message("assistant", "Hello."))
    request = replace(STUDIED, items=said, min_steps=0)
    assert RECIPES["study"](request, tools(text)) == RECIPES["continue"](request, tools(text))


def test_auto_studies_short_documents_and_continues_the_rest(text):
    ready = tools(text, blank, room=4000)
    assert RECIPES["auto"](STUDIED, ready) == RECIPES["study"](STUDIED, ready)
    long = replace(STUDIED, chunk=1)
    assert RECIPES["auto"](long, tools(text)) == RECIPES["continue"](long, tools(text))


@pytest.mark.parametrize("text_of", ["Ada keeps bees.", BIO, "Who?", "La,\nla,\nla.", "x = 2 * y"])
def test_any_short_document_is_learned(make_backend, text_of, tmp_path):
    backend = make_backend(max_position_embeddings=2048)
    request = replace(
        STUDIED, items=(Document(text_of),), min_steps=4,
        settings=Learning(r=4, lora_alpha=8, learning_rate=1e-3, context=64, kl_weight=0.0),
    )  # fmt: skip
    told = []
    stats = backend.learn(request, into=tmp_path, control=LearningControl(progress=told.append))
    assert told[-1].chunk == told[-1].chunks
    assert all(math.isfinite(chunk.nll_after) for chunk in stats.chunks)
