"""An interview: questions that any character can be asked, answered with the text in the prompt.

A small model reads better than it asks: with a bio before it, it answers most questions, while the
questions that it writes itself leave much of the bio out. What the text says nothing about it makes
up; such answers are left out, see `grounded`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from importlib import resources

from torch import Tensor

from templora_memory.backends.local.recipes.base import Soft, Tools
from templora_memory.backends.local.recipes.beside import Shown, beside
from templora_memory.backends.local.recipes.sentences import sentences
from templora_memory.domain.messages import Message

ANSWER = 40
"""Tokens that an answer may take."""
GAIN = 0.3
"""Least probability that the text adds to a word, for the word to come from the text."""

_WORD = re.compile(r"\w+")
_TOP = 64


def interview() -> list[str]:
    """Questions to a character, written for this package."""
    file = resources.files("templora_memory.backends.local.recipes") / "interview.txt"
    return file.read_text(encoding="utf-8").splitlines()


def interviewed(text: str, tools: Tools) -> list[tuple[str, str]]:
    """The questions of the interview, with the answers that the model gives to them."""
    prompts = [(Message("system", text), Message("user", asked)) for asked in interview()]
    kept = [p for p in prompts if len(tools.text.prompt(p)) + ANSWER <= tools.room]
    said = tools.write(kept, max_tokens=ANSWER) if kept else []
    return [
        (asked.content, answer.strip())
        for (_, asked), answer in zip(kept, said, strict=True)
        if answer.strip()
    ]


def grounded(asked: Sequence[tuple[str, str]], text: str, tools: Tools) -> list[tuple[str, str]]:
    """Those pairs whose answer takes something from the text.

    That is a word which stands in few sentences of the text (so it is not the hero's name) and not
    in the question, and which the model holds far more likely with the text before it.
    """
    with_text: list[Shown] = []
    without: list[Shown] = []
    found: list[tuple[str, str]] = []
    for question, answer in asked:
        turn = (Message("user", question), Message("assistant", answer))
        # the words alone: what the template opens an answer with is no part of the comparison
        both = beside(turn, text, tools, seen=len(tools.text.prompt(turn[:1])))
        if both is not None:
            with_text.append(both[0])
            without.append(both[1])
            found.append((question, answer))
    if not found:
        return []
    read = tools.expect(with_text, top=_TOP)
    guessed = tools.expect(without, top=_TOP)
    rare = _rare(text)
    kept = []
    for pair, (asked_ids, count), own, other in zip(found, without, read, guessed, strict=True):
        said = asked_ids[-count:]
        gains = [_p(own, i, token) - _p(other, i, token) for i, token in enumerate(said)]
        if _takes(pair, said, gains, rare, tools):
            kept.append(pair)
    return kept


def _rare(text: str) -> set[str]:
    """Words, in lower case, that stand in few of a text's sentences."""
    found = [set(_WORD.findall(sentence.lower())) for sentence in sentences(text)]
    counts = Counter(word for words in found for word in words)
    return {word for word, count in counts.items() if count <= max(1, len(found) // 4)}


def _takes(
    pair: tuple[str, str], ids: Sequence[int], gains: Sequence[float], rare: set[str], tools: Tools
) -> bool:
    """Whether a rare word of the answer, made of these tokens, became likely by the text."""
    question, answer = pair
    wanted = rare - set(_WORD.findall(question.lower()))
    words = [m for m in _WORD.finditer(answer) if m.group().lower() in wanted]
    if not words:
        return False
    ends = [len(tools.text.decode(ids[: number + 1])) for number in range(len(ids))]
    return any(
        gain >= GAIN and begin < match.end() and end > match.start()
        for match in words
        for begin, end, gain in zip([0, *ends], ends, gains, strict=False)
    )


def _p(soft: Soft, place: int, token: int) -> float:
    """The probability of a token, 0 where it is not among the likeliest."""
    at: Tensor = (soft.ids[place] == token).nonzero()
    return float(soft.p[place, at[0, 0]]) if len(at) else 0.0
