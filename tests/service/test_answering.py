"""Answers over the fake backend: what is shown, what is absorbed first, what is kept."""

import math

import pytest

from templora_memory import Message, Sampling
from templora_memory.errors import (
    InvalidSetting,
    InvalidText,
    PromptTooLong,
    UnknownMemory,
    UnknownRevision,
)
from templora_memory.testing import POISON

BIO = "Ada keeps bees on the roof."


def fits(box):
    """No prompt that the model was shown left less room than the reply may take."""
    policy = box.service.policy
    return all(
        box.backend.count(request.messages) <= policy.window - request.max_tokens
        for request in box.backend.requests
    )


def _weights(box, reply):
    if reply.revision is None:
        return []
    (path,) = box.root.rglob(f"{reply.revision}/adapter.json")
    return [path.read_text()]


def test_the_newest_exchange_is_never_absorbed(box, talk):
    for turns in range(1, 25):
        history = talk(turns, question=f"Newest question {turns}?")
        box.service["ada"].reply(history)
        box.service.wait()
        assert history[-1].content not in box.learned


def test_a_tool_call_and_its_result_are_never_separated(box, talk):
    turn = [
        Message("user", "How warm is it in the garden today, please?"),
        Message("assistant", ""),
        Message("tool", "twelve degrees and some rain"),
        Message("assistant", "It is twelve degrees."),
    ]
    history = [*talk(2, question=None), *turn * 8, *talk(6, about="owls")]
    for end in [i + 1 for i, m in enumerate(history) if m.role in {"user", "tool"}]:
        box.service["ada"].reply(history[:end])
        box.service.wait()
    assert fits(box)
    for request in box.backend.requests:
        shown = [message.role for message in request.messages]
        assert shown[0] == "user"
    for request in box.backend.learned:
        assert request.items[0].role == "user"


def test_turns_that_teach_nothing_leave_with_their_neighbours(box, talk):
    silent = [Message("user", ""), Message("tool", "cold " * 30), Message("assistant", "")]
    history = [*silent, *talk(2)]
    reply = box.service["ada"].reply(history)
    assert reply.revision is not None
    assert fits(box)


def test_long_turns_that_teach_nothing_are_learned_with_their_neighbours(box):
    silent = [Message("user", ""), Message("tool", "cold " * 8000), Message("assistant", "")]
    spoken = [Message("user", "Is it warm?"), Message("assistant", "No.")]
    for name, history in (("ada", silent + spoken), ("eve", spoken + silent)):
        assert box.service[name].absorb(history).tokens == 4
        assert box.service[name].covered(history).messages == 5
    long = [Message("user", "warm " * 8000), Message("assistant", "No.")]
    assert box.service["zoe"].absorb(long + silent).tokens == 8001


def test_a_cut_in_the_middle_of_a_turn_never_absorbs_the_question(box):
    long = Message("assistant", "word " * 75)
    history = [Message("user", "Tell me."), long, Message("user", "Go on?")]
    box.service["ada"].absorb(history[:1])
    box.service["ada"].reply(history)
    assert box.learned == ["Tell me.", long.content]


def test_an_edited_history_falls_back_to_the_revision_it_continues(box, talk):
    history = talk(20)
    box.service["ada"].reply(history)
    box.service.wait()
    kept = box.service["ada"].revisions()[-1]
    edited = [*history[: kept.messages], Message("user", "What about owls?")]
    reply = box.service["ada"].reply(edited)
    assert reply.revision == kept.name
    edited[0] = Message("user", "Something else entirely?")
    reply = box.service["ada"].reply(edited)
    changed = box.service["ada"].covered(edited).revision
    assert changed is None or changed.name not in {r.name for r in (kept,)}
    assert not any("Question 0 about bees" in text for text in _weights(box, reply))


def test_a_shortened_history_forgets_what_was_taken_back(box, talk):
    history = talk(30)
    box.service["ada"].reply(history)
    box.service.wait()
    short = talk(3)
    reply = box.service["ada"].reply(short)
    assert not any("Question 3 " in text for text in _weights(box, reply))
    assert box.service["ada"].transcript().messages[: len(short)] == tuple(short)


