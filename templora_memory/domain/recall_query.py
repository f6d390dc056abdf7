"""What a question asks a memory for: words, and who said it or when it was told.

Who and when are asked for by the names of speakers, in any language, by ISO dates, and otherwise in
English alone: "yesterday", "on 3 May", "what did I say", "what did you tell me". In other languages
these are words like any others.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import date

import regex

from templora_memory.domain.segmentation import contains_words
from templora_memory.domain.stems import query_words
from templora_memory.domain.time_spans import TimeSpan, time_spans, without_time

_TELL = (
    r"(?:say|said|says|tell|told|tells|telling|mention(?:ed|s)?|talk(?:ed|s)?|talking|speak|spoke|"
    r"discuss(?:ed)?)"
)
_TELLING = regex.compile(rf"\b{_TELL}\b", regex.IGNORECASE)
_ROLES = {
    "user": regex.compile(rf"\b(?:did |have |had )?(?:I|i) (?:ever )?{_TELL}\b"),
    "assistant": regex.compile(
        rf"\b(?:did|have|had) you (?:ever )?{_TELL}\b|\byou {_TELL}\b", regex.IGNORECASE
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RecallQuery:
    """A question, taken apart.

    Args:
        words: of the whole question, each as the terms any of which finds it.
        about: those of them that say neither who nor when nor that something was told.
        speakers: names asked for, as they were given, and roles ("user", "assistant").
        spans: days asked for.
    """

    words: tuple[tuple[str, ...], ...]
    about: tuple[tuple[str, ...], ...]
    speakers: frozenset[str] = frozenset()
    spans: tuple[TimeSpan, ...] = ()

    @classmethod
    def of(
        cls, text: str, *, names: Collection[str], languages: Collection[str], today: date
    ) -> RecallQuery:
        """Take a question apart.

        Args:
            text: the question.
            names: of those who spoke.
            languages: that the texts are in.
            today: what "yesterday" is counted from.
        """
        named = frozenset(
            name
            for name in names
            if any(contains_words(text, part) for part in {name, name.split(maxsplit=1)[0]})
        )
        speakers = _asked_speakers(text, named)
        spans = time_spans(text, today)
        rest = without_time(text, today)
        if speakers or spans:
            rest = _TELLING.sub(" ", rest)
        naming = {term for name in named for word in query_words(name, languages) for term in word}
        words = query_words(text, languages)
        # where only small words are left, they come back as words: they ask for nothing
        kept = {word for word in query_words(rest, languages) if not naming & set(word)}
        return cls(
            words=tuple(words),
            about=tuple(word for word in words if word in kept),
            speakers=speakers,
            spans=spans,
        )


def _asked_speakers(text: str, named: frozenset[str]) -> frozenset[str]:
    """Return who is asked about: of several who are named, those of whom it says that they told."""
    roles = {role for role, asking in _ROLES.items() if asking.search(text)}
    if len(named) + len(roles) > 1:
        telling = {
            name
            for name in named
            if regex.search(
                rf"\b{regex.escape(name.split(maxsplit=1)[0])}\b(?:\W+\w+)?\W+{_TELL}\b",
                text,
                regex.IGNORECASE,
            )
        }
        return frozenset(roles | telling) or named
    return named | roles
