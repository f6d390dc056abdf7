"""LangChain messages as the core's messages. Knows nothing of models.

Only text, names and tool calls count, never ids or metadata: a streamed, a block-wise and a plain
copy of one message are the same message. System messages stay outside the history that a memory
learns; tool calls and tool results are part of it, but are never learned.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cache

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)
from templora_memory import Message
from templora_memory.tool_calls import format_call

_SILENT = frozenset(  # blocks that repeat what stands elsewhere, or that a model thought to itself
    {
        "text",
        "refusal",
        "reasoning",
        "thinking",
        "redacted_thinking",
        "tool_call",
        "tool_call_chunk",
        "invalid_tool_call",
        "tool_use",
        "input_json_delta",
        "function_call",
    }
)
_log = logging.getLogger("langchain_templora")
_CHAT_ROLES = ("system", "user", "assistant")


def text_of(message: BaseMessage) -> str:
    """The text of a message; thoughts and tool calls among its blocks are left out.

    So is what the model cannot read (image, audio, file, another provider's own blocks), or one
    such block would make every later turn of its conversation fail. A note stands in its place,
    but not in the model's own words, where it would learn to write such notes.
    """
    if isinstance(message.content, str):
        return message.content
    kinds = [
        str(block.get("type"))
        for block in message.content
        if isinstance(block, dict) and block.get("type") not in _SILENT
    ]
    for kind in kinds:
        _tell(kind, message.type)
    notes = [] if isinstance(message, AIMessage) else [f"[{kind} left out]" for kind in kinds]
    return "\n".join(filter(None, [str(message.text), *notes]))


@cache
def _tell(kind: str, role: str) -> None:
    """Say it in the log, once for each kind of block."""
    _log.warning(
        "ChatTempLora reads text only: a block of type %r in a %r message is left out. Turn such "
        "blocks into text (a caption, a transcript) to have them read.",
        kind,
        role,
    )


def call_text(message: AIMessage) -> str:
    """The tool calls of a message as the model writes them."""
    return "\n".join(format_call(call["name"], call["args"]) for call in message.tool_calls)


def as_parts(message: BaseMessage) -> tuple[Message, ...]:
    """One message as the core sees it: an answer that calls tools becomes two.

    Raises:
        ValueError: a kind of message that has no role.
    """
    text = text_of(message)
    match message:
        case SystemMessage():
            return (Message("system", text, message.name),)
        case HumanMessage():
            return (Message("user", text, message.name),)
        case AIMessage(tool_calls=[]):
            return (Message("assistant", text, message.name),)
        case AIMessage():
            spoken = (Message("assistant", text, message.name),) if text.strip() else ()
            return (*spoken, Message("call", call_text(message)))
        case ToolMessage() | FunctionMessage():
            return (Message("tool", text),)
        case ChatMessage(role="system" | "user" | "assistant" as role):
            return (Message(role, text, message.name),)
        case ChatMessage(role=role):
            raise ValueError(f"A ChatMessage has the role {role!r}: use one of {_CHAT_ROLES}.")
        case _:
            raise ValueError(
                f"A message of type {message.type!r} cannot be shown to a model: use human, ai, "
                "system or tool messages."
            )


def as_message(part: Message) -> BaseMessage | None:
    """Return what was said as a LangChain message again; None: a tool call or a tool's result."""
    match part.role:
        case "user":
            return HumanMessage(part.content, name=part.name)
        case "assistant":
            return AIMessage(part.content, name=part.name)
        case _:
            return None


def as_history(messages: Sequence[BaseMessage]) -> tuple[Message, ...]:
    """A conversation as the core sees it.

    Raises:
        ValueError: see `as_parts`; the message names the position.
    """
    parts: list[Message] = []
    for position, message in enumerate(messages):
        try:
            parts += as_parts(message)
        except ValueError as error:
            raise ValueError(f"Message {position}: {error}") from error
    return tuple(parts)
