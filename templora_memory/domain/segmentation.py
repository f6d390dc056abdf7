"""Text cut into sentences and words, in any script.

Sentences are those of sentencex, which knows the marks and abbreviations of some three hundred
languages; what lines mean, and where a monster is cut, is decided here. Words are letters, digits
and the marks on them; where a script puts no spaces between words, two signs that stand side by
side take their place.

Not done: Thai and Lao have no mark for the end of a sentence, and are cut at spaces. Words of
scripts without spaces are not looked up in a dictionary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import accumulate, pairwise
from unicodedata import east_asian_width, normalize

import regex
import sentencex

from templora_memory.domain.languages import FUNCTION_WORDS, language_of

MAX_CHARACTERS = 400
"""A longer sentence is cut at a clause mark."""

# --- marks -------------------------------------------------------------------------------------

SENTENCE_MARKS = ".!?…‥。！？｡．؟۔।॥։።፧፨။។៕⁇⁈⁉‼"
"""What ends a sentence; Greek also has its semicolon."""
_CLOSERS = "\"'”’»›」』）】》〉)]"
_QUESTION_MARKS = "?？؟՞፧⁇⁈⁉;"
_UNSPACED = (
    r"\p{scx=Han}\p{scx=Hiragana}\p{scx=Katakana}\p{scx=Bopomofo}"
    r"\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
)
_LETTER_OR_DIGIT = regex.compile(r"[\p{L}\p{N}]")

# --- words -------------------------------------------------------------------------------------

# a letter with its marks; joiners stand inside words of India and Persia
_WORD = regex.compile(
    rf"""(?P<signs>(?:[[\p{{L}}\p{{Nl}}]&&[{_UNSPACED}]][\p{{M}}\uff9e\uff9f]*)+)
    | (?:[[\p{{L}}\p{{N}}]--[[\p{{L}}\p{{Nl}}]&&[{_UNSPACED}]]]
         [\p{{M}}\u200c\u200d]*)+""",
    regex.VERBOSE | regex.VERSION1,
)
_SIGN = regex.compile(r"[^\p{M}\uff9e\uff9f][\p{M}\uff9e\uff9f]*")


def fold(text: str) -> str:
    """Return text as it is compared: composed, in one width, in lower case."""
    if text.isascii():
        return text.lower()
    return normalize("NFKC", normalize("NFKC", text).casefold())


def _compose(text: str) -> str:
    return text if text.isascii() else normalize("NFKC", text)


def word_spans(text: str) -> list[tuple[str, int, int]]:
    """Return words as they are compared, each with its begin and end in the text.

    Of signs without spaces between words, each two neighbours; a sign on its own is a word.
    """
    spans: list[tuple[str, int, int]] = []
    for match in _WORD.finditer(text):
        begin, end = match.span()
        if match.lastgroup is None:
            spans.append((fold(match.group()), begin, end))
            continue
        starts = [begin + sign.start() for sign in _SIGN.finditer(match.group())]
        ends = [*starts[1:], end]
        for first, last in zip(starts, ends[1:] or ends, strict=False):
            spans.append((fold(text[first:last]), first, last))
    return spans


def word_runs(text: str) -> list[str]:
    """Return words as they are compared; signs without spaces between words stay together."""
    return [fold(match.group()) for match in _WORD.finditer(text)]


def words(text: str) -> list[str]:
    """Return words as they are compared, in their order; see `word_spans`."""
    return [word for word, _, _ in word_spans(text)]


def content_words(text: str) -> list[str]:
    """Return the words that are none of the commonest small words of the text's language.

    Those of languages in Latin letters are known; of others all words come back.
    """
    common = FUNCTION_WORDS.get(language_of(text), frozenset())
    return [word for word in words(text) if word not in common]


def is_unspaced(text: str) -> bool:
    """Return whether most letters of a text's beginning are of a script without spaces."""
    sample = text[:1000]
    return not sample.isascii() and 2 * len(_OPEN_LEFT.findall(sample)) > len(
        _LETTER_OR_DIGIT.findall(sample)
    )


