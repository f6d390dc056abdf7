"""The recipe for documents: every fact as the answer to many short questions.

What is trained on matters more than how (SEAL, arXiv 2506.10943; LIFT, 2502.14644; Physics of
Language Models 3.1, 2309.14316): a fact that was only told in one way is hardly found again by a
question. So each fact is learned as the answer to questions of two kinds, other ones in every pass:

* those that the model writes: after a few examples of a sentence and its question it goes on with
  this sentence and each of some question words. A model too small to follow an order still does
  this, and the question words make it ask for different things. Questions that it writes for
  several facts, or would ask of a sentence that says nothing as well, ask for none of them and
  are left out.
* a word of the fact, or one that the model would name as its topic, in a short form ("What about
  your {w}?"): who asks seldom uses the words of the text.

A step holds several questions that do not see each other, of facts drawn without repetition, so
that no fact becomes the answer to everything. Every other time only the beginning of the answer is
learned: which fact a question asks for is decided there, and takes more exposures than its words.
What keeps other questions apart is the pull to the base model on everyday chat, see
`train/kl_regularizer.py`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from math import ceil
from random import Random
from typing import Any

from templora_memory.backends.local.recipes.base import Example, RecipeTools, pack_turns
from templora_memory.backends.local.recipes.facts import Facts, facts_of
from templora_memory.backends.local.recipes.next_token import continue_, needs_extra_passes
from templora_memory.domain.messages import Document, Message
from templora_memory.domain.segmentation import content_words, fold, is_question, word_spans
from templora_memory.ports import LearnRequest

TURNS_PER_EXAMPLE = 8
"""Questions and answers in one step."""
PASSES = 16
"""Passes with questions of their own; after these they come again."""
MAX_FACTS = 400
"""A document with more facts is continued as a text."""
QUESTION_TOKENS = 16
"""Tokens that a written question may take."""
LEAST_GAIN = 3.0
"""Nats by which a question is likelier behind its fact than behind a sentence that says nothing."""
MAX_WRITTEN_FOR = 2
"""A question that is written for more facts than this asks for none of them."""
WRITTEN_SHARE = 0.35
"""How often a fact with written questions is asked for by one of them."""
TOPIC_SHARE = 0.5
"""How often else it is asked for by a topic, where it has any."""
BEGINNING = 8
"""Tokens of an answer that is cut to its beginning."""
BEGINNING_SHARE = 0.5
"""How often only the beginning of an answer is learned; never in the first pass."""
_ARROW = " => "

# --- the recipes -------------------------------------------------------------------------------


def study(request: LearnRequest, tools: RecipeTools) -> Sequence[Example]:
    """Return documents as questions and answers.

    Conversations, models without a chat template, documents with more than `MAX_FACTS` facts and
    those of which no fact can be made are learned as `continue_` does.
    """
    documents = [item for item in request.items if isinstance(item, Document)]
    if tools.tokenizer.uses_plain_template or len(documents) < len(request.items):
        return continue_(request, tools)
    contents = [facts_of(document) for document in documents]
    turns = sum(len(content.facts) + len(content.exchanges) for content in contents)
    if not 0 < turns <= MAX_FACTS:
        return continue_(request, tools)
    asked = [
        _Asked(content, write_questions(content, tools), name_topics(content, tools))
        for content in contents
    ]
    steps = ceil(turns / TURNS_PER_EXAMPLE)
    passes = min(PASSES, max(1, ceil(request.min_steps / steps)))  # no more will be taken
    return _examples(asked, tools, Random(request.settings.seed), passes)  # noqa: S311  # no secret


def auto(request: LearnRequest, tools: RecipeTools) -> Sequence[Example]:
    """Return short documents as `study` does, everything else as `continue_` does."""
    chunks = continue_(request, tools)
    return study(request, tools) if needs_extra_passes(request, chunks) else chunks


# --- questions ---------------------------------------------------------------------------------


@cache
def question_forms(language: str) -> dict[str, Any] | None:
    """Return a language's question words, examples and forms; None: none are known.

    The keys: "starts", words that a question begins with; "before_start", what stands before them;
    "neutral", a sentence that says nothing; "examples", each a sentence, a question that it answers
    and its topics; "about", forms with {w} for a word of a fact, {W} for the same with a capital;
    "about_other", forms where nobody speaks.
    """
    file = resources.files(__package__ or __name__) / "ask" / f"{language}.json"
    if not file.is_file():
        return None
    forms: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return forms


def write_questions(content: Facts, tools: RecipeTools) -> list[list[str]]:
    """Return for each fact the questions that the base model writes for it."""
    forms = question_forms(content.language)
    if forms is None or not content.facts:
        return [[] for _ in content.facts]
    starts = [forms.get("before_start", "") + start for start in forms["starts"]]
    shown = "".join(f"{said}{_ARROW}{ask}\n" for said, ask, _ in forms["examples"])
    facts = _short_facts(content, tools)
    continued = tools.complete(
        shown,
        [f"{fact}{_ARROW}{start}" for fact in facts for start in starts],
        against=[f"{forms['neutral']}{_ARROW}{start}" for _ in facts for start in starts],
        max_tokens=QUESTION_TOKENS,
        stop="\n",
    )
    written: dict[str, list[str]] = {fact: [] for fact in content.facts}
    for number, (rest, gain) in enumerate(continued):
        question = (starts[number % len(starts)] + rest).strip()
        if rest and gain >= LEAST_GAIN and is_question(question):
            written[facts[number // len(starts)]].append(question)
    counts = Counter(fold(ask) for asks in written.values() for ask in dict.fromkeys(asks))
    examples = {fold(ask) for _, ask, _ in forms["examples"]}
    return [
        [
            ask
            for ask in dict.fromkeys(written[fact])
            if counts[fold(ask)] <= MAX_WRITTEN_FOR and fold(ask) not in examples
        ]
        for fact in content.facts
    ]


def name_topics(content: Facts, tools: RecipeTools) -> list[tuple[str, ...]]:
    """Return for each fact the words that the base model would name as its topics."""
    forms = question_forms(content.language)
    if forms is None or not content.facts:
        return [() for _ in content.facts]
    short = _short_facts(content, tools)
    named = tools.topics(
        "".join(f"{said}{_ARROW}{topics}\n" for said, _, topics in forms["examples"]),
        [f"{fact}{_ARROW.rstrip()}" for fact in short],
        others=[f"{said}{_ARROW.rstrip()}" for said, _, _ in forms["examples"]],
    )
    topics = dict(zip(short, named, strict=True))
    return [topics.get(fact, ()) for fact in content.facts]


def _short_facts(content: Facts, tools: RecipeTools) -> list[str]:
    """Return the facts that leave half of the model's length for what stands around them."""
    room = tools.max_length // 2
    return [fact for fact in content.facts if len(tools.tokenizer.encode(fact)) < room]


