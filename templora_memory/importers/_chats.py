"""Chats of role-play programs -> `ChatLog`; finds out which program wrote a JSON file.

SillyTavern (with a header or without, groups), text-generation-webui, Agnai, Risu, KoboldAI. Those
of assistants and messengers stand in modules of their own.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from templora_memory.importers import _assistants, _messengers
from templora_memory.importers._encoding import decode
from templora_memory.importers._json import check_depth
from templora_memory.importers._talks import Line, Notes, RawTalk, assemble
from templora_memory.importers._text import one_line
from templora_memory.importers._values import ChatLog, Limits

_MOST_SKIPPED = 5000
_UNNAMED = {"", "unused"}
_BEGIN = "<|BEGIN-VISIBLE-CHAT|>"


def kind_of(value: object) -> str | None:
    """Which program wrote this JSON value as a chat or an export; None: it is no chat."""
    if isinstance(value, list):
        sample = [item for item in value[:20] if isinstance(item, Mapping)]
        kinds = [kind for item in sample if (kind := kind_of_item(item)) is not None]
        return kinds[0] if kinds and len(kinds) * 2 >= len(sample) else None
    return kind_of_item(value)


def kind_of_item(value: object) -> str | None:
    """As `kind_of`, for one conversation or one message."""
    if not isinstance(value, Mapping):
        return None
    for kind, fits in _KINDS.items():
        if fits(value):
            return kind
    return _assistants.kind_of(value) or _messengers.kind_of(value)


def read_value(
    value: object, kind: str, limits: Limits, *, user: str = "", character: str = ""
) -> ChatLog:
    """The chat in a parsed JSON file.

    Raises:
        FileRefused: `empty`, `which_user`.
    """
    return read_items(
        value if isinstance(value, list) else [value], kind, limits, user=user, character=character
    )


def read_items(
    items: Iterable[object], kind: str, limits: Limits, *, user: str = "", character: str = ""
) -> ChatLog:
    """As `read_value`, for the conversations or messages of a file, one after the other."""
    notes = Notes()
    given = (item for item in items if isinstance(item, Mapping))
    talks: Iterator[RawTalk]
    if kind in _TALKS:
        talks = _TALKS[kind](given, notes)
    elif kind in _assistants.KINDS:
        talks = _assistants.talks(given, kind, notes)
    else:
        talks = _messengers.talks(given, kind, notes)
    return assemble(talks, source=kind, notes=notes, limits=limits, user=user, character=character)


# --- lines of JSON --------------------------------------------------------------------------------


def first_values(text: str, limits: Limits, most: int = 3) -> list[object] | None:
    """The values of the first lines, if each of these lines is one; None if one is not."""
    values: list[object] = []
    for line in io.StringIO(text):
        if not line.strip():
            continue
        row = _row(line, limits)
        if row is None:
            return None if len(values) < most - 1 and not values else values
        values.append(row)
        if len(values) == most:
            break
    return values or None


def is_header(value: object) -> bool:
    """Whether a value is the first line of a SillyTavern chat."""
    return isinstance(value, Mapping) and ("user_name" in value or "chat_metadata" in value)


def read_jsonl(data: bytes, limits: Limits, *, user: str = "", character: str = "") -> ChatLog:
    """A chat with a value on each line. Lines that are no message are left out and counted.

    Raises:
        FileRefused: `too_large`, `empty`, `which_user`, `not_a_chat`.
    """
    text, guessed = decode(data)
    notes = Notes(warnings=["The encoding was guessed."] if guessed else [])
    rows = _rows(text, limits, notes)
    first = next(rows, None)
    header: Mapping[str, Any] = first if first is not None and is_header(first) else {}
    if not header and first is not None:
        kind = kind_of_item(first)
        if kind is not None and kind != _SILLYTAVERN:
            return read_items([first, *rows], kind, limits, user=user, character=character)
    body = rows if header or first is None else _chained(first, rows)
    names = [one_line(_said(header.get(key))) for key in ("user_name", "character_name")]
    mine, other = ("" if name.lower() in _UNNAMED else name for name in names)
    notes.user = mine
    talk = RawTalk([], others=(other,) if other else ())
    talk.lines = list(_sillytavern_lines(body, notes, limits.messages + 1))
    return assemble(
        [talk], source=_SILLYTAVERN, notes=notes, limits=limits, user=user, character=character
    )


def _chained(first: Mapping[str, Any], rows: Iterable[Mapping[str, Any]]) -> Iterator[Any]:
    yield first
    yield from rows


def _rows(text: str, limits: Limits, notes: Notes) -> Iterator[Mapping[str, Any]]:
    for line in io.StringIO(text):  # only "\n" ends a line
        if not line.strip():
            continue
        row = _row(line, limits)
        if row is not None:
            yield row
            continue
        notes.skipped += 1
        if notes.skipped > _MOST_SKIPPED:
            notes.warnings.append("Most lines could not be read: the rest was left out.")
            return


def _row(line: str, limits: Limits) -> dict[str, Any] | None:
    """A line as an object; None for a line that is none, which the chat can do without."""
    if not line.lstrip("\ufeff \t").startswith("{"):
        return None
    if line.count("[") + line.count("{") > limits.containers:
        return None
    try:
        row = json.loads(line.lstrip("\ufeff"))
        check_depth(row, limits)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def _said(value: object) -> str:
    if isinstance(value, Mapping):  # Chub wraps the text
        value = value.get("message")
    return value if isinstance(value, str) else ""


# --- SillyTavern ----------------------------------------------------------------------------------


def _sillytavern_lines(
    rows: Iterable[Mapping[str, Any]], notes: Notes, most: int
) -> Iterator[Line]:
    count = 0
    for row in rows:
        said = _said(row.get("mes")) or _swipe(row)
        if not said.strip():
            notes.skipped += 1
            if notes.skipped > _MOST_SKIPPED:
                return
            continue
        more = row.get("extra")
        kind = more.get("type") if isinstance(more, Mapping) else None
        if row.get("is_system") is True and kind != "narrator":
            notes.left_out["hidden messages"] += 1
            continue
        name = one_line(_said(row.get("name")))
        if kind == "narrator" or row.get("is_system") is True:
            yield Line("system", said)
        elif row.get("is_user") is True:
            yield Line("user", said, name)
        else:
            yield Line("assistant", said, name)
        count += 1
        if count >= most:
            return


def _swipe(row: Mapping[str, Any]) -> str:
    swipes, chosen = row.get("swipes"), row.get("swipe_id", 0)
    if isinstance(swipes, list) and isinstance(chosen, int) and 0 <= chosen < len(swipes):
        return _said(swipes[chosen])
    return ""


def _sillytavern(items: Iterable[Mapping[str, Any]], notes: Notes) -> Iterator[RawTalk]:
    yield RawTalk(list(_sillytavern_lines((i for i in items if "mes" in i), notes, 1 << 30)))


# --- others ---------------------------------------------------------------------------------------


def _webui(items: Iterable[Mapping[str, Any]], notes: Notes) -> Iterator[RawTalk]:
    """text-generation-webui: pairs of what the user and the character said."""
    del notes
    for item in items:
        pairs = item.get("internal") or item.get("data")
        lines: list[Line] = []
        for pair in pairs if isinstance(pairs, list) else ():
            if not isinstance(pair, list) or len(pair) != 2:  # noqa: PLR2004  # user, character
                continue
            for who, part in zip(("user", "assistant"), pair, strict=True):
                if _said(part) not in {"", _BEGIN}:
                    lines.append(Line(who, _said(part)))  # type: ignore[arg-type]
        yield RawTalk(lines)


def _risu(items: Iterable[Mapping[str, Any]], notes: Notes) -> Iterator[RawTalk]:
    for item in items:
        body = item["data"]
        for one in body if isinstance(body, list) else [body]:
            if not isinstance(one, Mapping):
                continue
            lines = []
            for row in _maps(one.get("message")):
                if row.get("disabled"):
                    notes.left_out["hidden messages"] += 1
                    continue
                who = "user" if row.get("role") == "user" else "assistant"
                lines.append(Line(who, _said(row.get("data"))))  # type: ignore[arg-type]
            yield RawTalk(lines, title=_said(one.get("name")))


def _agnai(items: Iterable[Mapping[str, Any]], notes: Notes) -> Iterator[RawTalk]:
    del notes
    for item in items:
        rows = [row for row in _maps(item.get("messages")) if "msg" in row]
        lines = [
            Line(
                "user" if row.get("userId") else "assistant",
                _said(row.get("msg")),
                _said(row.get("name")),
            )
            for row in rows
        ]
        yield RawTalk(lines, title=_said(item.get("name")))


def _kobold(items: Iterable[Mapping[str, Any]], notes: Notes) -> Iterator[RawTalk]:
    """KoboldAI's story: what the player wrote is marked, all else is the story's."""
    for item in items:
        settings = item.get("savedsettings")
        settings = settings if isinstance(settings, Mapping) else {}
        texts = [_said(item.get("prompt"))]
        actions = item.get("actions")
        texts += [_said(part) for part in actions] if isinstance(actions, list) else []
        lines = list(_split_marks("".join(texts)))
        notes.left_out["world entries (read the world file)"] += len(_maps(item.get("worldinfo")))
        opponent = one_line(_said(settings.get("chatopponent")).partition("||$||")[0])
        yield RawTalk(lines, others=(opponent,) if opponent else ())


def _split_marks(text: str) -> Iterator[Line]:
    for number, part in enumerate(text.split("{{[INPUT]}}")):
        mine, _, answer = part.partition("{{[OUTPUT]}}") if number else ("", "", part)
        if mine.strip():
            yield Line("user", mine)
        if answer.strip():
            yield Line("assistant", answer)


def _maps(value: object) -> Sequence[Mapping[str, Any]]:
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []


def _is_pairs(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(pair, list) for pair in value[:20])


_SILLYTAVERN = "SillyTavern chat"
_KINDS: dict[str, Callable[[Mapping[str, Any]], bool]] = {
    _SILLYTAVERN: lambda v: "mes" in v and ("is_user" in v or "name" in v),
    "text-generation-webui chat": lambda v: (
        _is_pairs(v.get("internal")) or _is_pairs(v.get("data"))
    ),
    "Risu chat": lambda v: (
        v.get("type") in {"risuChat", "risuAllChats"}
        or (isinstance(v.get("data"), Mapping) and isinstance(v["data"].get("message"), list))
    ),
    "Agnai chat": lambda v: any("msg" in row for row in _maps(v.get("messages"))[:5]),
    "KoboldAI story": lambda v: "actions" in v and "prompt" in v,
}
_TALKS: dict[str, Callable[[Iterable[Mapping[str, Any]], Notes], Iterator[RawTalk]]] = {
    _SILLYTAVERN: _sillytavern,
    "text-generation-webui chat": _webui,
    "Risu chat": _risu,
    "Agnai chat": _agnai,
    "KoboldAI story": _kobold,
}


def write_jsonl(log: ChatLog) -> bytes:
    """The chat as SillyTavern reads it, and as `read_jsonl` does."""
    names = {"user": log.user_name or "You", "assistant": log.character_name or "Character"}
    rows: list[dict[str, Any]] = [
        {"user_name": names["user"], "character_name": names["assistant"], "chat_metadata": {}}
    ]
    for message in log.messages:
        name, text = names.get(message.role, message.role), message.content
        if message.role == "assistant" and message.name:
            name, text = message.name, text.removeprefix(f"{message.name}: ")
        row = {"name": name, "is_user": message.role == "user", "is_system": False, "mes": text}
        rows.append(row | ({"extra": {"type": "narrator"}} if message.role == "system" else {}))
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
