"""Text as it is safe to show and to learn: decoding, markup removed, macros filled."""

from __future__ import annotations

import re
import unicodedata

from templora_memory.importers._values import FileRefused

MAX_NAME = 120
_ROOM = 10_000  # characters that macros may add to a short text
_BOMS = ((b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"), (b"\xef\xbb\xbf", "utf-8-sig"))
# bounded and without nested repetition, so that hostile text costs linear time
_BLOCKS = re.compile(r"<(script|style)\b[^<>]{0,2000}>[^<]*(?:</\1\s*>)?", re.IGNORECASE)
_TAGS = re.compile(r"</?[a-zA-Z!][^<>]{0,2000}>")
_PICTURES = re.compile(r"!\[[^\[\]]{0,2000}\](?:\([^()]{0,4000}\)|\[[^\[\]]{0,2000}\])?")
_SPACE = re.compile(r"(?<![ \t])[ \t]+\n")  # the look-behind keeps it linear
_BLANK_LINES = re.compile(r"\n{3,}")
_MACRO = re.compile(r"\{\{([^{}]{0,2000})\}\}|<(user|bot|char|start)>", re.IGNORECASE)
_KEPT_TAGS = re.compile(r"<(user|bot|char|start)>", re.IGNORECASE)


def decode(data: bytes) -> tuple[str, bool]:
    """The text of a file, and whether its encoding had to be guessed.

    Raises:
        FileRefused: `bad_file` if it is no text at all.
    """
    for mark, encoding in _BOMS:
        if data.startswith(mark):
            return data.decode(encoding, errors="replace"), False
    if b"\0" in data:
        raise FileRefused(
            "unsupported_type",
            "This file is not text and no format known here. Use a character card (PNG, JSON, "
            "CHARX), a text, Markdown or YAML file, a PDF, or a SillyTavern chat (JSONL).",
        )
    try:
        return data.decode("utf-8"), False
    except UnicodeDecodeError:
        return data.decode("cp1252", errors="replace"), True


def repaired(text: str) -> str:
    """Text without lone surrogates and control characters, with plain line ends."""
    text = text.encode("utf-8", errors="replace").decode("utf-8")
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ufeff]", "", text)


def without_pictures(text: str) -> str:
    """Markdown without images, which a page would fetch from elsewhere."""
    return _PICTURES.sub("", text)


def plain(text: str) -> str:
    """Text without markup: tags, scripts, styles and images go, what they enclose stays.

    ``<START>``, ``<USER>`` and ``<BOT>`` are marks of character cards and stay.
    """
    text = repaired(text)
    if "<" in text:
        text = _BLOCKS.sub("", text)
        text = _TAGS.sub(lambda hit: hit[0] if _KEPT_TAGS.fullmatch(hit[0]) else "", text)
    text = without_pictures(text)
    return _BLANK_LINES.sub("\n\n", _SPACE.sub("\n", text)).strip()


def one_line(text: str, most: int = MAX_NAME) -> str:
    """A name: one line without invisible characters, at most `most` characters."""
    shown = (
        " " if unicodedata.category(c) in {"Cc", "Zl", "Zp"} else c
        for c in plain(text[: 20 * most])
        if unicodedata.category(c) not in {"Cf", "Co", "Cn", "Cs"} or c == "\u200d"
    )
    name = " ".join("".join(shown).split())
    return name if len(name) <= most else name[: most - 1].rstrip() + "…"


def fill(text: str, *, char: str, user: str) -> str:
    """Put the names where a card has its macros; one pass, nothing is filled twice.

    ``{{random:a,b}}`` and ``{{pick:a,b}}`` become their first choice, ``{{roll:6}}`` becomes 1,
    comments and hidden keys vanish, ``{{reverse:abc}}`` is reversed. Unknown macros stay, and all
    that follow once the text has grown to twice its length.
    """
    names = {"char": char, "bot": char, "user": user}
    room = len(text) + _ROOM

    def value(hit: re.Match[str]) -> str:
        nonlocal room
        filled = names.get(hit[2].lower(), "") if hit[2] else _macro(hit[1].strip(), names, hit[0])
        room -= max(0, len(filled) - len(hit[0]))
        return filled if room > 0 else hit[0]

    return _MACRO.sub(value, text)


def _macro(macro: str, names: dict[str, str], written: str) -> str:
    word, _, rest = macro.partition(":")
    word = word.strip().lower()
    if macro.startswith("//"):
        word = "comment"
    values = {
        "comment": "",
        "hidden_key": "",
        "random": re.split(r"(?<!\\),", rest, maxsplit=1)[0].replace("\\,", ",").strip(),
        "roll": "1",
        "reverse": rest[::-1],
        **({} if rest else names),
    }
    values["pick"] = values["random"]
    return values.get(word, written)
