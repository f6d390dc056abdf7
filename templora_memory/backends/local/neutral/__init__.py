"""Texts about nothing in particular, by language, all written for this package.

Prose of some hundred words, and everyday questions with short answers: what a memory is to leave as
it was. They are chosen by the language of what is learned, see `domain/languages.py`.
"""

from __future__ import annotations

import json
from functools import cache
from importlib import resources

from templora_memory.domain.languages import DEFAULT, language_of

LANGUAGES = ("ar", "de", "en", "es", "fr", "hi", "ja", "ko", "pt", "ru", "zh")
"""ISO 639-1 codes of the languages that have texts here."""
_NEAREST = {"uk": "ru", "be": "ru", "sr": "ru", "fa": "ar", "ur": "ar"}  # at least in its letters


def neutral_language(language_or_sample: str) -> str:
    """Return the language here that comes nearest to a text's.

    Args:
        language_or_sample: a code such as "zh" or "pt-BR", or a text whose language is looked for.

    Returns:
        One of `LANGUAGES`: English for what has neither texts here nor a neighbour in its script.
    """
    code = language_or_sample.replace("_", "-").partition("-")[0].lower()
    if code not in LANGUAGES and code not in _NEAREST:
        code = language_of(language_or_sample)
    code = _NEAREST.get(code, code)
    return code if code in LANGUAGES else DEFAULT


def neutral_text(language_or_sample: str) -> str:
    """Return prose on everyday subjects, in the language of `neutral_language`."""
    return _prose(neutral_language(language_or_sample))


def everyday_chat(language_or_sample: str) -> tuple[tuple[str, str], ...]:
    """Return everyday questions with short answers, in the language of `neutral_language`.

    None of them is asked by a measurement of this package.
    """
    return _chat(neutral_language(language_or_sample))


@cache
def _prose(language: str) -> str:
    file = resources.files(__name__) / "prose" / f"{language}.txt"
    return file.read_text(encoding="utf-8")


@cache
def _chat(language: str) -> tuple[tuple[str, str], ...]:
    file = resources.files(__name__) / "everyday" / f"{language}.json"
    return tuple((question, answer) for question, answer in json.loads(file.read_text("utf-8")))
