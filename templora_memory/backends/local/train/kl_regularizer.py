"""Neutral text, on which an adapter is held to the base model's predictions.

While a short document is passed over many times, every step also draws the adapter's predictions
on something that has nothing to do with any memory towards those of the base model, as in
"Learning without Forgetting" (arXiv 1606.09282): mostly everyday questions with short answers,
because a memory that has learned to answer questions would otherwise answer all of them with what
it knows; now and then a piece of prose. For a piece with S tokens that count, p the model with the
adapter and q without::

    penalty = kl_weight / S * sum_s KL(q_s || p_s)
    KL(q || p) = sum_v q_v (log q_v - log p_v)

Of prose all tokens count, of questions the first ones of the answers: there it is decided what is
talked about. In place of its own answer every other question is followed by the beginning of
something that the memory has learned: that is the path that must stay as unlikely as it was. A
memory that answers behind a lead of its own ("You are NAME.") is held to the base behind this one
too, piece by piece in turn: what is guarded behind the template's own lead only is not guarded
behind another.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple, TypeAlias

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
from templora_memory.domain.lru import LruCache
from templora_memory.domain.messages import Message

Lead: TypeAlias = tuple[Message, ...]
"""What questions stand behind; empty: what the template puts there."""


class Held(NamedTuple):
    """Where a memory is held to the base model.

    Args:
        leads: what its questions stand behind.
        answers: what it has learned to say, and is not to say to everything.
    """

    leads: tuple[Lead, ...] = ((),)
    answers: tuple[str, ...] = ()


_Maker: TypeAlias = Callable[[Lead, tuple[str, ...]], TrainInputs]
_Key: TypeAlias = tuple[int, Lead, tuple[str, ...]]
PIECE_TOKENS = 128
"""Tokens of one piece of prose."""
TURNS_PER_PIECE = 8
"""Questions with their answers in one piece."""
BEGINNING = 4
"""Tokens of an answer that count, the first ones; the rest is left out."""
PROSE_EVERY = 8
"""One piece in so many is prose, where there are questions."""
MAX_PIECES = 1024
"""Pieces that are kept, each with each of its leads."""
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
                partial(_questions, base, tokenizer, turns, start)
                for start in range(0, len(turns), TURNS_PER_PIECE)
            ],
        )
        count = range(len(self._makers))
        held_out = count[HELD_OUT_EVERY // 2 :: HELD_OUT_EVERY]
        self._held_out = list(held_out) or [0]
        self._training = [number for number in count if number not in held_out] or [0]
        # every character brings a lead: what was used longest ago is made again
        self._made: LruCache[_Key, TrainInputs] = LruCache(MAX_PIECES)
        self._teacher: LruCache[_Key, Tensor] = LruCache(MAX_PIECES)  # of each piece [S, D]
        self._frozen = FrozenStates()

    def piece(self, number: int, lead: Lead = (), answers: tuple[str, ...] = ()) -> TrainInputs:
        """Return a piece, counted from 0.

        Args:
            number: of the piece.
            lead: what its questions stand behind.
            answers: that every other of its questions is followed by the beginning of, in turn;
                none: all are followed by their own.
        """
        key = number, lead, answers
        return self._made.get(key) or self._made.put(key, self._makers[number](lead, answers))

    def __len__(self) -> int:
        return len(self._makers)

    def kl_penalty(
        self, turns: Sequence[int], adapters: AdapterBatch, held: Sequence[Held] = ()
    ) -> Tensor:
        """Return the sum over rows of each row's mean KL(base || adapter) on one piece.

        Args:
            turns: which piece each row reads, counted round and round.
            adapters: of the rows.
            held: where each row is held; none: behind the template's own lead.

        Returns:
            A scalar in nats per token, with the adapters' gradient.
        """
        rows = zip(turns, held or [Held()] * len(turns), strict=True)
        return self._kl_divergence([self._key(turn, own) for turn, own in rows], adapters)

    def _key(self, turn: int, held: Held) -> _Key:
        """Return the piece of a turn: in each round it stands behind the next lead."""
        rounds, place = divmod(turn, len(self._training))
        lead = held.leads[(rounds + place) % len(held.leads)]
        return self._training[place], lead, held.answers

    def kl_to_base(self, adapters: AdapterBatch) -> float:
        """Return the mean KL(base || adapter) of one adapter on the held-out pieces, in nats.

        Their questions stand behind the template's own lead.
        """
        with torch.no_grad():
            values = [
                self._kl_divergence([(piece, (), ())], adapters).item() for piece in self._held_out
            ]
        return sum(values) / len(values)

    def _kl_divergence(self, keys: Sequence[_Key], adapters: AdapterBatch) -> Tensor:
        base, pieces = self._base, [self.piece(*key) for key in keys]
        batch = collate(base, pieces)
        weights = batch.targets.weights  # [T]
        if base.plain_lm_head:
            layer = lowest_layer(adapters)
            teacher = torch.cat([self._teacher_states(key, layer) for key in keys])  # [T, D]
            states = below(base, layer, [(self._frozen, piece) for piece in pieces])
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

    def _teacher_states(self, key: _Key, layer: int) -> Tensor:
        """Return the base model's hidden states [S, D] of the tokens that count."""
        known = self._teacher.get(key)
        if known is not None:
            return known
        inputs = self.piece(*key)
        states = below(self._base, layer, [(self._frozen, inputs)])
        with torch.no_grad(), use_adapters(None):
            hidden = labelled_states(self._base, collate(self._base, [inputs]), states)
        return self._teacher.put(key, hidden)


def _cut(first: Sequence[int], ids: Sequence[int], base: BaseModel) -> list[list[int]]:
    """Return all full pieces of PIECE_TOKENS tokens, or the text itself if it is shorter."""
    size = min(PIECE_TOKENS, base.max_length) - len(first)
    full = [[*first, *ids[at : at + size]] for at in range(0, len(ids) - size + 1, size)]
    return full or ([[*first, *ids]] if ids else [])


def _questions(  # noqa: PLR0917  # the last two come later
    base: BaseModel,
    tokenizer: ChatTokenizer,
    turns: Sequence[tuple[str, str]],
    start: int,
    lead: Lead,
    answers: tuple[str, ...],
) -> TrainInputs:
    """Return a piece of which the beginnings of the answers count."""
    piece = [
        (question, answers[number // 2 % len(answers)] if answers and number % 2 else answer)
        for number, (question, answer) in enumerate(turns[start : start + TURNS_PER_PIECE], start)
    ]
    return inputs_of(base, pack_turns(piece, tokenizer, lead=lead, cut=[BEGINNING] * len(piece)))


def _all_tokens(ids: Sequence[int], *_: object) -> TrainInputs:
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
