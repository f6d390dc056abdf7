import pytest
from hypothesis import given, strategies as st

from templora_memory import Document, Message
from templora_memory.domain.messages import (
    MAX_CHARACTERS,
    as_message,
    as_messages,
    chain,
    dialogue,
    extend,
    passages,
    start,
)
from templora_memory.errors import InvalidText

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
roles = st.sampled_from(["user", "assistant", "tool"])
messages = st.builds(Message, roles, texts, st.none() | texts)
documents = st.builds(Document, texts.filter(str.strip), st.none() | texts, st.booleans())


@given(st.lists(messages, max_size=6), st.lists(messages, max_size=6))
def test_histories_have_the_same_digest_exactly_when_they_are_equal(one, other):
    first = start("salt")
    assert (chain(first, one)[-1] == chain(first, other)[-1]) == (one == other)


@given(st.lists(messages, max_size=6), messages)
def test_a_longer_history_continues_the_chain(history, more):
    first = start("salt")
    assert chain(first, [*history, more])[:-1] == chain(first, history)


@given(messages, documents)
def test_a_message_and_a_document_are_never_the_same_item(message, document):
    assert extend(start("s"), message) != extend(start("s"), document)


def test_every_field_of_an_item_counts_in_the_chain():
    items = [
        Message("user", "a"),
        Message("assistant", "a"),
        Message("user", "b"),
        Message("user", "a", "bob"),
        Message("user", "a", ""),
        Document("a"),
        Document("a", "t"),
        Document("a", continues=True),
    ]
    assert len({extend(start("s"), item) for item in items}) == len(items)


def test_who_a_document_is_by_or_about_is_no_part_of_what_names_it():
    plain = extend(start("s"), Document("a"))
    assert extend(start("s"), Document("a", character="Ada")) == plain
    assert extend(start("s"), Document("a", author="Bob")) == plain


def test_pieces_of_a_document_are_about_the_same_character():
    pieces = passages(Document("Ada keeps bees. " * 40, character="Ada"), 100)
    assert len(pieces) > 1
    assert {piece.character for piece in pieces} == {"Ada"}


def test_digests_of_memories_with_other_salts_differ():
    assert start("one") != start("two")
    assert extend(start("one"), Message("user", "a")) != extend(start("two"), Message("user", "a"))


@given(st.text(st.sampled_from("ab \n.!"), min_size=1, max_size=120), st.integers(1, 20))
def test_passages_joined_are_the_document(text, size):
    if not text.strip():
        return
    pieces = passages(Document(text, "t"), size)
    assert "".join(piece.text for piece in pieces) == text
    assert all(len(piece.text.strip()) <= size for piece in pieces)
    assert [piece.continues for piece in pieces] == [False] + [True] * (len(pieces) - 1)
    assert {piece.title for piece in pieces} == {"t"}


@pytest.mark.parametrize(
    ("text", "end"),
    [
        ("艾达养蜜蜂。她住在宁波。她的哥哥修理旧钟表。" * 3, "。"),
        ("आदा शहद बेचती है। वह छत पर रहती है।" * 4, "।"),
        ("هل تعرف آدا؟ هي تربي النحل على السطح؟ " * 3, "؟"),
    ],
)
def test_passages_end_at_the_sentences_of_any_script(text, end):
    pieces = passages(Document(text), 40)
    assert "".join(piece.text for piece in pieces) == text
    assert all(piece.text.rstrip().endswith(end) for piece in pieces)


def test_passages_end_at_the_best_break_there_is():
    text = "One two. Three four.\n\nFive six. Seven"
    assert [piece.text for piece in passages(Document(text), 30)] == [
        "One two. Three four.\n\n",
        "Five six. Seven",
    ]


def test_a_continuing_document_stays_one_when_cut():
    pieces = passages(Document("word " * 20, continues=True), 30)
    assert all(piece.continues for piece in pieces)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Message("bot", "x"), "Unknown role 'bot'"),
        (lambda: Message("user", 5), "must be a string, not int"),
        (lambda: Message("user", None), "not NoneType"),
        (lambda: Message("user", "\ud800"), "not valid Unicode at character 0"),
        (lambda: Message("user", "x", 5), "The name of a message must be a string"),
        (lambda: Message("user", "x" * (MAX_CHARACTERS + 1)), "split it"),
        (lambda: Document(""), "empty"),
        (lambda: Document(" \n "), "empty"),
        (lambda: Document(b"x"), "not bytes"),
        (lambda: Document("x", 3), "title"),
        (lambda: as_message("hello"), "not str"),
        (lambda: as_message({"role": "user"}), "has the keys role, content"),
        (lambda: as_message({"role": "user", "content": "x", "id": 1}), "'id'"),
        (lambda: as_message({"role": "user", "content": "x", 3: 1}), "'3'"),
        (lambda: as_messages("hello"), "bare str"),
        (lambda: as_messages(Message("user", "x")), "bare Message"),
        (lambda: as_messages({"role": "user", "content": "x"}), "bare dict"),
        (lambda: as_messages(5), "bare int"),
    ],
)
def test_unusable_text_is_refused_with_a_reason(make, says):
    with pytest.raises(InvalidText, match=says):
        make()


def test_a_repr_never_shows_text():
    assert "secret" not in repr([Message("user", "secret"), Document("secret", "secret")])


def test_mappings_become_messages():
    assert as_messages([{"role": "user", "content": "x", "name": "bob"}]) == (
        Message("user", "x", "bob"),
    )


def test_system_messages_are_outside_the_chain():
    history = [Message("system", "s"), Message("user", "u"), Message("tool", "t")]
    assert dialogue(history) == tuple(history[1:])


def test_a_text_that_just_fits_is_one_passage_and_no_piece_is_short():
    assert len(passages(Document("word " * 6), 30)) == 1
    pieces = [piece.text for piece in passages(Document("a bcdefghijklmnopqrstuvwxyz"), 20)]
    assert pieces == ["a bcdefghijklmnopqrs", "tuvwxyz"]  # the only gap is in the first half
    first, _ = passages(Document("abcdefghij klmnopqrstuvwxyz"), 20)
    assert first.text == "abcdefghij "


def test_one_message_alone_is_refused_with_the_way_out():
    with pytest.raises(InvalidText, match=r'^A history is a list of messages: \[Message\("user"'):
        as_messages("hello")
