"""Histories of chat assistants: ChatGPT, Claude, OpenAI's messages, ShareGPT, LibreChat and others.

Of a conversation with branches, the one that is shown stays: the path to its newest message.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from templora_memory.importers._talks import Line, Notes, RawTalk, Who
from templora_memory.importers._text import one_line

_ROLES: dict[str, Who] = {
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "ai": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "claude": "assistant",
    "system": "system",
    "developer": "system",
}

Value = Mapping[str, Any]


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _maps(value: object) -> list[Value]:
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []


def _has_rows(value: object, *names: str) -> bool:
    rows = _maps(value)
    return bool(rows) and any(all(name in row for name in names) for row in rows[:10])


def _day(value: object) -> str:
    """A time as ISO 8601, from seconds or text; "" if it is none."""
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < 1e14:  # noqa: PLR2004
        seconds = value / 1000 if value > 1e11 else value  # noqa: PLR2004  # milliseconds
        return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="minutes")
    return one_line(value, 40) if isinstance(value, str) else ""


def _path(nodes: Mapping[str, Value], last: str | None, parent: str) -> list[Value]:
    """The nodes from the first one to `last`; stops at a circle."""
    path: list[Value] = []
    seen: set[str] = set()
    while last is not None and last in nodes and last not in seen:
        seen.add(last)
        path.append(nodes[last])
        above = nodes[last].get(parent)
        last = above if isinstance(above, str) else None
    return path[::-1]


def _leaf(nodes: Mapping[str, Value], parent: str, *times: str) -> str | None:
    """The newest node that is nobody's parent; the last one in the file where there is no time."""
    parents = {node.get(parent) for node in nodes.values() if isinstance(node.get(parent), str)}
    leaves = [
        (_time(node, times), place, name)
        for place, (name, node) in enumerate(nodes.items())
        if name not in parents
    ]
    return max(leaves)[2] if leaves else None


def _time(node: Value, names: Iterable[str]) -> str:
    inner = node.get("message")
    for place in (node, inner if isinstance(inner, Mapping) else {}):
        for name in names:
            if day := _sortable(place.get(name)):
                return day
    return ""


def _sortable(value: object) -> str:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return f"{value:025.6f}"
    return value if isinstance(value, str) else ""


# --- ChatGPT (and DeepSeek, which has the same tree) ----------------------------------------------


def _chatgpt(items: Iterable[Value], notes: Notes) -> Iterator[RawTalk]:
    for item in items:
        mapping = item.get("mapping")
        if not isinstance(mapping, Mapping):
            continue
        nodes = {str(name): node for name, node in mapping.items() if isinstance(node, Mapping)}
        last = item.get("current_node")
        if not isinstance(last, str) or last not in nodes:
            last = _leaf(nodes, "parent", "create_time", "inserted_at")
        path = _path(nodes, last, "parent")
        away = sum(isinstance(node.get("message"), Mapping) for node in nodes.values())
        away -= sum(isinstance(node.get("message"), Mapping) for node in path)
        notes.left_out["messages of other branches"] += away
        lines = [line for node in path for line in _chatgpt_lines(node.get("message"), notes)]
        started = _day(item.get("create_time") or item.get("inserted_at"))
        yield RawTalk(lines, title=_text(item.get("title")), started=started)


def _chatgpt_lines(message: object, notes: Notes) -> Iterator[Line]:
    if not isinstance(message, Mapping):
        return
    more = message.get("metadata")
    more = more if isinstance(more, Mapping) else {}
    author = message.get("author")
    role = _text(author.get("role")) if isinstance(author, Mapping) else _text(message.get("role"))
    if isinstance(message.get("fragments"), list):
        yield from _deepseek_lines(message, notes)
        return
    content = message.get("content")
    kind = _text(content.get("content_type")) if isinstance(content, Mapping) else "text"
    texts = _parts(content, notes)
    text = "\n".join(texts)
    if not text.strip():
        return
    if more.get("is_visually_hidden_from_conversation") or kind in _CONTEXTS:
        notes.left_out["hidden messages"] += 1
    elif kind in _THOUGHTS:
        notes.left_out["thoughts of the assistant"] += 1
    elif role == "tool" or message.get("recipient", "all") not in {"all", None}:
        notes.left_out["calls of tools and their results"] += 1
    elif role in _ROLES:
        yield Line(_ROLES[role], text)
    else:
        notes.skipped += 1


