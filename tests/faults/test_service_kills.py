"""The whole service killed in a conversation, an absorb, a rebuild, a removal."""

import pytest

from templora_memory import Document, Message, ParametricMemory, Policy
from templora_memory.stores import DirectoryStore
from templora_memory.testing import FakeBackend

BIO = "Ada keeps zanzibar bees."
TALK = [
    Message("user" if n % 2 == 0 else "assistant", f"zanzibar number {n} of this conversation")
    for n in range(8)
]


def service(root):
    policy = Policy(window=64, reply_tokens=24, chunk=16)
    return ParametricMemory(FakeBackend(), DirectoryStore(root), policy)


def prepare(root):
    with service(root) as memory:
        memory["ada"].absorb(BIO)
        memory["ada"].absorb(TALK)


@pytest.mark.parametrize("verb", ["absorb", "reply", "rebuild", "fork"])
def test_a_killed_service_goes_on(killer, verb):
    question = [*TALK, Message("user", "And zanzibar number ten?")]

    def scenario(root, acknowledge):
        with service(root) as memory:
            if verb == "absorb":
                memory["ada"].absorb(Document("zanzibar second text"))
            elif verb == "reply":
                memory["ada"].reply(question)
            elif verb == "fork":
                memory["ada"].fork("eve")
            else:
                memory["ada"].rebuild()
            acknowledge(verb)

    def check(root, acknowledged, finished):
        assert finished <= bool(acknowledged)
        with service(root) as memory:
            for name in memory.list():
                text = memory[name].transcript()
                assert text.documents[0].text == BIO
                assert text.messages[: len(TALK)] == tuple(TALK)
                assert set(memory[name].status().as_dict())
                assert BIO in memory[name].reply([Message("user", "Who keeps bees?")]).text
            assert memory["ada"].absorb(TALK).revision
            assert memory["ada"].covered(TALK).messages == len(TALK)
            if verb == "absorb":
                memory["ada"].absorb(Document("zanzibar second text"))
                assert memory["ada"].status().absorbed_documents == 2
            for name in memory.list():
                memory[name].forget()
        assert list(root.iterdir()) == []

    killer.run(prepare, scenario, check)


@pytest.mark.parametrize("number", [20, 35, 45, 50, 54, 58, 62])
def test_a_killed_removal_has_happened_wholly_or_not_at_all(tmp_path, child, number):
    root, later = tmp_path / "root", "zanzibar later"
    with service(root) as memory:
        for text in (BIO, "The code is marble.", later):
            memory["ada"].absorb(text)

    def remove(acknowledge):
        with service(root) as memory:
            ada = memory["ada"]
            ada.remove([text.id for text in ada.texts() if "marble" in text.text])
            acknowledge("removed")

    killed = child(remove, number).wait()
    with service(root) as memory:
        ada = memory["ada"]
        texts = [text.text for text in ada.texts()]
        removed = texts == [BIO, later]
        assert removed or (len(texts) == 3 and not killed.acknowledged)
        assert all(text.state == "learned" for text in ada.texts())
        assert any("marble" in p.read_text() for p in root.rglob("*.json*")) == (not removed)
        assert BIO in ada.reply([Message("user", "Who keeps bees?")]).text
        ada.remove([ada.texts().texts[1].id])  # goes on: the secret, or what came after it
        assert not any("marble" in p.read_text() for p in root.rglob("*.json*"))
