"""English sentences about somebody, in the words that they would use of themselves.

A memory that has learned "She keeps bees" answers "She keeps bees" when the character is asked what
they do. So what is told about a character is turned round: their name and pronouns become "I" and
"my", and the verb behind an "I" loses its ending. This goes by words, not by grammar: a verb far
from its subject may keep its form ("I light the lamps when dusk falls, and has done"), and in a
text about two women every "she" is taken for the first. No fact is lost by it; the sentence may
limp.
"""

from __future__ import annotations

import re

from templora_memory.domain.languages import DEFAULT, FUNCTION_WORDS

_BETWEEN = (
    "never|always|often|still|also|just|only|even|really|almost|once|rarely|seldom|usually|"
    "sometimes|mostly|secretly|simply|now"
)
"""What may stand between a subject and its verb."""
_OBJECT_BEFORE = (
    "to|in|on|at|for|with|from|and|the|a|an|up|out|when|as|by|over|off|into|that|if|before|after"
)
"""Behind "her", these make it "me"; any other word makes it "my"."""
_NOT_ACROSS = "who|whom|whose|which|that|where|because|while|he|she|it|they|we|you"
"""Between a subject and a second verb of its own none of these stands."""
_AFTER_VERB = (
    "a|an|the|my|me|to|them|it|him|her|his|their|every|each|no|all|only|nothing|everything"
)
"""Behind one of these a word with "s" before it was a verb, not a plural."""
_IRREGULAR = {"is": "am", "has": "have", "does": "do"}
_NEGATED = {"isn't": "am not", "hasn't": "haven't", "doesn't": "don't"}
_CLAUSE_END = re.compile(rf"\b(?:{_NOT_ACROSS})\b|[.;:!?]")
_SECOND_VERB = re.compile(
    rf"(\b(?:and|but|or|then) )((?:(?:{_BETWEEN}) )+[^\W\d_]+s\b"
    rf"|[^\W\d_]+s(?= (?:{_AFTER_VERB})\b)|(?:{'|'.join([*_IRREGULAR, *_NEGATED])})\b)"
)
_PRONOUNS = {
    "she": {"she": "I", "herself": "myself", "hers": "mine", "her": "my"},
    "he": {"he": "I", "himself": "myself", "him": "me", "his": "my"},
}
_NAMING = r"(?:\b(?:name is|name's|named|called|calls? (?:her|him|me)|known as|I'm|I am) )"
"""Behind these a name is a name."""
_QUOTED = re.compile(r'["\u201c][^"\u201c\u201d]*["\u201d]')
_SUBJECT = "\ue000I"  # from a private area: an "I" that was not one


def pronoun_of(text: str) -> str | None:
    """Return "she" or "he", whichever a text says more often; None: neither."""
    counts = _pronouns(text)
    best = max(counts, key=lambda word: counts[word])
    return best if counts[best] else None


def in_own_words(text: str) -> bool:
    """Return True if a text speaks of "I" more often than of "she" or "he", quotes left out."""
    own = len(re.findall(r"\b(?:I|[Mm]y|[Mm]e)\b", _QUOTED.sub(" ", text)))
    return own > max(_pronouns(text).values())


def _pronouns(text: str) -> dict[str, int]:
    return {
        word: len(re.findall(rf"\b(?:{'|'.join(forms)})\b", text, re.IGNORECASE))
        for word, forms in _PRONOUNS.items()
    }


def first_person(sentence: str, name: str, pronoun: str | None) -> str:
    """Return what a sentence says about somebody as they would say it.

    Args:
        sentence: English.
        name: of whom it is about; each part of it counts as the name, and so does "{{char}}";
            "{{user}}" is spoken to.
        pronoun: "she", "he" or None, see `pronoun_of`.
    """
    small = FUNCTION_WORDS[DEFAULT]
    parts = [
        name,
        *(part for part in name.split() if len(part) > 2 and part.lower() not in small),  # noqa: PLR2004  # no initials
    ]
    names = "|".join([*map(re.escape, dict.fromkeys(parts)), r"\{\{char\}\}"])
    text = re.sub(r"\{\{user\}\}(['\u2019]s\b)?", lambda of: "your" if of[1] else "you", sentence)
    text = re.sub(rf"(?<!\w)(?:{names})['\u2019]s(?!\w)", "my", text)
    text = re.sub(
        rf"({_NAMING})?(?<!\w)(?:{names})(?!\w)",
        lambda match: match[0] if match[1] else _SUBJECT,
        text,
    )
    if pronoun is not None:
        text = _replace_pronouns(text, pronoun)
    text = re.sub(
        rf"{_SUBJECT} ((?:(?:{_BETWEEN}) )*)([^\W\d_]+(?:['\u2019]t)?)",
        lambda match: f"{_SUBJECT} {match[1]}{_without_ending(match[2])}",
        text,
    )
    text = _second_verbs(text)
    text = text.replace(_SUBJECT, "I")
    return text[:1].upper() + text[1:]


def _second_verbs(text: str) -> str:
    """Return a text with the endings gone from verbs behind "and" whose subject is the "I"."""
    before, *clauses = text.split(_SUBJECT)  # each clause but the first follows an "I"
    changed = [before]
    for clause in clauses:
        end = _CLAUSE_END.search(clause)
        own = len(clause) if end is None else end.start()
        changed.append(_SECOND_VERB.sub(_as_spoken, clause[:own]) + clause[own:])
    return _SUBJECT.join(changed)


def _as_spoken(match: re.Match[str]) -> str:
    adverbs, gap, verb = match[2].rpartition(" ")
    return f"{match[1]}{adverbs}{gap}{_without_ending(verb)}"


def _replace_pronouns(text: str, pronoun: str) -> str:
    subject = rf"(?<!\w){pronoun}"
    for ending, ours in (
        (r"['\u2019]s (?=been|had|got)", "I have "),
        (r"['\u2019]s\b", "I'm"),
        (r"['\u2019]d\b", "I'd"),
        (r"['\u2019]ll\b", "I'll"),
    ):
        text = re.sub(subject + ending, ours, text, flags=re.IGNORECASE)
    if pronoun == "she":
        text = re.sub(r"\b(call(?:s|ed)?|named) her(?= [\"\u201cA-Z])", r"\1 me", text)
        text = re.sub(
            rf"\bher(?= (?:{_OBJECT_BEFORE})\b|[.,;:!?]|$)", "me", text, flags=re.IGNORECASE
        )
    for theirs, ours in _PRONOUNS[pronoun].items():
        ours_marked = _SUBJECT if ours == "I" else ours
        text = re.sub(rf"\b{theirs}\b", ours_marked, text, flags=re.IGNORECASE)
    return text


def _without_ending(verb: str) -> str:
    """Return a verb as it stands behind "I"; what is no third person stays."""
    lowered = verb.lower().replace("\u2019", "'")
    if lowered in _IRREGULAR:
        return _IRREGULAR[lowered]
    if lowered in _NEGATED:
        return _NEGATED[lowered]
    if not lowered.endswith("s") or lowered.endswith("ss") or len(lowered) < 4:  # noqa: PLR2004
        return verb
    if lowered.endswith("ies") and len(lowered) > 4:  # noqa: PLR2004  # not "ties"
        return verb[:-3] + "y"
    if re.search(r"(?:ss|sh|ch|x|zz|o)es$", lowered):
        return verb[:-2]
    return verb[:-1]
