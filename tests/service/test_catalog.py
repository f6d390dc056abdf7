"""Memories by their id: made, looked up, described."""

import threading

import pytest

from templora_memory import Message
from templora_memory.errors import (
    InvalidId,
    UnknownMemory,
)

BIO = "Ada keeps bees on the roof."


def test_covered_tells_what_the_prompt_still_needs(box, talk):
    history = talk(20)
    box.service["ada"].reply(history)
    box.service.wait()
    covered = box.service["ada"].covered(history)
    assert covered.messages == covered.revision.messages > 0
    mixed = [Message("system", "x"), *history]
    assert box.service["ada"].covered(mixed).messages == covered.messages + 1
    assert box.service["ada"].covered(talk(3, about="cats")).messages == 0


def test_a_pair_starts_from_its_name_and_learns_alone(box):
    box.service["ada"].absorb(BIO)
    box.service["ada@bob"].absorb("Bob likes owls at night.")
    asked = [Message("user", "Who keeps bees on the roof?")]
    assert BIO in box.service["ada@bob"].reply(asked).text
    assert "owls" not in box.service["ada"].reply([Message("user", "Who likes owls?")]).text
    assert box.service["ada@bob"].status().origin == "ada"


def test_unknown_ids_are_named_with_what_there_is(box):
    for name in ("b", "a"):
        box.service.open(name)
    for call in (
        lambda name: box.service[name].status(),
        lambda name: box.service[name].revisions(),
        lambda name: box.service[name].head(),
        lambda name: box.service[name].transcript(),
        lambda name: box.service[name].adapter(),
        lambda name: box.service[name].rebuild(),
        lambda name: box.service[name].rollback("x"),
        lambda name: box.service[name].covered([]),
        lambda name: box.service[name].export("x.zip"),
        lambda name: box.service.open("c", base=name),
    ):
        with pytest.raises(UnknownMemory, match="There are: 'a', 'b'"):
            call("nobody")
        with pytest.raises(InvalidId):
            call("../nobody")
    assert box.service.list() == ("a", "b")


def test_threads_that_make_one_memory_make_it_once(box):
    errors = []

    def run(number):
        try:
            box.service["ada"].absorb(f"Text number {number}.")
            box.service["ada"].status()
        except Exception as error:  # noqa: BLE001
            errors.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == []
    assert box.service["ada"].status().absorbed_documents == 12


@pytest.mark.parametrize("verb", ["absorb", "reply", "stream"])
def test_a_call_that_may_not_make_a_memory_does_not_bring_a_forgotten_one_back(box, verb):
    given = "Ada has a cat." if verb == "absorb" else [Message("user", "Hello?")]
    box.service["ada"].absorb("Ada keeps bees.")
    getattr(box.service["ada"], verb)(given, create=False)
    box.service["ada"].forget()
    with pytest.raises(UnknownMemory, match="There is no memory 'ada'"):
        getattr(box.service["ada"], verb)(given, create=False)
    assert box.service.list() == ()
    assert not list(box.root.iterdir())
