"""Example dialogues and scripts: who says what.

A line belongs to whoever its beginning names; one that names nobody goes on with what was said
before it, or is told by nobody. The words of a third person are never the user's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from templora_memory.domain.messages import Message
from templora_memory.importers._text import one_line, plain, repaired

_START = re.compile(
    r"<START>|\{\{example\}\}|^[ \t]*#{3,}[ \t]*$|^[ \t]*\*{3}[ \t]*$", re.IGNORECASE | re.MULTILINE
)
_COLON = r"[ \t]{0,4}[:：]"
_MARKUP = "*_\"'“”[]#> \t"
_SPEAKER = re.compile(
    rf"[ \t]*([*_\"“\[#>-]{{0,4}}[ \t]?"
    rf"(?:\{{\{{(?:user|char|bot)\}}\}}|\{{(?:user|char|character)\}}|<(?:user|bot|char)>"
    rf"|[^\s:：*_\"“”<>{{}}|][^:：\n*_\"“”<>{{}}|]{{0,60}})"
    rf"[ \t]?(?:\([^()\n]{{0,40}}\))?[*_\"”\]]{{0,4}}){_COLON}([*_]{{0,3}})(?!//)[ \t]*",
    re.IGNORECASE,
)
_ASIDE = re.compile(r"\([^()]*\)")
_USERS = frozenset({"{{user}}", "<user>", "{user}", "you", "user"})
_CHARS = frozenset({"{{char}}", "{{bot}}", "<bot>", "<char>", "{char}", "{character}"})
_NARRATORS = frozenset({"narrator", "narration", "system", "ooc", "note", "scene", "story", "gm"})
_LABELS = frozenset(
    "example examples dialogue scenario setting time place location date warning edit ps nb".split()
)
_MAX_WORDS = 4


def example_dialogues(text: str, *names: str) -> tuple[tuple[Message, ...], ...]:
    """The blocks of a card's examples, each a short conversation.

    Args:
        text: as the card has it.
        names: of the character: its name, nicknames.
    """
    own = _own_names(names)
    blocks = (block for block in _START.split(repaired(text)) if block.strip())
    found = (_block(block, own) for block in blocks)
    return tuple(block for block in found if block)


def _own_names(names: Iterable[str]) -> frozenset[str]:
    """What may stand before the character's words: its names, and the words they are made of."""
    found: set[str] = set()
    for name in names:
        whole = _folded(name)
        found.add(whole)
        words = [word for word in re.split(r"[\s,]+", whole) if len(word) > 1]
        found.update(word for word in words if word not in _TITLES)
    return frozenset(found - {""})


_TITLES = frozenset(
    "the of a an and von van de la le el mr mrs ms dr sir lady lord miss sister".split()
)


def _folded(name: str) -> str:
    return " ".join(_ASIDE.sub("", name).strip(_MARKUP).casefold().split())


def _block(block: str, own: frozenset[str]) -> tuple[Message, ...]:
    turns: list[tuple[str, str | None, list[str]]] = []
    for line in block.split("\n"):
        hit = _SPEAKER.match(line)
        speaker = _speaker(hit[1], own) if hit else None
        if hit and speaker is not None:
            turns.append((*speaker, [line[hit.end() :]]))
        elif turns:
            turns[-1][2].append(line.strip())
        elif line.strip():
            turns.append(("system", None, [line.strip()]))
    return tuple(filter(None, (_message(*turn) for turn in turns)))


def _message(role: str, name: str | None, lines: list[str]) -> Message | None:
    said = plain("\n".join(lines))
    if not said:
        return None
    if role == "user":
        return Message("user", said)
    if role == "system":
        return Message("system", said)
    return Message("assistant", f"{name}: {said}" if name else said, name)


def _speaker(written: str, own: frozenset[str]) -> tuple[str, str | None] | None:
    """Role and, of a third person, name; None if these words name nobody."""
    bare = written.strip().lstrip(">").strip('*_"“”#-[] \t')
    folded = _folded(written)
    if bare.lower() in _CHARS or folded in own:
        return "assistant", None
    if bare.lower() in _USERS or folded in _USERS:
        return "user", None
    if folded in _NARRATORS:
        return "system", None
    if folded in _LABELS or not _is_name(_ASIDE.sub("", bare).strip()):
        return None
    return "assistant", one_line(_ASIDE.sub("", bare).strip(_MARKUP))


def _is_name(words: str) -> bool:
    """Whether words look like somebody's name: few, and none begins small."""
    parts = words.split()
    return (
        0 < len(parts) <= _MAX_WORDS
        and not any(mark in words for mark in ".!?,;/\\=")
        and all(not part[0].islower() or part in _PARTICLES for part in parts)
        and any(part[0].isalpha() for part in parts)
        and not parts[0].isdigit()
    )


_PARTICLES = frozenset("of the von van de der di da del la le al el".split())
