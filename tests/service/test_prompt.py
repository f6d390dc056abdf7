"""The prompt of a call: what can never fit, and retrieved text."""

import pytest

from templora_memory import Message
from templora_memory.errors import (
    InvalidText,
    PromptTooLong,
)

BIO = "Ada keeps bees on the roof."


def test_a_prompt_that_can_never_fit_changes_nothing(box):
    box.service["ada"].absorb(BIO)
    before = box.service["ada"].status()
    for name in ("ada", "eve"):
        with pytest.raises(PromptTooLong, match=r"there is room for 72: shorten"):
            box.service[name].reply([Message("user", "word " * 80)])
    with pytest.raises(PromptTooLong):
        box.service["ada"].reply([Message("user", "Hi?")], context="word " * 80)
    assert box.service["ada"].status() == before
    assert box.service.list() == ("ada",)
    assert box.backend.requests == []


@pytest.mark.parametrize("nothing", ["", [], ["", " "], iter(())])
def test_retrieval_that_found_nothing_adds_nothing(box, nothing):
    asked = [Message("user", "Hi?")]
    alone = box.service["ada"].reply(asked).prompt_tokens
    assert box.service["ada"].reply(asked, context=nothing).prompt_tokens == alone


@pytest.mark.parametrize(("wrong", "says"), [(5, "not int"), (["a", 3], r"context\[1\].*not int")])
def test_context_that_is_no_text_is_refused(box, wrong, says):
    with pytest.raises(InvalidText, match=says):
        box.service["ada"].reply([Message("user", "Hi?")], context=wrong)


def test_text_far_beyond_the_window_is_refused_without_counting_it(box):
    counted = []
    count = box.backend.count

    def watched(messages):
        counted.append(sum(len(message.content) for message in messages))
        return count(messages)

    box.backend.count = watched
    huge = "word " * 1_500_000
    for history, options in (
        ([Message("user", huge)], {}),
        ([Message("system", huge), Message("user", "Hi")], {}),
        ([Message("user", "Hi")], {"context": huge}),
        ([Message("user", "Hi"), Message("assistant", huge)], {}),
        ([Message("user", "Hi"), Message("assistant", "x"), Message("system", huge)], {}),
    ):
        with pytest.raises(PromptTooLong, match=r"7,500,0\d\d characters cannot fit"):
            box.service["ada"].reply(history, **options)
    assert sum(counted) < 200_000
    assert box.service.list() == ()


def test_a_long_turn_of_the_past_is_learned_and_not_counted_whole(box):
    long = [Message("user", "one two three four " * 4000), Message("assistant", "Yes.")]
    reply = box.service["ada"].reply([*long, Message("user", "And then?")])
    assert reply.revision is not None
    assert box.service["ada"].status().absorbed_messages == 2
