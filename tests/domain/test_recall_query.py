"""A question to a memory, taken apart."""

from datetime import date

import pytest

from templora_memory.domain.recall_query import RecallQuery

TODAY = date(2026, 11, 25)
NAMES = ("Ben", "Ada Quill", "蜜蜂")


def query(text):
    return RecallQuery.of(text, names=NAMES, languages=("en",), today=TODAY)


@pytest.mark.parametrize(
    ("text", "speakers", "about"),
    [
        ("What did Ben say last week?", {"Ben"}, set()),
        ("What did Ben say about bees on 3 May?", {"Ben"}, {"bee"}),
        ("Was Ada at the harbour?", {"Ada Quill"}, {"harbour"}),
        ("What did Ben tell Ada about bees?", {"Ben"}, {"bee"}),
        ("Do Ben and Ada like tea?", {"Ben", "Ada Quill"}, {"tea"}),
        ("What did I say yesterday?", {"user"}, set()),
        ("What did you tell me about tea?", {"assistant"}, {"tea"}),
        ("What did I say about the benefits?", {"user"}, {"benefit"}),
        ("Who said that?", set(), {"said"}),
        ("蜜蜂说了什么?", {"蜜蜂"}, None),
    ],
)
def test_who_is_asked_for_and_what_about(text, speakers, about):
    asked = query(text)
    assert asked.speakers == speakers
    if about is not None:
        assert {term for word in asked.about for term in word} == about


def test_a_question_of_small_words_is_about_them():
    asked = query("What is it?")
    assert asked.speakers == frozenset()
    assert asked.about == asked.words != ()
