"""A document as facts: each something that can be said in answer to a question.

Prose is cut into sentences; one that is too short to say anything alone joins the one before. Lines
of character cards and fact sheets ("Job: night watchman", ``Likes("tea" + "rain")``) become
sentences of their own, with what stands before the colon in each. If the text is about a character
who will be spoken to, the facts are in their voice. Dialogue lines of the character ("Ada: ...")
are no facts but answers to what stands before them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from templora_memory.backends.local.recipes.base import sentences
from templora_memory.backends.local.recipes.first_person import (
    first_person,
    in_own_words,
    pronoun_of,
)
from templora_memory.domain.languages import DEFAULT, FUNCTION_WORDS, language_of
from templora_memory.domain.messages import Document
from templora_memory.domain.segmentation import fold

SHORT = 20
"""A sentence with fewer characters joins the one before,"""
JOINED = 200
"""unless the two have more than this."""

_COLON = r"(?!(?<=\d):\d|://)[:\uff1a]"  # of no time and no address; the second is Chinese
_SHEET_LINE = re.compile(
    rf"^[\s\-*•]*(?P<key>[^\W\d_][\w '\u2019/()-]{{0,40}}?)[ ]?{_COLON}[ ]*(?P<value>\S.*)$"
)
_W_PLUS_PLUS = re.compile(r'^[\s\[{]*(?P<key>[^\W\d_][\w ]*)\((?P<items>".*")\)[\s\]}]*$')
_ITEM_BORDER = re.compile(r'"\s*\+\s*"')
_NAME_KEYS = frozenset({"name", "character", "full name"})
_LETTER = re.compile(r"[^\W\d_]")


@dataclass(frozen=True, slots=True)
class Facts:
    """What a document says.

    Args:
        language: of the text, an ISO 639-1 code.
        character: who says it; None: nobody.
        facts: sentences.
        exchanges: what was said to the character, and the answer.
    """

    language: str
    character: str | None
    facts: tuple[str, ...]
    exchanges: tuple[tuple[str, str], ...]


def facts_of(document: Document) -> Facts:
    """Return the facts and the dialogue of a document."""
    language, name = language_of(document.text), document.character
    exchanges, spoken, lines = _dialogue(document.text.splitlines(), name)
    narration = "\n".join(lines)
    voiced = name is not None and language == DEFAULT and not in_own_words(narration)
    pronoun = pronoun_of(narration) if voiced else None
    facts: list[str] = []
    prose: list[str] = []
    for line in [*lines, ""]:
        on_sheet = _sheet_facts(line, name, own=voiced)
        if on_sheet is None and line.strip():
            prose.append(line)
            continue
        facts += _join_short(sentences("\n".join(prose)))
        prose = []
        facts += on_sheet or []
    if voiced and name is not None:
        facts = [_in_voice(fact, name, pronoun) for fact in facts]
    facts += [sentence for line in spoken for sentence in _join_short(sentences(line))]
    return Facts(language, name, tuple(dict.fromkeys(filter(_LETTER.search, facts))), exchanges)


def _in_voice(fact: str, name: str, pronoun: str | None) -> str:
    if re.fullmatch(rf"My name: {re.escape(name)}\W*", fact):
        return f"My name is {name}."
    return first_person(fact, name, pronoun)


def _dialogue(
    lines: list[str], name: str | None
) -> tuple[tuple[tuple[str, str], ...], list[str], list[str]]:
    """Return what the character answers to the line before, what they say unasked, other lines."""
    if name is None:
        return (), [], lines
    speaks = re.compile(rf"^(?:{re.escape(name)}|\{{\{{char\}}\}}){_COLON}\s*(\S.*)$")
    speaker = re.compile(rf"^[^:\uff1a]{{1,40}}{_COLON}\s*(\S.*)$")
    exchanges: list[tuple[str, str]] = []
    spoken: list[str] = []
    others: list[str] = []
    asked = None  # what somebody else said in the line before
    for line in lines:
        if answer := speaks.match(line):
            if asked:
                others.pop()
                exchanges.append((asked[1], answer[1]))
            else:
                spoken.append(answer[1])
            asked = None
        else:
            others.append(line)
            asked = speaker.match(line)
    return tuple(exchanges), spoken, others


def _sheet_facts(line: str, name: str | None, *, own: bool) -> list[str] | None:
    """Return the facts of a line of a sheet or card; None: it is prose.

    A label begins with no small word and no name: "She has one rule: ..." is a sentence, and what
    follows it in the line has nothing to do with the rule.
    """
    if match := _W_PLUS_PLUS.match(line):
        values = _ITEM_BORDER.split(match["items"].strip('"'))
    elif match := _SHEET_LINE.match(line):
        first = match["key"].split()[0]
        named = name is not None and first in {"{{char}}", *name.split()}
        if named or fold(first) in FUNCTION_WORDS[DEFAULT]:
            return None
        values = _join_short(sentences(match["value"]))
    else:
        return None
    key = match["key"].strip()
    if key.lower() in _NAME_KEYS:
        key = "name"
    label = f"My {key[0].lower()}{key[1:]}" if own else key
    return [f"{label}: {value.strip().rstrip('.')}." for value in values if value.strip()]


def _join_short(pieces: list[str]) -> list[str]:
    """Return sentences of which the shortest are joined to the one before."""
    joined: list[str] = []
    for sentence in pieces:
        if joined and len(sentence) < SHORT and len(joined[-1]) + len(sentence) < JOINED:
            joined[-1] += f" {sentence}"
        else:
            joined.append(sentence)
    return joined