_CONTEXTS = {"user_editable_context", "model_editable_context"}
_THOUGHTS = {"thoughts", "reasoning_recap"}


def _parts(content: object, notes: Notes) -> list[str]:
    if isinstance(content, str):
        return [content]
    if not isinstance(content, Mapping):
        return []
    if isinstance(content.get("text"), str):
        return [content["text"]]
    texts = []
    parts = content.get("parts")
    for part in parts if isinstance(parts, list) else ():
        if isinstance(part, str):
            texts.append(part)
        elif isinstance(part, Mapping) and isinstance(part.get("text"), str):
            texts.append(part["text"])
        elif isinstance(part, Mapping):
            notes.left_out["pictures, sounds and files"] += 1
    if not texts and isinstance(content.get("thoughts"), list):
        texts = [_text(thought.get("content")) for thought in _maps(content["thoughts"])]
    if not texts and isinstance(content.get("content"), str):
        texts = [content["content"]]
    return texts


def _deepseek_lines(message: Value, notes: Notes) -> Iterator[Line]:
    for part in _maps(message["fragments"]):
        kind, text = part.get("type"), _text(part.get("content"))
        if kind == "REQUEST":
            yield Line("user", text)
        elif kind == "RESPONSE":
            yield Line("assistant", text)
        else:
            what = (
                "thoughts of the assistant"
                if kind == "THINK"
                else "calls of tools and their results"
            )
            notes.left_out[what] += 1


# --- Claude ---------------------------------------------------------------------------------------


def _claude(items: Iterable[Value], notes: Notes) -> Iterator[RawTalk]:
    for item in items:
        rows = _maps(item.get("chat_messages"))
        named = {str(row["uuid"]): row for row in rows if "uuid" in row}
        if len(named) == len(rows) and any("parent_message_uuid" in row for row in rows):
            last = item.get("current_leaf_message_uuid")
            if not isinstance(last, str) or last not in named:
                last = _leaf(named, "parent_message_uuid", "created_at")
            path = _path(named, last, "parent_message_uuid")
            notes.left_out["messages of other branches"] += len(rows) - len(path)
            rows = path
        lines = []
        for row in rows:
            who = _ROLES.get(_text(row.get("sender")), "")
            if not who:
                notes.skipped += 1
                continue
            text = _blocks(row.get("content"), notes) or _text(row.get("text"))
            notes.left_out["attached files"] += len(_maps(row.get("attachments")))
            notes.left_out["pictures, sounds and files"] += len(_maps(row.get("files")))
            if text.strip():
                lines.append(Line(who, text))
        yield RawTalk(lines, title=_text(item.get("name")), started=_day(item.get("created_at")))


def _blocks(content: object, notes: Notes) -> str:
    """The text of content in blocks, as Anthropic, OpenAI and LibreChat write it."""
    if isinstance(content, str):
        return content
    texts = []
    for block in content if isinstance(content, list) else ():
        if isinstance(block, str):
            texts.append(block)
            continue
        if not isinstance(block, Mapping):
            continue
        kind = _text(block.get("type"))
        text = block.get("text")
        if isinstance(text, Mapping):
            text = text.get("value")
        if kind in {"thinking", "reasoning", "think", "redacted_thinking"}:
            notes.left_out["thoughts of the assistant"] += 1
        elif kind in {"tool_use", "tool_result", "tool_call", "function_call", "token_budget"}:
            notes.left_out["calls of tools and their results"] += 1
        elif isinstance(text, str):
            texts.append(text)
        else:
            notes.left_out["pictures, sounds and files"] += 1
    return "\n".join(texts)


# --- OpenAI's messages, ShareGPT and whatever has the same shape ----------------------------------


