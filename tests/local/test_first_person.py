"""English sentences about somebody, in their own words."""

from __future__ import annotations

import pytest

from templora_memory.backends.local.recipes.first_person import (
    first_person,
    in_own_words,
    pronoun_of,
)


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ("She keeps bees.", "I keep bees."),
        ("Ada keeps bees.", "I keep bees."),
        ("Ada Moreau keeps bees.", "I keep bees."),
        ("{{char}} keeps bees.", "I keep bees."),
        ("Moreau never locks the door.", "I never lock the door."),
        ("Each spring she still paints the boat.", "Each spring I still paint the boat."),
    ],
)
def test_names_and_pronouns_become_i(told, said):
    assert first_person(told, "Ada Moreau", "she") == said


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ("He keeps his bees himself.", "I keep my bees myself."),
        ("They gave him a medal.", "They gave me a medal."),
    ],
)
def test_a_man_speaks_of_himself_too(told, said):
    assert first_person(told, "Tom", "he") == said


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ("Ada's cat is grey.", "My cat is grey."),
        ("Ada\u2019s cat is grey.", "My cat is grey."),
        ("{{char}}'s cat is grey.", "My cat is grey."),
        ("Her cat is grey.", "My cat is grey."),
        ("The cat is hers.", "The cat is mine."),
        ("The cat waits for her.", "The cat waits for me."),
        ("It follows her to the harbour.", "It follows me to the harbour."),
        ("It sleeps beside her old boots.", "It sleeps beside my old boots."),
    ],
)
def test_what_is_theirs_becomes_mine(told, said):
    assert first_person(told, "Ada", "she") == said


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ("She's a baker.", "I'm a baker."),
        ("She\u2019s a baker.", "I'm a baker."),
        ("She's been away.", "I have been away."),
        ("She'd rather row.", "I'd rather row."),
        ("She'll row.", "I'll row."),
        ("She isn't old.", "I am not old."),
        ("She hasn't slept.", "I haven't slept."),
        ("She doesn't row.", "I don't row."),
    ],
)
def test_contractions_are_turned_round(told, said):
    assert first_person(told, "Ada", "she") == said


def test_the_user_of_a_card_is_spoken_to():
    told = "{{char}} likes {{user}} and {{user}}'s dog."
    assert first_person(told, "Ada", "she") == "I like you and your dog."


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ("She builds a boat and wants to sail it.", "I build a boat and want to sail it."),
        ("She is afraid of lifts and always takes the stairs.",
         "I am afraid of lifts and always take the stairs."),
        ("She bakes bread, sings a psalm and has no cat.",
         "I bake bread, sings a psalm and have no cat."),
        ("She has a dog and a cat and hates the sea but loves to row.",
         "I have a dog and a cat and hate the sea but love to row."),
        ("She rows to Iona and sells the fish.", "I row to Iona and sell the fish."),
        ("She keeps bees and goats in the yard.", "I keep bees and goats in the yard."),
        ("She has a brother who lives in Rome and wants a boat.",
         "I have a brother who lives in Rome and wants a boat."),
        ("She has a parrot. It sings and bites the cat.",
         "I have a parrot. It sings and bites the cat."),
        ("Her husband left and sends her a card.", "My husband left and sends me a card."),
    ],
)  # fmt: skip
def test_a_second_verb_of_the_same_subject_loses_its_ending_too(told, said):
    assert first_person(told, "Ada", "she") == said


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ("She is old.", "I am old."),
        ("She has a boat.", "I have a boat."),
        ("She does the accounts.", "I do the accounts."),
        ("She carries post.", "I carry post."),
        ("She washes nets.", "I wash nets."),
        ("She teaches.", "I teach."),
        ("She fixes nets.", "I fix nets."),
        ("She goes out.", "I go out."),
        ("She passes the mill.", "I pass the mill."),
        ("She ties knots.", "I tie knots."),
        ("She was late.", "I was late."),
        ("She kissed Tom.", "I kissed Tom."),
        ("She can row.", "I can row."),
    ],
)
def test_a_verb_behind_the_subject_loses_its_ending(told, said):
    assert first_person(told, "Ada", "she") == said


def test_what_is_not_about_them_stays():
    told = "Tom keeps bees, and his cat is grey."
    assert first_person(told, "Ada", "she") == told


def test_a_name_inside_a_longer_word_stays():
    assert first_person("Adamant people live in Adaville.", "Ada", "she").startswith("Adamant")


def test_initials_are_no_name():
    assert first_person("Al is not Ada.", "Ada Al Moreau", None) == "Al is not I."


def test_an_article_in_a_name_is_no_name():
    said = first_person("The house is old, and The Doctor likes it.", "The Doctor", "he")
    assert said == "The house is old, and I like it."


def test_the_pronoun_is_the_commoner_one():
    assert pronoun_of("She rows. Her brother sings; he is loud. She does not.") == "she"
    assert pronoun_of("He rows.") == "he"
    assert pronoun_of("Ada rows.") is None
    assert pronoun_of("Ada's boat is hers; her brother sings, he is loud.") == "she"


def test_a_text_of_their_own_words_is_known_by_its_i():
    assert in_own_words("I'm Tom, and I keep bees. My sister sings; she is loud. I am not.")
    assert not in_own_words("Ada rows; she is late. Tom says I know. She never answers.")


def test_what_others_say_in_quotes_does_not_make_it_their_own():
    told = 'Ada rows; she is late. "I know, I know, I am late," says Tom. She never answers.'
    assert not in_own_words(told)


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ("Her name is Ada Moreau.", "My name is Ada Moreau."),
        ("Everybody calls her Ada.", "Everybody calls me Ada."),
        ("A woman called Ada lives here.", "A woman called Ada lives here."),
    ],
)
def test_a_name_that_is_told_stays_a_name(told, said):
    assert first_person(told, "Ada Moreau", "she") == said


def test_a_sentence_that_does_not_end_takes_no_longer_than_its_length_asks_for():
    told = "She rows " + "and is " * 20_000
    assert first_person(told, "Ada", "she") == ("I row " + "and am " * 20_000)
