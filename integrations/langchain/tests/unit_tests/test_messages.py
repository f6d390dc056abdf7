"""What a LangChain message is to the core."""

import pytest
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    HumanMessageChunk,
    RemoveMessage,
    SystemMessage,
    ToolMessage,
)
from templora_memory import Message

from langchain_templora._messages import as_history, as_parts

CALL = {"name": "search", "args": {"query": "bees"}, "id": "1"}


def test_every_kind_of_message_has_its_role():
    history = [
        SystemMessage("s"),
        HumanMessage("h", name="bob"),
        AIMessage("a"),
        AIMessage("I look.", tool_calls=[CALL]),
        ToolMessage("found", tool_call_id="1"),
        FunctionMessage("f", name="search"),
        ChatMessage("c", role="user"),
    ]
    assert [message.role for message in as_history(history)] == [
        "system", "user", "assistant", "assistant", "call", "tool", "tool", "user",
    ]  # fmt: skip
    assert as_history(history)[1] == Message("user", "h", "bob")


def test_copies_of_one_message_are_one_message():
    plain = AIMessage("Hello there.")
    streamed = AIMessageChunk("Hello") + AIMessageChunk(" there.")
    blocks = AIMessage([{"type": "text", "text": "Hello"}, {"type": "text", "text": " there."}])
    marked = AIMessage(
        "Hello there.", id="x", response_metadata={"a": 1}, additional_kwargs={"b": 2}
    )
    thought = AIMessage([{"type": "reasoning", "reasoning": "hm"}, "Hello there."])
    assert {as_parts(m) for m in (plain, streamed, blocks, marked, thought)} == {as_parts(plain)}
    assert as_parts(HumanMessageChunk("x")) == as_parts(HumanMessage("x"))


def test_a_call_is_told_apart_by_name_and_arguments_but_not_by_its_id():
    def call(**changes):
        return as_parts(AIMessage("", tool_calls=[CALL | changes]))

    assert call(id="2") == call()
    assert call(args={"query": "owls"}) != call()
    assert call(name="find") != call()
    (only,) = call()
    assert only.role == "call"
    assert '{"name": "search", "arguments": {"query": "bees"}}' in only.content


@pytest.mark.parametrize("kind", ["image", "image_url", "audio", "file", "video"])
def test_what_cannot_be_read_is_left_out_with_a_note(kind):
    message = HumanMessage([{"type": "text", "text": "Look:"}, {"type": kind, "url": "x"}])
    assert as_history([message]) == (Message("user", f"Look:\n[{kind} left out]"),)


def test_another_providers_own_blocks_leave_no_note_in_the_models_words():
    search = {"type": "server_tool_use", "id": "1", "name": "web_search", "input": {}}
    answer = AIMessage([search, {"type": "text", "text": "It is nine."}])
    assert as_history([answer]) == (Message("assistant", "It is nine."),)


def test_messages_without_a_role_are_refused():
    with pytest.raises(ValueError, match="role 'narrator': use one of"):
        as_parts(ChatMessage("x", role="narrator"))
    with pytest.raises(ValueError, match="type 'remove' cannot be shown"):
        as_parts(RemoveMessage(id="x"))
