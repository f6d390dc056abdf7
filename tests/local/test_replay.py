"""Earlier text among what is learned now."""

from __future__ import annotations

from dataclasses import replace

from templora_memory import Document, Message
from templora_memory.backends.local.recipes import RECIPES, with_replay
from templora_memory.backends.local.recipes.questions import TURNS_PER_EXAMPLE
from tests.local.recipe_tools import REQUEST, tools

FACTS = [f"The house number {n} stands on the hill of Salt Harbour." for n in range(20)]


def replayed(text, request):
    return [e for e in with_replay([], request, tools(text)) if not e.in_receipt]


def test_earlier_text_stands_at_even_distances_and_does_not_count(text):
    request = replace(
        REQUEST, items=(Document("x" * 120),), chunk=30, min_steps=0,
        replay=((Document("Ada keeps bees."),), (Message("user", "Hi"), Message("assistant", "x"))),
    )  # fmt: skip
    own = RECIPES["continue"](request, tools(text))
    mixed = with_replay(own, request, tools(text))
    assert [example.in_receipt for example in mixed] == [True, True, False] * 2
    assert [example for example in mixed if example.in_receipt] == list(own)
    told = [text.decode(e.ids, special=True) for e in mixed if not e.in_receipt]
    assert told[0].startswith("<|user|>")
    assert told[0].endswith("<|end|><|assistant|>Ada keeps bees.<|end|>")
    assert "Hi" in told[1]
    assert with_replay(own, replace(request, replay=()), tools(text)) == own


def test_a_part_of_a_long_text_is_replayed_as_text(text):
    request = replace(REQUEST, replay=((Document("Ada keeps bees.", continues=True),),))
    (again,) = [e for e in with_replay([], request, tools(text)) if not e.in_receipt]
    assert text.decode(again.ids, special=True) == "Ada keeps bees."


def test_a_document_is_replayed_as_answers_to_questions(text):
    request = replace(REQUEST, replay=((Document(" ".join(FACTS)),),))
    (again,) = replayed(text, request)
    assert len(again.segments) == TURNS_PER_EXAMPLE + 1
    told = text.decode(again.ids, special=True)
    answers = [part.partition("<|assistant|>")[2] for part in told.split("<|user|>")[1:]]
    assert len(set(answers)) == TURNS_PER_EXAMPLE
    assert {answer.removesuffix("<|end|>") for answer in answers} <= set(FACTS)


def test_other_facts_come_back_beside_other_text(text):
    request = replace(REQUEST, replay=((Document(" ".join(FACTS)),),) * 2)
    first, second = replayed(text, request)
    assert first != second
    assert replayed(text, request) == [first, second]
    assert replayed(text, replace(request, items=(Document("Something else."),)))[0] != first


def test_a_character_is_replayed_under_their_name_now_and_then(text):
    document = Document("Ada keeps bees on the roof.", character="Ada")
    request = replace(REQUEST, replay=((document,),) * 12)
    told = [text.decode(e.ids, special=True) for e in replayed(text, request)]
    named = ["<|system|>You are Ada." in one for one in told]
    assert any(named)
    assert not all(named)
