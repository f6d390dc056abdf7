"""Short documents sentence by sentence, each as something the assistant says; the rest as text."""

from __future__ import annotations

from collections.abc import Sequence

from templora_memory.backends.local.recipes.base import Example, Tools
from templora_memory.backends.local.recipes.next_token import continue_, examples_of
from templora_memory.backends.local.recipes.sentences import sentences
from templora_memory.domain.messages import Document
from templora_memory.ports import LearnRequest


def short(request: LearnRequest, plain: Sequence[Example]) -> bool:
    """Whether a text of these chunks is passed over more often than `epochs`."""
    return len(plain) * request.settings.steps_per_chunk < request.min_steps


def statements(request: LearnRequest, tools: Tools) -> Sequence[Example]:
    """Like `continue_`, but for documents that are short enough to get additional passes.

    Those would teach a chat model to talk on in plain text; with the end of the assistant's
    message after every sentence it goes on to answer briefly, and knows as much.
    """
    plain = continue_(request, tools)
    if tools.text.plain or not short(request, plain):
        return plain
    told = [
        sentence
        for item in request.items
        if isinstance(item, Document)
        for sentence in sentences(item.text)
    ]
    return examples_of(tools.text.statements(told), (), request)
