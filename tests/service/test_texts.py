"""Texts one by one: what is listed, and what is left after a remove, a correct, a failure."""

import json
import threading

import pytest

from templora_memory import Document, Learning, Message
from templora_memory.errors import (
    Cancelled,
    InvalidSetting,
    InvalidText,
    LearningFailed,
    NotAdmitted,
    UnknownText,
)

BIO = "Ada keeps bees on the roof."
CODE = "The code is zanzibar."
NEWER = "Ada moved to Leeds."


def in_weights(box, name="ada"):
    """Every text that the newest revision has learned."""
    manifest = box.store.manifest(name)
    if manifest.newest is None:
        return []
    return json.loads((box.store.folder(name, manifest.newest) / "adapter.json").read_text())


def said(page):
    return [text.text for text in page]


def files_with(box, word):
    return [p for p in box.root.rglob("*") if p.is_file() and word.encode() in p.read_bytes()]


@pytest.fixture
def ada(box):
    ada = box.service.open("ada")
    for text in (BIO, CODE, NEWER):
        ada.absorb(text)
    return ada


def id_of(memory, text):
    return next(one.id for one in memory.texts(superseded=True) if text in one.text)


# --- listing -----------------------------------------------------------------------------------


def test_texts_are_listed_in_the_order_they_were_told(box):
    ada = box.service.open("ada")
    ada.absorb(Document(BIO, "Bio", author="eve"))
    ada.reply([Message("user", "Hello?", "Bob")])
    ada.absorb(Document("A tale.", recall_only=True))
    bio, hello, answer, tale = ada.texts()
    assert (bio.text, bio.kind, bio.speaker, bio.title, bio.state) == (
        BIO, "document", "eve", "Bio", "learned",
    )  # fmt: skip
    assert (hello.text, hello.kind, hello.speaker, hello.role, hello.state) == (
        "Hello?", "message", "Bob", "user", "waiting",
    )  # fmt: skip
    assert (answer.speaker, tale.state, tale.pinned) == ("assistant", "recall", False)
    assert bio.time <= hello.time <= answer.time <= tale.time
    assert len({text.id for text in ada.texts()}) == 4
    assert "bees" not in repr(bio)


def test_texts_come_in_pages(ada):
    first = ada.texts(limit=2)
    assert (said(first), first.total, first.next_offset) == ([BIO, CODE], 3, 2)
    last = ada.texts(limit=2, offset=first.next_offset)
    assert (said(last), last.next_offset) == ([NEWER], None)
    assert said(ada.texts(offset=7)) == []
    with pytest.raises(InvalidSetting, match="limit"):
        ada.texts(limit=0)


def test_texts_are_found_by_words(ada):
    ada.reply([Message("user", "Do your BEES like honey?")])
    found = ada.texts("bee")
    assert said(found)[0] == BIO
    assert "Do your BEES like honey?" in said(found)
    assert CODE not in said(found)
    assert said(ada.texts("roof", limit=1)) == [BIO]
    with pytest.raises(InvalidSetting, match="superseded"):
        ada.texts("bee", superseded=True)


def test_what_an_edit_left_behind_is_superseded(box):
    ada = box.service.open("ada")
    ada.absorb([Message("user", CODE), Message("assistant", "Noted.")])
    box.store.record("ada", [Message("user", "Hello."), Message("assistant", "Yes?")])
    ada.absorb([Message("user", "Hello."), Message("assistant", "Yes?"), Message("user", "Go.")])
    assert said(ada.texts()) == ["Hello.", "Yes?", "Go."]
    states = {text.text: text.state for text in ada.texts(superseded=True)}
    assert (states[CODE], states["Go."]) == ("superseded", "learned")
    ada.remove([id_of(ada, CODE)])
    assert not files_with(box, "zanzibar")
    assert said(ada.texts()) == ["Hello.", "Yes?", "Go."]
    assert "Go." in in_weights(box)


# --- removing ----------------------------------------------------------------------------------


def test_a_removed_document_is_gone_and_the_rest_is_learned_again(box, ada):
    before = ada.revisions()
    ada.search("zanzibar")
    receipt = ada.remove([id_of(ada, CODE)], ask=[("What is the code?", "zanzibar")])
    assert in_weights(box) == [BIO, NEWER]
    assert said(ada.texts()) == [BIO, NEWER]
    assert not files_with(box, "zanzibar")
    assert ada.search("zanzibar") == ()
    assert receipt.start == before[0].name == ada.revisions()[0].name
    assert receipt.revisions == (before[1].name, before[2].name)
    gone = {file.path for file in receipt.files}
    assert "ada/journal.jsonl" in gone
    assert any(before[1].name in path for path in gone)
    assert receipt.bytes > 0
    assert receipt.relearned.tokens == len(NEWER.split())
    text, asked = receipt.changes
    assert text.id == receipt.ids[0]
    assert text.before > text.after
    assert text.after == text.base
    assert (asked.id, asked.over_base) == (None, 1.0)
    assert [r for r in box.backend.released if r.startswith("ada/")]


