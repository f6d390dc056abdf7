"""Neutral text, on which an adapter is held to the base model's predictions.

While a short document is passed over many times, every step also draws the adapter's predictions
on a piece of text that has nothing to do with any memory towards those of the base model, as in
"Learning without Forgetting" (arXiv 1606.09282). Without it, a memory of a bio makes any other
text harder to predict. For a piece of S tokens, p the model with the adapter and q without::

    penalty = kl_weight / S * sum_s KL(q_s || p_s)
    KL(q || p) = sum_v q_v (log q_v - log p_v)
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources

import torch
from torch import Tensor

from templora_memory.backends.local.base_model import BaseModel
from templora_memory.backends.local.lora.batched import AdapterBatch, use_adapters
from templora_memory.backends.local.tokenizer import ChatTokenizer
from templora_memory.backends.local.train.loss import kl_divergence
from templora_memory.domain.messages import Message

PIECE_TOKENS = 128
"""Tokens of one piece."""
HELD_OUT_EVERY = 5
"""Every fifth piece is measured on, and never read while learning."""


def bundled_text() -> str:
    """Return English prose on many everyday subjects, written for this package."""
    return _bundled("neutral.txt")


def bundled_conversation() -> tuple[Message, ...]:
    """Return a conversation about nothing in particular, written for this package."""
    lines = _bundled("neutral_chat.txt").splitlines()
    return tuple(
        Message("assistant" if number % 2 else "user", line) for number, line in enumerate(lines)
    )


def _bundled(name: str) -> str:
    file = resources.files("templora_memory.backends.local.train") / name
    return file.read_text(encoding="utf-8")


class NeutralText:
    """Pieces of neutral text, and the base model's hidden states for them.

    Args:
        base: the model.
        tokenizer: its tokenizer.
        prose: a text.
        conversation: for a model with a chat template; its pieces come among those of the prose,
            so that a chat model goes on answering as one.
    """

    def __init__(
        self,
        base: BaseModel,
        tokenizer: ChatTokenizer,
        prose: str,
        conversation: Sequence[Message] = (),
    ) -> None:
        first = [] if base.bos_token_id is None else [base.bos_token_id]
        prose_pieces = _pieces(first, tokenizer.encode(prose), base.max_length)
        chat_ids = (
            []
            if tokenizer.uses_plain_template or not conversation
            else tokenizer.dialogue(conversation, lead=True).ids
        )
        chat_pieces = _pieces([], chat_ids, base.max_length)
        self._base = base
        self._ids = torch.tensor(_interleave(prose_pieces, chat_pieces), device=base.device)
        pieces = range(len(self._ids))
        self._held_out = list(pieces[HELD_OUT_EVERY // 2 :: HELD_OUT_EVERY]) or list(pieces)
        self._training = [n for n in pieces if n not in self._held_out] or list(pieces)
        with torch.no_grad():  # [pieces, S, D]
            self._hidden = torch.cat(
                [base.hidden_states(row[None], use_cache=False) for row in self._ids]
            )

    def kl_penalty(self, turns: Sequence[int], adapters: AdapterBatch) -> Tensor:
        """Return the sum over rows of each row's mean KL(base || adapter) on one piece.

        Args:
            turns: which piece each row reads, counted round and round.
            adapters: of the rows.

        Returns:
            A scalar in nats per token, with the adapters' gradient.
        """
        return self._kl_divergence(
            [self._training[turn % len(self._training)] for turn in turns], adapters
        )

    def kl_to_base(self, adapters: AdapterBatch) -> float:
        """Return the mean KL(base || adapter) of one adapter on the held-out pieces, in nats."""
        with torch.no_grad():
            values = [self._kl_divergence([piece], adapters).item() for piece in self._held_out]
        return sum(values) / len(values)

    def _kl_divergence(self, pieces: Sequence[int], adapters: AdapterBatch) -> Tensor:
        base = self._base
        input_ids = self._ids[list(pieces)]  # [B, S]
        length = input_ids.shape[1]
        with use_adapters(adapters):
            if base.plain_lm_head:
                hidden = base.hidden_states(input_ids, use_cache=False).flatten(0, 1)  # [B * S, D]
                teacher = self._hidden[list(pieces)].flatten(0, 1)
                return kl_divergence(hidden, teacher, base.lm_head, len(pieces)) / length
            log_p = base.logits(input_ids, last=False, use_cache=False).float().log_softmax(-1)
        with torch.no_grad():
            log_q = base.logits(input_ids, last=False, use_cache=False).float().log_softmax(-1)
        return (log_q.exp() * (log_q - log_p)).sum() / length


def _pieces(first: Sequence[int], ids: Sequence[int], max_length: int) -> list[list[int]]:
    """Return all full pieces of PIECE_TOKENS tokens, or the text itself if it is shorter."""
    size = min(PIECE_TOKENS, max_length) - len(first)
    full = [[*first, *ids[at : at + size]] for at in range(0, len(ids) - size + 1, size)]
    return full or ([[*first, *ids]] if ids else [])


def _interleave(prose: list[list[int]], chat: list[list[int]]) -> list[list[int]]:
    """Return the pieces of a conversation at even distances among those of the prose."""
    chat = [piece for piece in chat if len(piece) == len(prose[0])]
    placed = [
        ((at + 0.5) / len(kind), piece) for kind in (prose, chat) for at, piece in enumerate(kind)
    ]
    return [piece for _, piece in sorted(placed, key=lambda item: item[0])]
