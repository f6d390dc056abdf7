"""Which language a text is in, by its letters and its smallest words.

Enough to choose a stemmer, the abbreviations of a sentence splitter, or a neutral text; no more. A
script that one language here writes decides at once. Among those in Latin letters the commonest
words decide, so a text of a few words may be taken for English, a language that is not listed for
its neighbour. Of a text in several languages the most used script, then the commonest words win.
"""

from __future__ import annotations

from collections import Counter
from functools import cache
from unicodedata import normalize

import regex

SAMPLE = 4000
"""Characters of a text that are looked at."""
DEFAULT = "en"
"""What is assumed of Latin letters that say nothing."""
_MIN_SCORE = 0.6
"""What decides among Latin letters: more than one word that two languages share."""

_SCRIPTS = {
    "Latin": DEFAULT,
    "Cyrillic": "ru",
    "Arabic": "ar",
    "Devanagari": "hi",
    "Hangul": "ko",
    "Greek": "el",
    "Hebrew": "he",
    "Thai": "th",
    "Lao": "lo",
    "Khmer": "km",
    "Myanmar": "my",
    "Armenian": "hy",
    "Georgian": "ka",
    "Bengali": "bn",
    "Tamil": "ta",
    "Telugu": "te",
    "Gujarati": "gu",
    "Gurmukhi": "pa",
    "Kannada": "kn",
    "Malayalam": "ml",
    "Ethiopic": "am",
}
_KANA = regex.compile(r"[\p{Hiragana}\p{Katakana}]")
_HAN = regex.compile(r"\p{Han}")
_SCRIPT = regex.compile("|".join(rf"(?P<{script}>\p{{{script}}})" for script in _SCRIPTS))
_LATIN_WORD = regex.compile(r"\p{Latin}[\p{Latin}\p{M}]*")

_KANA_SHARE = 20  # Japanese has at least one kana to so many Chinese signs
_LETTERS_A_SIGN = 3  # a Chinese sign stands for about so many letters
_RARE = 100  # at least one of so many characters has to be of that language only

# letters that tell languages of one script apart, tried in this order; and those of one language
_CYRILLIC = {"be": "ў", "sr": "ђјљњћџ", "uk": "іїєґ"}
_ARABIC = {"ur": "ٹڈڑںے", "fa": "پچژگ"}
_LATIN_LETTERS = {
    "de": "ß",
    "pt": "ãõ",
    "es": "ñ¿¡",
    "ro": "țșăţş",
    "tr": "ğı",
    "pl": "łżźąę",
    "hu": "őű",
    "cs": "řěů",
    "fr": "œ",
}

