"""Short documents sentence by sentence, each as something the assistant says; the rest as text."""

from __future__ import annotations

import re
from collections.abc import Sequence

from templora_memory._messages import Document
from templora_memory._ports import LearnRequest
from templora_memory.backends.local._text import Text
from templora_memory.backends.local.recipes._continue import continue_, examples_of
from templora_memory.backends.local.recipes._example import Example

_SENTENCE = re.compile(r"""(?<=[.!?])\s+|(?<=[.!?]["')\]])\s+|\s*\n\s*""")


def statements(request: LearnRequest, text: Text, start: int | None) -> Sequence[Example]:
    """Like `continue_`, but for documents that are short enough to get additional passes.

    Those would teach a chat model to talk on in plain text; with the end of the assistant's
    message after every sentence it goes on to answer briefly, and knows as much.
    """
    plain = continue_(request, text, start)
    short = len(plain) * request.settings.epochs < request.least_steps
    if not short or text.plain:
        return plain
    sentences = [
        sentence
        for item in request.items
        if isinstance(item, Document)
        for sentence in _sentences(item.text)
    ]
    return examples_of(text.statements(sentences), (), request)


def _sentences(text: str) -> list[str]:
    """Sentences and lines; what stood between them is left out."""
    return [piece.strip() for piece in _SENTENCE.split(text) if piece.strip()]
