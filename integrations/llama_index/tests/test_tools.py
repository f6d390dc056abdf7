import json

import pytest
from llama_index.core.base.llms.types import TextBlock, ToolCallBlock
from templora_memory.tool_calls import ToolPlan, format_call

from llama_index.memory.templora._tools import AnswerReader

CALL = format_call("look", {"what": "ferry"})
BARE = json.dumps({"name": "look", "parameters": {"what": "ferry"}})
PLAN = ToolPlan(({"type": "function", "function": {"name": "look"}},))


def message(answer):
    reader = AnswerReader(PLAN)
    reader.piece(answer)
    return reader.message()


def test_text_and_calls_of_an_answer_are_blocks_of_one_message():
    text, call = message(f"Let me see. {CALL}").blocks
    assert isinstance(text, TextBlock)
    assert text.text == "Let me see."
    assert isinstance(call, ToolCallBlock)
    assert (call.tool_name, call.tool_kwargs) == ("look", {"what": "ferry"})


@pytest.mark.parametrize("answer", [BARE, f"[{BARE}]", f"  {BARE}\n"])
def test_a_bare_object_or_list_is_a_call(answer):
    (call,) = message(answer).blocks
    assert call.tool_kwargs == {"what": "ferry"}


@pytest.mark.parametrize("answer", ["Hello.", "{}", "[]", f"{CALL} {format_call('fly', {})}"])
def test_an_answer_with_an_unknown_call_or_none_is_all_text(answer):
    assert [block.text for block in message(answer).blocks] == [answer]


def test_a_growing_answer_never_shows_half_a_call():
    reader = AnswerReader(PLAN)
    shown = [reader.piece(piece) for piece in f"I see. {CALL} Then more."]
    texts = [response.message.content for response in shown if response]
    assert texts[-1] == "I see. "
    assert not any("<" in text for text in texts)
    last = reader.end()
    assert [call.tool_name for call in last.message.blocks if isinstance(call, ToolCallBlock)]
    assert last.message.content == "I see.  Then more."


@pytest.mark.parametrize("answer", ["I see. <tool_call>{</tool_call> More.", "[smiles] Hello."])
def test_the_pieces_of_what_is_no_call_are_the_answer(answer):
    reader = AnswerReader(PLAN)
    shown = [response for piece in answer if (response := reader.piece(piece))]
    end = reader.end()
    assert "".join(r.delta for r in [*shown, *([end] if end else [])]) == answer
    assert (end or shown[-1]).message.content == answer


def test_a_growing_bare_call_shows_nothing_until_its_end():
    reader = AnswerReader(PLAN)
    assert not any(reader.piece(piece) for piece in BARE)
    assert reader.end().delta == ""