FUNCTION_WORDS = {
    language: frozenset(words.split())
    for language, words in {
        "en": "the of and to a is was that it for on with as his her they he she you i are this be "
        "at by not have had from or an my we what which your there their has were do does did "
        "how who when where why can will would but if so no me him them its about into very "
        "all "
        "like love am get go want know think some than then just been",
        "de": "der die das und ist nicht ein eine einen einem einer zu den dem des mit von auf für "
        "im sich es ich sie er wir ihr als auch an war hat haben wird sind bei nach aus wie "
        "nur noch über aber oder wenn mein meine sein seine ihre was wer wo wann warum hast "
        "du dass heißt kein keine zum zur vom am um so mir mich dich habe bin bist "
        "mag will hallo danke gut ja nein mal bis",
        "fr": "le la les de des du et un une est dans que qui pour pas sur au aux avec ce cette il "
        "elle ils elles je tu nous vous se sa son ses mon ma mes ne plus par mais ou où sont "
        "était ont été comme leur quel quelle comment pourquoi quand y en d l c j qu suis "
        "avons très "
        "suis aime veux bonjour merci bien moi toi fait",
        "es": "el la los las de del y un una es en que por para con no se su sus lo le al como más "
        "pero o yo tú él ella nosotros ellos mi mis está están era fue son hay muy qué quién "
        "cuándo dónde cómo cuál esta este eso también tiene ha he si sin sobre me te "
        "gusta gustan tengo soy eres estoy vivo quiero hola gracias bien cómo está",
        "pt": "o a os as de do da dos das e um uma é em no na nos nas que por para com não se seu "
        "sua seus suas ao à como mais mas ou eu ele ela nós eles meu minha está estão era foi "
        "são há muito quem quando onde qual esta este isso também tem pelo pela você sem "
        "sobre me "
        "gosto tenho sou estou moro quero olá obrigado bem ela meus",
        "it": "il lo la i gli le di del della dei delle e un una è in che per con non si su al "
        "alla come più ma o io tu lui lei noi loro mio mia suo sua sono era ha hanno nel nella "
        "dove quando chi cosa perché questo questa anche molto sei ho da dal "
        "piace sono sto vivo voglio ciao grazie bene mi ti ci tè",
        "nl": "de het een en van is in op te dat die voor met niet zijn was aan er ook als maar of "
        "om bij door naar uit ik je jij hij zij ze wij we mijn haar hun heeft hebben had wat "
        "wie waar wanneer waarom hoe nog wel geen deze dit heet",
        "sv": "och att det är en ett som på för av med den till inte om var har jag du han hon vi "
        "de min sin men eller så från när vad vem hur där också mycket ska kan dem",
        "da": "og at det er en et som på for af med den til ikke om var har jeg du han hun vi de "
        "min sin men eller så fra når hvad hvem hvordan hvor også meget skal kan",
        "nb": "og at det er en et som på for av med den til ikke om var har jeg du han hun vi de "
        "min sin men eller så fra når hva hvem hvordan hvor også mye skal kan",
        "fi": "ja on ei se että hän oli mutta kun niin joka myös minä sinä me te he ovat olen olet "
        "mitä kuka missä miksi miten tai sen hänen minun kuin jos",
        "pl": "i w na z do że się nie jest to jak o po co ale za od dla przez czy który która są "
        "był była jego jej mój moja ja ty on ona my gdzie kiedy kto tak już",
        "cs": "a je v na se že to s z do o jak ale za po pro by který která jsou byl byla jeho "
        "její můj já ty on ona kde kdy kdo proč ne už také",
        "hu": "a az és hogy nem is egy van volt ez meg de mint csak ki mi hol mikor miért én te ő "
        "vagy már még el azt kell",
        "ro": "și de la în a nu cu pe un o este că să din mai pentru care ce el ea eu tu noi sunt "
        "era al ale lui unde când cine cum dar sau foarte",
        "tr": "ve bir bu da de için ile çok ne o ben sen biz siz onlar var yok mi mı gibi ama daha "
        "olarak kadar sonra kim nerede nasıl neden değil",
        "id": "dan yang di ke dari ini itu untuk dengan tidak adalah dalam pada saya anda kami "
        "mereka akan juga atau apa siapa bagaimana sudah bisa karena",
    }.items()
}
"""Words that say little, of languages in Latin letters."""


@cache
def _by_word() -> dict[str, list[str]]:
    languages: dict[str, list[str]] = {}
    for language, words in FUNCTION_WORDS.items():
        for word in words:
            languages.setdefault(word, []).append(language)
    return languages


def language_of(text: str, default: str = DEFAULT) -> str:
    """Return the ISO 639-1 code of a text's language.

    Args:
        text: its first 4000 characters are looked at.
        default: for texts without letters, and for Latin letters that say nothing.
    """
    sample = normalize("NFC", text[:SAMPLE])
    script = _script(sample)
    if script is None:
        return default
    if script == "Latin":
        scores = latin_scores(sample)
        best = max(scores, key=lambda language: scores[language], default=default)
        return best if scores.get(best, 0) >= _MIN_SCORE else default
    if script in {"Han", "Kana"}:
        return "zh" if script == "Han" else "ja"
    variants = {"Cyrillic": _CYRILLIC, "Arabic": _ARABIC}.get(script, {})
    lowered = sample.lower()
    for code, letters in variants.items():
        if sum(map(lowered.count, letters)) * _RARE >= len(sample):
            return code
    return _SCRIPTS[script]


def latin_scores(text: str) -> dict[str, float]:
    """Return for languages in Latin letters how much of a composed text speaks for each.

    A word that several languages share is shared among them; one with a capital letter counts half,
    because it may be a name: "Ben" is "I" in Turkish.
    """
    scores: Counter[str] = Counter()
    by_word = _by_word()
    lowered = text.lower()
    for word, count in Counter(_LATIN_WORD.findall(text)).items():
        weight = count / 2 if word[0].isupper() else count
        languages = by_word.get(word.lower(), ())
        for language in languages:
            scores[language] += weight / len(languages)  # type: ignore[assignment]  # a float
    if not lowered.isascii():
        for language, letters in _LATIN_LETTERS.items():
            scores[language] += sum(map(lowered.count, letters))
    return {language: score for language, score in scores.items() if score}


def _script(text: str) -> str | None:
    """Return the script of most letters; Kana for Japanese, None without letters."""
    if text.isascii():
        return "Latin" if _LATIN_WORD.search(text) else None
    counts = Counter(match.lastgroup for match in _SCRIPT.finditer(text))
    kana, han = len(_KANA.findall(text)), len(_HAN.findall(text))
    counts["Kana" if kana * _KANA_SHARE > han else "Han"] = _LETTERS_A_SIGN * (kana + han)
    script, count = counts.most_common(1)[0]
    return script if count else None