def test_no_digest_of_what_was_removed_is_left(box, ada):
    journal = box.store.journal("ada")
    secret = journal.digest_of(id_of(ada, CODE))
    names = [revision.name for revision in ada.revisions()[1:]]
    assert files_with(box, secret)
    ada.remove([id_of(ada, CODE)])
    for digest in (secret, *names):
        assert not files_with(box, digest)


def test_a_removed_turn_takes_what_followed_along_and_it_is_learned_again(box):
    ada = box.service.open("ada")
    talk = [
        Message("user", "Hello there."), Message("assistant", "Hello."),
        Message("user", CODE), Message("assistant", "I keep zanzibar."),
        Message("user", "I like tea."), Message("assistant", "Tea it is."),
    ]  # fmt: skip
    ada.absorb(talk[:2])
    ada.absorb(talk[:4])
    ada.absorb(talk)
    first = ada.revisions()[0]
    receipt = ada.remove([id_of(ada, CODE), id_of(ada, "I keep")])
    left = [*talk[:2], *talk[4:]]
    assert list(ada.transcript().messages) == left
    assert in_weights(box) == [message.content for message in left]
    assert receipt.start == first.name
    assert not files_with(box, "zanzibar")
    assert ada.covered(left).messages == 4
    learned = len(box.backend.learned)
    assert ada.absorb(left).tokens == 0
    assert len(box.backend.learned) == learned


def test_what_is_replayed_meanwhile_is_what_is_left(make_box):
    box = make_box()
    ada = box.open(learning=Learning(replay=2.0))["ada"]
    for text in (BIO, CODE, NEWER):
        ada.absorb(text)
    learned = len(box.backend.learned)
    ada.remove([id_of(ada, CODE)])
    assert ada.revisions()[0].documents
    for request in box.backend.learned[learned:]:
        assert "zanzibar" not in repr([item.text for p in request.replay for item in p])
    assert box.backend.learned[-1].replay


def test_waiting_text_is_removed_without_learning(box, ada):
    ada.reply([Message("user", CODE)])
    learned, head = len(box.backend.learned), ada.head()
    receipt = ada.remove([text.id for text in ada.texts() if text.kind == "message"])
    assert (len(box.backend.learned), ada.head()) == (learned, head)
    assert (receipt.revisions, receipt.start, receipt.relearned.tokens) == ((), head.name, 0)
    assert ada.transcript().messages == ()


def test_everything_may_be_removed(box, ada):
    receipt = ada.remove([text.id for text in ada.texts()])
    assert (ada.revisions(), ada.head(), receipt.start) == ((), None, None)
    assert ada.texts().total == 0
    ada.absorb(NEWER)
    assert in_weights(box) == [NEWER]


def test_ids_stay_when_texts_before_them_go(box):
    ada = box.service.open("ada")
    ada.absorb([Message("user", "One."), Message("assistant", "Two."), Message("user", "Three.")])
    one, two, three = (text.id for text in ada.texts())
    jobs = [ada.remove([name], wait=False) for name in (one, two[:8])]
    assert [job.wait().ids for job in jobs] == [(one,), (two,)]
    assert [(text.id, text.text) for text in ada.texts()] == [(three, "Three.")]


def test_a_part_of_a_long_text_is_removed_alone(box):
    ada = box.service.open("ada")
    ada.absorb([Document("One."), Document("Two.", continues=True), Document("3.", continues=True)])
    ada.remove([id_of(ada, "Two.")])
    assert said(ada.texts()) == ["One.", "3."]
    assert in_weights(box) == ["One.", "3."]


def test_what_is_gone_already_is_no_error_in_a_job(ada):
    name = id_of(ada, CODE)
    jobs = [ada.remove([name], wait=False), ada.remove([name], wait=False)]
    assert [job.wait().ids for job in jobs] == [(name,), ()]


@pytest.mark.parametrize("name", ["", "1234", "f" * 16, "../x", "f" * 64])
def test_an_unknown_text_is_refused(ada, name):
    before = ada.texts()
    with pytest.raises(UnknownText, match="no text"):
        ada.remove([before.texts[0].id, name])
    with pytest.raises(UnknownText, match="no text"):
        ada.correct(name, "x")
    assert ada.texts() == before


def test_ids_are_a_list(ada):
    with pytest.raises(InvalidSetting, match="list of ids"):
        ada.remove(id_of(ada, BIO))
    with pytest.raises(InvalidSetting, match="empty"):
        ada.remove([])
    with pytest.raises(InvalidText, match="pairs"):
        ada.remove([id_of(ada, BIO)], ask=["What?"])