def word_question(fact: str, content: Facts, topics: Sequence[str], rng: Random) -> str:
    """Return a short question made of a topic of a fact, or of one or two of its words."""
    if topics and rng.random() < TOPIC_SHARE:
        word = rng.choice(topics)
    else:
        words = _words_of(fact)
        word = rng.choice(words)
        if len(words) > 1 and rng.random() < 0.25:  # noqa: PLR2004  # now and then two of them
            word = f"{word} {rng.choice(words)}"
    forms = question_forms(content.language) or {"about": ["{W}?"]}
    voice = "about" if content.character or "about_other" not in forms else "about_other"
    form: str = rng.choice(forms[voice])
    return form.format(w=word, W=word[:1].upper() + word[1:])


def _words_of(fact: str) -> list[str]:
    return content_words(fact) or [word for word, _, _ in word_spans(fact)] or [fact]


# --- examples ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Asked:
    """The facts of a document, and questions that were written for each, and its topics."""

    content: Facts
    written: list[list[str]]
    topics: list[tuple[str, ...]]

    def turns(self, rng: Random) -> list[tuple[str, str]]:
        """Return one question for each fact, and what was said in dialogue."""
        asked = [
            rng.choice(written)
            if written and rng.random() < WRITTEN_SHARE
            else word_question(fact, self.content, topics, rng)
            for fact, written, topics in zip(
                self.content.facts, self.written, self.topics, strict=True
            )
        ]
        return [*zip(asked, self.content.facts, strict=True), *self.content.exchanges]


def leads_of(characters: Iterable[str | None]) -> tuple[tuple[Message, ...], ...]:
    """Return what questions are asked after: the template's own lead, the name of a character."""
    names = dict.fromkeys(name for name in characters if name)
    return ((), *((Message("system", f"You are {name}."),) for name in names))


def _examples(
    asked: Sequence[_Asked], tools: RecipeTools, rng: Random, count: int
) -> list[Example]:
    """Return steps of the first of so many passes, each with those of later ones as variants."""
    leads = leads_of(one.content.character for one in asked)
    passes = []
    for number in range(count):
        turns = [turn for one in asked for turn in one.turns(rng)]
        rng.shuffle(turns)
        steps = ceil(len(turns) / TURNS_PER_EXAMPLE)
        lead = leads[number % len(leads)]
        cut = [BEGINNING if number and rng.random() < BEGINNING_SHARE else None for _ in turns]
        passes.append(
            [
                pack_turns(turns[start::steps], tools.tokenizer, lead=lead, cut=cut[start::steps])
                for start in range(steps)
            ]
        )
    first, later = passes[0], passes[1:]
    return [
        replace(example, variants=tuple(one[number] for one in later))
        for number, example in enumerate(first)
    ]
