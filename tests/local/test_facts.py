"""A document as facts."""

from __future__ import annotations

import re

import pytest

from templora_memory import Document
from templora_memory.backends.local.recipes.base import sentences
from templora_memory.backends.local.recipes.facts import facts_of
from templora_memory.backends.local.recipes.first_person import first_person, pronoun_of

LETTER = re.compile(r"[^\W\d_]")


def told(text, character=None):
    return facts_of(Document(text, character=character))


def squeezed(text):
    """Letters alone: what joining and labelling may not lose."""
    return "".join(LETTER.findall(text)).lower()


def test_prose_becomes_its_sentences():
    one = "Ada has kept bees on the roof of the old observatory for years."
    other = "The honey is sold at the market in Salt Harbour every autumn."
    assert told(f"{one} {other}").facts == (one, other)


def test_a_short_sentence_joins_the_one_before():
    long = "Ada has kept bees on the roof of the old observatory for years."
    assert told(f"{long} Nobody minds.").facts == (f"{long} Nobody minds.",)


def test_lines_of_a_sheet_are_facts_with_their_label():
    assert told("Job: night watchman\nPet: a grey cat").facts == (
        "Job: night watchman.",
        "Pet: a grey cat.",
    )


def test_lines_of_a_sheet_about_a_character_are_theirs():
    assert told("Name: Ada\nJob: night watchman", "Ada").facts == (
        "My name is Ada.",
        "My job: night watchman.",
    )


def test_a_long_line_of_a_sheet_repeats_its_label():
    facts = told(
        "Work: keeps the light of the northern pier burning all night. In winter it is lonely up "
        "there, with the ice on the windows."
    ).facts
    assert len(facts) == 2
    assert all(fact.startswith("Work: ") for fact in facts)


def test_items_of_a_card_are_facts_with_their_label():
    card = '[character("Ada")\n{\nLikes("tea" + "rain")\nJob("baker")\n}]'
    facts = told(card, "Ada").facts
    assert {"My likes: tea.", "My likes: rain.", "My job: baker.", "My name is Ada."} <= set(facts)


def test_prose_between_lines_of_a_sheet_stays_in_its_place():
    prose = "The honey is sold at the market in Salt Harbour every autumn."
    facts = told(f"Job: baker\n{prose}\nPet: a cat").facts
    assert facts == ("Job: baker.", prose, "Pet: a cat.")


@pytest.mark.parametrize(
    "line",
    [
        "At 12:30 the ferry to the islands leaves from the old pier.",
        "https://example.org/bees is where the honey from the roof is sold.",
    ],
)
def test_a_colon_that_parts_nothing_makes_no_sheet(line):
    assert told(line).facts == (line,)


@pytest.mark.parametrize("character", [None, "Ada"])
def test_a_colon_in_prose_labels_no_other_sentence(character):
    text = (
        "She has one rule: never to wake the bees before the sun is over the harbour wall. Her "
        "brother thinks that this is nonsense, and sleeps until noon whenever he can."
    )
    facts = told(text, character).facts
    assert len(facts) == 2
    assert "rule" not in facts[1]


def test_what_is_said_to_a_character_is_an_exchange():
    text = "Tom: Where do you live?\nAda: On the roof.\nJob: baker"
    found = told(text, "Ada")
    assert found.exchanges == (("Where do you live?", "On the roof."),)
    assert found.facts == ("My job: baker.",)


def test_placeholders_of_cards_speak_too():
    found = told("{{user}}: Where do you live?\n{{char}}: On the roof.", "Ada")
    assert found.exchanges == (("Where do you live?", "On the roof."),)


def test_what_a_character_says_unasked_is_a_fact():
    found = told("Ada: Nobody has ever seen the cellar of this house.", "Ada")
    assert found.exchanges == ()
    assert found.facts == ("Nobody has ever seen the cellar of this house.",)


def test_without_a_character_nobody_speaks():
    found = told("Tom: Where do you live?\nAda: On the roof.")
    assert found.exchanges == ()
    assert len(found.facts) == 2


def test_facts_about_a_character_are_in_their_voice():
    facts = told("Ada keeps bees. She has done so ever since her mother died in 1921.", "Ada").facts
    assert " ".join(facts) == ("I keep bees. I have done so ever since my mother died in 1921.")


def test_a_text_in_their_own_words_stays_as_it_is():
    facts = (
        "I'm Ada Moreau, and I have kept bees on the roof for twenty years.",
        "My sister Eva sings, and she is louder than I am.",
    )
    assert told(" ".join(facts), "Ada Moreau").facts == facts


def test_an_answer_follows_the_line_before_and_no_other():
    found = told("Job: baker\nTom: Where?\nAda: On the roof.\nAda: It is cold there.", "Ada")
    assert found.exchanges == (("Where?", "On the roof."),)
    assert found.facts == ("My job: baker.", "It is cold there.")


def test_another_language_keeps_its_person():
    text = "Ada züchtet Bienen auf dem Dach der alten Sternwarte, und sie verkauft den Honig."
    found = told(text, "Ada")
    assert found.language == "de"
    assert found.facts == (text,)


TEXTS = {
    "prose": "Ada keeps bees on the roof. Why there? Nobody knows! Her cat is grey; he purrs.",
    "sheet": "Name: Ada\nAge: 34\n- Pet: a cat. It is grey. It sleeps all day on the warm stove.",
    "poem": "The tide goes out,\nthe tide comes in,\nand nobody knows\nwhere I have been.\n\nHush.",
    "code": "Run it so:\n\n```python\ndef double(x):\n    return 2 * x\n```\n\nThat is all.",
    "questions": "Who keeps bees? Where does she keep them? And why on the roof of all places?",
    "one sentence": "Ada keeps bees.",
    "names": "\n".join(f"Person {chr(65 + n % 26)}{chr(97 + n // 26)}" for n in range(500)),
    "two languages": "Ada keeps bees on the roof. Sie verkauft den Honig auf dem Markt.",
    "chinese": "阿达在屋顶上养蜂。她的猫叫皮姆，是灰色的。\n职业：面包师",  # noqa: RUF001
    "colons": "Mind: the gap. One: two: three.\nAt 12:30 we left.\n: odd\nnote:",
}


@pytest.mark.parametrize("character", [None, "Zoe"])
@pytest.mark.parametrize("name", TEXTS)
def test_no_sentence_of_a_text_is_lost(name, character):
    facts = [squeezed(fact) for fact in told(TEXTS[name], character).facts]
    for sentence in filter(LETTER.search, sentences(TEXTS[name])):
        whole = squeezed(sentence)
        value = sentence.partition(":")[2]
        turned = squeezed(first_person(sentence, "Zoe", pronoun_of(TEXTS[name])))
        parts = [whole, turned, squeezed(value) if value and LETTER.search(value) else whole]
        assert any(part in fact for part in parts for fact in facts), sentence


def test_every_name_of_a_long_list_is_in_some_fact():
    text = TEXTS["names"]
    facts = "\n".join(told(text).facts)
    assert all(name in facts for name in text.splitlines())


def test_the_same_fact_is_told_once():
    line = "The honey is sold at the market in Salt Harbour every autumn."
    assert told(f"{line}\n\n{line}").facts == (line,)


def test_what_has_no_letter_is_no_fact():
    assert told("12345 67890\n\n* * *").facts == ()