def contains_words(text: str, wanted: str, *, case_sensitive: bool = False) -> bool:
    """Return whether whole words stand in a text in this order, however they are coded.

    Where a script has no spaces between words, anywhere; in Korean also before a particle.
    """
    same = _compose if case_sensitive else fold
    wanted = same(wanted)
    if not wanted:
        return False
    left = "" if _OPEN_LEFT.match(wanted[0]) else r"(?<![\w\p{M}])"
    right = "" if _OPEN_RIGHT.search(wanted) else r"(?![\w\p{M}])"
    return regex.search(left + regex.escape(wanted) + right, same(text)) is not None


_OPEN_LEFT = regex.compile(rf"[{_UNSPACED}]")
_OPEN_RIGHT = regex.compile(rf"[{_UNSPACED}\p{{Hangul}}]\p{{M}}*\Z")

# --- sentences ---------------------------------------------------------------------------------

_FENCE = regex.compile(r"\s*(```|~~~)")
_RULE = regex.compile(r"[-=_*~#+|.:\s]{3,}")
_BULLET = r"\s*(?:[-*+•‣◦▪·・–—]|\(?\d{1,3}[.)]|\(?(?:[a-z][.)]|[A-Z]\))|\#{1,6}|>)\s+"
_LIST_MARK = regex.compile(_BULLET)
_NAME = r"[\p{L}\p{M}\p{N}_'’]+"
_MARKER = regex.compile(rf"{_BULLET}|\s*\||\s*{_NAME}(?:\s{_NAME}){{0,2}}\s?[:：](?:\s|$)")
_MIN_WRAPPED = 50  # columns of a line that a program or a typewriter broke
_LOWER_NEXT = regex.compile(r"[\"'“‘«(]*\p{Ll}")
_AFTER_QUOTE = regex.compile(
    r"\p{Ll}|[,;:–—、，]|\p{Hiragana}|\p{Han}{0,6}[说道问答喊叫說問][^。！？]{0,12}[。，：]"
)
_SPEAKER_NEXT = regex.compile(r"[—–]\s?\p{Ll}")  # - Why? - she asked.
_ENDS_QUOTE = regex.compile(rf"[{SENTENCE_MARKS}][”’»›」』\"']+$")
_NEVER_LAST = regex.compile(
    r"(?<![\p{L}\p{M}])(?:"
    r"M|MM|Mme|Mlle|Sr|Sra|Srta|Dr|Dra|Prof|Mr|Mrs|Ms|St|Ste|Hr|Fr|Nr|Bd|bzw|ca|vgl|"
    r"z\. ?B|d\. ?h|p\. ?ej|p\. ?ex|e\. ?g|i\. ?e|т\. ?е|т\. ?к|ул|им|стр|проф|акад"
    r")\.$"
)
_BEFORE_NUMBER = regex.compile(
    r"(?<![\p{L}\p{M}])(?:approx|vol|pp?|no|nr|fig|ch|art|sec|ca|abs|kap|bd|núm|pág|стр)\.$",
    regex.IGNORECASE,
)
_EMPHASIS_END = regex.compile(r"[*_~]+\s+")
_ASIDE = regex.compile(r"\s*\([^()]+\s[^()]+[.!?]\)\s+(?=[\"“(*]*\p{Lu})")  # (It rained.) She left.
_SMALL_WORD_END = regex.compile(r"\s(\p{Ll}{2,})\.\s+(?=[\"'“«(¿¡]*\p{Lu})")
_LONG_QUOTE = 120  # characters of a sentence whose quotes are cut, too
_QUOTE = regex.compile(r'["“«„「『]([^"“”«»„「」『』]+)["”»“」』]')
_ORDINAL = regex.compile(r"(?<![\p{L}\p{N}.])\d{1,2}\.$")
_AFTER_ORDINAL = regex.compile(
    r"(?:Jan|Feb|Mär|Apr|Mai|Jun|Jul|Aug|Sep|Okt|Nov|Dez|Jahrhundert|Klasse|Stock|Etage|Geburtstag|"
    r"Lebensjahr|Platz|Mal)"
)
_BLOCK = 2000  # characters that are given to sentencex at once
_KHMER_END = regex.compile(r"(?<=[។៕])")
_PHRASE_BREAK = regex.compile(r"(?<=[\p{Thai}\p{Lao}])\s+(?=[\p{Thai}\p{Lao}])")
_MIN_PHRASES = 40  # characters of a piece of Thai or Lao, unless the line is shorter
_CUTS = tuple(
    regex.compile(pattern)
    for pattern in (
        r"\n\s*\n",
        r"\n",
        rf"[{SENTENCE_MARKS}][{regex.escape(_CLOSERS)}]*(?:\s+|(?<=[^\x00-\x7f]))",
        r"[;；؛]\s*|\s[–—]\s",
        r"[:：,，、،၊]\s+|[：，、၊]",
        r"\s+",
    )
)


