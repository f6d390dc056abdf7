"""What is learned, and what stays where learning fails."""

import threading

import pytest

from templora_memory import Document, Message
from templora_memory.errors import (
    BaseMismatch,
    Cancelled,
    LearningFailed,
    Unhealthy,
    UnknownMemory,
)
from templora_memory.testing import GARBAGE, POISON

BIO = "Ada keeps bees on the roof."


def test_what_was_absorbed_is_recalled(box):
    report = box.service["ada"].absorb(BIO)
    assert (report.tokens, report.chunks) == (6, 1)
    assert report.revision == box.service["ada"].head().name
    reply = box.service["ada"].reply([Message("user", "Who keeps bees?")])
    assert BIO in reply.text
    assert (reply.revision, reply.absorbed_tokens) == (report.revision, 6)


def test_a_resent_history_trains_nothing_twice(box, talk):
    for _ in range(3):
        box.service["ada"].reply(talk(30))
        box.service.wait()
    assert len(box.learned) == len(set(box.learned)) > 10


def test_absorbing_the_beginning_of_a_learned_conversation_trains_nothing(box, talk):
    whole = talk(8, question=None)
    for end in (4, 6, 8, 10, 12, 14, 16):  # more revisions than are kept
        box.service["ada"].absorb(whole[:end])
    trained, head = len(box.learned), box.service["ada"].head()
    box.service["ada"].absorb(whole[:4])
    assert len(box.learned) == trained
    assert box.service["ada"].head() == head


def test_a_shortened_conversation_can_be_learned_up_to_its_end(box, talk):
    whole = talk(8, question=None)
    for end in (4, 6, 8, 10, 12, 14, 16):
        box.service["ada"].absorb(whole[:end])
    box.service["ada"].absorb(BIO)
    assert box.service["ada"].covered(whole[:4]).revision is None
    report = box.service["ada"].absorb(whole[:4], exact=True)
    covered = box.service["ada"].covered(whole[:4])
    assert (covered.messages, covered.revision) == (4, box.service["ada"].head())
    assert len(covered.revision.documents) == 1
    trained = len(box.learned)
    assert box.service["ada"].absorb(whole[:4], exact=True).revision == report.revision
    assert len(box.learned) == trained


def test_evicted_messages_are_learned_exactly_once(box, talk):
    whole = talk(12, question=None)
    for _ in range(2):
        for begin in range(0, len(whole), 4):
            box.service["ada"].absorb(whole[begin : begin + 4], after=begin)
    assert box.learned == [message.content for message in whole]
    box.service["ada"].absorb(whole[:4], after=0)
    assert box.service["ada"].transcript().messages == tuple(whole)
    box.service["ada"].absorb([Message("user", "more")], after=len(whole))
    assert box.service["ada"].status().message_count == len(whole) + 1


def test_system_and_tool_messages_are_never_learned(box, talk):
    history = [
        Message("system", "secret system words"),
        Message("user", "How warm is it?"),
        Message("assistant", "", name="call"),
        Message("tool", "secret tool words"),
        Message("assistant", "Twelve degrees."),
        *talk(20),
    ]
    box.service["ada"].reply(history)
    box.service["eve"].absorb(history)
    words = " ".join(path.read_text() for path in box.root.rglob("adapter.json") if path.is_file())
    assert "Twelve" in words
    assert "secret" not in words


def test_a_bio_stays_known_after_an_edit(box, talk):
    box.service["ada"].reply(talk(20))
    box.service["ada"].absorb("Owls sleep in the barn.")
    edited = talk(3, about="cats")
    reply = box.service["ada"].reply([*edited[:-1], Message("user", "Where do owls sleep?")])
    assert "Owls sleep in the barn." in reply.text


