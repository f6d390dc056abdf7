"""Questions and answers that the model writes itself about a text, learned instead of the text.

What is trained on matters more than how (SEAL, arXiv 2506.10943; LIFT, 2502.14644; Physics of
Language Models 3.1, 2309.14316): a fact that was only told in one way is hardly found again by a
question. So the model, with the text in its prompt, writes questions to every sentence, and their
answers; then it learns to answer them without the text.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import torch

from templora_memory.backends.local.recipes.base import Example, Soft, Tools
from templora_memory.backends.local.recipes.interview import grounded, interviewed
from templora_memory.backends.local.recipes.next_token import continue_
from templora_memory.backends.local.recipes.sentences import sentences, states
from templora_memory.backends.local.recipes.statements import short, statements
from templora_memory.domain.messages import Document, Message
from templora_memory.ports import LearnRequest

ABOUT = (
    "{text}\n\n"
    "Write three questions that this sentence answers, each with a short answer, as lines that "
    "begin with Q: and A:.\n"
    "{sentence}"
)
TO = (
    "{text}\n\n"
    "Write three questions to the person in this sentence, each with that person's short answer, "
    "as lines that begin with Q: and A:.\n"
    "{sentence}"
)
"""What the model is asked for, for every sentence: questions about it, and questions to whoever
speaks or is spoken of in it. The text comes first, so that its keys and values can be shared."""

WRITTEN = 160
"""Tokens that three questions and answers may take."""
DEALT = 8
"""Questions and answers in one example."""

_PAIR = re.compile(r"^Q:[ \t]*(?P<ask>\S.*)\n+A:[ \t]*(?P<say>\S.*)$", re.MULTILINE)


def study(request: LearnRequest, tools: Tools) -> Sequence[Example]:
    """Documents as questions and answers about them, beside what they say.

    Only the answers are learned; questions of one sentence stand in different examples, so that no
    answer can be copied from the one before it. Conversations, models without a chat template, and
    texts of which the model makes no question are learned as `statements` does.
    """
    told = statements(request, tools)
    asked = [pair for pairs in questions(request, tools).values() for pair in pairs]
    return [*dealt(asked, tools), *told]


def questions(request: LearnRequest, tools: Tools) -> dict[str, list[tuple[str, str]]]:
    """Questions about each piece of the documents, with the model's answers.

    Those that it writes itself, and those of an interview; only answers that take something from
    the text.
    """
    if tools.text.plain:
        return {}
    most = tools.room - WRITTEN
    found: dict[str, list[tuple[str, str]]] = {}
    for item in request.items:
        if not isinstance(item, Document):
            continue
        for piece in tools.text.split(item.text, max(1, most // 2)):
            asked = [p for p in requests(piece) if len(tools.text.prompt(p)) <= most]
            if asked:
                own = pairs(tools.write(asked, max_tokens=WRITTEN))
                every = dict.fromkeys([*own, *interviewed(piece, tools)])
                found[piece] = grounded(list(every), piece, tools)
    return found


def auto(request: LearnRequest, tools: Tools) -> Sequence[Example]:
    """Short documents as `study` does, everything else as `continue_` does."""
    plain = continue_(request, tools)
    return study(request, tools) if short(request, plain) else plain


def requests(text: str) -> list[tuple[Message, ...]]:
    """The prompts for a text: two for every sentence that states something."""
    return [
        (Message("user", form.format(text=text, sentence=sentence)),)
        for sentence in filter(states, sentences(text))
        for form in (ABOUT, TO)
    ]


def pairs(written: Sequence[str]) -> list[tuple[str, str]]:
    """Questions and answers in what the model wrote, each once; what is no pair is left out."""
    found = (
        (match["ask"].strip(), match["say"].strip())
        for text in written
        for match in _PAIR.finditer(text)
    )
    return list(dict.fromkeys(found))


def dealt(
    asked: Sequence[tuple[str, str]], tools: Tools, soft: Sequence[Soft] = ()
) -> list[Example]:
    """Examples of some pairs each, dealt like cards, so that neighbours are far apart.

    Args:
        asked: questions and answers.
        tools: for their tokens.
        soft: what to learn in place of each pair's answer and all that stands before it in the
            assistant's message; none: the answers.
    """
    count = math.ceil(len(asked) / DEALT)
    return [
        _example(asked[start::count], tools, soft[start::count] if soft else ())
        for start in range(count)
    ]


def _example(asked: Sequence[tuple[str, str]], tools: Tools, soft: Sequence[Soft]) -> Example:
    ids: list[int] = []
    weights: list[float] = []
    places: list[slice] = []
    for question, answer in asked:
        turn = (Message("user", question), Message("assistant", answer))
        own = tools.text.dialogue(turn, lead=not ids)
        seen = len(tools.text.dialogue(turn[:1], lead=not ids).ids)
        places.append(slice(len(ids) + seen, len(ids) + len(own.ids)))
        ids += own.ids
        weights += [0.0] * seen + list(own.weights[seen:])
    whole = placed(soft, places, len(ids)) if soft else None
    return Example(context=(), ids=tuple(ids), weights=tuple(weights), soft=whole)


def placed(soft: Sequence[Soft], places: Sequence[slice], length: int) -> Soft:
    """Expectations at some places of a chunk as one value for the whole chunk."""
    width = max(one.ids.shape[1] for one in soft)
    ids = torch.zeros((length, width), dtype=torch.long)
    p = torch.zeros((length, width))
    for place, one in zip(places, soft, strict=True):
        ids[place, : one.ids.shape[1]], p[place, : one.p.shape[1]] = one.ids, one.p
    return Soft(ids, p)
