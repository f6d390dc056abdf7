"""Questions in everyday wording for the sentences of a bio, so that its facts can be asked.

An English sentence that fits a known pattern has a question of its own and an answer to look for.
Where the words for it are known, another one is asked for by what it is about. In any language a
sentence can be asked for by how it begins ("Ольга живёт в …"); how it ends is the answer. No model
is asked: the same bio gives the same questions.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence

import regex

from templora_memory.domain.languages import DEFAULT, language_of
from templora_memory.domain.segmentation import (
    content_words,
    fold,
    is_question,
    is_unspaced,
    word_spans,
    words,
)

from .state import CharacterFact

_SHORTEST, _LONGEST = 12, 200  # letters of a sentence worth asking for
_MAX_ANSWER = 60  # letters
_LETTERS_A_SIGN = 3  # of scripts without spaces, of which a word has fewer
_ABOUT = {
    "en": "What can you tell me about {w}?",
    "de": "Was kannst du mir über {w} sagen?",
    "es": "¿Qué puedes contarme sobre {w}?",
    "fr": "Que peux-tu me dire sur {w} ?",
    "it": "Che cosa puoi dirmi di {w}?",
    "ja": "{w}について教えてください。",
    "zh": "你能告诉我关于{w}的什么?",
}
_END = (
    r"(?P<answer>[^,;:.!?]+?)(?: (?:and|but|because|since|so that|when|where|who|which)\b.*)?[.!]*$"
)
_POSSESSIVE = r"(?:(?:his|her|its|their|my|your)|{name}(?:['\u2019]s?))"
# each: a pattern of a sentence about {name}, and the question that its answer belongs to
_PATTERNS = (
    (r"{subject} (?:lives|lived|live|dwells) (?:in|at|on|by|near|under) " + _END,
     "Where do you live?"),
    (r"{subject} (?:was|were) born (?:in|at|on) " + _END, "Where were you born?"),
    (r"{subject} (?:comes|come|came) from " + _END, "Where do you come from?"),
    (r"{subject} (?:works|worked|work) as (?:an? )?" + _END, "What is your work?"),
    (r"{subject} (?:is|am|are|was) (?:very )?(?:afraid|scared|frightened) of " + _END,
     "What are you afraid of?"),
    (r"{subject} (?:has|have|had|keeps|keep|owns|own) (?:an? |the )?(?P<thing>[\w' -]{{2,40}}?),? "
     r"(?:called|named) " + _END, "What is your {thing} called?"),
    (r"{possessive} (?P<thing>[\w' -]{{2,40}}?) (?:is|was|are|were) (?:called |named )?" + _END,
     "What is your {thing}?"),
    (r"{subject} (?:always )?(?:carries|carry|carried) (?:an? |the )?" + _END,
     "What do you carry with you?"),
    (r"{subject} (?P<verb>likes?|loves?|hates?|collects?|plays?|wants?|makes?|sells?|keeps?|"
     r"teaches|studies|fears?|repairs?|builds?|grows?) (?:an? |the |to )?" + _END,
     "What do you {verb}?"),
)  # fmt: skip
_PEOPLE = frozenset({"friend", "rival", "enemy", "brother", "sister", "mother", "father", "son",
                     "daughter", "wife", "husband", "boss", "teacher", "neighbour", "neighbor",
                     "partner", "aunt", "uncle", "cousin", "master", "apprentice"})  # fmt: skip
_SIGNS = regex.compile(r"[\p{Han}\p{Katakana}ー]+")
_LAST_MARKS = regex.compile(r"[\p{P}\s]+$")
_PLAIN_VERBS = {"teaches": "teach", "studies": "study"}


def facts_of_sentences(
    sentences: Sequence[str], name: str, *, at_most: int
) -> tuple[CharacterFact, ...]:
    """Return facts for sentences of a bio, each with a question of its own.

    Args:
        sentences: of the bio, in order.
        name: by which the bio calls its character.
        at_most: so many facts; those of a known pattern come first.
    """
    fitting = [
        said
        for sentence in sentences
        if _SHORTEST <= _letters(said := " ".join(sentence.split())) <= _LONGEST
        and not is_question(said)
    ]
    language = language_of(" ".join(fitting))
    asked: dict[str, CharacterFact] = {}
    unfit = []
    for said in fitting:
        question, answer = _by_pattern(said, name) if language == DEFAULT else ("", "")
        if question and fold(question) not in asked:
            asked[fold(question)] = CharacterFact(question, answer, said)
        else:
            unfit.append(said)
    for fact in _about(unfit, fitting, name, language):
        asked.setdefault(fold(fact.question), fact)
    for said in unfit:
        if said not in {fact.sentence for fact in asked.values()}:
            question, answer = _by_beginning(said)
            asked.setdefault(fold(question), CharacterFact(question, answer, said))
    chosen = list(asked.values())[:at_most]
    return tuple(sorted(chosen, key=lambda fact: fitting.index(fact.sentence)))


def _by_pattern(said: str, name: str) -> tuple[str, str]:
    """Return the question and the answer of a sentence; empty ones if it fits no pattern."""
    called = "|".join(re.escape(part) for part in dict.fromkeys([name, *name.split()]) if part)
    names = f"(?:{called})" if called else "(?!)"
    subject = rf"(?:{names}(?: \w+){{0,2}}?|she|he|it|they|i)"
    for pattern, question in _PATTERNS:
        shape = pattern.format(
            subject=subject, name=names, possessive=_POSSESSIVE.format(name=names)
        )
        found = re.match(shape, said, re.IGNORECASE)
        if found is None or len(found["answer"]) > _MAX_ANSWER:
            continue
        groups = {key: value or "" for key, value in found.groupdict().items()}
        if verb := groups.get("verb", "").lower():
            groups["verb"] = _PLAIN_VERBS.get(verb, verb.removesuffix("s"))
        if fold(groups.get("thing", "").rpartition(" ")[2]) in _PEOPLE:
            return question.replace("What", "Who").format(**groups), found["answer"].strip()
        return question.format(**groups), found["answer"].strip()
    return "", ""


def _letters(said: str) -> int:
    return len(said) * (_LETTERS_A_SIGN if is_unspaced(said) else 1)


def _by_beginning(said: str) -> tuple[str, str]:
    """Return the first half of a sentence, to be gone on with, and the rest of it."""
    pieces = regex.findall(r"\X", said) if is_unspaced(said) else said.split()
    half = (len(pieces) + 1) // 2
    between = "" if is_unspaced(said) else " "
    rest = _LAST_MARKS.sub("", between.join(pieces[half:]))
    answer = rest if _letters(rest) <= _MAX_ANSWER else ""
    return f"{between.join(pieces[:half])}{between}…", answer


def _about(
    unfit: Sequence[str], every: Sequence[str], name: str, language: str
) -> Iterator[CharacterFact]:
    """Ask for sentences by their rarest word that no other question uses.

    Only where there are words to ask with; in other languages than English only for names and
    nouns, so that the question is one.
    """
    if (form := _ABOUT.get(language)) is None:
        return
    common = Counter(fold(word) for said in every for word in set(_topics(said)))
    taken = {fold(word) for word in (*words(name), *_topics(name))}
    for said in unfit:
        fresh = [
            word
            for word in _topics(said)
            if fold(word) not in taken and (language == DEFAULT or _is_noun(word, said))
        ]
        if not fresh:
            continue
        word = min(fresh, key=lambda item: (common[fold(item)], -len(item)))
        taken.add(fold(word))
        yield CharacterFact(form.format(w=word), "", said)


def _is_noun(word: str, said: str) -> bool:
    """Whether a word is sure to be one: written large within a sentence, or a short run of signs.

    A long run of signs is a whole sentence, which would give its answer away.
    """
    if is_unspaced(said):
        return 3 * len(word) <= len(said)
    return word[0].isupper() and not said.startswith(word)


def _topics(said: str) -> list[str]:
    """Return what a sentence may be about, as it is written: words, or runs of signs."""
    if is_unspaced(said):
        return [run for run in _SIGNS.findall(said) if fold(run)]
    meant = set(content_words(said))
    return [said[start:end] for word, start, end in word_spans(said) if word in meant]
