"""Text as it is safe to show and to learn: markup removed, macros filled."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

from templora_memory.importers import _markup

MAX_NAME = 120
_ROOM = 10_000  # characters that macros may add to a short text
_NESTED = 4  # macros within macros that are filled
# bounded and without nested repetition, so that hostile text costs linear time
_PICTURES = re.compile(r"!\[[^\[\]]{0,2000}\](?:\([^()]{0,4000}\)|\[[^\[\]]{0,2000}\])?")
_DATA = re.compile(r"\bdata:[a-zA-Z0-9.+/-]{1,80}(?:;[\w=.-]{1,40}){0,3},[A-Za-z0-9+/=%_-]{40,}")
_SPACE = re.compile(r"(?<![ \t])[ \t]+\n")  # the look-behind keeps it linear
_BLANK_LINES = re.compile(r"\n{3,}")
_MACRO = re.compile(
    r"\{\{((?:[^{}]|\{(?!\{)|\}(?!\})){0,4000})\}\}|<(user|bot|char)>", re.IGNORECASE
)
_THOUGHTS = ("think", "thinking", "reasoning")
_THOUGHT = re.compile(rf"(?<!`)<({'|'.join(_THOUGHTS)})>(?!`)", re.IGNORECASE)


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

    ``<START>``, ``<USER>``, ``<BOT>`` and whatever else is no element of HTML stays.
    """
    text = repaired(text)
    if "data:" in text:
        text = _DATA.sub("", text)
    if "<" in text or "&" in text:
        text = _markup.fragment(text)
    return tidy(without_pictures(text))


def tidy(text: str) -> str:
    """Text without blanks at the ends of lines and without more than one empty line."""
    return _BLANK_LINES.sub("\n\n", _SPACE.sub("\n", text)).strip()


def spoken(text: str) -> str:
    """What somebody wrote in a chat: no web page, so nothing but data addresses goes."""
    text = repaired(text)
    if "data:" in text:
        text = without_pictures(_DATA.sub("", text)) if _DATA.search(text) else text
    return text.strip()


def without_thoughts(text: str) -> tuple[str, bool]:
    """What an assistant said, and whether it thought: ``<think>...</think>`` is no speech.

    A thought without an end reaches to the end, one without a beginning begins the text.
    """
    low = text.lower()
    if "<" not in text or not any(f"{word}>" in low for word in _THOUGHTS):
        return text, False
    parts, position, thought = [], 0, False
    for word in _THOUGHTS:
        end, begin = low.find(f"</{word}>"), low.find(f"<{word}>")
        if end >= 0 and (begin < 0 or begin > end) and low[end - 1 : end] != "`":
            position, thought = end + len(word) + 3, True  # the template wrote the beginning
    while hit := _THOUGHT.search(text, position):
        parts.append(text[position : hit.start()])
        end = low.find(f"</{hit[1].lower()}>", hit.end())
        position, thought = len(text) if end < 0 else end + len(hit[1]) + 3, True
    parts.append(text[position:])
    return ("".join(parts).strip(), True) if thought else (text, False)


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
    """Put the names where a card has its macros, those within others first.

    Both dialects: ``{{random:a,b}}`` and ``{{random::a::b}}``, also ``pick``, become their first
    choice, ``{{roll:6}}`` becomes 1, comments, hidden keys and settings of variables vanish,
    ``{{reverse:abc}}`` is reversed, ``{{newline}}`` ends a line. Unknown macros stay
    (`unknown_macros` names them), and all that follow once the text has grown to twice its length.
    """
    names = {"char": char, "bot": char, "user": user, "charifnotgroup": char, "group": char}
    room = len(text) + _ROOM

    def value(hit: re.Match[str]) -> str:
        nonlocal room
        filled = names.get(hit[2].lower()) if hit[2] else _macro(hit[1].strip(), names)
        if filled is None:
            return hit[0]
        room -= max(0, len(filled) - len(hit[0]))
        return filled if room > 0 else hit[0]

    for _ in range(_NESTED):
        if "{{" not in text and "<" not in text:
            break
        if (filled := _MACRO.sub(value, text)) == text:
            break
        text = filled
    return _TRIM.sub("", text)


_TRIM = re.compile(r"\n{0,100}\{\{trim\}\}\n{0,100}", re.IGNORECASE)
_WORD = re.compile(r"[^\s:]{0,40}")
_NOTHING = frozenset(
    {"comment", "hidden_key", "noop", "original", "setvar", "addvar", "incvar", "decvar"}
    | {"setglobalvar", "addglobalvar", "banned", "outlet", "//"}
)


def _macro(macro: str, names: dict[str, str]) -> str | None:  # noqa: PLR0911  # a macro each
    """What a macro stands for; None: unknown."""
    if macro.startswith("//"):
        return ""
    hit = _WORD.match(macro)
    word = hit[0].lower() if hit else ""
    rest = macro[len(word) :].lstrip()
    if word in names and not rest:
        return names[word]
    if word in _NOTHING:
        return ""
    if word in {"random", "pick"} and rest:
        return _first_choice(rest)
    if word == "roll" and rest:
        return "1"
    if word == "reverse" and rest.startswith(":"):
        return rest.lstrip(":")[::-1]
    if word == "newline" and not rest:
        return "\n"
    if word == "space" and not rest:
        return " "
    return None


def _first_choice(rest: str) -> str:
    """The first of ``::a::b`` or of ``:a,b``, where a comma after a backslash is one."""
    if rest.startswith("::"):
        body = rest[2:]
        if "::" in body:
            return body.partition("::")[0].strip()
    else:
        body = rest.removeprefix(":")
    return re.split(r"(?<!\\),", body, maxsplit=1)[0].replace("\\,", ",").strip()


def unknown_macros(texts: Iterable[str]) -> tuple[str, ...]:
    """The words of macros that `fill` leaves as they are, each once."""
    found: dict[str, None] = {}
    for text in texts:
        if "{{" not in text:
            continue
        for hit in _MACRO.finditer(fill(text, char="c", user="u")):
            if hit[1] is not None and (word := _WORD.match(hit[1].strip())) and word[0]:
                found[word[0]] = None
    return tuple(found)
