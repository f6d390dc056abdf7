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
