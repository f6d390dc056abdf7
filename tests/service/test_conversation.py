"""Histories whose client left out the beginning: a sliding window over a conversation."""

from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from templora_memory import Message, ParametricMemory, Policy
from templora_memory.errors import NotAdmitted
from templora_memory.stores import DirectoryStore
from templora_memory.testing import FakeBackend

ASKED = Message("user", "And what happened then?")


def shown(box):
    """What the model had at its newest answer: in its weights, then in its prompt."""
    request = box.backend.requests[-1]
    learned = []
    if request.adapter is not None:
        learned = [path.read_text() for path in request.adapter.folder.glob("adapter.json")]
    return learned, [message.content for message in request.messages]


def answered(box, history, **options):
    reply = box.service["ada"].reply(history, **options)
    box.service.wait()
    assert box.service["ada"].status().last_error is None
    return reply


def test_a_window_that_slides_is_one_conversation(box, talk):
    whole = talk(30, question=None)
    answered(box, [*whole[:40], ASKED])
    for left_out in range(2, 20, 2):
        reply = answered(box, [*whole[left_out : 40 + left_out], ASKED])
        assert reply.omitted_messages == left_out
        stored = box.service["ada"].transcript().messages
        assert list(stored[:-2]) == whole[: 40 + left_out]
    texts = [item.content for request in box.backend.learned for item in request.items]
    assert texts == [message.content for message in whole[: len(texts)]], "each once, in order"
    assert texts[0] in shown(box)[0][0]


def test_a_window_costs_what_the_whole_history_costs(make_box, talk):
    whole = talk(40, question=None)
    boxes = [make_box("whole"), make_box("window")]
    for number, box in enumerate(boxes):
        box.open()
        for end in range(20, 80, 2):
            begin = max(0, end - 20) if number else 0
            answered(box, [*whole[begin:end], ASKED])
    assert boxes[0].learned == boxes[1].learned
    prompts = [[request.messages for request in box.backend.requests] for box in boxes]
    assert prompts[0] == prompts[1]


def test_omitted_turns_that_are_not_learned_yet_stand_in_the_prompt(box, talk):
    whole = talk(3, question=None)
    answered(box, [*whole[:4], ASKED])
    reply = answered(box, [*whole[2:6], ASKED])
    assert (reply.omitted_messages, reply.revision) == (2, None)
    assert shown(box)[1][0] == whole[0].content


def test_a_foreign_request_between_two_windows_changes_nothing(box, talk):
    whole = talk(20, question=None)
    first = answered(box, [*whole[:36], ASKED])
    assert answered(box, [Message("user", "Summarise: the cat sat.")]).omitted_messages == 0
    reply = answered(box, [*whole[4:38], ASKED])
    assert reply.omitted_messages == 4
    assert first.revision in {r.parent for r in box.service["ada"].revisions()} | {reply.revision}


@pytest.mark.parametrize("place", [10, 11, 20, 25])
@pytest.mark.parametrize("edit", ["change", "delete", "insert"])
def test_an_edited_window_keeps_what_was_left_out_and_nothing_of_what_was_edited(
    make_box, talk, place, edit
):
    whole = talk(20, question=None)
    box = make_box()
    box.open(keep_revisions=40)
    for end in range(2, 40, 2):
        answered(box, [*whole[:end], ASKED])
    edited = list(whole)
    if edit == "change":
        edited[place] = Message(whole[place].role, "Something else was said here.")
    elif edit == "delete":
        del edited[place]
    else:
        edited.insert(place, Message("user", "Something else was said here."))
    reply = answered(box, [*edited[8:], ASKED])
    assert reply.omitted_messages == 8
    assert list(box.service["ada"].transcript().messages[:-2]) == edited
    known = "".join(shown(box)[0]) + "".join(shown(box)[1])
    assert whole[0].content in known
    assert (whole[place].content in known) == (edit == "insert")


