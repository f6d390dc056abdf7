"""Find out what a file is from its first bytes, never from its name, and read it.

The exception are formats of plugins: those are chosen by a suffix that no format here has.
"""

from __future__ import annotations

import os
from pathlib import Path

from templora_memory import plugins
from templora_memory.importers import _archives, _chats, _documents, _png
from templora_memory.importers._cards import character, is_card
from templora_memory.importers._json import parse
from templora_memory.importers._text import decode
from templora_memory.importers._values import Character, ChatLog, FileRefused, Limits

_JPEG = b"\xff\xd8\xff"
_ZIP = b"PK\x03\x04"
_SUFFIXES = frozenset(
    {"charx", "jpeg", "jpg", "json", "jsonl", "markdown", "md", "pdf", "png", "txt", "yaml", "yml"}
)
"""Suffixes of the formats that are read here; no plugin takes them over."""
_OTHERS = {
    b"GIF8": "a GIF picture",
    b"RIFF": "a WebP picture or a sound",
    b"MZ": "a program",
    b"\x7fELF": "a program",
    b"Rar!": "a RAR archive",
    b"7z\xbc\xaf": "a 7z archive",
    b"\x1f\x8b": "a gzip archive",
}


def load(
    data: bytes | os.PathLike[str],
    *,
    filename: str = "",
    limits: Limits | None = None,
    importer: str | None = None,
) -> Character | ChatLog:
    """A character or a chat, whatever the file holds.

    Args:
        data: the bytes, or a path to read them from.
        filename: names a character whose file has no name in it. Where its suffix is the name of an
            installed importer (`templora_memory.plugins`) and of no format here, that one reads.
        limits: what a file may ask for at most; None: the defaults.
        importer: name of the installed importer that reads the file; None: found out.

    Raises:
        FileRefused: why, and what to do, without a word of the file.
        InvalidSetting: the importer is not installed, or cannot be used.
        OSError: the path cannot be read.
    """
    most = limits or Limits()
    if not isinstance(data, bytes):
        path = Path(data)
        filename = filename or path.name
        with path.open("rb") as stream:
            data = stream.read(most.file + 1)
    if len(data) > most.file:
        raise FileRefused("too_large", f"This file is larger than {most.file / 1e6:.0f} MB.")
    if not data.strip():
        raise FileRefused("empty", "This file is empty: choose another one.")
    if name := importer or _importer_for(filename):
        return plugins.importer(name)(data, filename, most)  # type: ignore[no-any-return]
    if data.startswith(_png.SIGNATURE):
        return _read_png(data, filename, most)
    if data.startswith(_ZIP) or (data.startswith(_JPEG) and _ZIP in data):
        return _archives.read(data, _documents.stem(filename), most)
    if data.startswith(b"%PDF-"):
        return _documents.read_pdf(data, filename, most)
    _refuse_others(data)
    return _read_as_text(data, filename, most)


def _importer_for(filename: str) -> str | None:
    """Return the name of the installed importer for this suffix, None for formats read here."""
    suffix = filename.rpartition(".")[2].lower()
    if suffix in _SUFFIXES or suffix not in plugins.names("importers"):
        return None
    return suffix


def _refuse_others(data: bytes) -> None:
    if data.startswith(_JPEG):
        raise FileRefused(
            "not_a_card",
            "This JPEG has no character inside. Export it from SillyTavern as PNG, "
            "or paste the bio.",
        )
    for magic, what in _OTHERS.items():
        if data.startswith(magic):
            raise FileRefused(
                "unsupported_type",
                f"This is {what}. Use a character card (PNG, JSON, CHARX), a text, Markdown or "
                "YAML file, a PDF, or a SillyTavern chat (JSONL).",
            )


def _read_png(data: bytes, filename: str, limits: Limits) -> Character:
    texts, picture, warnings = _png.read(data, limits)
    card = texts.get("ccv3") or texts.get("chara")
    if card is None:
        raise FileRefused(
            "not_a_card",
            "This picture has no character inside. Export it from SillyTavern as PNG, "
            "or paste the bio.",
        )
    value = parse(_png.from_base64(card, limits), limits)
    name = _documents.stem(filename)
    return character(value, source="PNG", filename=name, portrait=picture, warnings=warnings)


def _read_as_text(data: bytes, filename: str, limits: Limits) -> Character | ChatLog:
    head = decode(data[:100_000])[0].lstrip("\ufeff \t\r\n")
    if head[:1] not in {"{", "["}:
        return _documents.read_text(data, filename, limits)
    if _chats.is_header(head.partition("\n")[0]):
        return _chats.read_jsonl(data, limits)
    value = parse(data, limits)
    if _chats.is_chat(value):
        return _chats.read_json(value, limits)
    if not is_card(value):
        raise FileRefused(
            "not_a_card",
            "This JSON has no character inside: a card has a name and a description.",
        )
    return character(value, source="JSON", filename=_documents.stem(filename))


def load_character(
    data: bytes | os.PathLike[str], *, filename: str = "", limits: Limits | None = None
) -> Character:
    """As `load`, for characters only.

    Raises:
        FileRefused: also `not_a_card` for a chat.
    """
    found = load(data, filename=filename, limits=limits)
    if isinstance(found, ChatLog):
        raise FileRefused("not_a_card", "This is a chat, not a character: use load_chat.")
    return found


def load_chat(
    data: bytes | os.PathLike[str], *, filename: str = "", limits: Limits | None = None
) -> ChatLog:
    """As `load`, for chats only.

    Raises:
        FileRefused: also `not_a_card` for a character.
    """
    found = load(data, filename=filename, limits=limits)
    if isinstance(found, Character):
        raise FileRefused("not_a_card", "This is no chat. Use SillyTavern's JSONL.")
    return found
