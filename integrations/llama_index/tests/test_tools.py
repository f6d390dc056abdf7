import json

import pytest
from llama_index.core.base.llms.types import TextBlock, ToolCallBlock
from templora_memory.tool_calls import format_call

from llama_index.memory.templora._tools import AnswerReader, answer_message, read_calls

CALL = format_call("look", {"what": "ferry"})
BARE = json.dumps({"name": "look", "parameters": {"what": "ferry"}})


def test_text_and_calls_of_an_answer_are_blocks_of_one_message():
    text, call = answer_message(f"Let me see. {CALL}", ["look"]).blocks
    assert isinstance(text, TextBlock)
    assert text.text == "Let me see."
    assert isinstance(call, ToolCallBlock)
    assert (call.tool_name, call.tool_kwargs) == ("look", {"what": "ferry"})


@pytest.mark.parametrize("answer", [BARE, f"[{BARE}]", f"  {BARE}\n"])
def test_a_bare_object_or_list_is_a_call(answer):
    text, (call,) = read_calls(answer, ["look"])
    assert (text, call.tool_kwargs) == ("", {"what": "ferry"})


@pytest.mark.parametrize("answer", ["Hello.", "{}", "[]", f"{CALL} {format_call('fly', {})}"])
def test_an_answer_with_an_unknown_call_or_none_is_all_text(answer):
    assert read_calls(answer, ["look"]) == (answer, [])


def test_a_growing_answer_never_shows_half_a_call():
    reader, answer = AnswerReader(["look"]), f"I see. {CALL}"
    shown = [reader.piece(answer[:end]) for end in range(1, len(answer) + 1)]
    texts = [response.message.content for response in shown if response]
    assert texts[-1] == "I see. "
    assert not any("<" in text for text in texts)
    last = reader.end(answer)
    assert [call.tool_name for call in last.message.blocks if isinstance(call, ToolCallBlock)]


def test_a_growing_bare_call_shows_nothing_until_its_end():
    reader = AnswerReader(["look"])
    assert not any(reader.piece(BARE[:end]) for end in range(1, len(BARE) + 1))
    assert reader.end(BARE).delta == ""