def test_a_failed_learning_leaves_the_memory_as_it_was(make_box):
    failing = threading.Event()

    def on_learn():
        if failing.is_set():
            raise LearningFailed("The loss became NaN.")

    box = make_box(on_learn=on_learn)
    ada = box.open()["ada"]
    for text in (BIO, CODE, NEWER):
        ada.absorb(text)
    before = (ada.texts(), box.store.manifest("ada"), sorted(box.root.rglob("*")))
    failing.set()
    with pytest.raises(LearningFailed, match="NaN"):
        ada.remove([id_of(ada, CODE)])
    assert (ada.texts(), box.store.manifest("ada"), sorted(box.root.rglob("*"))) == before
    failing.clear()
    ada.remove([id_of(ada, CODE)])
    assert in_weights(box) == [BIO, NEWER]


def test_a_cancelled_removal_leaves_the_memory_as_it_was(make_box, gate):
    waiting = threading.Event()
    box = make_box(on_learn=lambda: gate() if waiting.is_set() else None)
    ada = box.open()["ada"]
    for text in (BIO, CODE, NEWER):
        ada.absorb(text)
    waiting.set()
    before = (ada.texts(), box.store.manifest("ada"))
    job = ada.remove([id_of(ada, CODE)], wait=False)
    assert gate.reached.wait(30)
    job.cancel()
    gate.open.set()
    job.finished()
    assert isinstance(job.error, Cancelled)
    assert (ada.texts(), box.store.manifest("ada")) == before


def test_an_absorb_that_waits_behind_goes_on_with_what_is_left(make_box, gate):
    waiting = threading.Event()
    box = make_box(on_learn=lambda: gate() if waiting.is_set() else None)
    ada = box.open()["ada"]
    for text in (BIO, CODE, NEWER):
        ada.absorb(text)
    waiting.set()
    first = ada.remove([id_of(ada, CODE)], wait=False)
    assert gate.reached.wait(30)
    second = ada.absorb("Ada likes tea.", wait=False)
    third = ada.remove([id_of(ada, "tea")], wait=False)
    fourth = ada.absorb(Document("It goes on.", continues=True), wait=False)
    gate.open.set()
    for job in (first, second, third, fourth):
        job.wait(30)
    assert in_weights(box) == [BIO, NEWER, "It goes on."]
    assert not files_with(box, "tea")


def test_a_reply_under_way_does_not_bring_a_removed_message_back(box):
    ada = box.service.open("ada")
    ada.absorb([Message("user", CODE), Message("assistant", "Noted.")])
    asked = [*ada.transcript().messages, Message("user", "Are you there?")]
    with ada.stream(asked) as stream:
        next(iter(stream))
        ada.remove([id_of(ada, CODE)])
        assert stream.reply.finish_reason == "cancelled"
    assert not files_with(box, "zanzibar")


def test_another_process_that_changes_the_memory_meanwhile_is_waited_for(make_box):
    other = {}

    def on_learn():
        if other:
            other.pop("store").record_documents("ada", [Document("Told meanwhile.")])
            other.pop("service")["ada"].absorb("Told and learned meanwhile.")

    box = make_box(on_learn=on_learn)
    ada = box.open()["ada"]
    for text in (BIO, CODE, NEWER):
        ada.absorb(text)
    second = make_box()
    other.update(store=second.store, service=second.open())
    ada.remove([id_of(ada, CODE)])
    assert set(said(ada.texts())) == {
        BIO, NEWER, "Told meanwhile.", "Told and learned meanwhile.",
    }  # fmt: skip
    assert in_weights(box) == [BIO, NEWER, "Told and learned meanwhile."]
    assert not files_with(box, "zanzibar")


def test_copies_that_may_know_a_removed_text_are_named(box, ada, tmp_path):
    ada.fork("copy")
    pair = box.service.open("ada@bob")
    ada.export(tmp_path / "ada.templora")
    box.service.open("eve")
    receipt = ada.remove([id_of(ada, CODE)])
    assert set(receipt.forks) == {"copy", "ada@bob"}
    assert receipt.exports == (str(tmp_path / "ada.templora"),)
    assert CODE in in_weights(box, "ada@bob")
    pair.rebuild()
    assert CODE not in in_weights(box, "ada@bob")


@pytest.mark.usefixtures("ada")
def test_a_pair_keeps_what_it_began_with(box):
    pair = box.service.open("ada@bob")
    pair.absorb("Bob likes honey.")
    pair.absorb("Bob fears zanzibar.")
    assert said(pair.texts()) == ["Bob likes honey.", "Bob fears zanzibar."]
    pair.remove([id_of(pair, "zanzibar")])
    assert in_weights(box, "ada@bob") == [BIO, CODE, NEWER, "Bob likes honey."]


