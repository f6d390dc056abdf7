from html import escape

import pytest

from templora_memory import Message
from templora_memory.apps.roleplay.chat_search import search_chats, search_results
from templora_memory.apps.roleplay.state import Actor, Chat, Persona, Visitor
from templora_memory.importers import Character


@pytest.fixture
def visitor():
    visitor = Visitor()
    ben = Persona(name="Ben")
    visitor.personas.append(ben)
    you = visitor.personas[0]
    for name, persona, created, texts in (
        ("Orla", you, 1.0, ["Good evening.", "My boat is called Wren."]),
        ("Orla", ben, 3.0, ["Good evening.", "I sold a boat."]),
        ("Marta", you, 2.0, ["Wipe your boots.", "我在山上养蜜蜂。", "Nothing else."]),
    ):
        actor = next((a for a in visitor.actors.values() if a.label == name), None)
        if actor is None:
            actor = Actor(label=name, character=Character(name=name))
            visitor.actors[actor.id] = actor
        roles = ("assistant", "user", "assistant")
        messages = [Message(role, text) for role, text in zip(roles, texts, strict=False)]
        actor.chats.setdefault(persona.key, []).append(Chat(messages=messages, created=created))
    return visitor


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ("BOAT", [("Orla", "Ben"), ("Orla", "You")]),
        ("wren boat", [("Orla", "You")]),
        ("蜜蜂", [("Marta", "You")]),
        ("marta boots", [("Marta", "You")]),
        ("submarine", []),
        ("  ", []),
    ],
)
def test_a_chat_is_found_by_any_of_its_words_whoever_said_them(visitor, wanted, found):
    hits = search_chats(visitor, wanted)
    assert [(hit.actor.label, hit.persona.name) for hit in hits] == found


def test_what_was_deleted_is_not_found(visitor):
    next(iter(visitor.actors.values())).leave()
    assert search_chats(visitor, "boat") == ()


def test_what_was_found_is_shown_with_its_surroundings_and_is_never_markup(visitor):
    chat = next(iter(visitor.actors.values())).chat(visitor.personas[0])
    chat.messages[-1] = Message("user", "long ago, " * 40 + "<img src=x onerror=y> a zebra " * 9)
    shown = search_results(search_chats(visitor, "zebra"), "<b>zebra")
    assert escape("<img src=x onerror=y> a zebra") in shown
    assert "<img" not in shown
    assert len(shown) < 900
    assert "<b>zebra" not in search_results((), "<b>zebra")
