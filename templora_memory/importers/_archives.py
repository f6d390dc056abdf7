"""Zips: CHARX characters (perhaps behind a JPEG), EPUB, DOCX, and exports of chat programs.

Pictures in them are not unpacked, and do not count.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from templora_memory.importers import (
    _chats,
    _documents,
    _json,
    _messengers,
    _png,
    _stream,
    _zip,
)
from templora_memory.importers._cards import character
from templora_memory.importers._talks import Notes, assemble
from templora_memory.importers._values import Character, ChatLog, FileRefused, Limits, World

_CARD = "card.json"
_MODULE = "module.risum"
_SCHEMES = ("embeded://", "embedded://", "__asset:")
_CHATS = ("conversations.json", "result.json", "chats.json")
_MAX_CHATS = 1000
_PICTURES = (
    ".png",
    ".jpg",
    ".jpeg",
    ".webp",
    ".gif",
    ".avif",
    ".mp4",
    ".webm",
    ".mp3",
    ".ogg",
    ".wav",
)


def read(
    data: bytes, filename: str, limits: Limits, *, user: str = "", person: str = ""
) -> Character | ChatLog | World:
    """What a zip holds.

    Args:
        data: the zip, perhaps behind a JPEG.
        filename: names a character or a book that has no name.
        limits: what may be asked for.
        user: of a chat: who the user is.
        person: of a chat: whom the assistant plays.

    Raises:
        FileRefused: `bad_file`, `encrypted_zip`, `no_card_json`, `too_many_entries`, `too_large`,
            and what a card, a document or a chat can be refused for.
    """
    with _zip.opened(data, limits) as archive:
        names = set(archive.namelist())
        if _CARD in names:
            return _charx(archive, filename, limits)
        if "word/document.xml" in names:
            return _documents.read_docx(data, filename, limits)
        if "META-INF/container.xml" in names or "mimetype" in names:
            return _documents.read_epub(archive, filename, limits)
        if (log := _export(archive, filename, limits, user=user, person=person)) is not None:
            return log
    raise FileRefused(
        "no_card_json",
        "This zip has no card.json at its root: it is no CHARX character, and no document (DOCX, "
        "EPUB) or export of a chat program either. Folders of pictures cannot be read.",
    )


# --- CHARX ----------------------------------------------------------------------------------------


def _charx(archive: zipfile.ZipFile, filename: str, limits: Limits) -> Character:
    found = [member for member in archive.infolist() if member.filename == _CARD]
    if len(found) > 1:
        raise FileRefused("bad_file", "This zip has several card.json: it is not safe to guess.")
    card = _json.parse(_zip.member(archive, found[0], limits.text), limits)
    noted: list[str] = []
    _add_module(archive, card, limits, noted)
    pictures = sum(name.lower().endswith(_PICTURES) for name in archive.namelist())
    portrait = _portrait(archive, card, limits)
    if more := pictures - (portrait is not None):
        noted.append(f"Not used: {more} pictures and sounds of the file.")
    return character(
        card, source="CHARX", filename=filename, portrait=portrait, warnings=tuple(noted)
    )


def _add_module(archive: zipfile.ZipFile, card: Any, limits: Limits, noted: list[str]) -> None:
    """Take the lorebook of RisuAI's module, where the module is JSON; say so where it is not."""
    if _MODULE not in archive.namelist():
        return
    try:
        body = _zip.member(archive, _MODULE, limits.text)
        module = json.loads(body) if body[:1] == b"{" else None
    except (FileRefused, ValueError, RecursionError):
        module = None
    data = card.get("data") if isinstance(card, dict) else None
    module = module.get("module", module) if isinstance(module, dict) else None
    if isinstance(module, dict) and isinstance(data, dict):
        _json.check_depth(module, limits)
        if isinstance(module.get("lorebook"), list) and not data.get("character_book"):
            data["character_book"] = {"entries": module["lorebook"]}
            return
    noted.append(
        "Not used: the module of RisuAI in this file (module.risum: scripts, perhaps lore). For "
        "its lore export the lorebook from RisuAI as JSON."
    )


