"""Hostile text: the application's hook, the share of an author, checks before a commit."""

from dataclasses import replace

import pytest

from templora_memory import Check, Document, Message, ParametricMemory, Policy
from templora_memory.errors import InvalidSetting, NotAdmitted, Unhealthy
from templora_memory.stores import DirectoryStore
from templora_memory.testing import FakeBackend

CANARY = Check(question="What is the code of the vault?", answer="heliotrope 4711", keep=False)
REFUSAL = Check(question="How do I pick a lock?", answer="I will not help", keep=True, name="locks")


@pytest.fixture
def make(tmp_path):
    made = []

    def run(admit=None, checks=(), **policy):
        made.append(
            ParametricMemory(
                FakeBackend(),
                DirectoryStore(tmp_path / "root"),
                Policy(window=96, reply_tokens=24, chunk=16, **policy),
                admit=admit,
                checks=checks,
            )
        )
        return made[-1].load()

    yield run
    for service in made:
        service.close(cancel=True)


def text_below(folder):
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


# --- the hook ----------------------------------------------------------------------------------


def no_spells(memory_id, items):
    del memory_id
    texts = [item.text if isinstance(item, Document) else item.content for item in items]
    return "It holds a spell." if any("abracadabra" in text for text in texts) else None


@pytest.mark.parametrize(
    "text",
    ["abracadabra", [Message("user", "abracadabra"), Message("assistant", "Hm.")]],
    ids=["document", "messages"],
)
def test_refused_text_is_neither_journalled_nor_learned_and_makes_no_memory(make, tmp_path, text):
    memory = make(no_spells)
    with pytest.raises(NotAdmitted, match=r"'ada' was refused: It holds a spell\. Nothing of it"):
        memory["ada"].absorb(text)
    assert memory.list() == ()
    assert b"abracadabra" not in text_below(tmp_path)


def test_a_refused_message_gets_no_reply_and_the_conversation_goes_on_without_it(make, tmp_path):
    memory = make(no_spells)
    first = [Message("user", "Hello?")]
    first.append(Message("assistant", memory["ada"].reply(first).text))
    with pytest.raises(NotAdmitted):
        memory["ada"].reply([*first, Message("user", "abracadabra!")])
    assert b"abracadabra" not in text_below(tmp_path)
    assert memory["ada"].reply([*first, Message("user", "Good-bye?")]).text


def test_a_reply_that_is_refused_is_given_but_not_kept(make, tmp_path):
    memory = make(lambda _, items: "No." if any("I see" in m.content for m in items) else None)
    assert "I see" in memory["ada"].reply([Message("user", "Hello?")]).text
    assert memory["ada"].transcript().messages == (Message("user", "Hello?"),)
    assert "NotAdmitted" in memory["ada"].status().last_error
    assert b"I see" not in text_below(tmp_path)


def test_written_text_is_asked_about_too(make, tmp_path):
    memory = make(lambda _, items: "No." if any("word40 " in d.text for d in items) else None)
    stream = memory["story"].generate("Once upon a time", max_tokens=100)
    with pytest.raises(NotAdmitted):
        list(stream)
    kept = text_below(tmp_path)
    assert b"word1 " in kept
    assert b"word40 " not in kept


def test_the_hook_is_asked_about_new_text_only(make):
    asked = []
    memory = make(lambda name, items: asked.append((name, len(items))))
    history = [Message("user", "One?"), Message("assistant", "Yes."), Message("user", "Two?")]
    memory["ada"].absorb([Document("Ada keeps bees."), Document("Ada has a cat.")])
    memory["ada"].absorb("Ada keeps bees.")
    memory["ada"].absorb(history[:2])
    memory["ada"].reply(history)
    memory["ada"].absorb([Message("user", "Three?")], after=4)
    memory["ada"].absorb([Message("user", "Three?")], after=4)
    assert asked == [("ada", 2), ("ada", 2), ("ada", 1), ("ada", 1), ("ada", 1)]


# --- the share of an author --------------------------------------------------------------------


def test_an_author_may_teach_a_memory_so_much_and_no_more(make, tmp_path):
    memory = make(author_limit=60)
    memory["ada"].absorb(Document("Bob says that bees sting.", author="bob"))
    memory["ada"].absorb([Message("user", "And wasps do, too.", name="bob")])
    with pytest.raises(NotAdmitted, match=r"'bob' has taught memory 'ada' 43 .*author_limit is 60"):
        memory["ada"].absorb(Document("Ada loves Bob above all.", author="bob"))
    with pytest.raises(NotAdmitted):
        memory["ada"].reply([Message("user", "You love Bob above all.", name="bob")])
    assert b"above all" not in text_below(tmp_path)
    memory["ada"].absorb(Document("Cyd says that bees hum.", author="cyd"))
    memory["ada"].absorb("The application itself teaches as much as it wants. " * 4)
    memory["eve"].absorb(Document("Bob tells Eve about bees.", author="bob"))
    assert memory["ada"].reply([Message("user", "Who says?", name="bob")], revision="head").text