def test_a_few_shared_words_do_not_join_two_conversations(box, talk):
    whole = [*talk(4, question=None), Message("user", "Hi"), Message("assistant", "Hello!")]
    answered(box, [*whole, ASKED])
    for other in (
        [Message("user", "Hi")],
        [Message("user", "Hi"), Message("assistant", "Good day!"), ASKED],
        [Message("assistant", "Hello!"), Message("user", "What is it?")],
        [Message("user", "Hi"), Message("user", "Hi"), ASKED],
    ):
        assert answered(box, other).omitted_messages == 0


def test_a_conversation_that_begins_as_another_goes_on_is_its_own(box, talk):
    greeting = [Message("user", "Hi"), Message("assistant", "Hello!")]
    answered(box, [*greeting, ASKED])
    answered(box, [*talk(4, question=None), *greeting, ASKED])
    assert answered(box, [*greeting, Message("user", "Which day is it?")]).omitted_messages == 0


def test_of_two_versions_of_a_conversation_the_newest_goes_on(box, talk):
    whole = talk(8, question=None)
    answered(box, [*whole, ASKED])
    edited = [Message("user", "It began in another way."), *whole[1:]]
    answered(box, [*edited, ASKED])
    answered(box, [*whole[6:], ASKED])
    assert box.service["ada"].transcript().messages[0] == edited[0]
    answered(box, [*whole, ASKED])
    answered(box, [*whole[6:], ASKED])
    assert box.service["ada"].transcript().messages[0] == whole[0]


def test_covered_counts_positions_of_the_window(box, talk):
    whole = talk(20, question=None)
    answered(box, [*whole[:36], ASKED])
    learned = box.service["ada"].head().messages
    window = [Message("system", "x"), *whole[6:]]
    assert box.service["ada"].covered(window).messages == learned - 6 + 1


def test_only_new_messages_of_a_window_are_asked_for_admission(tmp_path, talk):
    asked = []

    def admit(_, items):
        asked.extend(items)

    whole = talk(8, question=None)
    store = DirectoryStore(tmp_path)
    policy = Policy(window=400, reply_tokens=24, chunk=16)
    with ParametricMemory(FakeBackend(), store, policy, admit=admit) as service:
        service["ada"].reply([*whole[:10], ASKED])
        del asked[:]
        service["ada"].reply([*whole[2:12], ASKED])
    assert asked[:-1] == [*whole[10:12], ASKED]


def test_a_window_does_not_pass_an_authors_limit_twice(tmp_path):
    turns = [
        message
        for number in range(9)
        for message in (Message("user", f"Line {number}", "bob"), Message("assistant", f"{number}"))
    ]
    policy = Policy(window=400, reply_tokens=24, chunk=16, author_limit=60)
    with ParametricMemory(FakeBackend(), DirectoryStore(tmp_path), policy) as service:
        for end in range(2, 16, 2):
            service["ada"].reply([*turns[max(0, end - 6) : end], turns[end]])
        with pytest.raises(NotAdmitted):
            service["ada"].reply([*turns[8:16], Message("user", "x" * 60, "bob")])


words = st.sampled_from(["ok", "go on", "yes", "why?"])


@settings(max_examples=60, deadline=None)
@given(turns=st.lists(st.tuples(words, words), min_size=6, max_size=24), data=st.data())
def test_windows_over_repeated_words_never_lose_a_message_that_was_sent(
    tmp_path_factory, turns, data
):
    whole = [Message(*m) for u, a in turns for m in (("user", u), ("assistant", a))]
    root = Path(tmp_path_factory.mktemp("root"))
    policy = Policy(window=60, reply_tokens=12, chunk=8)
    with ParametricMemory(FakeBackend(), DirectoryStore(root), policy) as service:
        for end in range(1, len(whole), 2):
            begin = data.draw(st.integers(0, end // 2))
            sent = whole[begin:end]
            reply = service["ada"].reply(sent)
            service.wait()
            stored = service["ada"].transcript().messages
            assert list(stored[:-1])[-len(sent) :] == sent
            assert len(stored) - 1 == reply.omitted_messages + len(sent)