def sentences(text: str) -> list[str]:
    """Return a text's sentences; joined, they are the text but for white space.

    A line is an end too, as in lists, poems and cards, unless all lines of a paragraph are as long
    as a page is wide. Code between fences comes in whole lines. What has neither letter nor digit
    stands with what is before it; a line drawn of signs is left out.
    """
    if not isinstance(text, str) or not text.strip():
        return []
    try:
        text.encode()
    except UnicodeEncodeError:  # half a pair, which the splitter cannot read
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    language = language_of(text)
    found: list[str] = []
    for paragraph in _paragraphs(text):
        pieces = [piece for unit in paragraph for piece in _unit_sentences(unit, language)]
        found += _join_scraps(pieces)
    return found or [text.strip()]


class _Code(str):
    """Lines of code, which are not prose."""

    __slots__ = ()


def _paragraphs(text: str) -> Iterator[list[str]]:
    """Return what stands between empty lines, each as lines, wrapped ones joined."""
    lines: list[str] = []
    code: list[str] | None = None
    for line in text.splitlines():
        if _FENCE.match(line):
            if code is None:
                yield _joined(lines)
                lines, code = [], [line]
            else:
                yield [_Code("\n".join([*code, line]))]
                code = None
        elif code is not None:
            code.append(line)
        elif not line.strip() or (_RULE.fullmatch(line) and len(line.strip()) > 2):  # noqa: PLR2004
            yield _joined(lines)
            lines = []
        else:
            lines.append(line)
    yield _joined(lines)
    if code:
        yield [_Code("\n".join(code))]


def _joined(lines: list[str]) -> list[str]:
    """Return the lines of a paragraph, those joined that were one before they were wrapped."""
    runs: list[list[str]] = []
    for line in lines:
        if runs and not _MARKER.match(line):
            runs[-1].append(line)
        else:
            runs.append([line])
    return [
        unit
        for run in runs
        for unit in ([_unwrap(run)] if _is_wrapped(run) else map(str.strip, run))
    ]


def _columns(text: str) -> int:
    return len(text) if text.isascii() else sum(1 + (east_asian_width(c) in "WF") for c in text)


def _is_wrapped(lines: list[str]) -> bool:
    """Return whether the first word of each line would not have fit on the line before."""
    if len(lines) < 2:  # noqa: PLR2004  # one line
        return False
    widths = [_columns(line.strip()) for line in lines]
    if min(widths[:-1]) < _MIN_WRAPPED or widths[-1] > max(widths[:-1]):
        return False
    if len(lines) == 2 and not _LOWER_NEXT.match(lines[1].strip()):  # noqa: PLR2004  # too few to tell
        return False
    return all(
        width + 1 + _columns(_first_word(line)) > max(widths)
        for width, line in zip(widths, lines[1:], strict=False)
    )