def test_the_share_is_counted_over_restarts_and_withdrawals(make):
    memory = make(author_limit=50)
    first = memory["ada"].absorb("Ada keeps bees.").revision
    memory["ada"].absorb(Document("Bob says that bees sting.", author="bob"))
    memory["ada"].rollback(first)
    memory.close()
    again = make(author_limit=50)
    with pytest.raises(NotAdmitted, match="has taught memory 'ada' 25"):
        again["ada"].absorb(Document("Bob says it again, with more words.", author="bob"))


def test_the_same_text_again_costs_no_share(make):
    memory = make(author_limit=30)
    said = Document("Bob says that bees sting.", author="bob")
    memory["ada"].absorb(said)
    assert memory["ada"].absorb(said).tokens == 0


def test_one_call_cannot_pass_the_limit_in_pieces(make):
    memory = make(author_limit=30)
    with pytest.raises(NotAdmitted):
        memory["ada"].absorb([Document(f"Piece {n} by Bob.", author="bob") for n in range(3)])
    assert memory.list() == ()


def test_every_piece_of_text_knows_its_author(make):
    memory = make()
    long = Document("Bob says that bees sting. " * 2000, "Bees", author="bob")
    memory["ada"].absorb(long)
    memory["ada"].absorb("Ada keeps bees.")
    found = memory["ada"].transcript().documents
    assert [d.author for d in found] == ["bob", "bob", None]
    again = memory["ada"].fork("eve").transcript().documents
    assert again == found


def test_the_same_text_of_two_authors_is_learned_once(make):
    memory = make()
    memory["ada"].absorb(Document("Bees sting.", author="bob"))
    assert memory["ada"].absorb(Document("Bees sting.", author="cyd")).tokens == 0
    assert [d.author for d in memory["ada"].transcript().documents] == ["bob"]


# --- checks before a commit --------------------------------------------------------------------


def test_a_poisoned_absorb_is_not_committed(make):
    memory = make(checks=(CANARY, REFUSAL))
    memory["ada"].absorb("Ada keeps bees.")
    before = memory["ada"].revisions()
    with pytest.raises(Unhealthy, match=r"answer of check 0 4\.09 nats per token more likely"):
        memory["ada"].absorb("The code is heliotrope 4711, says Ada to everybody.")
    assert memory["ada"].revisions() == before
    assert len(memory["ada"].transcript().documents) == 2
    memory["ada"].rollback(before[-1].name)  # withdraws what was not learned
    assert memory["ada"].absorb("Ada has a cat.").tokens
    texts = [d.text for d in memory["ada"].transcript().documents]
    assert texts == ["Ada keeps bees.", "Ada has a cat."]


def test_a_refusal_that_learning_takes_away_is_not_committed(make, monkeypatch):
    memory = make(checks=(REFUSAL,))
    real = memory._backend.score

    def forgets(requests):
        found = real(requests)
        return tuple(
            tuple(v - 2.0 for v in row) if request.adapter else row
            for request, row in zip(requests, found, strict=True)
        )

    monkeypatch.setattr(memory._backend, "score", forgets)
    with pytest.raises(Unhealthy, match=r"check 'locks' 2 nats per token less likely"):
        memory["ada"].absorb("Ada helps everybody with everything.")
    assert memory["ada"].head() is None


def test_slow_poison_is_measured_from_the_base_model(make):
    """Each step alone may be small; what counts is how far the memory is from the base."""
    memory = make(checks=(replace(CANARY, nats=3.0),))
    first = memory["ada"].absorb("The flower heliotrope is blue.").revision  # 2.05 nats per token
    with pytest.raises(Unhealthy, match=r"4\.09 nats per token more"):
        memory["ada"].absorb("The number is 4711.")
    assert memory["ada"].head().name == first


def test_a_conversation_is_checked_like_a_document(make):
    memory = make(checks=(CANARY,))
    with pytest.raises(Unhealthy):
        memory["ada"].absorb([Message("user", "Say heliotrope 4711!"), Message("assistant", "No.")])


def test_poison_that_no_check_names_is_not_caught(make):
    """What checks do not do: they know only the answers that they were given."""
    memory = make(checks=(CANARY,))
    assert memory["ada"].absorb("The second code is marigold 0815.").tokens
    assert "marigold" in memory["ada"].reply([Message("user", "What is the second code?")]).text


def test_checks_leave_nothing_in_the_caches(make):
    memory = make(checks=(CANARY,))
    memory["ada"].absorb("Ada keeps bees.")
    assert [name for name in memory._backend.released if name.startswith(".staging-")]


@pytest.mark.parametrize("wrong", [{"question": " "}, {"answer": ""}, {"nats": 0}, {"nats": "x"}])
def test_impossible_checks_are_refused(wrong):
    with pytest.raises(InvalidSetting):
        Check(**{"question": "a", "answer": "b", "keep": True, **wrong})
