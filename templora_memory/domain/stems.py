"""Text as what a search compares: stems of words, and signs of scripts without spaces.

Indexed text is stemmed in its own language. A query is too short to say in which language it is,
so it is stemmed in every language that the index has met, but for its smallest words. Chinese,
Japanese, Korean, Thai, Lao, Khmer and Burmese are found by single signs and by two neighbours.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from functools import cache, lru_cache
from itertools import pairwise
from unicodedata import normalize

import regex
import snowballstemmer

from templora_memory.domain.languages import DEFAULT, FUNCTION_WORDS, language_of
from templora_memory.domain.segmentation import word_runs

_STEMMERS = {
    "ar": "arabic",
    "cs": "czech",
    "da": "danish",
    "de": "german",
    "el": "greek",
    "en": "english",
    "es": "spanish",
    "fa": "persian",
    "fi": "finnish",
    "fr": "french",
    "hi": "hindi",
    "hu": "hungarian",
    "hy": "armenian",
    "id": "indonesian",
    "it": "italian",
    "nb": "norwegian",
    "nl": "dutch",
    "pl": "polish",
    "pt": "portuguese",
    "ro": "romanian",
    "ru": "russian",
    "sr": "serbian",
    "sv": "swedish",
    "ta": "tamil",
    "tr": "turkish",
}
_KNOWN = frozenset(snowballstemmer.algorithms())  # an older release has fewer
_ONE_SCRIPT = ({"ru", "uk", "be", "sr"}, {"ar", "fa", "ur"})
_LATIN = regex.compile(r"[\p{Latin}\p{N}]")
_LOCK = threading.Lock()
_SIGN = regex.compile(r"[^\p{M}]\p{M}*")
_UNSPACED = regex.compile(
    r"[\p{scx=Han}\p{scx=Hiragana}\p{scx=Katakana}\p{scx=Bopomofo}\p{Hangul}"
    r"\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]"
)
# accents of Latin and Greek, stress marks, the points of Hebrew and Arabic, which few people type
_OPTIONAL_MARKS = regex.compile(
    r"(?<=[\p{Latin}\p{Greek}][\u0300-\u036f]*)[\u0300-\u036f]"
    r"|[\u0300\u0301\u0591-\u05bd\u05bf\u05c1\u05c2\u05c7\u0640\u064b-\u0652\u0670]"
)


def index_terms(text: str, language: str) -> list[str]:
    """Return what a text in a language is found by, as often as it stands there."""
    terms: list[str] = []
    for word in word_runs(text):
        if _UNSPACED.match(word):
            signs = _signs(word)
            terms += signs
            terms += _neighbours(signs)
        else:
            terms.append(stem(word, language))
    return terms


def query_terms(text: str, languages: Iterable[str]) -> list[str]:
    """Return what a query looks for, each once, in an index that has met these languages."""
    terms = (term for word in query_words(text, languages) for term in word)
    return list(dict.fromkeys(terms))


def query_words(text: str, languages: Iterable[str]) -> list[tuple[str, ...]]:
    """Return the words of a query, each as the terms any of which finds it.

    The commonest small words of its language ("what did the") are left out, unless there are no
    others: they find everything.
    """
    languages = sorted(languages)
    runs = word_runs(text)
    small = FUNCTION_WORDS.get(language_of(text), frozenset())
    found: list[tuple[str, ...]] = []
    for word in [run for run in runs if run not in small] or runs:
        if _UNSPACED.match(word):
            signs = _signs(word)
            found += [(sign,) for sign in _neighbours(signs) or signs]
        else:
            found.append(tuple(dict.fromkeys(stem(word, language) for language in languages)))
    return list(dict.fromkeys(found))


@lru_cache(maxsize=50_000)
def stem(word: str, language: str) -> str:
    """Return the stem of a word as it is compared, without accents.

    In this language, unless it is written in another script; without a stemmer, the word itself.
    """
    name = _STEMMERS.get(_language_in_script(word, language))
    if name is None or name not in _KNOWN:
        return without_accents(word)
    with _LOCK:  # a stemmer keeps the word that it is at
        return without_accents(_stemmer(name).stemWord(word))


def _language_in_script(word: str, language: str) -> str:
    if _LATIN.match(word):
        return language if language in FUNCTION_WORDS else DEFAULT
    own = language_of(word)
    return language if any({own, language} <= group for group in _ONE_SCRIPT) else own


@cache
def _stemmer(name: str) -> snowballstemmer.stemmer:
    return snowballstemmer.stemmer(name)


def without_accents(word: str) -> str:
    """Return a word without the marks that people leave out."""
    return (
        word
        if word.isascii()
        else normalize("NFC", _OPTIONAL_MARKS.sub("", normalize("NFD", word)))
    )


def _signs(run: str) -> list[str]:
    return [sign.group() for sign in _SIGN.finditer(normalize("NFC", run))]


def _neighbours(signs: list[str]) -> list[str]:
    return [first + second for first, second in pairwise(signs)]
