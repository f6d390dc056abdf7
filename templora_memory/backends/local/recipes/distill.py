"""Questions about a text, answered as the model answers with the text before it.

The student, which has no text, learns what the teacher, the same model without the memory but
with the text in its prompt, expects at every token of the answer: not one word, but all likely
ones (context distillation, arXiv 2112.00861; prompt baking, 2409.13697). The questions and answers
are those of `study`.
"""

from __future__ import annotations

from collections.abc import Sequence

from templora_memory.backends.local.recipes.base import Example, Tools
from templora_memory.backends.local.recipes.beside import Shown, beside
from templora_memory.backends.local.recipes.questions import dealt, questions
from templora_memory.backends.local.recipes.statements import statements
from templora_memory.domain.messages import Message
from templora_memory.ports import LearnRequest

TOP = 64
"""Tokens of the teacher's expectation that are kept at each place."""


def distill(request: LearnRequest, tools: Tools) -> Sequence[Example]:
    """Like `study`, with the teacher's expectations in place of the bare answers."""
    told = statements(request, tools)
    pairs: list[tuple[str, str]] = []
    shown: list[Shown] = []
    for text, asked in questions(request, tools).items():
        for question, answer in asked:
            turn = (Message("user", question), Message("assistant", answer))
            seen = len(tools.text.dialogue(turn[:1], lead=True).ids)
            both = beside(turn, text, tools, seen=seen)
            if both is not None:
                pairs.append((question, answer))
                shown.append(both[0])
    soft = tools.expect(shown, top=TOP) if shown else []
    return [*dealt(pairs, tools, soft), *told]
