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
    report = box.service.absorb("ada", BIO)
    assert (report.tokens, report.chunks) == (6, 1)
    assert report.revision == box.service.head("ada").name
    reply = box.service.reply("ada", [Message("user", "Who keeps bees?")])
    assert BIO in reply.text
    assert (reply.revision, reply.absorbed_tokens) == (report.revision, 6)


def test_a_resent_history_trains_nothing_twice(box, talk):
    for _ in range(3):
        box.service.reply("ada", talk(30))
        box.service.wait()
    assert len(box.learned) == len(set(box.learned)) > 10


def test_absorbing_the_beginning_of_a_learned_conversation_trains_nothing(box, talk):
    whole = talk(8, question=None)
    for end in (4, 6, 8, 10, 12, 14, 16):  # more revisions than are kept
        box.service.absorb("ada", whole[:end])
    trained, head = len(box.learned), box.service.head("ada")
    box.service.absorb("ada", whole[:4])
    assert len(box.learned) == trained
    assert box.service.head("ada") == head


def test_a_shortened_conversation_can_be_learned_up_to_its_end(box, talk):
    whole = talk(8, question=None)
    for end in (4, 6, 8, 10, 12, 14, 16):
        box.service.absorb("ada", whole[:end])
    box.service.absorb("ada", BIO)
    assert box.service.covered("ada", whole[:4]).revision is None
    report = box.service.absorb("ada", whole[:4], exact=True)
    covered = box.service.covered("ada", whole[:4])
    assert (covered.messages, covered.revision) == (4, box.service.head("ada"))
    assert len(covered.revision.documents) == 1
    trained = len(box.learned)
    assert box.service.absorb("ada", whole[:4], exact=True).revision == report.revision
    assert len(box.learned) == trained


def test_evicted_messages_are_learned_exactly_once(box, talk):
    whole = talk(12, question=None)
    for _ in range(2):
        for begin in range(0, len(whole), 4):
            box.service.absorb("ada", whole[begin : begin + 4], after=begin)
    assert box.learned == [message.content for message in whole]
    box.service.absorb("ada", whole[:4], after=0)
    assert box.service.transcript("ada").messages == tuple(whole)
    box.service.absorb("ada", [Message("user", "more")], after=len(whole))
    assert box.service.status("ada").message_count == len(whole) + 1


def test_system_and_tool_messages_are_never_learned(box, talk):
    history = [
        Message("system", "secret system words"),
        Message("user", "How warm is it?"),
        Message("assistant", "", name="call"),
        Message("tool", "secret tool words"),
        Message("assistant", "Twelve degrees."),
        *talk(20),
    ]
    box.service.reply("ada", history)
    box.service.absorb("eve", history)
    words = " ".join(path.read_text() for path in box.root.rglob("adapter.json") if path.is_file())
    assert "Twelve" in words
    assert "secret" not in words


def test_a_bio_stays_known_after_an_edit(box, talk):
    box.service.reply("ada", talk(20))
    box.service.absorb("ada", "Owls sleep in the barn.")
    edited = talk(3, about="cats")
    reply = box.service.reply("ada", [*edited[:-1], Message("user", "Where do owls sleep?")])
    assert "Owls sleep in the barn." in reply.text


def test_a_failed_absorb_keeps_the_text_and_the_old_revision(box):
    first = box.service.absorb("ada", BIO)
    with pytest.raises(LearningFailed):
        box.service.absorb("ada", f"A {POISON} text")
    status = box.service.status("ada")
    assert (status.head_name, status.document_count, status.absorbed_documents) == (
        first.revision,
        2,
        1,
    )
    assert "LearningFailed" in status.last_error
    assert box.service.transcript("ada").documents[1].text == f"A {POISON} text"
    box.service.absorb("ada", "Another text")
    assert box.service.status("ada").last_error is None


def test_a_revision_that_damages_other_text_is_not_committed(box):
    first = box.service.absorb("ada", BIO)
    assert first.kl == 0.01
    with pytest.raises(Unhealthy, match=r"health_kl is 1\.5"):
        box.service.absorb("ada", f"A {GARBAGE} text")
    status = box.service.status("ada")
    assert (status.head_name, status.revisions, status.document_count) == (first.revision, 1, 2)
    assert "Unhealthy" in status.last_error
    assert GARBAGE in box.service.transcript("ada").documents[1].text
    assert box.service.absorb("ada", "Another text").revision != first.revision


def test_a_slow_drift_is_no_sudden_damage(make_box):
    """What counts is how much worse one absorb makes it: a long stream drifts, and goes on."""
    box = make_box()
    box.open(health_kl=None)
    drifted = box.service.absorb("ada", f"A {GARBAGE} text")
    box.service.close()
    box.open()
    again = box.service.absorb("ada", f"Another {GARBAGE} text")
    assert (drifted.kl, again.kl) == (10, 10)


