"""Texts taken out of a journal: what is left, and how it is named then."""

import pytest
from hypothesis import given, strategies as st

from templora_memory import Document, Message
from templora_memory.domain.amendment import amend, with_text
from templora_memory.domain.journal import Journal, pin_line, stamped
from templora_memory.domain.messages import chain, start
from templora_memory.errors import InvalidText
from templora_memory.stores.journal_records import dialogue_records, document_records

FIRST = start("salt")


class Told:
    """A journal in RAM that is told things as a store would write them."""

    def __init__(self):
        self.records = []
        self.journal = Journal(FIRST, self.records.__getitem__)

    def add(self, *records):
        for record in records:
            self.records.append(record)
            self.journal.add(record, len(self.records) - 1)

    def talk(self, *contents, after=None):
        roles = ("user", "assistant")
        said = [Message(roles[n % 2], content) for n, content in enumerate(contents)]
        records, end = dialogue_records(self.journal, said, after, "ada")
        self.add(*records)
        return self.journal.path(end)

    def documents(self, *documents):
        records, digests = document_records(self.journal, documents, None)
        self.add(*records)
        return digests


@pytest.fixture
def told():
    return Told()


def said(journal):
    return [message.content for message in journal.messages(journal.tip)]


def texts(journal):
    return [journal.document(digest).text for digest in journal.documents]


def test_what_follows_a_removed_message_follows_the_one_before(told):
    path = told.talk("a", "b", "c", "d")
    amendment = amend(told.journal, {path[1]: None})
    journal = amendment.journal(FIRST)
    assert said(journal) == ["a", "c", "d"]
    assert amendment.dialogue(path[0]) == amendment.dialogue(path[1]) == path[0]
    assert amendment.dialogue(path[3]) == journal.tip != path[3]


def test_a_corrected_message_stands_where_it_stood(told):
    path = told.talk("a", "b", "c")
    journal = amend(told.journal, {path[1]: "B"}).journal(FIRST)
    assert said(journal) == ["a", "B", "c"]
    assert journal.messages(journal.tip)[1].role == "assistant"


def test_branches_of_a_removed_message_go_on_from_the_one_before(told):
    path = told.talk("a", "b", "c")
    branch = told.talk("a", "b", "other")
    told.talk("a", "b", "c", "d")
    amendment = amend(told.journal, {path[1]: None})
    journal = amendment.journal(FIRST)
    assert said(journal) == ["a", "c", "d"]
    end = amendment.dialogue(branch[-1])
    assert [m.content for m in journal.messages(end)] == ["a", "other"]


def test_branches_that_say_the_same_afterwards_are_one(told):
    path = told.talk("a", "b", "c")
    told.add(*dialogue_records(told.journal, [Message("user", "c")], path[0], "ada")[0])
    tip = told.journal.tip
    amendment = amend(told.journal, {path[1]: None})
    assert amendment.dialogue(path[2]) == amendment.dialogue(tip) == tip
    assert len(amendment.records) == 2


def test_the_newest_conversation_stays_the_newest(told):
    path = told.talk("a", "b", "c", "d")
    told.talk("a", "x", "y")
    told.talk("a", "b")
    assert said(amend(told.journal, {path[3]: None}).journal(FIRST)) == ["a", "b"]
    assert said(amend(told.journal, {path[1]: None}).journal(FIRST)) == ["a"]
    assert said(amend(told.journal, {path[0]: None, path[1]: None}).journal(FIRST)) == []


def test_a_document_goes_on_from_what_the_removed_one_went_on_from(told):
    parts = [Document("1"), *(Document(text, continues=True) for text in "234")]
    digests = told.documents(*parts)
    amendment = amend(told.journal, {digests[0]: None, digests[2]: None})
    journal = amendment.journal(FIRST)
    assert texts(journal) == ["2", "4"]
    assert journal.document_before(journal.documents[1]) == journal.documents[0]
    assert amendment.documents([digests[1], digests[2], "of another memory"]) == (
        journal.documents[0],
        "of another memory",
    )


def test_withdrawn_and_pinned_texts_stay_so(told):
    keep, withdrawn, gone = told.documents(Document("keep"), Document("old"), Document("gone"))
    path = told.talk("a", "b")
    told.add({"kind": "withdraw", "digest": withdrawn})
    told.add(*(pin_line(digest, pinned=True) for digest in (path[1], gone, keep)))
    told.add(pin_line(keep, pinned=False))
    journal = amend(told.journal, {path[0]: None, gone: None}).journal(FIRST)
    assert (journal.documents, journal.withdrawn) == ((keep,), (withdrawn,))
    assert journal.pinned == (journal.tip,)


def test_a_document_told_again_after_what_continues_it_is_written_before_it(told):
    first, _ = told.documents(Document("1"), Document("2", continues=True))
    told.add({"kind": "withdraw", "digest": first})
    told.documents(Document("1"))
    journal = amend(told.journal, {}).journal(FIRST)
    assert set(journal.documents) == set(told.journal.documents)


def test_nothing_of_a_removed_text_is_left_in_the_lines(told):
    path = told.talk("a", "zanzibar", "c")
    (digest,) = told.documents(Document("zanzibar", "Zanzibar", author="zanzibar"))
    left = repr(amend(told.journal, {path[1]: None, digest: None}).records)
    assert "anzibar" not in left
    for removed in (path[1], path[2], digest):
        assert removed not in left


def test_a_correction_to_nothing_is_refused():
    with pytest.raises(InvalidText):
        with_text(Document("a"), " ")
    assert with_text(Message("user", "a", "Bob"), "b") == Message("user", "b", "Bob")


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=8), st.data())
def test_removing_is_the_same_as_never_having_been_told(contents, data):
    told = Told()
    path = told.talk(*contents)
    removed = data.draw(st.sets(st.sampled_from(range(len(contents)))))
    left = [m for n, m in enumerate(told.journal.messages(path[-1])) if n not in removed]
    journal = amend(told.journal, {path[n]: None for n in removed}).journal(FIRST)
    assert journal.messages(journal.tip) == tuple(left)
    assert journal.tip == chain(FIRST, left)[-1]


def test_a_stamp_names_a_text_and_its_time():
    one, two = (stamped({"kind": "message"}) for _ in range(2))
    assert one["id"] != two["id"]
    assert one["time"] <= two["time"]