def _messages(items: Iterable[Value], notes: Notes) -> Iterator[RawTalk]:
    single: list[Line] = []
    for item in items:
        rows = next((item[name] for name in _LISTS if isinstance(item.get(name), list)), None)
        if rows is None:
            single += _role_lines([item], notes)
            continue
        lines = _role_lines(rows, notes)
        if isinstance(item.get("system"), str) and item["system"].strip():
            lines.insert(0, Line("system", item["system"]))
        title = _text(item.get("title")) or _text(item.get("name"))
        started = _day(item.get("created_at") or item.get("create_time") or item.get("timestamp"))
        yield RawTalk(lines, title=title, started=started)
    if single:
        yield RawTalk(single)


_LISTS = ("messages", "conversations", "conversation", "items", "history", "chat")


def _role_lines(rows: object, notes: Notes) -> list[Line]:
    lines: list[Line] = []
    for row in _maps(rows):
        role = row.get("role", row.get("from", row.get("author", row.get("sender"))))
        if isinstance(role, Mapping):
            role = role.get("role")
        role = _text(role).lower()
        content = row.get("content", row.get("value", row.get("text", row.get("message"))))
        if isinstance(content, Mapping):
            content = _parts(content, notes)
        text = _blocks(content, notes)
        if row.get("tool_calls") or row.get("function_call"):
            notes.left_out["calls of tools and their results"] += 1
        if role in {"tool", "function", "observation", "function_call", "function_response"}:
            notes.left_out["calls of tools and their results"] += 1
        elif role in _ROLES and text.strip():
            lines.append(Line(_ROLES[role], text))
        elif role not in _ROLES:
            notes.skipped += 1
    return lines


# --- LibreChat, Open WebUI, Character.AI ----------------------------------------------------------


def _librechat(items: Iterable[Value], notes: Notes) -> Iterator[RawTalk]:
    for item in items:
        rows = _flat(_maps(item.get("messages")))
        named = {str(row.get("messageId", place)): row for place, row in enumerate(rows)}
        path = _path(named, _leaf(named, "parentMessageId", "createdAt"), "parentMessageId")
        notes.left_out["messages of other branches"] += len(rows) - len(path)
        lines = []
        for row in path:
            mine = row.get("isCreatedByUser") is True or _text(row.get("sender")).lower() == "user"
            text = _text(row.get("text")) or _blocks(row.get("content"), notes)
            if text.strip():
                lines.append(Line("user" if mine else "assistant", text))
        yield RawTalk(lines, title=_text(item.get("title")), started=_day(item.get("createdAt")))


def _flat(rows: list[Value]) -> list[Value]:
    """Messages with their answers inside them, as one list from top to bottom."""
    flat, todo = [], rows[::-1]
    while todo:
        row = todo.pop()
        flat.append(row)
        children = [
            {"parentMessageId": row.get("messageId"), **child}
            for child in _maps(row.get("children"))
        ]
        todo += children[::-1]
    return flat


def _open_webui(items: Iterable[Value], notes: Notes) -> Iterator[RawTalk]:
    for item in items:
        chat = item.get("chat")
        chat = chat if isinstance(chat, Mapping) else item
        history = chat.get("history")
        history = history if isinstance(history, Mapping) else {}
        nodes = history.get("messages")
        if isinstance(nodes, Mapping):
            named = {str(name): node for name, node in nodes.items() if isinstance(node, Mapping)}
            last = history.get("currentId")
            if not isinstance(last, str) or last not in named:
                last = _leaf(named, "parentId", "timestamp")
            path = _path(named, last, "parentId")
            notes.left_out["messages of other branches"] += len(named) - len(path)
        else:
            path = _maps(chat.get("messages"))
        title = _text(item.get("title")) or _text(chat.get("title"))
        started = _day(item.get("created_at") or chat.get("timestamp"))
        lines = [_without_details(line, notes) for line in _role_lines(path, notes)]
        yield RawTalk(lines, title=title, started=started)


