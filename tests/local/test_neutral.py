"""Texts about nothing in particular, by language."""

import json
from importlib import resources
from unicodedata import normalize

import pytest

from templora_memory.backends.local.neutral import (
    LANGUAGES,
    everyday_chat,
    neutral_language,
    neutral_text,
)
from templora_memory.domain.languages import language_of
from templora_memory.domain.segmentation import words

EVALUATION = resources.files("templora_memory.evaluation")


def normalised(question):
    return "".join(c for c in normalize("NFKD", question).casefold() if c.isalnum())


def measured_questions():
    asked = EVALUATION.joinpath("everyday.txt").read_text("utf-8").splitlines()
    for file in EVALUATION.iterdir():
        if file.name.endswith(".json"):
            for person in json.loads(file.read_text("utf-8")):
                asked += [question["ask"] for question in person["questions"]]
                asked += person.get("unanswerable", [])
    return {normalised(question) for question in asked}


@pytest.mark.parametrize("language", LANGUAGES)
def test_prose_is_in_its_language(language):
    assert language_of(neutral_text(language)) == language


@pytest.mark.parametrize("language", LANGUAGES)
def test_prose_has_some_hundred_words(language):
    assert len(words(neutral_text(language))) >= 300


@pytest.mark.parametrize("language", LANGUAGES)
def test_prose_is_composed_and_nothing_is_broken_in_it(language):
    text = neutral_text(language)
    assert normalize("NFC", text) == text
    assert "\ufffd" not in text


@pytest.mark.parametrize("language", LANGUAGES)
def test_everyday_chat_has_forty_pairs_and_english_two_hundred(language):
    assert len(everyday_chat(language)) == (200 if language == "en" else 40)


@pytest.mark.parametrize("language", LANGUAGES)
def test_everyday_chat_is_in_its_language(language):
    chat = everyday_chat(language)
    assert language_of(" ".join(f"{question} {answer}" for question, answer in chat)) == language


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_everyday_question_comes_twice(language):
    asked = [normalised(question) for question, _ in everyday_chat(language)]
    assert len(set(asked)) == len(asked)
    assert all(asked)


@pytest.mark.parametrize("language", LANGUAGES)
def test_everyday_answers_are_short(language):
    assert all(0 < len(answer) <= 100 for _, answer in everyday_chat(language))


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_everyday_question_is_asked_by_a_measurement(language):
    asked = {normalised(question) for question, _ in everyday_chat(language)}
    assert not asked & measured_questions()


@pytest.mark.parametrize(
    ("given", "language"),
    [
        ("zh", "zh"),
        ("pt-BR", "pt"),
        ("zh_Hant", "zh"),
        ("艾达养蜜蜂。", "zh"),
        ("Ada hält Bienen auf dem Dach und mag Tee.", "de"),
        ("Ада тримає бджіл на даху.", "ru"),
        ("อาดาเลี้ยงผึ้ง", "en"),
        ("", "en"),
    ],
)
def test_the_nearest_language_is_taken(given, language):
    assert neutral_language(given) == language
    assert neutral_text(given) == neutral_text(language)
    assert everyday_chat(given) == everyday_chat(language)


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_language_of_one_question_and_its_answer_is_mostly_known(language):
    chat = everyday_chat(language)
    known = sum(language_of(f"{question} {answer}") == language for question, answer in chat)
    assert known / len(chat) >= 0.9