def test_a_failed_absorb_keeps_the_text_and_the_old_revision(box):
    first = box.service["ada"].absorb(BIO)
    with pytest.raises(LearningFailed):
        box.service["ada"].absorb(f"A {POISON} text")
    status = box.service["ada"].status()
    assert (status.head_name, status.document_count, status.absorbed_documents) == (
        first.revision,
        2,
        1,
    )
    assert "LearningFailed" in status.last_error
    assert box.service["ada"].transcript().documents[1].text == f"A {POISON} text"
    box.service["ada"].absorb("Another text")
    assert box.service["ada"].status().last_error is None


def test_a_revision_that_damages_other_text_is_not_committed(box):
    first = box.service["ada"].absorb(BIO)
    assert first.kl == 0.01
    with pytest.raises(Unhealthy, match=r"health_kl is 2"):
        box.service["ada"].absorb(f"A {GARBAGE} text")
    status = box.service["ada"].status()
    assert (status.head_name, status.revisions, status.document_count) == (first.revision, 1, 2)
    assert "Unhealthy" in status.last_error
    assert GARBAGE in box.service["ada"].transcript().documents[1].text
    assert box.service["ada"].absorb("Another text").revision != first.revision


def test_a_slow_drift_is_no_sudden_damage(make_box):
    """What counts is how much worse one absorb makes it: a long stream drifts, and goes on."""
    box = make_box()
    box.open(health_kl=None)
    drifted = box.service["ada"].absorb(f"A {GARBAGE} text")
    box.service.close()
    box.open()
    again = box.service["ada"].absorb(f"Another {GARBAGE} text")
    assert (drifted.kl, again.kl) == (10, 10)


def test_the_health_check_can_be_switched_off(make_box):
    box = make_box()
    box.open(health_kl=None)
    assert box.service["ada"].absorb(f"A {GARBAGE} text").kl == 10


def test_cancelling_between_parts_of_a_book_keeps_what_is_learned(make_box):
    box = make_box()
    box.open()
    seen = []

    def on_learn():
        seen.append(len(box.backend.learned))
        if len(box.backend.learned) == 1:
            job.cancel()

    ready = threading.Event()
    box.backend._on_learn = lambda: (ready.wait(30), on_learn())
    job = box.service["ada"].absorb(Document("one two three four. " * 4000), wait=False)
    ready.set()
    with pytest.raises(Cancelled):
        job.wait(60)
    status = box.service["ada"].status()
    assert 0 < status.absorbed_documents < status.document_count
    box.backend._on_learn = None
    box.service["ada"].absorb(Document("one two three four. " * 4000))
    assert box.service["ada"].status().absorbed_documents == status.document_count


@pytest.mark.parametrize("again", [False, True])
def test_an_absorb_of_a_memory_forgotten_elsewhere_is_cancelled(make_box, gate, *, again):
    box, elsewhere = make_box(on_learn=gate), make_box()
    box.open()
    elsewhere.open()
    job = box.service["ada"].absorb("word " * 40, wait=False)
    assert gate.reached.wait(30)
    elsewhere.service["ada"].forget()
    if again:
        elsewhere.service.open("ada")
    gate.open.set()
    with pytest.raises(Cancelled, match="forgotten meanwhile"):
        job.wait(30)
    assert box.service.list() == (("ada",) if again else ())
    assert [entry.name for entry in box.root.iterdir()] == (["ada"] if again else [])
    assert b"word" not in b"".join(p.read_bytes() for p in box.root.rglob("*") if p.is_file())


def test_resuming_learns_each_interrupted_document_once(make_box):
    stopped = threading.Event()

    def fail_once():
        if not stopped.is_set():
            stopped.set()
            raise LearningFailed("The loss became NaN.")

    box = make_box(on_learn=fail_once)
    box.open()
    long = ("w" * 999 + " ") * 80  # several passages, each named after the one before
    with pytest.raises(LearningFailed):
        box.service["ada"].absorb(Document(long))
    assert box.service["ada"].status().absorbed_documents == 0
    report = box.service["ada"].resume().wait()
    assert report.tokens == 80
    assert "".join(box.learned) == long
    assert box.service["ada"].resume().wait().tokens == 0
    status = box.service["ada"].status()
    assert status.document_count == status.absorbed_documents


