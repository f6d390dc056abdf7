"""Find out what a file is from its content, never from its name alone, and read it.

What begins like a format is tried as one, and is a text if it turns out to be none. The exception
are formats of plugins: those are chosen by a suffix that no format here has.
"""

from __future__ import annotations

import binascii
import os
import re
from collections.abc import Iterable
from pathlib import Path

from templora_memory import plugins
from templora_memory.importers import (
    _archives,
    _chats,
    _documents,
    _exif,
    _lore,
    _messengers,
    _png,
    _segments,
    _stream,
    _xml,
    _zip,
)
from templora_memory.importers._cards import character as read_card, is_card
from templora_memory.importers._encoding import declared, decode
from templora_memory.importers._json import parse
from templora_memory.importers._use import world_character
from templora_memory.importers._values import Character, ChatLog, FileRefused, Limits, World

_HEAD = 100_000
_RTF = b"{\\rtf"
_SUFFIXES = frozenset(
    "charx jpeg jpg json jsonl markdown md pdf png txt yaml yml webp docx rtf epub html htm xhtml "
    "lorebook tmx xlf xliff po tbx tsv sdltm zip".split()
)
"""Suffixes of the formats that are read here; no plugin takes them over, unless named."""
_OTHERS = {
    b"GIF8": "a GIF picture",
    b"RIFF": "a sound or a film",
    b"MZ": "a program",
    b"\x7fELF": "a program",
    b"Rar!": "a RAR archive",
    b"7z\xbc\xaf": "a 7z archive",
    b"\x1f\x8b": "a gzip archive",
    b"\xd0\xcf\x11\xe0": "a file of an old Word, Excel or PowerPoint: save it as DOCX",
    b"\x00\x00\x00\x0cJXL ": "a JPEG XL picture",
    b"\x1aE\xdf\xa3": "a film",
    b"ID3": "a sound",
    b"OggS": "a sound",
}
_JSON = re.compile(r"\{\s*(?:\"|\}|$)|\[(?:\s*\[)*\s*(?:\{\s*(?:\"|\}|$)|\]|$)")
"""How objects and lists of them begin, and no text that happens to begin with a bracket."""
_LIST = re.compile(r"\[\s*(?:\"|-?\d|true\b|false\b|null\b)")
"""How other lists begin, and texts can: ``[1] Ada keeps bees.``"""
_NO_CARD = (
    "This picture has no character inside. Export it from SillyTavern as PNG, or paste the bio."
)


