"""Text and questions that have nothing to do with a memory, and what it changes in them."""

from __future__ import annotations

import math
from importlib import resources
from itertools import pairwise

from templora_memory.errors import InvalidText
from templora_memory.evaluation._newest import newest
from templora_memory.ports import Adapter, ScoreRequest
from templora_memory.service.parametric_memory import ParametricMemory

OTHER_TOKENS = 2000


def everyday_questions() -> tuple[str, ...]:
    """Questions about nobody, written for this package."""
    file = resources.files("templora_memory.evaluation") / "everyday.txt"
    return tuple(file.read_text(encoding="utf-8").splitlines())


class OtherText:
    """The beginning of an unrelated text, in pieces of which two fit the window.

    Raises:
        InvalidText: it is too short.
    """

    def __init__(self, service: ParametricMemory, text: str) -> None:
        size = min(256, service.policy.window // 2 - 1)
        self._pieces = service.backend.split(text, size)[: -(-OTHER_TOKENS // size)]
        if len(self._pieces) < 2:  # noqa: PLR2004  # the first one is only context
            raise InvalidText(f"The other text is too short to measure: {OTHER_TOKENS} tokens.")
        self._service = service
        self._plain = self._nll(None, 1.0)

    def factor(self, name: str, strength: float = 1.0) -> float:
        """Return the perplexity with a memory, divided by that without."""
        return math.exp(self._nll(newest(self._service.open(name)), strength) - self._plain)

    def _nll(self, adapter: Adapter | None, strength: float) -> float:
        """Mean over the tokens of all pieces but the first, each after the piece before it."""
        scores: list[float] = []
        for before, piece in pairwise(self._pieces):
            request = ScoreRequest(context=before, target=piece, adapter=adapter, strength=strength)
            scores += self._service.backend.score([request])[0]
        return -sum(scores) / len(scores)
