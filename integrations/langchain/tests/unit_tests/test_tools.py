"""Reading tool calls out of an answer."""

import json

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from templora_memory.tool_calls import ToolPlan

from langchain_templora._tools import ToolReader

SEARCH = {
    "type": "function",
    "function": {
        "name": "search",
        "description": "Search.",
        "parameters": {"type": "object", "properties": {"query": {"type": "string"}}},
    },
}
ADD = {"type": "function", "function": {"name": "add", "description": "Add."}}
CALL = '<tool_call>\n{"name": "search", "arguments": {"query": "bees"}}\n</tool_call>'


def read(text, *, size=None, tools=(SEARCH, ADD), forced=()):
    """Text and calls of an answer that comes in pieces of `size` characters."""
    reader = ToolReader(ToolPlan(tools, forced))
    step = size or len(text) or 1
    parts = []
    for start in range(0, len(text), step):
        parts += reader.feed(text[start : start + step])
    parts += reader.finish()
    said = "".join(part for part in parts if isinstance(part, str))
    return said, [(p["name"], p["args"]) for p in parts if not isinstance(p, str)]


@pytest.mark.parametrize("size", [1, 2, 7, None])
def test_text_and_calls_are_told_apart_however_they_arrive(size):
    said, calls = read(f"I look.\n{CALL}\n{CALL}", size=size)
    assert said.strip() == "I look."
    assert calls == [("search", '{"query": "bees"}')] * 2


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # of a busy machine
@given(text=st.text(alphabet='ab<tol_c>/{}" \n', max_size=40), size=st.integers(1, 9))
def test_text_without_a_call_arrives_whole(text, size):
    if "<tool_call>" not in text:
        assert read(text, size=size) == (text, [])
    assert read(text, size=size, tools=()) == (text, [])


def test_text_that_only_looks_like_a_call_is_not_held_back_for_ever():
    reader = ToolReader(ToolPlan((SEARCH,)))
    assert "".join(reader.feed("a <tool")) == "a "
    assert "".join(reader.feed("box is red")) == "<toolbox is red"


@pytest.mark.parametrize("key", ["arguments", "parameters"])
def test_a_call_without_marks_is_a_call_if_it_is_the_whole_answer(key):
    bare = json.dumps({"name": "search", key: {"query": "bees"}})
    assert read(bare, size=3) == ("", [("search", '{"query": "bees"}')])
    assert read("{" + "x" * 20, size=3) == ("{" + "x" * 20, [])
    both = f'{{"thought": 1}} {CALL}'
    assert read(both, size=3) == ('{"thought": 1} ', [("search", '{"query": "bees"}')])
    unknown = json.dumps({"name": "fly", key: {}})
    assert read(unknown, size=3) == (unknown, [])


def test_a_call_that_is_no_json_or_cut_off_is_invalid_and_kept():
    for text, body in (
        ("<tool_call>{oops}</tool_call>", "{oops}"),
        ('<tool_call>{"name": "search"', '{"name": "search"'),
        ('<tool_call>{"name": "fly"}</tool_call>', '{"name": "fly"}'),
    ):
        assert read(text) == ("", [(None, json.dumps(body))])


def test_a_forced_answer_is_a_call_as_a_whole():
    text = '{"name": "add", "arguments": {}}'
    assert read(text, size=4, forced=("add",)) == ("", [("add", "{}")])
    assert read("Sorry.", forced=("add",)) == ("", [(None, '"Sorry."')])


@pytest.mark.parametrize("size", [1, 7, None])
def test_one_call_where_no_more_are_allowed(size):
    text = f"I look.\n{CALL}\n{CALL}\nDone."
    reader = ToolReader(ToolPlan((SEARCH, ADD)), parallel=False)
    parts = []
    for start in range(0, len(text), size or len(text)):
        parts += reader.feed(text[start : start + (size or len(text))])
    parts += reader.finish()
    assert sum(not isinstance(part, str) for part in parts) == 1
    assert "".join(part for part in parts if isinstance(part, str)).strip() == "I look."


@pytest.mark.parametrize(("parallel", "expected"), [(True, ["search", "add"]), (False, ["search"])])
def test_a_list_of_calls_is_as_many_calls(parallel, expected):
    body = '[{"name": "search", "arguments": {"query": "bees"}}, {"name": "add"}]'
    for text in (body, f"<tool_call>{body}</tool_call>"):
        reader = ToolReader(ToolPlan((SEARCH, ADD)), parallel=parallel)
        chunks = [*reader.feed(text), *reader.finish()]
        assert [chunk["name"] for chunk in chunks] == expected
        assert [chunk["index"] for chunk in chunks] == [*range(len(expected))]