def test_rebuilding_learns_everything_again(box, talk):
    box.service["ada"].absorb(BIO)
    history = talk(20)
    box.service["ada"].reply(history)
    box.service.wait()
    before, old = box.service["ada"].head(), {r.name for r in box.service["ada"].revisions()}
    box.service["ada"].rebuild()
    after = box.service["ada"].head()
    assert (after.messages, after.documents, after.tokens) == (
        before.messages, before.documents, before.tokens,
    )  # fmt: skip
    assert old.isdisjoint(r.name for r in box.service["ada"].revisions())
    assert [r.messages for r in box.service["ada"].revisions()] == [0, before.messages]
    trained = len(box.learned)
    box.service["ada"].reply(history)
    assert len(box.learned) == trained


def test_a_pair_is_rebuilt_under_names_that_are_not_in_use(box):
    """What it starts from has not changed; whoever answers with it at that moment still can."""
    box.service["ada"].absorb(BIO)
    box.service.open("ada@bob")
    for _ in range(2):
        old = box.service["ada@bob"].revisions()
        box.service["ada@bob"].rebuild()
        assert {r.name for r in old}.isdisjoint(r.name for r in box.service["ada@bob"].revisions())
        assert BIO in box.service["ada@bob"].reply([Message("user", "Who keeps bees?")]).text


def test_another_base_model_is_refused_until_rebuilt(make_box):
    box, other = make_box(), make_box(name="other")
    box.open()
    box.service["ada"].absorb(BIO)
    box.service["ada@bob"].absorb("Bob likes owls.")
    other.open()
    question = [Message("user", "Who keeps bees?")]
    for call in (
        lambda: other.service.open("ada"),
        lambda: other.service["ada"].reply(question),
        lambda: other.service["ada"].absorb("x"),
        lambda: other.service["ada"].probe("x", "y"),
        other.service["ada@bob"].rebuild,  # its origin comes first
        lambda: other.service.open("ada@new"),
    ):
        with pytest.raises(BaseMismatch, match="rebuild"):
            call()
    other.service["ada"].rebuild()
    other.service["ada@bob"].rebuild()
    assert BIO in other.service["ada"].reply(question).text
    assert "owls" in other.service["ada@bob"].reply([Message("user", "What about owls?")]).text
    assert BIO in other.service["ada@bob"].reply(question).text
    with pytest.raises(BaseMismatch):
        box.service.open("ada")


def test_a_pair_without_its_name_cannot_be_rebuilt(make_box):
    box = make_box()
    box.open()
    box.service["ada"].absorb(BIO)
    box.service["eve@bob"].absorb("Bob likes owls.")
    box.service["ada"].fork("ann")
    box.service.open("cat", base="ann").absorb("Cats purr.")
    box.service["ann"].forget()
    before = box.service["cat"].revisions()
    with pytest.raises(UnknownMemory, match="started from 'ann'"):
        box.service["cat"].rebuild()
    assert box.service["cat"].revisions() == before


def test_a_memory_without_anything_learned_is_rebuilt_on_another_base(make_box):
    box, other = make_box(), make_box(name="other")
    box.open()
    box.service.open("ada")
    other.open()
    assert other.service["ada"].rebuild().tokens == 0
    assert other.service["ada"].status().base == "other"


def test_a_short_document_gets_more_passes_than_a_stream(box):
    box.service["ada"].absorb("A short bio.")
    box.service["ada"].absorb(Document("and its sequel", continues=True))
    box.service["ada"].absorb([{"role": "user", "content": "Hi"}])
    steps = box.service.policy.learning.document_steps
    assert [request.min_steps for request in box.backend.learned] == [steps, 0, 0]