def _first_word(line: str) -> str:
    word = line.split(None, 1)[0]
    return word[:2] if _OPEN_LEFT.match(word) else word


def _unwrap(lines: list[str]) -> str:
    text = ""
    for line in map(str.strip, lines):
        spaced = text and not (_OPEN_LEFT.match(text[-1]) or text[-1] in "。，、！？")
        text += f" {line}" if spaced else line
    return text


def _unit_sentences(unit: str, language: str) -> list[str]:
    """Return the sentences of a line."""
    if isinstance(unit, _Code):
        return _lines_up_to(unit)
    mark = _LIST_MARK.match(unit)
    lead = mark.group() if mark else ""
    body = unit[len(lead) :]
    if not body.strip():
        return [unit.strip()]
    if not body.isascii():
        language = language_of(body, language)
    pieces: list[str] = []
    for part in _segments(body, language):
        if pieces and _goes_on(pieces[-1], part, language):
            pieces[-1] += part
        elif pieces and (mark := _EMPHASIS_END.match(part)):  # *She smiles.* He waves.
            pieces[-1] += mark.group()
            pieces.append(part[mark.end() :])
        else:
            pieces.append(part)
    pieces[0] = lead + pieces[0]
    return [
        part
        for piece in pieces
        for spoken in _open_long_quotes(piece.strip(), language)
        for phrase in _phrases(spoken)
        for part in _cut_long(phrase)
    ]


def _segments(line: str, language: str) -> Iterator[str]:
    for block in _pieces(line, _BLOCK, len):  # sentencex takes the square of the length in Chinese
        for piece in sentencex.segment(language, block):
            begin = 0
            for end in sorted(_overlooked_ends(piece, language)):
                yield piece[begin:end]
                begin = end
            yield piece[begin:]


def _overlooked_ends(piece: str, language: str) -> set[int]:
    """Return where else a piece of sentencex is cut."""
    ends = {match.end() for match in _KHMER_END.finditer(piece)}
    if aside := _ASIDE.match(piece):
        ends.add(aside.end())
    small = FUNCTION_WORDS.get(language, frozenset())
    spoken = [quote.span() for quote in _QUOTE.finditer(piece)]
    ends |= {  # "me." is no abbreviation of Maine
        match.end()
        for match in _SMALL_WORD_END.finditer(piece)
        if match.group(1) in small and not any(begin < match.end() < end for begin, end in spoken)
    }
    if mark := _LIST_MARK.match(piece):  # what follows a number is one piece there
        inner = sentencex.segment(language, piece[mark.end() :])
        ends |= {mark.end() + end for end in accumulate(map(len, inner[:-1]))}
    return ends - {0, len(piece)}


def _open_long_quotes(sentence: str, language: str) -> list[str]:
    """Return a sentence; one in which somebody speaks at length, in the sentences spoken."""
    if len(sentence) <= _LONG_QUOTE:
        return [sentence]
    cuts = [0]
    for quote in _QUOTE.finditer(sentence):
        spoken = list(sentencex.segment(language, quote.group(1)))
        cuts += (quote.start(1) + end for end in accumulate(map(len, spoken[:-1])))
    return [sentence[begin:end].strip() for begin, end in pairwise([*cuts, len(sentence)])]


def _goes_on(piece: str, following: str, language: str) -> bool:
    """Return whether what was cut is one sentence."""
    before, after = piece.rstrip(), following.lstrip()
    if not _LETTER_OR_DIGIT.search(after) or not before:
        return True
    if _ENDS_QUOTE.search(before):
        return _AFTER_QUOTE.match(after) is not None
    if language == "de" and _ORDINAL.search(before):
        return _AFTER_ORDINAL.match(after) is not None
    if _SPEAKER_NEXT.match(after):
        return True
    if after[0].isdigit() and _BEFORE_NUMBER.search(before):
        return True
    return _NEVER_LAST.search(before) is not None