def test_the_health_check_can_be_switched_off(make_box):
    box = make_box()
    box.open(health_kl=None)
    assert box.service.absorb("ada", f"A {GARBAGE} text").kl == 10


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
    job = box.service.absorb("ada", Document("one two three four. " * 4000), wait=False)
    ready.set()
    with pytest.raises(Cancelled):
        job.wait(60)
    status = box.service.status("ada")
    assert 0 < status.absorbed_documents < status.document_count
    box.backend._on_learn = None
    box.service.absorb("ada", Document("one two three four. " * 4000))
    assert box.service.status("ada").absorbed_documents == status.document_count


@pytest.mark.parametrize("again", [False, True])
def test_an_absorb_of_a_memory_forgotten_elsewhere_is_cancelled(make_box, gate, *, again):
    box, elsewhere = make_box(on_learn=gate), make_box()
    box.open()
    elsewhere.open()
    job = box.service.absorb("ada", "word " * 40, wait=False)
    assert gate.reached.wait(30)
    elsewhere.service.forget("ada")
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
        box.service.absorb("ada", Document(long))
    assert box.service.status("ada").absorbed_documents == 0
    report = box.service.resume("ada").wait()
    assert report.tokens == 80
    assert "".join(box.learned) == long
    assert box.service.resume("ada").wait().tokens == 0
    status = box.service.status("ada")
    assert status.document_count == status.absorbed_documents


def test_rebuilding_learns_everything_again(box, talk):
    box.service.absorb("ada", BIO)
    history = talk(20)
    box.service.reply("ada", history)
    box.service.wait()
    before, old = box.service.head("ada"), {r.name for r in box.service.revisions("ada")}
    box.service.rebuild("ada")
    after = box.service.head("ada")
    assert (after.messages, after.documents, after.tokens) == (
        before.messages, before.documents, before.tokens,
    )  # fmt: skip
    assert old.isdisjoint(r.name for r in box.service.revisions("ada"))
    assert [r.messages for r in box.service.revisions("ada")] == [0, before.messages]
    trained = len(box.learned)
    box.service.reply("ada", history)
    assert len(box.learned) == trained


def test_a_pair_is_rebuilt_under_names_that_are_not_in_use(box):
    """What it starts from has not changed; whoever answers with it at that moment still can."""
    box.service.absorb("ada", BIO)
    box.service.open("ada@bob")
    for _ in range(2):
        old = box.service.revisions("ada@bob")
        box.service.rebuild("ada@bob")
        assert {r.name for r in old}.isdisjoint(r.name for r in box.service.revisions("ada@bob"))
        assert BIO in box.service.reply("ada@bob", [Message("user", "Who keeps bees?")]).text


def test_another_base_model_is_refused_until_rebuilt(make_box):
    box, other = make_box(), make_box(name="other")
    box.open()
    box.service.absorb("ada", BIO)
    box.service.absorb("ada@bob", "Bob likes owls.")
    other.open()
    question = [Message("user", "Who keeps bees?")]
    for call in (
        lambda: other.service.open("ada"),
        lambda: other.service.reply("ada", question),
        lambda: other.service.absorb("ada", "x"),
        lambda: other.service.probe("ada", "x", "y"),
        lambda: other.service.rebuild("ada@bob"),  # its origin comes first
        lambda: other.service.open("ada@new"),
    ):
        with pytest.raises(BaseMismatch, match="rebuild"):
            call()
    other.service.rebuild("ada")
    other.service.rebuild("ada@bob")
    assert BIO in other.service.reply("ada", question).text
    assert "owls" in other.service.reply("ada@bob", [Message("user", "What about owls?")]).text
    assert BIO in other.service.reply("ada@bob", question).text
    with pytest.raises(BaseMismatch):
        box.service.open("ada")


def test_a_pair_without_its_name_cannot_be_rebuilt(make_box):
    box = make_box()
    box.open()
    box.service.absorb("ada", BIO)
    box.service.absorb("eve@bob", "Bob likes owls.")
    box.service.fork("ada", "ann")
    box.service.open("cat", base="ann").absorb("Cats purr.")
    box.service.forget("ann")
    before = box.service.revisions("cat")
    with pytest.raises(UnknownMemory, match="started from 'ann'"):
        box.service.rebuild("cat")
    assert box.service.revisions("cat") == before


def test_a_memory_without_anything_learned_is_rebuilt_on_another_base(make_box):
    box, other = make_box(), make_box(name="other")
    box.open()
    box.service.open("ada")
    other.open()
    assert other.service.rebuild("ada").tokens == 0
    assert other.service.status("ada").base == "other"


def test_a_short_document_gets_more_passes_than_a_stream(box):
    box.service.absorb("ada", "A short bio.")
    box.service.absorb("ada", Document("and its sequel", continues=True))
    box.service.absorb("ada", [{"role": "user", "content": "Hi"}])
    steps = box.service.policy.learning.document_steps
    assert [request.min_steps for request in box.backend.learned] == [steps, 0, 0]