def _portrait(archive: zipfile.ZipFile, card: object, limits: Limits) -> bytes | None:
    """The main icon, if it is a PNG of a size that can be shown."""
    data = card.get("data") if isinstance(card, Mapping) else None
    assets: Any = data.get("assets") if isinstance(data, Mapping) else None
    for asset in assets[:1000] if isinstance(assets, list) else ():
        uri = asset.get("uri") if isinstance(asset, Mapping) else None
        if not isinstance(uri, str) or asset.get("type") != "icon":
            continue
        path = next((uri.removeprefix(s) for s in _SCHEMES if uri.startswith(s)), None)
        member = archive.NameToInfo.get(path) if path else None
        if member is None or member.file_size > limits.file:
            continue
        try:
            body = _zip.member(archive, member, limits.portrait)
        except FileRefused:
            return None  # a broken picture does not spoil a character
        if body.startswith(_png.SIGNATURE):
            return _png.read(body, limits)[1]
    return None


# --- exports of chat programs ---------------------------------------------------------------------


def _export(
    archive: zipfile.ZipFile, filename: str, limits: Limits, *, user: str, person: str
) -> ChatLog | None:
    members = {name: PurePosixPath(name) for name in archive.namelist()[: limits.entries]}
    for name, path in members.items():
        if path.name in _CHATS and len(path.parts) <= 3:  # noqa: PLR2004  # not deep inside
            body = _zip.member(archive, name, limits.file)
            if (log := _stream.read(body, limits, user=user, character=person)) is not None:
                return log
    for name, path in members.items():
        if path.suffix == ".txt" and len(path.parts) == 1:
            body = _zip.member(archive, name, limits.file)
            if _messengers.is_whatsapp(body[:20_000].decode("utf-8", errors="replace")):
                called = filename if path.stem == "_chat" else path.name
                return _messengers.read_whatsapp(body, called, limits, user=user, character=person)
    if {"users.json", "channels.json"} & members.keys():
        return _slack(archive, members, limits, user=user, person=person)
    threads = [
        name
        for name, path in members.items()
        if path.name.startswith("message_") and path.suffix == ".json"
    ]
    if threads:
        return _threads(archive, sorted(threads)[:_MAX_CHATS], limits, user=user, person=person)
    return None


def _slack(
    archive: zipfile.ZipFile,
    members: Mapping[str, PurePosixPath],
    limits: Limits,
    *,
    user: str,
    person: str,
) -> ChatLog:
    notes = Notes()
    names: dict[str, str] = {}
    if "users.json" in members:
        names = _messengers.slack_names(_parsed(archive, "users.json", limits))
    channels: dict[str, list[Any]] = {}
    room = limits.file
    for name, path in sorted(members.items()):
        if len(path.parts) != 2 or path.suffix != ".json":  # noqa: PLR2004  # channel/day.json
            continue
        room -= archive.getinfo(name).file_size
        if room < 0:
            notes.warnings.append(f"Only the first {limits.file / 1e6:.0f} MB were read.")
            break
        rows = _parsed(archive, name, limits)
        if isinstance(rows, list):
            channels.setdefault(path.parts[0], []).extend(r for r in rows if isinstance(r, Mapping))
    talks = (_messengers.slack_talk(rows, notes, names, title) for title, rows in channels.items())
    return assemble(
        talks, source="Slack export", notes=notes, limits=limits, user=user, character=person
    )


def _threads(
    archive: zipfile.ZipFile, names: list[str], limits: Limits, *, user: str, person: str
) -> ChatLog:
    """All conversations of an Instagram or Messenger export."""
    values = (_parsed(archive, name, limits) for name in names)
    kind = "Instagram or Messenger export"
    return _chats.read_items(values, kind, limits, user=user, character=person)


def _parsed(archive: zipfile.ZipFile, name: str, limits: Limits) -> Any:
    return _json.parse(_zip.member(archive, name, limits.file), limits, chat=True)