def _without_details(line: Line, notes: Notes) -> Line:
    """Open WebUI keeps thoughts and calls of tools as HTML details before the answer."""
    text = line.text
    while line.who == "assistant" and text.lstrip().startswith("<details type="):
        _, end, rest = text.partition("</details>")
        if not end:
            break
        text = rest
        notes.left_out["thoughts of the assistant"] += 1
    return Line(line.who, text.strip())


def _character_ai(items: Iterable[Value], notes: Notes) -> Iterator[RawTalk]:
    for item in items:
        histories = item.get("histories")
        if isinstance(histories, Mapping):
            histories = histories.get("histories")
        for one in _maps(histories) or [item]:
            lines: list[Line] = []
            for row in _maps(one.get("msgs")):
                source = row.get("src")
                source = source if isinstance(source, Mapping) else {}
                if row.get("is_alternative_of_last"):
                    notes.left_out["messages of other branches"] += 1
                    continue
                mine = source.get("is_human") is True
                lines.append(Line("user" if mine else "assistant", _text(row.get("text"))))
            turns = []
            for row in _maps(one.get("turns")):
                author = row.get("author")
                mine = isinstance(author, Mapping) and author.get("is_human") is True
                wanted, options = row.get("primary_candidate_id"), _maps(row.get("candidates"))
                notes.left_out["messages of other branches"] += max(0, len(options) - 1)
                shown = next((o for o in options if o.get("candidate_id") == wanted), None)
                shown = shown or (options[0] if options else {})
                line = Line("user" if mine else "assistant", _text(shown.get("raw_content")))
                turns.append((_text(row.get("create_time")), line))
            if len(turns) > 1 and turns[0][0] > turns[-1][0]:
                turns.reverse()  # the site sends the newest first
            lines += [line for _, line in turns]
            yield RawTalk(lines, title=_text(one.get("title")), started=_day(one.get("created")))


def _is_character_ai(value: Value) -> bool:
    histories = value.get("histories")
    if isinstance(histories, Mapping):
        histories = histories.get("histories")
    return (
        any("msgs" in row or "turns" in row for row in _maps(histories)[:5])
        or _has_rows(value.get("msgs"), "src", "text")
        or _has_rows(value.get("turns"), "author", "candidates")
    )


def _is_open_webui(value: Value) -> bool:
    chat = value.get("chat")
    return isinstance(chat, Mapping) and (
        "history" in chat or isinstance(chat.get("messages"), list)
    )


def _is_messages(value: Value) -> bool:
    if isinstance(value.get("role"), str) and ("content" in value or "parts" in value):
        return value["role"].lower() in {*_ROLES, "tool", "function"}
    for name in _LISTS:
        rows = value.get(name)
        if _has_rows(rows, "role") or _has_rows(rows, "from", "value"):
            return any(
                _text(row.get("role", row.get("from"))).lower() in _ROLES
                for row in _maps(rows)[:10]
            )
    return False


_FORMATS: dict[
    str,
    tuple[Callable[[Value], bool], Callable[[Iterable[Value], Notes], Iterator[RawTalk]]],
] = {
    "ChatGPT export": (lambda v: isinstance(v.get("mapping"), Mapping), _chatgpt),
    "Claude export": (lambda v: isinstance(v.get("chat_messages"), list), _claude),
    "LibreChat conversation": (
        lambda v: _has_rows(v.get("messages"), "messageId", "isCreatedByUser"),
        _librechat,
    ),
    "Open WebUI export": (_is_open_webui, _open_webui),
    "Character.AI history": (_is_character_ai, _character_ai),
    "messages with roles": (_is_messages, _messages),
}
KINDS = frozenset(_FORMATS)


def kind_of(value: Value) -> str | None:
    """Which assistant's history a value is, or a part of."""
    return next((kind for kind, (fits, _) in _FORMATS.items() if fits(value)), None)


def talks(items: Iterable[Value], kind: str, notes: Notes) -> Iterator[RawTalk]:
    """The conversations of a file of this kind."""
    return _FORMATS[kind][1](items, notes)