def load(  # noqa: PLR0911  # a format each
    data: bytes | os.PathLike[str],
    *,
    filename: str = "",
    limits: Limits | None = None,
    importer: str | None = None,
    user: str = "",
    character: str = "",
) -> Character | ChatLog | World:
    """A character, a chat or a world, whatever the file holds.

    Args:
        data: the bytes, or a path to read them from.
        filename: names a character whose file has no name in it. Where its suffix is the name of an
            installed importer (`templora_memory.plugins`) and of no format here, that one reads.
        limits: what a file may ask for at most; None: the defaults.
        importer: name of the installed importer that reads the file; None: found out.
        user: of a chat: which of its speakers the user is; "": as the file says, or guessed.
        character: of a chat: whom the assistant plays; "": as the file says, or the only other one.

    Raises:
        FileRefused: why, and what to do, without a word of the file but the names of speakers.
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
    if not data[:_HEAD].strip() and not data.strip():
        raise FileRefused("empty", "This file is empty: choose another one.")
    if name := importer or _importer_for(filename):
        return plugins.importer(name)(data, filename, most)  # type: ignore[no-any-return]
    stem = _documents.stem(filename)
    if data.startswith(_png.SIGNATURE):
        return _read_png(data, stem, most)
    if data.startswith(_zip.SIGNATURE) or (data.startswith(_exif.JPEG) and _zip.SIGNATURE in data):
        return _archives.read(data, stem, most, user=user, person=character)
    if data.startswith(_exif.JPEG) or _exif.is_webp(data):
        return _read_picture(data, stem, most)
    if data.startswith(b"%PDF-"):
        return _documents.read_pdf(data, filename, most)
    if data.startswith(_RTF):
        return _documents.read_rtf(data, filename, most)
    _refuse_others(data)
    return _read_text(data, filename, most, user=user, character=character)


def _importer_for(filename: str) -> str | None:
    """Return the name of the installed importer for this suffix, None for formats read here."""
    suffix = filename.rpartition(".")[2].lower()
    if suffix in _SUFFIXES or suffix not in plugins.names("importers"):
        return None
    return suffix


def _refuse_others(data: bytes) -> None:
    if data.startswith(b"SQLite format 3\0"):
        raise FileRefused("unsupported_type", _MEMORY)
    for magic, what in _OTHERS.items():
        if data.startswith(magic):
            raise FileRefused(
                "unsupported_type",
                f"This is {what}. Use a character card (PNG, JSON, CHARX), a text, Markdown or "
                "YAML file, a document (PDF, DOCX, RTF, EPUB, HTML), a chat or an export of a "
                "chat program, or a world file.",
            )


_MEMORY = "This is a translation memory: use load_segments, or templora absorb."


# --- pictures -------------------------------------------------------------------------------------


def _read_png(data: bytes, filename: str, limits: Limits) -> Character:
    texts, picture, warnings = _png.read(data, limits)
    packed = [texts[word] for word in ("ccv3", "chara") if word in texts]
    return _first_card(packed, filename, limits, "PNG", picture, warnings)


def _read_picture(data: bytes, filename: str, limits: Limits) -> Character:
    """A card in the Exif fields or the comment of a WebP or JPEG."""
    found = [text for text in _exif.texts(data) if _may_be_card(text)]
    source = "WebP" if _exif.is_webp(data) else "JPEG"
    return _first_card(found, filename, limits, source, None, ())


def _may_be_card(text: bytes) -> bool:
    """Whether a text is no remark about the picture: an object, or base64 of one."""
    try:
        return text.startswith(b"{") or binascii.a2b_base64(text[:8]).startswith(b"{")
    except binascii.Error:
        return False


def _first_card(  # noqa: PLR0917  # all of them are needed
    texts: Iterable[bytes],
    filename: str,
    limits: Limits,
    source: str,
    portrait: bytes | None,
    warnings: tuple[str, ...],
) -> Character:
    """The first of several cards in one picture that is whole: JSON, or base64 of it."""
    refused: FileRefused | None = None
    for text in texts:
        noted = (*warnings, *([_DAMAGED_FIRST] if refused else []))
        try:
            plain = text.lstrip()[:1] == b"{"
            value = parse(text if plain else _png.from_base64(text, limits), limits)
            return read_card(
                value, source=source, filename=filename, portrait=portrait, warnings=noted
            )
        except FileRefused as error:
            refused = refused or error
    raise refused or FileRefused("not_a_card", _NO_CARD)


_DAMAGED_FIRST = "One of the cards in this picture is damaged; the other one was read."


# --- texts ----------------------------------------------------------------------------------------


def _read_text(
    data: bytes, filename: str, limits: Limits, *, user: str, character: str
) -> Character | ChatLog | World:
    head = _decoded_head(data)
    if _JSON.match(head):
        return _read_json(data, filename, limits, user=user, character=character)
    if _LIST.match(head):
        try:
            return _read_json(data, filename, limits, user=user, character=character)
        except FileRefused as error:
            if error.code not in {"bad_json", "too_large"}:
                raise
    if head.startswith("<") and (found := _read_markup(data, head, filename, limits)) is not None:
        return found
    if _messengers.is_whatsapp(head):
        return _messengers.read_whatsapp(data, filename, limits, user=user, character=character)
    if _segments.is_segments(data, filename):
        raise FileRefused("unsupported_type", _MEMORY)
    return _documents.read_text(data, filename, limits)


def _decoded_head(data: bytes) -> str:
    """The beginning of a text; a wrong guess of its encoding does no harm here."""
    head = data[:_HEAD]
    if declared(head) or b"\0" in head:
        text = decode(data[:_HEAD])[0]
    else:
        text = head.decode("utf-8", errors="replace")
    return text.lstrip("\ufeff \t\r\n")


def _read_markup(data: bytes, head: str, filename: str, limits: Limits) -> Character | None:
    """A page; None for a text that has marks of a card at its beginning."""
    if _segments.is_segments(data):
        raise FileRefused("unsupported_type", _MEMORY)
    start = head[:2000].lower()
    named = filename.lower().endswith((".html", ".htm", ".xhtml"))
    if start.startswith(("<!doctype html", "<html")) or named or _xml.root_of(data) == "html":
        return _documents.read_html(data, filename, limits)
    if start.startswith("<?xml"):
        raise FileRefused("unsupported_type", "This XML is no document that is known here.")
    return None


def _read_json(
    data: bytes, filename: str, limits: Limits, *, user: str, character: str
) -> Character | ChatLog | World:
    if _is_lines(data, limits):
        return _chats.read_jsonl(data, limits, user=user, character=character)
    if (log := _stream.read(data, limits, user=user, character=character)) is not None:
        return log
    value = parse(data, limits)
    stem = _documents.stem(filename)
    if _lore.is_world(value):
        return _lore.world(value, filename=stem)
    if not is_card(value):
        raise FileRefused(
            "not_a_card",
            "This JSON has no character inside: a card has a name and a description. It is no "
            "chat and no world file that is known here either.",
        )
    return read_card(value, source="JSON", filename=stem)


def _is_lines(data: bytes, limits: Limits) -> bool:
    """Whether a file has a JSON value on each line, the first of which is a chat's."""
    line, _, rest = data.strip().partition(b"\n")
    if len(line) > limits.text:
        return False
    text = decode(line)[0] if not declared(data) else decode(data)[0].strip().partition("\n")[0]
    values = _chats.first_values(text, limits, 1)
    if not values:
        return False
    if _chats.is_header(values[0]):
        return True
    if not rest.strip().startswith(b"{") and not declared(data):
        return "mes" in values[0] if isinstance(values[0], dict) else False
    return _chats.kind_of_item(values[0]) is not None


def load_character(
    data: bytes | os.PathLike[str], *, filename: str = "", limits: Limits | None = None
) -> Character:
    """As `load`, for characters only. A world file is a character whose text is its lore.

    Raises:
        FileRefused: also `not_a_card` for a chat.
    """
    found = load(data, filename=filename, limits=limits)
    if isinstance(found, ChatLog):
        raise FileRefused("not_a_card", "This is a chat, not a character: use load_chat.")
    return world_character(found) if isinstance(found, World) else found


def load_chat(
    data: bytes | os.PathLike[str],
    *,
    filename: str = "",
    limits: Limits | None = None,
    user: str = "",
    character: str = "",
) -> ChatLog:
    """As `load`, for chats only.

    Raises:
        FileRefused: also `not_a_chat` for a character or a world.
    """
    found = load(data, filename=filename, limits=limits, user=user, character=character)
    if not isinstance(found, ChatLog):
        raise FileRefused(
            "not_a_chat", "This is no chat: use a chat or an export of a chat program."
        )
    return found
