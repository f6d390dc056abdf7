import json

import pytest
from hypothesis import given, strategies as st

from templora_memory.tool_calls import (
    TaggedText,
    ToolAnswerReader,
    ToolCall,
    ToolCallSplitter,
    ToolPlan,
    describe_tools,
    format_call,
    knows_tools,
    parse_calls,
    plan_tools,
    split_calls,
    template_description,
)

SEARCH = {
    "type": "function",
    "function": {
        "name": "search",
        "description": "Search.",
        "parameters": {"type": "object", "properties": {"query": {"type": "string"}}},
    },
}
ADD = {"type": "function", "function": {"name": "add", "description": "Add."}}
ARGUMENTS = {"query": "bees é", "limit": 3}
CALL = format_call("search", ARGUMENTS)


class Templated:
    def __init__(self, text):
        self.text = text

    def tools_text(self, _tools):
        return self.text


def test_whether_a_template_knows_tools_is_asked_of_the_backend():
    assert knows_tools(Templated("Tools:"))
    assert not knows_tools(Templated(None))
    assert not knows_tools(object())


def split(text, size):
    splitter = ToolCallSplitter()
    parts = []
    for start in range(0, len(text), size):
        parts += splitter.feed(text[start : start + size])
    return [*parts, *splitter.finish()]


def test_a_written_call_is_read_as_the_same_call():
    text, (body,) = split_calls(f"I look. {CALL}")
    assert text == "I look. "
    assert parse_calls(body, ["search"]) == (ToolCall("search", ARGUMENTS),)


def test_tags_around_a_call_do_no_harm():
    assert parse_calls(CALL, ["search"]) == (ToolCall("search", ARGUMENTS),)


def test_a_call_cut_off_before_its_second_tag_is_found():
    assert split_calls('a<tool_call>{"name"') == ("a", ('{"name"',))


@pytest.mark.parametrize("key", ["arguments", "parameters"])
@pytest.mark.parametrize("form", [dict, json.dumps], ids=["object", "text"])
def test_arguments_are_read_in_every_usual_form(key, form):
    body = json.dumps({"name": "search", key: form(ARGUMENTS)})
    assert parse_calls(body, ["search"]) == (ToolCall("search", ARGUMENTS),)


def test_a_list_of_calls_is_read_in_order():
    body = json.dumps([{"name": "b"}, {"name": "a"}])
    assert [call.name for call in parse_calls(body, ["a", "b"])] == ["b", "a"]


@pytest.mark.parametrize(
    "body",
    [
        "{oops}",
        "[]",
        "3",
        '{"name": "fly"}',
        '{"name": "a", "arguments": [1]}',
        '{"name": "a", "arguments": "x"}',
        '[{"name": "a"}, {"name": "fly"}]',
    ],
)
def test_a_body_with_anything_unreadable_holds_no_calls(body):
    assert parse_calls(body, ["a"]) == ()


def test_tools_are_described_in_the_templates_words_or_in_plain_ones():
    assert '{"name": "search"' in describe_tools([SEARCH])
    assert describe_tools([SEARCH], Templated("T")) == "T"
    assert describe_tools([SEARCH], Templated(None)) == describe_tools([SEARCH], object())
    assert template_description([SEARCH], object()) is None


@pytest.mark.parametrize("size", [1, 2, 7, 500])
def test_text_and_calls_are_told_apart_however_they_arrive(size):
    parts = split(f"I look.{CALL}then{CALL}", size)
    text = "".join(part for part in parts if isinstance(part, str))
    bodies = [part.body.strip() for part in parts if isinstance(part, TaggedText)]
    assert text == "I look.then"
    assert (
        bodies == [json.dumps({"name": "search", "arguments": ARGUMENTS}, ensure_ascii=False)] * 2
    )


@given(text=st.text(alphabet="ab<tol_c>/", max_size=40), size=st.integers(1, 9))
def test_text_without_a_call_arrives_whole(text, size):
    if "<tool_call>" not in text:
        assert "".join(split(text, size)) == text


def test_what_may_become_a_tag_is_held_back():
    splitter = ToolCallSplitter()
    assert list(splitter.feed("a <tool")) == ["a "]
    assert splitter.holding
    assert list(splitter.feed("box")) == ["<toolbox"]
    assert not splitter.holding


def test_choices():
    tools = [SEARCH, ADD]
    for free in (None, False, "auto"):
        assert plan_tools(tools, free) == ToolPlan((SEARCH, ADD))
    for forced in (True, "any", "required"):
        assert plan_tools(tools, forced).forced == ("search", "add")
    for named in ("add", {"type": "function", "function": {"name": "add"}}, {"name": "add"}):
        assert plan_tools(tools, named).forced == ("add",)
    assert plan_tools(tools, "none") == ToolPlan()
    assert plan_tools(None, None) == ToolPlan()
    with pytest.raises(ValueError, match=r"'fly': use .*\['search', 'add'\]"):
        plan_tools(tools, "fly")
    with pytest.raises(ValueError, match="none"):
        plan_tools([], "any")


def test_a_plan_describes_its_tools_and_what_is_forced():
    tools = ToolPlan((SEARCH, ADD))
    assert '{"name": "search"' in tools.describe()
    assert tools.describe(Templated("Tools: search, add")) == "Tools: search, add"
    forced = ToolPlan((SEARCH, ADD), ("add",)).describe(Templated("T"))
    assert forced.startswith("T\nNow call add")
    assert ToolPlan().describe() == ""


def test_a_forced_call_has_a_schema():
    both = json.loads(ToolPlan((SEARCH, ADD), ("search", "add")).schema(50))
    assert [part["properties"]["name"]["const"] for part in both["anyOf"]] == ["search", "add"]
    one = json.loads(ToolPlan((SEARCH, ADD), ("search",)).schema(50))
    query = one["properties"]["arguments"]["properties"]["query"]
    assert query == {"type": "string", "maxLength": 50}
    assert ToolPlan((SEARCH,)).schema(50) is None


def answer_parts(text, size, plan):
    reader = ToolAnswerReader(plan)
    parts = [p for at in range(0, len(text), size) for p in reader.feed(text[at : at + size])]
    return [*parts, *reader.finish()]


@pytest.mark.parametrize("size", [1, 3, 200])
def test_an_answer_that_is_only_calls_needs_no_tags(size):
    plan = ToolPlan((SEARCH, ADD))
    for bare in ('{"name": "add"}', '[{"name": "add"}, {"name": "search"}]'):
        assert answer_parts(bare, size, plan) == [TaggedText(bare)]
    for text in ("[smiles] Hello.", '{"name": "fly"}', "[1, 2]"):
        assert "".join(answer_parts(text, size, plan)) == text
        assert "".join(answer_parts(text, size, ToolPlan())) == text


def test_text_in_brackets_is_not_held_back():
    assert list(ToolAnswerReader(ToolPlan((SEARCH,))).feed("[smiles")) == ["[smiles"]


def test_a_forced_answer_is_a_call_as_a_whole():
    forced = ToolPlan((SEARCH, ADD), ("add",))
    assert answer_parts("Sorry.", 2, forced) == [TaggedText("Sorry.")]
