"""CHARX: a zip with `card.json` at its root, perhaps behind a JPEG. Nothing is unpacked to disk."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any

from templora_memory.importers import _png
from templora_memory.importers._cards import character
from templora_memory.importers._json import parse
from templora_memory.importers._values import Character, FileRefused, Limits

_CARD = "card.json"
_METHODS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}
_SCHEMES = ("embeded://", "embedded://", "__asset:")


def read(data: bytes, filename: str, limits: Limits) -> Character:
    """The character of a CHARX file.

    Raises:
        FileRefused: `bad_file`, `encrypted_zip`, `no_card_json`, `too_many_entries`, `too_large`,
            and what a card can be refused for.
    """
    # counted before zipfile builds an object for each
    if data.count(b"PK\x01\x02") > limits.entries:
        raise FileRefused("too_many_entries", f"This zip has over {limits.entries:,} members.")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            card = parse(_member(archive, _only_card(archive), limits.text), limits)
            portrait = _portrait(archive, card, limits)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, ValueError) as error:
        if isinstance(error, FileRefused):
            raise
        raise FileRefused("bad_file", "This zip is damaged: export the character again.") from error
    except OSError as error:
        raise FileRefused("bad_file", "This zip is damaged: export the character again.") from error
    return character(card, source="CHARX", filename=filename, portrait=portrait)


def _only_card(archive: zipfile.ZipFile) -> zipfile.ZipInfo:
    found = [member for member in archive.infolist() if member.filename == _CARD]
    if not found:
        raise FileRefused(
            "no_card_json",
            "This zip has no card.json at its root: it is no CHARX character. "
            "Pictures and folders of chats cannot be read.",
        )
    if len(found) > 1:
        raise FileRefused("bad_file", "This zip has several card.json: it is not safe to guess.")
    return found[0]


def _member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, most: int) -> bytes:
    """The unpacked member, never more than `most` bytes of it in memory."""
    if member.flag_bits & 1:
        raise FileRefused("encrypted_zip", "This zip is encrypted: export it without a password.")
    if member.compress_type not in _METHODS:
        raise FileRefused("bad_file", "This zip is compressed in a way that cards do not use.")
    with archive.open(member) as stream:
        body = stream.read(most + 1)
    if len(body) > most:
        raise FileRefused("too_large", f"A part of this zip unpacks to over {most / 1e6:.0f} MB.")
    return body


def _portrait(archive: zipfile.ZipFile, card: object, limits: Limits) -> bytes | None:
    """The main icon, if it is a PNG of a size that can be shown."""
    data = card.get("data") if isinstance(card, Mapping) else None
    assets: Any = data.get("assets") if isinstance(data, Mapping) else None
    for asset in assets[:100] if isinstance(assets, list) else ():
        uri = asset.get("uri") if isinstance(asset, Mapping) else None
        if not isinstance(uri, str) or asset.get("type") != "icon":
            continue
        path = next((uri.removeprefix(s) for s in _SCHEMES if uri.startswith(s)), None)
        member = archive.NameToInfo.get(path) if path else None
        if member is None or member.file_size > limits.file:
            continue
        try:
            body = _member(archive, member, limits.file)
        except FileRefused:
            return None  # a broken picture does not spoil a character
        if body.startswith(_png.SIGNATURE):
            return _png.read(body, limits)[1]
    return None
