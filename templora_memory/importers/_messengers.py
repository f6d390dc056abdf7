"""Chats of messengers: WhatsApp (both platforms), Telegram, Discord, Slack, Instagram, Messenger.

These files say who speaks, and hardly ever which of them the user is; `_talks` finds out.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import PurePath
from typing import Any

from templora_memory.importers._encoding import decode
from templora_memory.importers._talks import Line, Notes, RawTalk, assemble
from templora_memory.importers._text import one_line
from templora_memory.importers._values import ChatLog, Limits

Value = Mapping[str, Any]


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _maps(value: object) -> list[Value]:
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []


# --- WhatsApp -------------------------------------------------------------------------------------

_DATE = r"\d{1,4}[./-]\d{1,2}[./-]\d{1,4}\.?"
_TIME = r"\d{1,2}[:.]\d{2}(?:[:.]\d{2})?(?:[\s\u202f\u00a0]?[ap]\.?[\s\u00a0]?m\.?)?"
_HEAD = re.compile(
    rf"[\u200e\u200f\u202a\ufeff]?"
    rf"(?:\[{_DATE},?[ \u202f]{_TIME}\]|{_DATE},?[ \u202f]{_TIME}[ \u202f]-)[ \u202f]",
    re.IGNORECASE,
)
_SPEAKER = re.compile(r"[\u200e\u200f\u202a]?([^:\n]{1,80}):(?:[ \u202f]|$)")
_OTHER = re.compile(
    r"WhatsApp[ _-]+(?:Chat|Conversation|Conversa|Discussion|Unterhaltung|\w{2,20})"
    r"(?:[ _-]+(?:with|mit|con|com|avec|met|med|[\w]{1,6}))?[ _-]+(.{1,80})",
    re.IGNORECASE,
)
_MEDIA = re.compile(
    r"[\u200e\u200f]?<[^<>\n]{1,40}>|[\u200e\u200f]{1,2}?<attached: [^<>\n]{1,200}>"
    r"|\u200e?(?:image|video|audio|GIF|sticker|document|contact card)[ \w]{0,20}omitted"
    r"|\u200e?(?:Bild|Video|Audio|GIF|Sticker|Dokument|Kontaktkarte)[ \w]{0,20}weggelassen"
    r"|\u200e?(?:imagen|video|audio|GIF|sticker|documento)[ \w]{0,20}omitid[oa]"
    r"|[^\n]{1,200} \((?:file attached|Datei angehängt|archivo adjunto|fichier joint)\)",
    re.IGNORECASE,
)
_GONE = re.compile(
    r"\u200e?(?:This message was deleted|You deleted this message|Diese Nachricht wurde gelöscht"
    r"|Du hast diese Nachricht gelöscht|Se eliminó este mensaje|Ce message a été supprimé|null)\.?",
    re.IGNORECASE,
)
_EDITED = re.compile(r"[ \u200e]*<(?:This message was edited|Diese Nachricht wurde bearbeitet)>$")
_PROBED = 20  # lines


def is_whatsapp(text: str) -> bool:
    """Whether a text begins as WhatsApp writes its exports."""
    lines = [line for line in text[:20_000].splitlines()[:_PROBED] if line.strip()]
    heads = [hit for line in lines if (hit := _HEAD.match(line))]
    if not lines or not heads or not _HEAD.match(lines[0]):
        return False
    bodies = [line[hit.end() :] for line in lines if (hit := _HEAD.match(line))]
    return any(_SPEAKER.match(body) for body in bodies)


def read_whatsapp(
    data: bytes, filename: str, limits: Limits, *, user: str = "", character: str = ""
) -> ChatLog:
    """A chat that WhatsApp exported as text.

    Raises:
        FileRefused: `empty`, `which_user`.
    """
    text, guessed = decode(data)
    notes = Notes(warnings=["The encoding was guessed."] if guessed else [])
    stem = PurePath(filename.replace("\\", "/")).stem
    hit = _OTHER.match(stem)
    talk = RawTalk(list(_whatsapp(text, notes)), others=(one_line(hit[1]),) if hit else ())
    return assemble(
        [talk], source="WhatsApp chat", notes=notes, limits=limits, user=user, character=character
    )


def _whatsapp(text: str, notes: Notes) -> Iterator[Line]:
    speaker, parts = "", list[str]()
    for line in (*text.replace("\r\n", "\n").split("\n"), None):
        hit = _HEAD.match(line) if line is not None else None
        if line is not None and hit is None:
            parts.append(line)
            continue
        if parts and speaker:
            yield from _whatsapp_line(speaker, "\n".join(parts), notes)
        parts, speaker = [], ""
        if line is None or hit is None:
            return
        body = line[hit.end() :]
        who = _SPEAKER.match(body)
        if who is None:
            notes.left_out["notices of the messenger"] += 1
            continue
        speaker, parts = one_line(who[1]), [body[who.end() :]]


def _whatsapp_line(speaker: str, text: str, notes: Notes) -> Iterator[Line]:
    text = _EDITED.sub("", text.strip())
    if _GONE.fullmatch(text):
        notes.left_out["deleted messages"] += 1
        return
    first, _, rest = text.partition("\n")
    if _MEDIA.fullmatch(first.strip()):
        notes.left_out["pictures, sounds and files"] += 1
        text = rest.strip()
    if "end-to-end" in text and text.startswith("\u200e"):
        notes.left_out["notices of the messenger"] += 1
    elif text:
        yield Line("", text.replace("\u200e", ""), speaker)


# --- Telegram -------------------------------------------------------------------------------------


def _telegram(items: Iterable[Value], notes: Notes) -> Iterator[RawTalk]:
    for item in items:
        person = item.get("personal_information")
        if isinstance(person, Mapping):
            names = (_text(person.get("first_name")), _text(person.get("last_name")))
            notes.user = one_line(" ".join(filter(None, names)))
        chats = item.get("chats")
        some = _maps(chats.get("list")) if isinstance(chats, Mapping) else [item]
        for chat in some:
            lines = [
                line for row in _maps(chat.get("messages")) for line in _telegram_lines(row, notes)
            ]
            name, personal = one_line(_text(chat.get("name"))), chat.get("type") in _PERSONAL
            yield RawTalk(lines, title=name, others=(name,) if name and personal else ())


_PERSONAL = {"personal_chat", "bot_chat", None}


def _telegram_lines(row: Value, notes: Notes) -> Iterator[Line]:
    if row.get("type", "message") != "message":
        notes.left_out["notices of the messenger"] += 1
        return
    text = row.get("text", row.get("text_entities"))
    if isinstance(text, list):
        text = "".join(
            part if isinstance(part, str) else _text(part.get("text"))
            for part in text
            if isinstance(part, (str, Mapping))
        )
    said = _text(text)
    if any(name in row for name in ("photo", "file", "media_type", "sticker_emoji", "poll")):
        notes.left_out["pictures, sounds and files"] += 1
    if said.strip():
        yield Line("", said, one_line(_text(row.get("from")) or "Deleted account"))


# --- Discord --------------------------------------------------------------------------------------


def _discord(items: Iterable[Value], notes: Notes) -> Iterator[RawTalk]:
    for item in items:
        channel = item.get("channel")
        channel = channel if isinstance(channel, Mapping) else {}
        lines = []
        for row in _maps(item.get("messages")):
            if row.get("type", "Default") not in {
                "Default",
                "Reply",
                0,
                19,
                "20",
                "ChatInputCommand",
            }:
                notes.left_out["notices of the messenger"] += 1
                continue
            author = row.get("author")
            author = author if isinstance(author, Mapping) else {}
            name = _text(author.get("nickname")) or _text(author.get("name")) or "Nobody"
            notes.left_out["pictures, sounds and files"] += len(_maps(row.get("attachments")))
            said = _text(row.get("content"))
            if said.strip():
                lines.append(Line("", said, one_line(name)))
        name = one_line(_text(channel.get("name")))
        direct = "Direct" in _text(channel.get("type")) and "Group" not in _text(
            channel.get("type")
        )
        yield RawTalk(lines, title=name, others=(name,) if direct and name else ())


# --- Slack ----------------------------------------------------------------------------------------

_SLACK_LINK = re.compile(r"<([@#!]?)([^<>|\n]{1,2000})(?:\|([^<>\n]{0,2000}))?>")
_SLACK_SPOKEN = {None, "", "me_message", "bot_message", "thread_broadcast", "file_share"}


def slack_names(users: object) -> dict[str, str]:
    """Names by id, of a Slack export's users.json."""
    names = {}
    for row in _maps(users):
        profile = row.get("profile")
        profile = profile if isinstance(profile, Mapping) else {}
        shown = (
            profile.get("display_name"),
            profile.get("real_name"),
            row.get("real_name"),
            row.get("name"),
        )
        name = next(
            (one_line(part) for part in shown if isinstance(part, str) and part.strip()), ""
        )
        if isinstance(row.get("id"), str) and name:
            names[row["id"]] = name
    return names


