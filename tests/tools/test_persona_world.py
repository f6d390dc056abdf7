"""The persona world and the token encoding behind the embedded model."""

# ruff: noqa: S311  (tests want a seeded generator)

from __future__ import annotations

import re
import string
from random import Random

import pytest

pytest.importorskip("numpy")
pytest.importorskip("tqdm")
pytest.importorskip("tools.train_tiny", reason="tools are only in the repository")

from tools.train_tiny import data, persona_world as world

KINDS = [kind for kind, _ in data.PERSONA_KINDS]


def documents(seed: int, count: int) -> list:
    rng = Random(seed)
    people = world.residents(seed, 5)
    return [data.persona_document(rng) for _ in range(count)] + [
        world.resident_document(people, rng) for _ in range(count // 4)
    ]


@pytest.fixture(scope="module")
def tokenizer():
    return data.train_tokenizer(map(data.render, documents(1, 60)), 500)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_same_seed_same_document(kind):
    assert kind(Random(5)) == kind(Random(5))
    assert kind(Random(5)) != kind(Random(6))


def test_residents_depend_only_on_the_seed():
    assert world.residents(3, 4) == world.residents(3, 4)
    assert world.residents(3, 4) != world.residents(4, 4)


def test_no_template_mark_survives():
    assert not [text for text in map(data.render, documents(2, 400)) if "{" in text or "}" in text]


def test_held_out_phrasings_never_occur_in_training_documents():
    text = "\n".join(map(data.render, documents(3, 1500)))
    for fact in world.FACTS:
        for phrasing in (fact.ask_third[-1], fact.ask_second[-1]):
            before, _, after = phrasing.partition("{N}")
            name = "[A-Z][a-z]+( [A-Z][a-z]+)?" if after else ""
            assert not re.search(re.escape(before) + name + re.escape(after), text, re.IGNORECASE)


def test_held_out_question_is_the_last_phrasing():
    persona = world.draw_persona(Random(1), held_out=True, facts=(16, 16))
    asked = world.ask(persona, "home", Random(1), second=True, held_out=True)
    assert asked == world.BY_KEY["home"].ask_second[-1]


def test_held_out_names_end_as_no_trained_name_does():
    names = {world.draw_persona(Random(seed), held_out=True).given for seed in range(200)}
    assert all(name.endswith(tuple(world.HELD_OUT_ENDINGS)) for name in names)
    trained = {world.draw_persona(Random(seed)).given for seed in range(200)}
    assert not names & trained


@pytest.mark.parametrize("fact", world.FACTS, ids=lambda fact: fact.key)
def test_every_telling_contains_the_value(fact):
    persona = world.Persona("Bella Ashford", "she", ((fact.key, fact.draw(Random(1))),))
    value = persona.value(fact.key).lower()
    for template in fact.third:
        for named in (True, False):
            told = world.tell_third(persona, fact.key, template, named=named)
            assert value in told.lower()
            assert "{" not in told
    for template in fact.first:
        assert value in world.tell_first(persona, fact.key, template).lower()


@pytest.mark.parametrize("fact", world.FACTS, ids=lambda fact: fact.key)
def test_every_further_wording_speaks_of_every_person(fact):
    persona = world.Persona("Bella Ashford", "she", ((fact.key, fact.draw(Random(1))),))
    value = persona.value(fact.key).lower()
    for seed in range(60):
        rng = Random(seed)
        said = [
            world.say_first(persona, fact.key, rng),
            world.say_third(persona, fact.key, rng, named=seed % 2 == 0),
        ]
        asked = [world.ask(persona, fact.key, rng, second=second) for second in (True, False)]
        checked = [
            text
            for second in (True, False)
            for _, text in world.yes_or_no(persona, fact.key, rng, second=second)
        ]
        assert all(value in sentence.lower() for sentence in said)
        assert "Bella" in asked[1]
        assert not set("{}|") & set(" ".join([*said, *asked, *checked]))


def test_placeholders_become_two_names():
    chat = [("user", "Hi, I'm [name]."), ("assistant", "Hello [Name], my name is [name].")]
    (_, first), (_, second) = data.with_names(chat, Random(1))
    own = first.removeprefix("Hi, I'm ").rstrip(".")
    assert second.startswith(f"Hello {own}, my name is ")
    assert own not in second.removeprefix(f"Hello {own}")


def test_render_writes_the_chat_marks():
    chat = [("system", "Be kind."), ("user", "Hello."), ("assistant", "Hi.")]
    assert data.render(chat) == (
        "<|system|>Be kind.<|end|><|user|>Hello.<|end|><|assistant|>Hi.<|end|>"
    )
    assert data.render("Once upon a time.") == "Once upon a time."


def test_encoding_is_that_of_the_rendered_text(tokenizer):
    for document in documents(4, 40):
        ids, weights = data.encode(tokenizer, document, 3)
        assert len(ids) == len(weights)
        assert ids == tokenizer.encode(data.render(document) + data.END_OF_TEXT).ids


def test_only_answers_weigh_more(tokenizer):
    ids, weights = data.encode(tokenizer, [("user", "How are you?"), ("assistant", "Well.")], 3)
    mark = tokenizer.token_to_id(data.ASSISTANT)
    begin = ids.index(mark)

    assert weights[: begin + 1] == [1] * (begin + 1)
    assert weights[begin + 1 : -1] == [3] * (len(ids) - begin - 2)  # the answer and its end mark
    assert weights[-1] == 1  # end of text


def test_special_tokens_have_the_first_ids(tokenizer):
    assert [tokenizer.token_to_id(mark) for mark in data.SPECIAL] == [0, 1, 2, 3, 4]


def test_text_survives_the_tokenizer(tokenizer):
    for text in (string.printable, "  two  spaces ", "Größe, naïve, 東京", "12345 6.7"):
        assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_digits_are_tokens_of_their_own(tokenizer):
    assert tokenizer.encode("1984").tokens == ["1", "9", "8", "4"]


def test_story_cleaning_keeps_prose_only():
    body = "The sun rose over the hill, and “everybody” went out--at last--to\nsee it."
    text = "\n\n".join(["X" * 400, "CHAPTER I", body, "| a | table |", "Y" * 400])
    assert data.clean_story(text) == (
        'The sun rose over the hill, and "everybody" went out - at last - to see it.'
    )
