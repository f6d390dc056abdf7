"""Neutral text, on which an adapter is held to the base model's predictions.

While a short document is passed over many times, every step also draws the adapter's predictions
on something that has nothing to do with any memory towards those of the base model, as in
"Learning without Forgetting" (arXiv 1606.09282): mostly everyday questions with short answers,
because a memory that has learned to answer questions would otherwise answer all of them with what
it knows; now and then a piece of prose. For a piece with S tokens that count, p the model with the
adapter and q without::

    penalty = kl_weight / S * sum_s KL(q_s || p_s)
    KL(q || p) = sum_v q_v (log q_v - log p_v)

Of prose all tokens count, of questions with answers those of the answers. The questions stand
behind the template's own lead: asked after "You are NAME.", they hold back what a character has
learned.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeAlias

import torch
from torch import Tensor

from templora_memory.backends.local.base_model import BaseModel
from templora_memory.backends.local.lora.batched import (
    AdapterBatch,
    lowest_layer,
    use_adapters,
)
from templora_memory.backends.local.recipes import pack_turns
from templora_memory.backends.local.tokenizer import ChatTokenizer
from templora_memory.backends.local.train.frozen_layers import FrozenStates, below
from templora_memory.backends.local.train.loss import kl_divergence
from templora_memory.backends.local.train.step import (
    TrainInputs,
    collate,
    inputs_of,
    labelled_states,
    model_inputs,
)

_Maker: TypeAlias = Callable[[], TrainInputs]
PIECE_TOKENS = 128
"""Tokens of one piece of prose."""
TURNS_PER_PIECE = 4
"""Questions with their answers in one piece."""
PROSE_EVERY = 8
"""One piece in so many is prose, where there are questions."""
HELD_OUT_EVERY = 5
"""Every fifth piece is measured on, and never read while learning."""


class NeutralText:
    """Pieces of neutral text, and the base model's hidden states for them once they were needed.

    Args:
        base: the model.
        tokenizer: its tokenizer.
        prose: a text.
        chat: everyday questions with their answers, for a model with a chat template.
    """

    def __init__(
        self,
        base: BaseModel,
        tokenizer: ChatTokenizer,
        prose: str,
        chat: Sequence[tuple[str, str]] = (),
    ) -> None:
        self._base = base
        first = [] if base.bos_token_id is None else [base.bos_token_id]
        turns = () if tokenizer.uses_plain_template else chat
        # a template takes milliseconds for each question: a piece is made when it is read
        self._makers = _mix(
            [partial(_all_tokens, ids) for ids in _cut(first, tokenizer.encode(prose), base)],
            [
                partial(_questions, base, tokenizer, turns[start : start + TURNS_PER_PIECE])
                for start in range(0, len(turns), TURNS_PER_PIECE)
            ],
        )
        self._made: dict[int, TrainInputs] = {}
        count = range(len(self._makers))
        held_out = count[HELD_OUT_EVERY // 2 :: HELD_OUT_EVERY]
        self._held_out = list(held_out) or [0]
        self._training = [number for number in count if number not in held_out] or [0]
        self._teacher: dict[int, Tensor] = {}  # of each piece [S, D]
        self._frozen = FrozenStates()

    def piece(self, number: int) -> TrainInputs:
        """Return a piece, counted from 0."""
        if number not in self._made:
            self._made[number] = self._makers[number]()
        return self._made[number]

    def __len__(self) -> int:
        return len(self._makers)

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
        batch = collate(base, [self.piece(number) for number in pieces])
        weights = batch.targets.weights  # [T]
        if base.plain_lm_head:
            layer = lowest_layer(adapters)
            teacher = torch.cat(
                [self._teacher_states(number, layer) for number in pieces]
            )  # [T, D]
            states = below(base, layer, [(self._frozen, self.piece(number)) for number in pieces])
            with use_adapters(adapters):
                hidden = labelled_states(base, batch, states)
                return kl_divergence(hidden, teacher, base.lm_head, weights, batch.labels_per_row)
        labelled = batch.label_rows, batch.label_columns
        with torch.no_grad(), use_adapters(None):
            logits = base.logits(batch.input_ids, last=False, **model_inputs(batch))[labelled]
            log_q = logits.float().log_softmax(-1)  # [T, V]
        with use_adapters(adapters):
            logits = base.logits(batch.input_ids, last=False, **model_inputs(batch))[labelled]
            log_p = logits.float().log_softmax(-1)
        return ((log_q.exp() * (log_q - log_p)).sum(-1) * weights).sum()

    def _teacher_states(self, number: int, layer: int) -> Tensor:
        """Return the base model's hidden states [S, D] of the tokens that count."""
        if number not in self._teacher:
            inputs = self.piece(number)
            states = below(self._base, layer, [(self._frozen, inputs)])
            with torch.no_grad(), use_adapters(None):
                self._teacher[number] = labelled_states(
                    self._base, collate(self._base, [inputs]), states
                )
        return self._teacher[number]


def _cut(first: Sequence[int], ids: Sequence[int], base: BaseModel) -> list[list[int]]:
    """Return all full pieces of PIECE_TOKENS tokens, or the text itself if it is shorter."""
    size = min(PIECE_TOKENS, base.max_length) - len(first)
    full = [[*first, *ids[at : at + size]] for at in range(0, len(ids) - size + 1, size)]
    return full or ([[*first, *ids]] if ids else [])


def _questions(
    base: BaseModel, tokenizer: ChatTokenizer, turns: Sequence[tuple[str, str]]
) -> TrainInputs:
    """Return a piece of which the answers count."""
    return inputs_of(base, pack_turns(turns, tokenizer))


def _all_tokens(ids: Sequence[int]) -> TrainInputs:
    """Return a piece of which the prediction after every token counts."""
    count = len(ids)
    return TrainInputs(
        input_ids=tuple(ids),
        label_positions=tuple(range(count)),
        labels=(0,) * count,  # nobody asks what came next, only what the base model expects
        loss_weights=(1 / count,) * count,
        weight_sum=float(count),
    )


def _mix(prose: Sequence[_Maker], chat: Sequence[_Maker]) -> list[_Maker]:
    """Return the pieces of a conversation with a piece of prose among every few of them."""
    if not chat or not prose:
        return [*prose, *chat]
    mixed: list[_Maker] = []
    for number, piece in enumerate(chat):
        if number % (PROSE_EVERY - 1) == 0:
            mixed.append(prose[number // (PROSE_EVERY - 1) % len(prose)])
        mixed.append(piece)
    return mixed
