"""Many short texts gone on with at once, greedily: drafts of a recipe, not answers to anybody.

All of them follow the same prefix, whose keys and values are computed once. They begin together and
nobody joins later, so that the batch is built once::

    attention_mask [B, P + S]   1 ... 1    0 ... 0   1 ... 1
                                P, shared  padding   the row's own tokens

To a sliding window padding is distance: texts that are longer than the window may go on otherwise
than they would alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from templora_memory.backends.local.base_model import BaseModel, label_losses_at
from templora_memory.backends.local.kv_cache import KeyValues, dynamic_cache, growing_cache
from templora_memory.backends.local.lora.batched import use_adapters

ROWS = 32
"""Texts at once."""


def score_continuations(
    base: BaseModel, prefix: KeyValues, rows: Sequence[tuple[Sequence[int], Sequence[int]]]
) -> list[float]:
    """Return the log-probability of what each text goes on with, without an adapter.

    Args:
        base: the model.
        prefix: keys and values of what all of them follow.
        rows: tokens of each text, and of what it goes on with; neither is empty.
    """
    if not rows:
        return []
    known = prefix[0][0].shape[2] if prefix else 0  # P
    count, length = len(rows), max(len(text) + len(rest) - 1 for text, rest in rows)  # B, S
    padded = [[*text, *rest[:-1]] for text, rest in rows]
    input_ids = torch.tensor([[*ids, *[0] * (length - len(ids))] for ids in padded])  # [B, S]
    places = [
        (row, len(text) - 1 + at)
        for row, (text, rest) in enumerate(rows)
        for at in range(len(rest))
    ]
    labels = torch.tensor([token for _, rest in rows for token in rest], device=base.device)  # [T]
    position_ids = torch.arange(known, known + length, device=base.device).expand(count, -1)
    with torch.no_grad(), use_adapters(None):
        losses = label_losses_at(
            base,
            input_ids.to(base.device),
            labels,
            torch.tensor(places, device=base.device),
            position_ids=position_ids,
            past_key_values=dynamic_cache(_expand(prefix, count) or None),
            use_cache=True,
        )
    parts = torch.split(losses, [len(rest) for _, rest in rows])
    return [-float(part.sum()) for part in parts]


def _expand(prefix: KeyValues, rows: int) -> KeyValues:
    """Return keys and values for so many rows, without a copy."""
    return [(k.expand(rows, -1, -1, -1), v.expand(rows, -1, -1, -1)) for k, v in prefix]


class GreedyBatch:
    """Texts under way, on the model thread.

    Args:
        base: the model; no adapter is used.
        prefix: keys and values of what all of them follow.
        rows: tokens of each text, one or more.
    """

    def __init__(self, base: BaseModel, prefix: KeyValues, rows: Sequence[Sequence[int]]) -> None:
        self._base = base
        self.output_ids: list[list[int]] = [[] for _ in rows]
        self.log_p: list[list[float]] = [[] for _ in rows]
        self._done = [False] * len(rows)
        count = len(rows)  # B
        length = max(len(row) for row in rows) + base.decode_padding  # S
        known = prefix[0][0].shape[2] if prefix else 0  # P
        self._cache = growing_cache(_expand(prefix, count))
        self._next = torch.tensor(
            [[*[0] * (length - len(row)), *row] for row in rows], device=base.device
        )  # [B, S]
        own = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows])
        self._mask = torch.cat([torch.ones(count, known, dtype=torch.long), own], 1).to(base.device)
        self._position_ids = (self._mask.cumsum(1) - 1)[:, known:].clamp(min=0)  # [B, S]

    @property
    def done(self) -> bool:
        """True once every text has ended."""
        return all(self._done)

    def finish(self, ended: Sequence[bool]) -> None:
        """Let texts end; what they would go on with is no longer kept."""
        self._done = [before or now for before, now in zip(self._done, ended, strict=True)]

    def next_log_p(self) -> Tensor:
        """Return the log-probabilities [B, V] of what comes next; once before each step."""
        with torch.no_grad(), use_adapters(None):
            logits = self._base.logits(
                self._next,
                last=True,
                attention_mask=self._mask,
                position_ids=self._position_ids,
                past_key_values=self._cache,
                use_cache=True,
            )[:, -1]  # [B, V]
        return logits.float().log_softmax(-1)

    def step(self) -> None:
        """Add a token to every text that has not ended."""
        base = self._base
        best, self._next = self.next_log_p().max(-1, keepdim=True)  # [B, 1] each
        chosen = zip(self._next[:, 0].tolist(), best[:, 0].tolist(), strict=True)
        for row, (token, log_p) in enumerate(chosen):
            if token in base.eos_token_ids:
                self._done[row] = True
            elif not self._done[row]:
                self.output_ids[row].append(token)
                self.log_p[row].append(log_p)
        self._mask = torch.cat([self._mask, torch.ones_like(self._mask[:, :1])], 1)
        self._position_ids = self._position_ids[:, -1:] + 1
