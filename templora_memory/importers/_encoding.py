"""Bytes to text: declared encodings, byte order marks, and a guess that is refused when unsure.

A wrong guess is worse than a refusal, because a memory would learn garbled words. So a guess needs
evidence: letters that one language has together, kana, Hangul, frequent Chinese characters. Only
where there is none of it, charset-normalizer is asked, and believed if it found a language.
"""

from __future__ import annotations

import codecs
import unicodedata
from collections import Counter
from collections.abc import Callable
from itertools import pairwise

from charset_normalizer import from_bytes

from templora_memory.importers._values import FileRefused

_BOMS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
    (codecs.BOM_UTF8, "utf-8-sig"),
)
_SAMPLE = 50_000  # bytes that a guess looks at, beginning before the first one above 127
_ENOUGH = 0.9  # of the letters have to be such as the encoding is for
_COMMON_SHARE = 0.08  # of Chinese characters are among the frequent ones
_COHERENT = 0.6  # from here on charset-normalizer has recognised a language
_ZEROS = 0.2  # of every second byte, in UTF-16 with spaces or Latin letters

_ALPHABETS = tuple(
    frozenset(letters)
    for letters in (
        "àâæçéèêëîïôœùûüÿ",  # French
        "äöüßé",  # German
        "áéíóúüñºª",  # Spanish
        "àáâãçéêíóôõúü",  # Portuguese
        "àèéìíîòóùú",  # Italian
        "àçèéíïòóúü·",  # Catalan
        "åæøéóèê",  # Danish, Norwegian
        "åäöéü",  # Swedish, Finnish
        "áðéíóúýþæö",  # Icelandic
        "áéèêëïíóöü",  # Dutch
        "áéíóúâêîôûŵŷäëïöü",  # Irish, Welsh
        "ëç",  # Albanian
        "áčďéěíňóřšťúůýž",  # Czech
        "áäčďéíĺľňóôŕšťúýž",  # Slovak
        "ąćęłńóśźż",  # Polish
        "áéíóöőúüű",  # Hungarian
        "ăâîșțşţ",  # Romanian
        "čćđšž",  # Croatian, Slovene
        "çğıöşüâîû",  # Turkish
        "äöõüšž",  # Estonian
        "āčēģīķļņšūž",  # Latvian
        "ąčęėįšųūž",  # Lithuanian
    )
)
_MARKS = frozenset("‘’‚“”„«»‹›–—…•·¡¿§°²³½¼¾×÷±€£¥©®™ºª¶†‡ \u00a0\u00ad")
_OPENING = frozenset("‚„«‹¡¿")
_FREQUENT = {
    "CYRILLIC": frozenset("оеаинтслрвкд"),
    "GREEK": frozenset("αοιετσνηυρπκμςάίόέή"),
    "HEBREW": frozenset("יוהלארתבמש"),
    "ARABIC": frozenset("اليمونرتبةدسفكعی"),
    "THAI": frozenset("านรอกเงมยลวดตสทบะ่้ัีิ"),
}
_HANGUL = frozenset("이다는가에의을를은고하지한로리사나기도어자서대해안녕요그아있들거시것수인으니")
_HANZI = frozenset(
    "的一是不了在人有我他這个們中來上大為和國地到以說時要就出會可也你對生能而子那得於著下自之年過發後作"
    "裡用道行所然家種事成方多經麼去法學如都同現當沒動面起看定天分還進好小部其些主樣理心她本前開但因只"
    "从来这们为国说时会对过发后里种经么学现当没动还进样开与很什问给让它把被想知两几已气谢您请"
    "問給讓兩幾氣謝請吗嗎呢吧啊"
)


def declared(data: bytes) -> str | None:
    """The encoding that a byte order mark names."""
    return next((name for mark, name in _BOMS if data.startswith(mark)), None)