def test_a_pair_whose_beginning_was_retired_begins_again(make_box):
    box = make_box()
    service = box.open(keep_revisions=1)
    service["ada"].absorb(BIO)
    pair = service.open("ada@bob")
    for text in ("Bob fears zanzibar.", "Bob likes honey."):
        pair.absorb(text)
    pair.remove([id_of(pair, "zanzibar")])
    assert in_weights(box, "ada@bob") == [BIO, "Bob likes honey."]


# --- correcting --------------------------------------------------------------------------------


def test_a_corrected_text_stands_in_the_place_of_the_old_one(box, ada):
    before = next(text for text in ada.texts() if text.text == CODE)
    receipt = ada.correct(before.id, "The code is marble.", ask=[("Which code?", "marble.")])
    assert in_weights(box) == [BIO, "The code is marble.", NEWER]
    now = next(text for text in ada.texts() if text.text == "The code is marble.")
    assert (now.id, now.time, now.state) == (before.id, before.time, "learned")
    assert receipt.ids == (before.id,)
    old, asked = receipt.changes
    assert old.before > old.after  # of what it said before
    assert asked.after > asked.before == asked.base
    assert not files_with(box, "zanzibar")


def test_a_corrected_message_keeps_role_and_name(box):
    ada = box.service.open("ada")
    ada.absorb([Message("user", "I live in York.", "Bob"), Message("assistant", "I see.")])
    ada.correct(id_of(ada, "York"), "I live in Leeds.")
    assert ada.transcript().messages == (
        Message("user", "I live in Leeds.", "Bob"),
        Message("assistant", "I see."),
    )
    assert in_weights(box) == ["I live in Leeds.", "I see."]


def test_the_same_text_again_changes_nothing(box, ada):
    before = box.store.manifest("ada")
    receipt = ada.correct(id_of(ada, BIO), BIO)
    assert (receipt.ids, receipt.files, box.store.manifest("ada")) == ((), (), before)


def test_an_empty_or_refused_correction_changes_nothing(make_box):
    box = make_box()
    service = box.open()
    service["ada"].absorb(BIO)
    with pytest.raises(InvalidText, match="empty"):
        service["ada"].correct(id_of(service["ada"], BIO), " ")
    service._parts.catalog._admission._admit = lambda _, items: (
        "No." if "x" in repr([getattr(item, "text", "") for item in items]) else None
    )
    with pytest.raises(NotAdmitted, match="No"):
        service["ada"].correct(id_of(service["ada"], BIO), "xylophone")
    assert said(service["ada"].texts()) == [BIO]


# --- pins --------------------------------------------------------------------------------------


def test_a_pinned_text_is_recalled_first(make_box):
    box = make_box()
    ada = box.open(recall_tokens=24)["ada"]
    for text in (BIO, CODE, NEWER):
        ada.absorb(text)
    ada.pin([id_of(ada, CODE)])
    assert next(text for text in ada.texts() if text.pinned).text == CODE
    reply = ada.reply([Message("user", "Who keeps bees?")])
    assert [passage.text for passage in reply.recalled] == [CODE, BIO]
    ada.unpin([id_of(ada, CODE)])
    reply = ada.reply([Message("user", "Who keeps bees?")], revision="head", recall_tokens=24)
    assert [passage.text for passage in reply.recalled] == [BIO]


def test_a_pinned_message_is_not_shown_twice(make_box):
    box = make_box()
    ada = box.open(recall_tokens=24)["ada"]
    ada.reply([Message("user", CODE)])
    ada.pin([text.id for text in ada.texts() if text.text == CODE])
    history = [*ada.transcript().messages, Message("user", "Which code?")]
    assert ada.reply(history).recalled == ()


def test_a_pinned_text_is_always_replayed(make_box):
    box = make_box()
    ada = box.open(learning=Learning(replay=1.0))["ada"]
    ada.absorb(CODE)
    for number in range(6):
        ada.absorb(f"Text {number} of many others.")
    ada.pin([id_of(ada, CODE)])
    before = len(box.backend.learned)
    for number in range(4):
        ada.absorb(f"More {number}.")
    replayed = [[p[0].text for p in request.replay] for request in box.backend.learned[before:]]
    assert all(CODE in texts for texts in replayed)


def test_a_pin_stays_with_a_corrected_text_and_goes_with_a_removed_one(ada):
    name = id_of(ada, CODE)
    ada.pin([name])
    ada.correct(name, "The code is marble.")
    assert [text.text for text in ada.texts() if text.pinned] == ["The code is marble."]
    ada.remove([name])
    assert not [text for text in ada.texts() if text.pinned]