@pytest.mark.slow
def test_a_conversation_of_300_turns_runs_in_a_small_window(box):
    memory, history = box.service.open("ada"), []
    for number in range(300):
        history.append(Message("user", f"Tell me about house {number} in the old street, please?"))
        history.append(Message("assistant", memory.reply(history).text))
    memory.wait()
    assert fits(box)
    assert memory.transcript().messages == tuple(history)
    assert memory.status().last_error is None
    assert memory.status().absorbed_messages > 550
    assert len(box.learned) == len(set(box.learned))
    early = memory.reply([*history, Message("user", "What about house 3 in the old street?")])
    assert early.prompt_tokens <= 72


def test_a_pinned_revision_answers_and_nothing_is_journalled(box):
    first = box.service["ada"].absorb(BIO).revision
    second = box.service["ada"].absorb("Owls sleep in the barn.").revision
    question = [Message("user", "Where do owls sleep?")]
    assert "barn" in box.service["ada"].reply(question, revision="head").text
    old = box.service["ada"].reply(question, revision=first[:8])
    assert "barn" not in old.text
    assert old.revision == first != second
    assert box.service["ada"].status().message_count == 0
    with pytest.raises(UnknownRevision, match="It has: "):
        box.service["ada"].reply(question, revision="f" * 64)
    with pytest.raises(UnknownMemory):
        box.service["eve"].reply(question, revision="head")
    with pytest.raises(InvalidSetting, match="without a memory id"):
        box.service.without_memory.reply(question, revision="head")
    with pytest.raises(PromptTooLong):
        box.service["ada"].reply([Message("user", "word " * 80)], revision="head")


def test_strength_zero_and_no_memory_are_the_base_model(box):
    box.service["ada"].absorb(BIO)
    question = [Message("user", "Who keeps bees?")]
    base = box.service.without_memory.reply(question)
    assert box.service["ada"].reply(question, strength=0).text == base.text
    assert (base.revision, base.absorbed_tokens) == (None, 0)
    assert box.service.list() == ("ada",)


@pytest.mark.parametrize("value", [-1, math.nan, math.inf, "1", True, None])
def test_a_strength_is_a_number(box, value):
    box.service.open("ada")
    with pytest.raises(InvalidSetting, match="strength"):
        box.service["ada"].reply([Message("user", "x")], strength=value)
    with pytest.raises(InvalidSetting, match="strength"):
        box.service["ada"].probe("x", "y", strength=value)
    with pytest.raises(InvalidSetting, match="strength"):
        box.service["ada"].generate(max_tokens=5, strength=value)


@pytest.mark.parametrize("value", [0, -1, 2.5, True, "5", 96, 1000])
def test_max_tokens_is_a_whole_number_below_the_window(box, value):
    with pytest.raises(InvalidSetting, match="max_tokens"):
        box.service["ada"].reply([Message("user", "x")], max_tokens=value)
    assert box.service.list() == ()


@pytest.mark.parametrize(
    ("history", "says"),
    [
        ([], "is empty"),
        ("hello", "bare str"),
        ([{"role": "user", "content": 5}], "not int"),
    ],
)
def test_a_history_without_a_question_is_refused(box, history, says):
    with pytest.raises(InvalidText, match=says):
        box.service["ada"].reply(history)
    assert box.service.list() == ()


def test_stop_texts_end_a_reply(box):
    reply = box.service["ada"].reply([Message("user", "Hi?")], sampling=Sampling(stop=(" tokens",)))
    assert (reply.text, reply.finish_reason) == ("I see 4", "stop")


def test_a_failure_in_the_background_does_not_take_the_reply_away(make_box, talk):
    box = make_box()
    box.open()
    history = talk(3, about=POISON)
    reply = box.service["ada"].reply(history)
    assert reply.text
    box.service.wait()
    assert "NaN" in box.service["ada"].status().last_error
    assert box.service["ada"].transcript().messages == (*history, Message("assistant", reply.text))


@pytest.mark.parametrize("name", ["ada", "ada@bob"])
def test_a_finished_answer_is_not_journalled_into_a_memory_made_again(make_box, name):
    box, elsewhere = make_box(), make_box()
    box.open()
    elsewhere.open()
    box.service["ada"].absorb(BIO)
    stream = box.service[name].stream([Message("user", "Who keeps bees?")])
    elsewhere.service[name].forget()
    if name == "ada@bob":
        elsewhere.service.open("ada@bob")
    else:
        elsewhere.service["ada"].absorb("New.")
    assert stream.reply.text
    assert box.service[name].transcript().messages == ()