def decode(data: bytes) -> tuple[str, bool]:
    """The text of a file, and whether its encoding had to be guessed.

    Raises:
        FileRefused: `unsupported_type` if it is no text at all, `bad_encoding` if nobody can tell
            how it is encoded.
    """
    if name := declared(data):
        try:
            return data.decode(name), False
        except UnicodeDecodeError:
            if name == "utf-8-sig":  # whoever wrote the mark meant UTF-8
                return data.decode(name, errors="replace"), False
            return data[: len(data) // 4 * 4].decode(name, errors="replace"), False
    if b"\0" in data:
        return _wide(data), True
    try:
        return data.decode("utf-8"), False
    except UnicodeDecodeError as error:
        cut = error.start
    text = _guessed(data, cut)
    if text is None:
        raise FileRefused(
            "bad_encoding",
            "This text is not UTF-8, and its encoding cannot be told: save it as UTF-8.",
        )
    return text, True


def _wide(data: bytes) -> str:
    """UTF-16 without a byte order mark, which has zeros in every second byte."""
    sample = data[: _SAMPLE // 2 * 2]
    for name, zeros in (("utf-16-le", sample[1::2]), ("utf-16-be", sample[::2])):
        if zeros.count(0) < _ZEROS * len(zeros):
            continue
        try:
            text = data.decode(name)
        except UnicodeDecodeError:
            continue
        if "\0" not in text and sum(_strange(c) for c in text[:_SAMPLE]) == 0:
            return text
    raise FileRefused(
        "unsupported_type",
        "This file is not text and no format known here. Use a character card (PNG, JSON, "
        "CHARX), a text, Markdown or YAML file, a document (PDF, DOCX, RTF, EPUB, HTML), a chat "
        "or an export of a chat program, or a world file.",
    )


def _strange(char: str) -> bool:
    return unicodedata.category(char) in {"Cc", "Cn", "Co", "Cs"} and char not in "\t\r\n\f\x1b"


def _guessed(data: bytes, first: int) -> str | None:
    start = max(0, first - 200)
    sample = data[start : start + _SAMPLE]
    rated = [(rate(sample), name) for name, rate in _CANDIDATES.items()]
    for score, name in sorted(rated, reverse=True):
        if score > 0 and (text := _strictly(data, name)) is not None:
            return text
    names = [name for name in _CANDIDATES if name != "utf-16-le"]
    best = from_bytes(sample, cp_isolation=names, enable_fallback=False).best()
    if best is None or best.coherence < _COHERENT:
        return None
    return _strictly(data, best.encoding)


def _strictly(data: bytes, encoding: str) -> str | None:
    try:
        return data.decode(encoding)
    except UnicodeDecodeError:
        return None


def _sampled(sample: bytes, encoding: str) -> str:
    """A sample as text; its last character may be cut. "" if it does not fit."""
    try:
        return codecs.getincrementaldecoder(encoding)().decode(sample)
    except UnicodeDecodeError:
        return ""


def _above_ascii(text: str) -> list[str]:
    return [c for c in text if not c.isascii()]


def _misplaced(text: str) -> bool:
    """Whether capitals follow small letters, or a mark that opens something follows a letter."""
    return any(
        (a.islower() and b.isupper() and not (a.isascii() and b.isascii()))
        or (b in _OPENING and a.isalpha())
        for a, b in pairwise(text)
    )


def _inner(text: str, letter: str) -> int:
    """How often a letter follows another one."""
    return sum(a.isalpha() and b.lower() == letter for a, b in pairwise(text))


def _is_letter(char: str) -> bool:
    return unicodedata.category(char)[0] in "LM"


def _latin(encoding: str, preference: float) -> Callable[[bytes], float]:
    """How well the letters of a sample are those of one language that has Latin letters."""

    def rate(sample: bytes) -> float:
        text = _sampled(sample, encoding)
        found = _above_ascii(text)
        letters = Counter("ı" if c == "İ" else c.lower() for c in found if c not in _MARKS)
        if not found or any(not c.isalpha() for c in letters) or _misplaced(text):
            return 0.0
        upper = sum(c.isupper() for c in found if c.isalpha())
        if upper > len(found) / 2 and len(found) > 4:  # noqa: PLR2004  # shouting, or a wrong guess
            return 0.0
        if 2 * _inner(text, "þ") > letters["þ"]:  # Icelandic begins words with it: Turkish, misread
            return 0.0
        whole = sum(letters.values())
        best = max(sum(letters[c] for c in alphabet) for alphabet in _ALPHABETS)
        return preference if best >= _ENOUGH * whole else 0.0

    return rate


def _script(encoding: str, word: str) -> Callable[[bytes], float]:
    """Whether the letters of a sample are of one script, in words of their own, mostly small."""

    def rate(sample: bytes) -> float:
        text = _sampled(sample, encoding)
        letters = [c for c in _above_ascii(text) if c not in _MARKS]
        if len(letters) < 2:  # noqa: PLR2004  # one letter says nothing
            return 0.0
        fitting = [c for c in letters if unicodedata.name(c, "").startswith(word)]
        if len(fitting) < _ENOUGH * len(letters):
            return 0.0
        small = sum(c.islower() for c in fitting)
        if any(c.isupper() for c in fitting) and small < len(fitting) / 2:
            return 0.0
        mixed = sum(
            _is_letter(a) and _is_letter(b) and a.isascii() != b.isascii()
            for a, b in pairwise(text)
        )
        frequent = sum(c in _FREQUENT[word] for c in fitting) / len(fitting)
        if mixed > len(letters) / 8 or frequent < 1 / 3:
            return 0.0
        return 2.0 + frequent

    return rate


def _east_asian(encoding: str, *words: str) -> Callable[[bytes], float]:
    """How many characters of a sample are such as the encoding was made for."""

    def rate(sample: bytes) -> float:
        letters = [c for c in _above_ascii(_sampled(sample, encoding)) if c.isalpha()]
        if not letters:
            return 0.0
        if any(_strange(c) or unicodedata.name(c, "").startswith("HALFWIDTH") for c in letters):
            return 0.0
        if words:
            share = sum(unicodedata.name(c, "").startswith(words) for c in letters) / len(letters)
            return 3.5 + share if share > _COMMON_SHARE else 0.0
        if all(unicodedata.name(c, "").startswith("HANGUL SYLLABLE") for c in letters):
            share = sum(c in _HANGUL for c in letters) / len(letters)
            return 2.5 + share if share > _COMMON_SHARE else 0.0
        if not all(unicodedata.name(c, "").startswith("CJK UNIFIED") for c in letters):
            return 0.0
        share = sum(c in _HANZI for c in letters) / len(letters)
        return 2.5 + share if share > _COMMON_SHARE else 0.0

    return rate


_CANDIDATES: dict[str, Callable[[bytes], float]] = {
    "utf-16-le": _east_asian("utf-16-le", "HIRAGANA", "KATAKANA"),
    "cp932": _east_asian("cp932", "HIRAGANA", "KATAKANA"),
    "euc_jp": _east_asian("euc_jp", "HIRAGANA", "KATAKANA"),
    "cp949": _east_asian("cp949"),
    "gb18030": _east_asian("gb18030"),
    "big5hkscs": _east_asian("big5hkscs"),
    "cp1251": _script("cp1251", "CYRILLIC"),
    "koi8_r": _script("koi8_r", "CYRILLIC"),
    "cp866": _script("cp866", "CYRILLIC"),
    "cp1253": _script("cp1253", "GREEK"),
    "cp1255": _script("cp1255", "HEBREW"),
    "cp1256": _script("cp1256", "ARABIC"),
    "cp874": _script("cp874", "THAI"),
    "cp1252": _latin("cp1252", 1.5),
    "cp1250": _latin("cp1250", 1.4),
    "cp1254": _latin("cp1254", 1.3),
    "cp1257": _latin("cp1257", 1.2),
    "iso8859_15": _latin("iso8859_15", 1.1),
    "mac_roman": _latin("mac_roman", 1.0),
    "cp850": _latin("cp850", 0.9),
}
