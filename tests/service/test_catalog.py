"""Memories by their id: made, looked up, described."""

import threading

import pytest

from templora_memory import Memory, Message
from templora_memory.errors import (
    InvalidId,
    UnknownMemory,
)

BIO = "Ada keeps bees on the roof."


def test_covered_tells_what_the_prompt_still_needs(box, talk):
    history = talk(20)
    box.service.reply("ada", history)
    box.service.wait()
    covered = box.service.covered("ada", history)
    assert covered.messages == covered.revision.messages > 0
    mixed = [Message("system", "x"), *history]
    assert box.service.covered("ada", mixed).messages == covered.messages + 1
    assert box.service.covered("ada", talk(3, about="cats")).messages == 0


def test_a_pair_starts_from_its_name_and_learns_alone(box):
    box.service.absorb("ada", BIO)
    box.service.absorb("ada@bob", "Bob likes owls at night.")
    asked = [Message("user", "Who keeps bees on the roof?")]
    assert BIO in box.service.reply("ada@bob", asked).text
    assert "owls" not in box.service.reply("ada", [Message("user", "Who likes owls?")]).text
    assert box.service.status("ada@bob").origin == "ada"


def test_unknown_ids_are_named_with_what_there_is(box):
    for name in ("b", "a"):
        box.service.open(name)
    for call in (
        box.service.status,
        box.service.revisions,
        box.service.head,
        box.service.transcript,
        box.service.adapter,
        box.service.rebuild,
        lambda name: box.service.rollback(name, "x"),
        lambda name: box.service.covered(name, []),
        lambda name: box.service.export(name, "x.zip"),
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
            box.service.absorb("ada", f"Text number {number}.")
            box.service.status("ada")
        except Exception as error:  # noqa: BLE001
            errors.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == []
    assert box.service.status("ada").absorbed_documents == 12


@pytest.mark.parametrize("verb", ["absorb", "reply", "stream"])
def test_a_call_that_may_not_make_a_memory_does_not_bring_a_forgotten_one_back(box, verb):
    given = "Ada has a cat." if verb == "absorb" else [Message("user", "Hello?")]
    box.service.absorb("ada", "Ada keeps bees.")
    getattr(box.service, verb)("ada", given, create=False)
    box.service.forget("ada")
    with pytest.raises(UnknownMemory, match="There is no memory 'ada'"):
        getattr(box.service, verb)("ada", given, create=False)
    with pytest.raises(UnknownMemory):
        getattr(Memory(box.service, "ada"), verb)(given, create=False)
    assert box.service.list() == ()
    assert not list(box.root.iterdir())
