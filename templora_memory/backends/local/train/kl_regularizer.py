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

from templora_memory.backends.local.base_model import BaseModel
from templora_memory.backends.local.lora import batched
from templora_memory.backends.local.tokenizer import Text
from templora_memory.backends.local.train import loss
from templora_memory.domain.messages import Message

WINDOW = 128
"""Tokens of one piece."""
MEASURED = 5
"""Every fifth piece is measured on, and never read while learning."""


def bundled_text() -> str:
    """English prose on many everyday subjects, written for this package."""
    return _bundled("neutral.txt")


def bundled_talk() -> tuple[Message, ...]:
    """A conversation about nothing in particular, written for this package."""
    lines = _bundled("neutral_chat.txt").splitlines()
    return tuple(
        Message("assistant" if number % 2 else "user", line) for number, line in enumerate(lines)
    )


def _bundled(name: str) -> str:
    file = resources.files("templora_memory.backends.local.train") / name
    return file.read_text(encoding="utf-8")


class Neutral:
    """Pieces of texts, and the base model's hidden states for them.

    Args:
        base: the model.
        text: its tokenizer.
        words: prose.
        talk: a conversation, for a model with a chat template; its pieces come among those of the
            prose, so that a chat model goes on answering as one.
    """

    def __init__(
        self, base: BaseModel, text: Text, words: str, talk: Sequence[Message] = ()
    ) -> None:
        first = [] if base.start_token is None else [base.start_token]
        prose = _pieces(first, text.encode(words), base.context)
        spoken = [] if text.plain or not talk else text.dialogue(talk, lead=True).ids
        chat = _pieces([], spoken, base.context)
        self._base = base
        self._ids = torch.tensor(_mixed(prose, chat), device=base.device)
        every = range(len(self._ids))
        self._kept = list(every[MEASURED // 2 :: MEASURED]) or list(every)
        self._read = [piece for piece in every if piece not in self._kept] or list(every)
        with torch.no_grad():
            self._hidden = torch.cat([base.hidden(row[None], use_cache=False) for row in self._ids])

    def pull(self, turns: Sequence[int], rows: batched.Rows) -> Tensor:
        """Sum over rows of each row's mean KL(base || adapter) on one piece, in nats per token.

        Args:
            turns: which piece each row reads, counted round and round.
            rows: the adapters.
        """
        return self._divergence([self._read[turn % len(self._read)] for turn in turns], rows)

    def drift(self, rows: batched.Rows) -> float:
        """Mean KL(base || adapter) of one adapter on pieces that are never read while learning."""
        with torch.no_grad():
            found = [self._divergence([piece], rows).item() for piece in self._kept]
        return sum(found) / len(found)

    def _divergence(self, pieces: Sequence[int], rows: batched.Rows) -> Tensor:
        base = self._base
        ids = self._ids[list(pieces)]
        with batched.using(rows):
            if base.own_head:
                hidden = base.hidden(ids, use_cache=False).flatten(0, 1)
                teacher = self._hidden[list(pieces)].flatten(0, 1)
                return loss.divergence(hidden, teacher, base.head, len(pieces)) / ids.shape[1]
            found = base.logits(ids, last=False, use_cache=False).float().log_softmax(-1)
        with torch.no_grad():
            wanted = base.logits(ids, last=False, use_cache=False).float().log_softmax(-1)
        return (wanted.exp() * (wanted - found)).sum() / ids.shape[1]


def _pieces(first: Sequence[int], ids: Sequence[int], most: int) -> list[list[int]]:
    """All whole pieces of WINDOW tokens, or the text itself if it is shorter."""
    size = min(WINDOW, most) - len(first)
    whole = [[*first, *ids[at : at + size]] for at in range(0, len(ids) - size + 1, size)]
    return whole or ([[*first, *ids]] if ids else [])


def _mixed(prose: list[list[int]], chat: list[list[int]]) -> list[list[int]]:
    """The pieces of a conversation at even distances among those of the prose."""
    chat = [piece for piece in chat if len(piece) == len(prose[0])]
    places = [
        ((at + 0.5) / len(kind), piece) for kind in (prose, chat) for at, piece in enumerate(kind)
    ]
    return [piece for _, piece in sorted(places, key=lambda place: place[0])]