def _phrases(sentence: str) -> list[str]:
    """Return Thai or Lao in pieces that end at a space, other text as it is."""
    pieces: list[str] = []
    for phrase in _PHRASE_BREAK.split(sentence):
        if pieces and len(pieces[-1]) < _MIN_PHRASES:
            pieces[-1] += f" {phrase}"
        else:
            pieces.append(phrase)
    return pieces


def _cut_long(sentence: str) -> list[str]:
    """Return a sentence, in pieces if it is a monster: at the best mark before the limit."""
    if len(sentence) <= MAX_CHARACTERS:
        return [sentence] if sentence else []
    return [piece.strip() for piece in _pieces(sentence, MAX_CHARACTERS, len) if piece.strip()]


def _lines_up_to(code: str) -> list[str]:
    """Return lines of code, as many in a piece as a sentence may be long."""
    pieces: list[str] = []
    for line in code.split("\n"):
        if pieces and len(pieces[-1]) + 1 + len(line) <= MAX_CHARACTERS:
            pieces[-1] += f"\n{line}"
        else:
            pieces.append(line)
    return pieces


def _join_scraps(pieces: list[str]) -> list[str]:
    """Return the pieces of a paragraph, brackets and pictures beside the piece before them."""
    joined: list[str] = []
    for piece in pieces:
        if joined and not (_LETTER_OR_DIGIT.search(piece) and _LETTER_OR_DIGIT.search(joined[-1])):
            joined[-1] += f" {piece}"
        else:
            joined.append(piece)
    return joined


def is_question(sentence: str) -> bool:
    """Return whether a sentence ends with a question mark, in any script."""
    bare = sentence.rstrip(_CLOSERS + " \u00a0\u202f")
    if bare.endswith(";"):  # of Greek
        return _GREEK.search(bare[:-1]) is not None
    return bare.endswith(tuple(_QUESTION_MARKS))


def is_statement(sentence: str) -> bool:
    """Return False for questions, and for scraps without a letter."""
    return not is_question(sentence) and any(map(str.isalpha, sentence))


_GREEK = regex.compile(r"\p{Greek}[\p{Greek}\p{M}»\"]*$")


# --- pieces ------------------------------------------------------------------------------------


def split_at_sentences(text: str, size: int, measure: Callable[[str], int] = len) -> list[str]:
    """Return pieces of a text that measure at most `size` each; joined, they are the text.

    Cut at the end of a paragraph, a line, a sentence, a clause or a word, the first of these that
    leaves a piece of at least half the size.

    Args:
        text: what is cut.
        size: most of a piece, at least 1; a single character may measure more.
        measure: of a piece, such as its tokens; longer text must not measure less.
    """
    return _pieces(text, size, measure)


_MARK = regex.compile(r"\p{M}")
_LAST_SIGN = regex.compile(r"\P{M}\p{M}*\Z")


def _pieces(text: str, size: int, measure: Callable[[str], int]) -> list[str]:
    pieces = []
    while (fits := _longest(text, size, measure)) < len(text):
        end = _best_cut(text[:fits], text[fits])
        pieces.append(text[:end])
        text = text[end:]
    return [*pieces, text] if text else pieces


def _longest(text: str, size: int, measure: Callable[[str], int]) -> int:
    """Return the length of the longest beginning that fits, at least one character."""
    if measure is len:
        return min(size, len(text))
    low, high = 0, min(4 * size, len(text))  # no more of the text is measured than needed
    while measure(text[:high]) <= size:
        if high == len(text):
            return high
        low, high = high, min(2 * high, len(text))
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if measure(text[:middle]) <= size else (low, middle)
    return max(1, low)


def _best_cut(window: str, following: str) -> int:
    for cut in _CUTS:
        end = max((match.end() for match in cut.finditer(window, len(window) // 2)), default=0)
        if end:
            return end
    last = _LAST_SIGN.search(window) if _MARK.match(following) else None
    return last.start() if last and last.start() else len(window)  # marks stay with their sign
