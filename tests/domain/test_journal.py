import json

import pytest

from templora_memory import Document, Message
from templora_memory.domain.journal import (
    Journal,
    decode_line,
    document_line,
    encode_line,
    message_line,
)
from templora_memory.domain.messages import chain, start
from templora_memory.errors import InvalidText, StoreDamaged
from templora_memory.stores.journal_records import document_records

FIRST = start("salt")
TALK = [Message("user", "a"), Message("assistant", "b", "ada"), Message("user", "c\n\u2028d")]


class Lines:
    """A journal over a list of encoded lines."""

    def __init__(self):
        self.lines = []
        self.journal = Journal(FIRST, lambda position: decode_line(self.lines[position]))

    def add(self, *bodies):
        for body in bodies:
            self.lines.append(encode_line(body))
            self.journal.add(decode_line(self.lines[-1]), len(self.lines) - 1)

    def talk(self, messages, parent=FIRST):
        for message in messages:
            line = message_line(parent, message)
            self.add(line)
            parent = line["digest"]
        return parent


@pytest.fixture
def lines():
    return Lines()


def test_a_line_is_one_line_and_comes_back():
    body = message_line(FIRST, TALK[2])
    line = encode_line(body)
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    assert decode_line(line) == body


@pytest.mark.parametrize(
    "line",
    [
        b"", b"[]", b"5", b"{}", b"\xff", b"[" * 100_000, b'{"kind":"tip","digest":"x"}',
        encode_line({"kind": "tip"}), encode_line({"kind": "run", "digest": "x"}),
        encode_line({"kind": "tip", "digest": "x", "more": 1}),
        encode_line(message_line(FIRST, TALK[0])).replace(b'"a"', b'"b"'),
    ],
)  # fmt: skip
def test_what_is_no_line_is_a_value_error(line):
    with pytest.raises(ValueError):  # noqa: PT011  # JSON's own messages vary
        decode_line(line)


def test_a_dialogue_is_read_back_from_its_end(lines):
    tip = lines.talk(TALK)
    journal = lines.journal
    assert journal.tip == tip == chain(FIRST, TALK)[-1]
    assert journal.messages(tip) == tuple(TALK)
    assert journal.messages(tip, limit=2) == tuple(TALK[1:])
    assert journal.messages(tip, after=chain(FIRST, TALK)[1]) == tuple(TALK[1:])
    assert journal.messages(FIRST) == ()
    assert journal.length(tip) == 3


def test_branches_share_their_beginning(lines):
    old = lines.talk(TALK)
    new = lines.talk([Message("user", "x")], parent=chain(FIRST, TALK)[2])
    assert lines.journal.messages(old)[:2] == lines.journal.messages(new)[:2]
    assert lines.journal.nearest(new, {old, chain(FIRST, TALK)[1]}) == chain(FIRST, TALK)[1]
    assert lines.journal.nearest(new, set()) == FIRST


def test_beginning_counts_messages_from_the_start(lines):
    tip = lines.talk(TALK)
    assert [lines.journal.beginning(tip, n) for n in range(4)] == list(chain(FIRST, TALK))
    with pytest.raises(InvalidText, match="has 3 messages, 4 were expected"):
        lines.journal.beginning(tip, 4)


def test_missing_counts_what_is_new_at_the_end(lines):
    lines.talk(TALK[:2])
    assert lines.journal.missing(chain(FIRST, TALK)) == 1
    assert lines.journal.missing(chain(FIRST, TALK[:2])) == 0


@pytest.mark.parametrize(
    "body",
    [
        {**message_line(FIRST, TALK[0]), "digest": "f" * 64},
        {**message_line(FIRST, TALK[0]), "content": "other"},
        message_line("f" * 64, TALK[0]),
        {"kind": "tip", "digest": "f" * 64},
        {**document_line(FIRST, Document("x")), "text": "y"},
        document_line(start("other salt"), Document("x")),
    ],
)
def test_lines_that_do_not_fit_are_refused(lines, body):
    with pytest.raises(ValueError):  # noqa: PT011  # the store adds the place
        lines.add(body)


@pytest.mark.parametrize("field", [("role", "bot"), ("content", 5), ("name", 5)])
def test_a_message_that_is_none_is_damage(lines, field):
    with pytest.raises(StoreDamaged, match="a message that is none"):
        lines.add({**message_line(FIRST, TALK[0]), field[0]: field[1]})


def test_an_unknown_text_is_damage(lines):
    with pytest.raises(StoreDamaged, match="lacks message"):
        lines.journal.messages("f" * 64)
    with pytest.raises(StoreDamaged, match="lacks message"):
        lines.journal.nearest("f" * 64, set())
    with pytest.raises(StoreDamaged, match="lacks document"):
        lines.journal.document("f" * 64)


def test_a_repr_shows_no_text(lines):
    lines.talk(TALK)
    assert repr(lines.journal) == "Journal(3 messages, 0 documents)"
    assert "c" in json.loads(lines.lines[2])["content"]


def test_a_document_comes_back_with_title_author_and_what_it_continues():
    held = Lines()
    first = Document("Ada keeps bees.", "Bees", author="Bob")
    second = Document("And cats.", "Bees", continues=True)
    line = document_line(FIRST, first)
    held.add(line, document_line(line["digest"], second))
    assert [held.journal.document(digest) for digest in held.journal.documents] == [first, second]
    assert held.journal.taught("Bob") > 0


def test_a_document_comes_back_with_whom_it_is_about():
    held = Lines()
    about = Document("She keeps bees.", "Bees", author="Bob", character="Ada")
    line = document_line(FIRST, about)
    held.add(line)
    assert held.journal.document(line["digest"]) == about


def test_a_line_of_a_document_about_nobody_does_not_mention_a_character():
    assert "character" not in document_line(FIRST, Document("x"))
    assert document_line(FIRST, Document("x", character="Ada"))["character"] == "Ada"


def test_a_line_written_before_there_were_characters_is_read():
    held, old = Lines(), {**document_line(FIRST, Document("x")), "author": "Bob"}
    held.add(old)
    assert held.journal.document(old["digest"]) == Document("x", author="Bob", character=None)


@pytest.mark.parametrize("character", ["", 7])
def test_a_character_that_is_none_is_damage(character):
    body = {**document_line(FIRST, Document("x")), "character": character}
    with pytest.raises(StoreDamaged):
        Lines().journal.add(body, 0)


def test_a_document_that_is_none_is_named():
    body = {**document_line(FIRST, Document("x")), "text": ""}
    with pytest.raises(StoreDamaged, match="holds a document that is none: "):
        Lines().journal.add(body, 0)


def test_the_path_to_a_missing_message_names_it():
    with pytest.raises(StoreDamaged, match=r"lacks message f{12} of this conversation"):
        Lines().journal.path("f" * 64)


def test_what_a_journal_lacks_of_documents_follows_the_one_before():
    held, (one, two, three) = Lines(), (Document("1"), Document("2", continues=True), Document("3"))
    lines, digests = document_records(held.journal, [one, two, three], None)
    assert [line["parent"] for line in lines] == [FIRST, digests[0], FIRST]
    held.add(*lines)
    four = Document("4", continues=True)
    (newest,), _ = document_records(held.journal, [four], None)
    (named,), _ = document_records(held.journal, [four], digests[0])
    assert (newest["parent"], named["parent"]) == (digests[2], digests[0])
    assert document_records(held.journal, [one, one], None) == ([], digests[:1])
    (alone,), _ = document_records(Lines().journal, [four], None)
    assert alone["parent"] == FIRST
