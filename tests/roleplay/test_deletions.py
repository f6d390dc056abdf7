"""What is deleted can come back until the grace time is over, and is gone afterwards."""

import pytest

from templora_memory import Document, Message
from templora_memory.apps.roleplay.character_reply import greet
from templora_memory.apps.roleplay.state import Chat
from templora_memory.errors import Conflict


@pytest.fixture
def scene(enter, absorbed, studio):
    """A visitor, a character that learned something from them, their persona and the open chat."""
    visitor = enter()
    actor, persona = absorbed(visitor), visitor.personas[0]
    chat = actor.chat(persona)
    greet(actor, chat, persona)
    chat.messages += [Message("user", "My boat is called Plum."), Message("assistant", "Nice.")]
    actor.enter(studio.memory, actor.pair(persona))
    studio.memory[actor.pair(persona)].absorb(chat.messages[:3], create=False)
    return visitor, actor, persona, chat


def answer(studio, actor, question="Which lame goose is called what?"):
    return studio.memory[actor.id].reply([Message("user", question)], revision="head").text


def test_an_undone_deletion_brings_back_the_very_same_character(studio, scene):
    visitor, actor, persona, chat = scene
    studio.keep(visitor, actor, saved=True)
    before = answer(studio, actor)
    studio.deletions.character(visitor, actor)
    assert visitor.actors == {}
    assert actor.gone
    assert studio.saved.load(studio.memory.list()) == []  # a server that dies now forgets it
    studio.sweep()  # nothing of it is taken for a stray
    assert studio.deletions.undo(visitor) == actor.label
    assert visitor.actors == {actor.id: actor}
    assert not actor.gone
    assert answer(studio, actor) == before
    assert studio.memory[actor.pair(persona)].covered(chat.messages).messages == 3
    assert len(studio.saved.load(studio.memory.list())) == 1
    assert studio.deletions.undo(visitor) is None


def test_a_deletion_is_final_after_the_grace_time_and_says_so(make_studio, make_memory):
    studio = make_studio(make_memory("other"), home="other-home", grace=0.0)
    visitor = studio.visitors.enter(None, "a")
    studio.visitors._grace = 1000.0
    from templora_memory.apps.roleplay import bundled_characters  # noqa: PLC0415

    actor = studio.add(visitor, bundled_characters.actor("kestrel"))
    list(studio.absorb(visitor, actor, [Document("It counts stars.")], "it"))
    studio.deletions.character(visitor, actor)
    studio.sweep()
    assert studio.deletions.undo(visitor) is None
    assert studio.memory.list() == ()
    assert visitor.deleted.label == "Kestrel"
    assert "gone for good" in visitor.events[-1].event


def test_a_new_chat_deletes_nothing(studio, scene):
    visitor, actor, persona, chat = scene
    studio.new_chat(visitor, actor, persona)
    assert actor.chats[persona.key][0] is chat
    assert not actor.chat(persona).begun
    assert studio.memory[actor.pair(persona)].covered(chat.messages).messages == 3
    assert studio.new_chat(visitor, actor, persona) is actor.chat(persona)  # still unused
    assert len(actor.chats[persona.key]) == 2
    assert actor.open_chat(persona, chat.key) is chat


def test_a_deleted_chat_comes_back_with_what_was_learned_from_it(studio, scene):
    visitor, actor, persona, chat = scene
    studio.deletions.chat(visitor, actor, persona, chat)
    assert chat not in actor.chats[persona.key]
    assert "“My boat is called Plum.”" in studio.deletions.undo(visitor)
    assert actor.chat(persona) is chat
    assert studio.memory[actor.pair(persona)].covered(chat.messages).messages == 3


def test_a_chat_deleted_for_good_takes_what_was_learned_from_it_along(studio, scene, tmp_path):
    visitor, actor, persona, chat = scene
    studio.deletions.chat(visitor, actor, persona, chat)
    proof = studio.deletions.finish(visitor)
    assert proof.receipt.files
    assert actor.pair(persona) not in studio.memory.list()
    assert actor.id in studio.memory.list()
    for path in (tmp_path / "memories").rglob("*"):
        assert not path.is_file() or b"Plum" not in path.read_bytes()


def test_a_memory_is_not_removed_under_a_reply(studio, scene):
    visitor, actor, persona, chat = scene
    studio.deletions.chat(visitor, actor, persona, chat)
    other = Chat()
    actor.chats[persona.key] = [other]
    with other.busy, pytest.raises(Conflict):
        studio.deletions.finish(visitor)
    assert len(visitor.deletions) == 1  # it is tried again
    assert studio.deletions.finish(visitor).receipt.files


def test_everything_of_a_persona_comes_back(studio, scene):
    visitor, actor, persona, chat = scene
    studio.deletions.persona(visitor, persona)
    assert not actor.chat(persona).begun
    assert studio.deletions.undo(visitor) == "Everything You said"
    assert actor.chat(persona) is chat


def test_going_back_to_an_older_revision_can_be_undone(studio, enter, absorbed):
    visitor = enter()
    actor = absorbed(visitor)
    memory = studio.memory[actor.id]
    first = memory.head().name
    list(studio.absorb(visitor, actor, [Document("She has a new red hat.")], "a hat"))
    newest = memory.head().name
    studio.rollback(visitor, actor, actor.id, first)
    assert memory.head().name == first
    studio.sweep()
    studio.deletions.undo(visitor)
    assert studio.memory[actor.id].head().name == newest
    assert "red hat" in answer(studio, actor, "Which hat, a red hat?")
    assert studio.memory.list() == (actor.id,)  # the copy that waited is gone


@pytest.mark.parametrize("what", ["character", "rollback"])
def test_a_sweep_while_something_comes_back_takes_nothing_of_it(studio, enter, absorbed, what):
    visitor = enter()
    actor = absorbed(visitor)
    memory = studio.memory[actor.id]
    first = memory.head().name
    list(studio.absorb(visitor, actor, [Document("She has a new red hat.")], "a hat"))
    newest = memory.head().name
    if what == "rollback":
        deletion = studio.rollback(visitor, actor, actor.id, first)
    else:
        deletion = studio.deletions.character(visitor, actor)
    restore = deletion.restore
    deletion.restore = lambda: (studio.sweep(), restore())  # as the sweeper's thread may
    studio.deletions.undo(visitor)
    assert studio.memory[actor.id].head().name == newest
    assert visitor.deletions == []


def test_an_undo_that_failed_can_be_tried_again(studio, enter, absorbed):
    visitor = enter()
    actor = absorbed(visitor)
    deletion = studio.deletions.character(visitor, actor)
    restore = deletion.restore

    def fail():
        raise OSError("disk")

    deletion.restore = fail
    with pytest.raises(OSError, match="disk"):
        studio.deletions.undo(visitor)
    deletion.restore = restore
    assert studio.deletions.undo(visitor) == actor.label
    assert visitor.actors == {actor.id: actor}


def test_leaving_ends_what_could_be_undone(make_studio, make_memory):
    studio = make_studio(make_memory("left"), home="left-home", grace=1000.0)
    visitor = studio.visitors.enter(None, "a")
    from templora_memory.apps.roleplay import bundled_characters  # noqa: PLC0415

    actor = studio.add(visitor, bundled_characters.actor("kestrel"))
    list(studio.absorb(visitor, actor, [Document("It counts stars.")], "it"))
    studio.deletions.character(visitor, actor)
    studio.visitors.leave("a")
    studio.visitors._clock = lambda: 1e12
    studio.sweep()
    assert studio.memory.list() == ()
    assert studio.visitors.all() == ()
