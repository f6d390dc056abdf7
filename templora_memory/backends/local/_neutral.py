"""Text that has nothing to do with any memory: what the base model makes of it should stay.

While a short document is passed over many times, every step also pulls the adapter's predictions
on a piece of this text towards those of the base model (Kullback-Leibler divergence, as in
"Learning without Forgetting", arXiv 1606.09282). Without it, a memory of a bio makes any other
text harder to predict.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources

import torch
from torch import Tensor

from templora_memory.backends.local import _lora, _loss
from templora_memory.backends.local._model import BaseModel
from templora_memory.backends.local._text import Text

WINDOW = 128
"""Tokens of one piece."""


def bundled_text() -> str:
    """English prose on many everyday subjects, written for this package."""
    file = resources.files("templora_memory.backends.local") / "neutral.txt"
    return file.read_text(encoding="utf-8")


class Neutral:
    """Pieces of a text, and the base model's hidden states for them."""

    def __init__(self, base: BaseModel, text: Text, words: str) -> None:
        ids = text.encode(words)
        first = [] if base.start_token is None else [base.start_token]
        size = min(WINDOW, base.context) - len(first)
        pieces = [[*first, *ids[at : at + size]] for at in range(0, len(ids) - size + 1, size)]
        self._base = base
        self._ids = torch.tensor(pieces or [[*first, *ids]], device=base.device)
        with torch.no_grad():
            self._hidden = torch.cat([base.hidden(row[None], use_cache=False) for row in self._ids])

    def divergence(self, turns: Sequence[int], rows: _lora.Rows) -> Tensor:
        """Sum over rows of each row's mean KL(base || adapter) on one piece, in nats per token.

        Args:
            turns: which piece each row reads, counted round and round.
            rows: the adapters.
        """
        base = self._base
        chosen = torch.tensor([turn % len(self._ids) for turn in turns], device=base.device)
        ids = self._ids[chosen]
        with _lora.using(rows):
            if base.own_head:
                hidden = base.hidden(ids, use_cache=False).flatten(0, 1)
                teacher = self._hidden[chosen].flatten(0, 1)
                return _loss.divergence(hidden, teacher, base.head, len(turns)) / ids.shape[1]
            found = base.logits(ids, last=False, use_cache=False).float().log_softmax(-1)
        with torch.no_grad():
            wanted = base.logits(ids, last=False, use_cache=False).float().log_softmax(-1)
        return (wanted.exp() * (wanted - found)).sum() / ids.shape[1]