def slack_talk(
    rows: Iterable[Value], notes: Notes, names: Mapping[str, str], title: str = ""
) -> RawTalk:
    """The messages of a channel, in the order of their times."""
    known = dict(names)
    rows = sorted(rows, key=lambda row: str(row.get("ts", "")))
    for row in rows:
        profile = row.get("user_profile")
        if isinstance(profile, Mapping) and isinstance(row.get("user"), str):
            name = (
                _text(profile.get("display_name"))
                or _text(profile.get("real_name"))
                or _text(profile.get("name"))
            )
            if name:
                known.setdefault(row["user"], one_line(name))
    lines = []
    for row in rows:
        if row.get("type", "message") != "message" or row.get("subtype") not in _SLACK_SPOKEN:
            notes.left_out["notices of the messenger"] += 1
            continue
        notes.left_out["pictures, sounds and files"] += len(_maps(row.get("files")))
        who = (
            _text(row.get("user"))
            or _text(row.get("username"))
            or _text(row.get("bot_id"))
            or "Nobody"
        )
        said = _slack_text(_text(row.get("text")), known)
        if said.strip():
            lines.append(Line("", said, known.get(who, one_line(who))))
    return RawTalk(lines, title=title)


def _slack_text(text: str, names: Mapping[str, str]) -> str:
    def link(hit: re.Match[str]) -> str:
        kind, target, label = hit[1], hit[2], hit[3]
        if kind == "@":
            return "@" + (names.get(target) or label or target)
        if kind == "#":
            return "#" + (label or target)
        if kind == "!":
            return "@" + (label or target.partition("^")[0]).lstrip("@")
        return (
            f"{label} ({target})" if label and label != target else target.removeprefix("mailto:")
        )

    return html.unescape(_SLACK_LINK.sub(link, text))


