"""Chat logs of other programs -> `ChatLog`: SillyTavern JSONL, text-generation-webui JSON."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping
from typing import Any

from templora_memory.domain.messages import Message
from templora_memory.importers._json import check_depth
from templora_memory.importers._text import decode, one_line, plain
from templora_memory.importers._values import ChatLog, FileRefused, Limits

_MOST_SKIPPED = 5000
_EMPTY = "This chat has no message that could be read."


def is_header(line: str) -> bool:
    """Whether a line is the first one of a SillyTavern chat."""
    try:
        value = json.loads(line[:100_000])
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict) and ("user_name" in value or "chat_metadata" in value)


def is_chat(value: object) -> bool:
    """Whether parsed JSON is a chat of text-generation-webui."""
    return isinstance(value, Mapping) and any(
        isinstance(value.get(key), list) for key in ("internal", "data")
    )


def read_jsonl(data: bytes, limits: Limits) -> ChatLog:
    """A SillyTavern chat. Hidden messages and lines that are no message are left out.

    Raises:
        FileRefused: `too_large`, `empty`, `unsupported_type`.
    """
    if len(data) > limits.file:
        raise FileRefused(
            "too_large",
            f"This chat has {len(data) / 1e6:.1f} MB, the limit is {limits.file / 1e6:.0f} MB.",
        )
    text, guessed = decode(data)
    messages: list[Message] = []
    skipped, user, char = 0, "", ""
    cut = False
    for number, line in enumerate(io.StringIO(text)):  # only "\n" ends a line
        if not line.strip():
            continue
        row = _row(line, limits)
        if number == 0 and row is not None and ("user_name" in row or "chat_metadata" in row):
            user, char = (one_line(_said(row.get(k))) for k in ("user_name", "character_name"))
            continue
        if len(messages) >= limits.messages or skipped >= _MOST_SKIPPED:
            cut = True
            break
        said = plain(_said(row.get("mes"))) if row is not None else ""
        if row is None or not said:
            skipped += 1
        elif row.get("is_system") is not True:
            messages.append(Message("user" if row.get("is_user") is True else "assistant", said))
    if not messages:
        raise FileRefused("empty", _EMPTY)
    warnings = [f"{skipped} lines could not be read and were left out."] if skipped else []
    warnings += [f"Only the first {limits.messages:,} messages were read."] if cut else []
    warnings += ["The encoding was guessed."] if guessed else []
    return ChatLog(
        messages=tuple(messages),
        user_name=user if user.lower() != "unused" else "",
        character_name=char if char.lower() != "unused" else "",
        skipped=skipped,
        source_format="SillyTavern chat",
        warnings=tuple(warnings),
    )


def _row(line: str, limits: Limits) -> dict[str, Any] | None:
    """A line as an object; None for a line that is none, which the chat can do without."""
    if line.count("[") + line.count("{") > limits.containers:
        return None
    try:
        row = json.loads(line)
        check_depth(row, limits)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def _said(value: object) -> str:
    if isinstance(value, Mapping):  # Chub wraps the text
        value = value.get("message")
    return value if isinstance(value, str) else ""


def read_json(value: Mapping[str, Any], limits: Limits) -> ChatLog:
    """A chat of text-generation-webui: pairs of what the user and the character said.

    Raises:
        FileRefused: `empty`.
    """
    pairs = value.get("internal") or value.get("data")
    messages = tuple(_pairs(pairs if isinstance(pairs, list) else ()))[: limits.messages]
    if not messages:
        raise FileRefused("empty", _EMPTY)
    return ChatLog(messages=messages, source_format="text-generation-webui chat")


def _pairs(pairs: Iterable[object]) -> Iterable[Message]:
    marks = {"<|BEGIN-VISIBLE-CHAT|>", ""}
    for pair in pairs:
        if not isinstance(pair, list) or len(pair) != 2:  # noqa: PLR2004  # user and character
            continue
        user, char = (plain(_said(part)) if part not in marks else "" for part in map(_said, pair))
        if user:
            yield Message("user", user)
        if char:
            yield Message("assistant", char)


def write_jsonl(log: ChatLog) -> bytes:
    """The chat as SillyTavern reads it, and as `read_jsonl` does."""
    names = {"user": log.user_name or "You", "assistant": log.character_name or "Character"}
    rows: list[dict[str, Any]] = [
        {"user_name": names["user"], "character_name": names["assistant"], "chat_metadata": {}}
    ]
    rows += [
        {
            "name": names.get(message.role, message.role),
            "is_user": message.role == "user",
            "is_system": False,
            "mes": message.content,
        }
        for message in log.messages
    ]
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
