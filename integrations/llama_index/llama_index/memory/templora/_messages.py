"""LlamaIndex's chat messages and ours: what goes into a prompt, and what may be learned.

Knows nothing of models, stores or memories.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal, TypeAlias

from llama_index.core.base.llms.types import (
    CachePoint,
    ChatMessage,
    CitableBlock,
    CitationBlock,
    MessageRole,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
)
from templora_memory import Message
from templora_memory.errors import InvalidText
from templora_memory.tool_calls import format_call, split_calls

MessageToText: TypeAlias = Callable[[ChatMessage], str | None]
LEARNED_ROLES = ("user", "assistant")
_log = logging.getLogger(__name__)

_Role: TypeAlias = Literal["system", "user", "assistant", "tool"]
_ROLES: dict[MessageRole, _Role] = {
    MessageRole.SYSTEM: "system",
    MessageRole.DEVELOPER: "system",
    MessageRole.USER: "user",
    MessageRole.ASSISTANT: "assistant",
    MessageRole.CHATBOT: "assistant",
    MessageRole.MODEL: "assistant",
    MessageRole.TOOL: "tool",
    MessageRole.FUNCTION: "tool",
}


# --- into the prompt ---------------------------------------------------------------------------


def prompt_messages(messages: Iterable[ChatMessage]) -> list[Message]:
    """The messages of a prompt, all of their text.

    Images, sound, video and files cannot be read: a note stands in their place, or one of them
    would make every later turn of its conversation fail.
    """
    return [part for message in messages for part in _prompt_parts(message)]


def _prompt_parts(message: ChatMessage) -> list[Message]:
    """One message, and a further one for each tool call in it."""
    pieces: list[str] = []
    calls: list[Message] = []
    for block in message.blocks:
        match block:
            case TextBlock():
                pieces.append(block.text)
            case CitableBlock() | CitationBlock():
                pieces += [part.text for part in block.nested_blocks if isinstance(part, TextBlock)]
            case ToolCallBlock():
                calls.append(Message("call", format_call(block.tool_name, block.tool_kwargs)))
            case ThinkingBlock() | CachePoint():
                pass  # meant for the model that wrote it, and for a provider's cache
            case _:
                _tell(block.block_type, message.role.value)
                if _ROLES[message.role] != "assistant":  # it would learn to write such notes
                    pieces.append(f"[{block.block_type} left out]")
    if calls and not pieces:
        return calls
    return [Message(_ROLES[message.role], "\n".join(pieces)), *calls]


@cache
def _tell(kind: str, role: str) -> None:
    """Say it in the log, once for each kind of block."""
    _log.warning(
        "the model reads text only: a block of type %r in a %s message is left out. Describe it "
        "in words to have it read.",
        kind,
        role,
    )


# --- into the memory ---------------------------------------------------------------------------


def message_to_text(message: ChatMessage) -> str | None:
    """Return the text of a message that may be learned; None if nothing of it may.

    Only text blocks count. Of an agent's trace ("Thought: ... Answer: ...") only the last answer is
    left, without thoughts, actions and what tools returned. What a tool returned stays out also
    where it stands in for the assistant's answer.
    """
    text = "\n".join(block.text for block in message.blocks if isinstance(block, TextBlock))
    if _ROLES[message.role] == "assistant":
        if "tool_call_id" in message.additional_kwargs:  # a tool's output, passed on as it is
            return None
        text = split_calls(text)[0]
        if text.lstrip().startswith("Thought:"):
            text = _answer_of(text)
    return text if text.strip() else None


def _answer_of(trace: str) -> str:
    """The answer at the end of an agent's trace; empty if there is none of its own."""
    thought, _, answer = trace.rpartition("Thought:")[2].partition("Answer:")
    # a tool's output that is passed on stands there twice: as the thought and as the answer
    return "" if thought.strip() == answer.strip() else answer.strip()


@dataclass(frozen=True, slots=True, kw_only=True)
class Extract:
    """Which rows of a transcript belong to the conversation that is learned, and as which text.

    Args:
        roles: "user" and "assistant", or one of them. Tool, function and system messages are never
            learned, whatever stands here.
        text: the text of a message, or None.
    """

    roles: tuple[str, ...] = LEARNED_ROLES
    text: MessageToText = message_to_text

    def __post_init__(self) -> None:
        if not self.roles or set(self.roles) - set(LEARNED_ROLES):
            raise ValueError(
                f"absorb_roles is {self.roles!r}: use one or both of {LEARNED_ROLES}. System and "
                "tool messages are never learned."
            )

    def message(self, row: ChatMessage) -> Message | None:
        """The message that a row is in the learned conversation; None if it has no part in it."""
        role = _ROLES[row.role]
        text = self.text(row) if role in self.roles else None
        if text is None:
            return None
        try:
            return Message(role, text)
        except InvalidText as error:
            _log.warning("a %s message is not learned: %s", role, error)
            return None


def as_chat(message: Message) -> ChatMessage:
    """A journalled message as a row again."""
    return ChatMessage(role=message.role, content=message.content)


def is_same(left: ChatMessage, right: ChatMessage) -> bool:
    """Return whether two rows are the same message, whatever else is noted about them."""
    return left.role == right.role and left.blocks == right.blocks


def is_system(row: ChatMessage) -> bool:
    """Return whether a row is an instruction, which nobody learns."""
    return _ROLES[row.role] == "system"


def copies(messages: Sequence[ChatMessage]) -> list[ChatMessage]:
    """Deep copies: callers write into what they are given."""
    return [message.model_copy(deep=True) for message in messages]