def _slack(items: Iterable[Value], notes: Notes) -> Iterator[RawTalk]:
    yield slack_talk(items, notes, {})


# --- Instagram and Messenger ----------------------------------------------------------------------


def _meta(items: Iterable[Value], notes: Notes) -> Iterator[RawTalk]:
    for item in items:
        rows = _maps(item.get("messages"))
        rows.sort(key=lambda row: _milliseconds(row.get("timestamp_ms")))  # newest first
        lines = []
        for row in rows:
            said = _repaired(_text(row.get("content")))
            if row.get("is_unsent"):
                notes.left_out["deleted messages"] += 1
                continue
            media = sum(
                len(_maps(row.get(name)))
                for name in ("photos", "videos", "audio_files", "files", "gifs")
            )
            media += bool(row.get("sticker")) + bool(row.get("share"))
            notes.left_out["pictures, sounds and files"] += media
            if _META_NOTICE.fullmatch(said):
                notes.left_out["notices of the messenger"] += 1
            elif said.strip():
                lines.append(Line("", said, one_line(_repaired(_text(row.get("sender_name"))))))
        title = one_line(_repaired(_text(item.get("title"))))
        people = [
            one_line(_repaired(_text(p.get("name")))) for p in _maps(item.get("participants"))
        ]
        pair = len(people) == 2 and title in people  # noqa: PLR2004  # named after the other one
        yield RawTalk(lines, title=title, others=(title,) if pair else ())


_META_NOTICE = re.compile(
    r".{0,100}(?:sent an attachment|[Ll]iked a message|Reacted \S{1,8} to your message)\.?\s*"
)


def _milliseconds(value: object) -> float:
    return float(value) if isinstance(value, (int, float)) else 0.0


def _repaired(text: str) -> str:
    """Meta writes the bytes of UTF-8 as if each were a character."""
    try:
        return text.encode("latin-1").decode("utf-8")
    except (UnicodeEncodeError, UnicodeDecodeError):
        return text


def _has(rows: object, *names: str) -> bool:
    some = _maps(rows)[:20]
    return bool(some) and any(all(name in row for name in names) for row in some)


def _is_telegram(value: Value) -> bool:
    chats = value.get("chats")
    if isinstance(chats, Mapping) and isinstance(chats.get("list"), list):
        return True
    return _has(value.get("messages"), "from", "text") or (
        "name" in value and "type" in value and _has(value.get("messages"), "date_unixtime")
    )


_FORMATS: dict[
    str,
    tuple[Callable[[Value], bool], Callable[[Iterable[Value], Notes], Iterator[RawTalk]]],
] = {
    "Telegram export": (_is_telegram, _telegram),
    "Discord export": (
        lambda v: isinstance(v.get("channel"), Mapping) and isinstance(v.get("messages"), list),
        _discord,
    ),
    "Instagram or Messenger export": (lambda v: _has(v.get("messages"), "sender_name"), _meta),
    "Slack export": (
        lambda v: "ts" in v and (v.get("type") == "message" or "user" in v or "bot_id" in v),
        _slack,
    ),
}
KINDS = frozenset(_FORMATS)


def kind_of(value: Value) -> str | None:
    """Which messenger's export a value is, or a part of."""
    return next((kind for kind, (fits, _) in _FORMATS.items() if fits(value)), None)


def talks(items: Iterable[Value], kind: str, notes: Notes) -> Iterator[RawTalk]:
    """The conversations of a file of this kind."""
    return _FORMATS[kind][1](items, notes)
