"""What a text is found by, and what a query looks for."""

from unicodedata import normalize

import pytest

from templora_memory.domain.stems import index_terms, query_terms, stem


@pytest.mark.parametrize(
    ("language", "one", "many"),
    [
        ("en", "bee", "bees"),
        ("de", "biene", "bienen"),
        ("de", "haus", "häuser"),
        ("fr", "abeille", "abeilles"),
        ("es", "tejado", "tejados"),
        ("ru", "пчела", "пчёлы"),
        ("ar", "نحل", "النحل"),
        ("hi", "मधुमक्खी", "मधुमक्खियाँ"),
    ],
)
def test_forms_of_a_word_have_one_stem(language, one, many):
    assert stem(one, language) == stem(many, language)


def test_a_word_in_other_letters_than_its_text_has_the_stem_of_its_own_language():
    assert index_terms("艾达 keeps bees", "zh")[-2:] == ["keep", "bee"]
    assert stem("пчёлы", "en") == stem("пчела", "ru")


def test_accents_may_be_left_out():
    assert stem("café", "fr") == stem("cafe", "fr")
    assert stem("كِتَاب", "ar") == stem("كتاب", "ar")


def test_marks_that_make_another_letter_stay():
    assert stem("が", "ja") != stem("か", "ja")
    assert stem("й", "ru") != stem("и", "ru")


def test_signs_are_found_alone_and_in_pairs():
    assert set(query_terms("蜜蜂", ["zh"])) <= set(index_terms("养蜜蜂", "zh"))
    assert set(query_terms("蜂", ["zh"])) <= set(index_terms("养蜜蜂", "zh"))


def test_a_korean_noun_is_found_before_its_particle():
    assert set(query_terms("꿀벌", ["ko"])) <= set(index_terms("꿀벌을", "ko"))


def test_a_query_is_stemmed_in_every_language_of_the_index():
    assert {stem("bienen", "de"), stem("bienen", "en")} == set(query_terms("Bienen", ["en", "de"]))


def test_terms_do_not_depend_on_the_coding():
    text = "Größe école हिन्दी が 각"
    assert index_terms(normalize("NFD", text), "de") == index_terms(normalize("NFC", text), "de")


def test_terms_hold_nothing_that_a_query_language_could_read():
    assert query_terms('" OR * NEAR(', ["en"]) == ["near"]


def test_the_smallest_words_of_a_question_are_looked_for_only_where_there_are_no_others():
    assert query_terms("What did the bees do?", ["en"]) == ["bee"]
    assert query_terms("Was ist das für eine Biene?", ["de"]) == ["bien"]
    assert query_terms("Who is he?", ["en"]) == ["who", "is", "he"]
