"""Decoding: answers with different adapters, one token a round in one batch.

Each answer is prefilled alone and then joins the batch: rows are padded on the left, positions
are explicit. Rows join and leave between rounds.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TypeAlias

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache
from transformers.generation.logits_process import (
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from templora_memory.backends.local.base_model import BaseModel, pad_left, pairs_of, stored_cache
from templora_memory.backends.local.decode.json_grammar import Schemas
from templora_memory.backends.local.lora import batched
from templora_memory.backends.local.priority_queue import NO_ABSORB, Absorb
from templora_memory.backends.local.tokenizer import Decoder, Text
from templora_memory.domain.results import FinishReason
from templora_memory.domain.settings import Sampling
from templora_memory.errors import Cancelled, ModelError
from templora_memory.ports import Completion

Pairs: TypeAlias = list[tuple[Tensor, Tensor]]
_LOOK_SECONDS = 0.1


# --- what the caller holds ---------------------------------------------------------------------


class Channel:
    """Between the worker, which writes, and one caller, who reads or goes away."""

    def __init__(self) -> None:
        self.queue: queue.SimpleQueue[str | Completion | BaseException] = queue.SimpleQueue()
        self.closed = threading.Event()


class LocalStream:
    """A generation under way; see `TokenStream`."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._lock = threading.Lock()
        self._end: Completion | BaseException | None = None

    def __iter__(self) -> Iterator[str]:
        while True:
            with self._lock:  # held for one piece only, never while the caller has it
                item = self._next()
            if item is None:
                return
            yield item

    def finish(self, cancelled: Callable[[], bool]) -> Completion:
        """The completion, unless it is cancelled before.

        Raises:
            Cancelled: it was; nothing more is generated.
        """
        while self._end is None:
            if cancelled():
                self.close()
                raise Cancelled("The absorb was cancelled; the old revision stays.")
            with self._lock, suppress(queue.Empty):
                self._next(timeout=_LOOK_SECONDS)
        return self.completion

    def _next(self, timeout: float | None = None) -> str | None:
        if self._end is None:
            item = self._channel.queue.get(timeout=timeout)
            if isinstance(item, str):
                return item
            self._end = item
        if isinstance(self._end, BaseException):
            raise self._end
        return None

    @property
    def completion(self) -> Completion:
        for _ in self:
            pass
        if not isinstance(self._end, Completion):
            raise TypeError("a stream ended without a completion")
        return self._end

    def close(self) -> None:
        self._channel.closed.set()

    def __del__(self) -> None:
        self._channel.closed.set()  # a caller who went away wants no more tokens


# --- one answer --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Computed:
    """A cache and what is in it: keys and values of `ids`, from position 0 on.

    `versions` names every adapter that wrote into it; more than one means that older entries were
    computed before the newest update.
    """

    pairs: Pairs
    ids: tuple[int, ...]
    versions: frozenset[str]

    @property
    def bytes(self) -> int:
        return sum(keys.nbytes + values.nbytes for keys, values in self.pairs)

    def beginning(self, ids: Sequence[int]) -> Computed | None:
        """What it holds of a beginning of these tokens, but never of all of them."""
        same = 0
        for own, wanted in zip(self.ids, ids[:-1], strict=False):
            if own != wanted:
                break
            same += 1
        if not same:
            return None
        pairs = [(keys[:, :, :same], values[:, :, :same]) for keys, values in self.pairs]
        return Computed(pairs, self.ids[:same], self.versions)


@dataclass(slots=True, eq=False)
class Answer:
    """A prompt being answered."""

    prompt: tuple[int, ...]
    weights: batched.Weights | None
    version: str
    strength: float
    sampling: Sampling
    stop: tuple[str, ...]
    most: int
    channel: Channel
    absorb: Absorb = NO_ABSORB  # that it is a draft of
    cache: Computed | None = None  # of a beginning of the prompt
    keep_cache: bool = False
    kept: Callable[[Computed], None] | None = None  # told what was computed, before the end
    unsaid: int | None = None  # tokens of the prompt, at its end, that the text begins with
    ids: list[int] = field(default_factory=list)
    text: list[str] = field(default_factory=list)
    pairs: Pairs | None = None

    @property
    def gone(self) -> bool:
        """Whether nobody wants it any more."""
        return self.channel.closed.is_set()

    @property
    def computed(self) -> Computed | None:
        """Its keys and values once it has ended, where `keep_cache` asks for them."""
        if self.pairs is None:
            return None
        held = self.pairs[0][0].shape[2]  # the last token was chosen, but not yet fed
        older = self.cache.versions if self.cache else frozenset()
        return Computed(self.pairs, (*self.prompt, *self.ids)[:held], older | {self.version})


class _Chooser:
    """The next token of one answer."""

    def __init__(self, sampling: Sampling, base: BaseModel, schemas: Schemas) -> None:
        self._sampling = sampling
        self._grammar = schemas.grammar(sampling.schema) if sampling.schema else None
        self._ends = sorted(base.end_tokens) if sampling.ignore_end else []
        self._penalty = (
            RepetitionPenaltyLogitsProcessor(float(sampling.repetition_penalty))
            if sampling.repetition_penalty != 1
            else None
        )
        self._warpers = []
        if sampling.temperature > 0:
            self._warpers.append(TemperatureLogitsWarper(float(sampling.temperature)))
            if sampling.top_k:
                self._warpers.append(TopKLogitsWarper(sampling.top_k))
            if sampling.top_p < 1:
                self._warpers.append(TopPLogitsWarper(sampling.top_p))
        self._random = torch.Generator()
        if sampling.seed is None:
            self._random.seed()
        else:
            self._random.manual_seed(sampling.seed)

    def choose(self, logits: Tensor, prompt: Sequence[int], said: Sequence[int]) -> int:
        """Pick from logits [vocabulary], given the tokens before; only a penalty looks at them."""
        scores = logits.float().cpu()[None]
        if scores.isnan().any():
            raise ModelError(
                "The model's output is no number: its weights or the memory's are unusable in this "
                "precision. Try dtype='float32', or roll the memory back."
            )
        if self._ends:
            scores[:, self._ends] = -torch.inf
        if self._grammar is not None:
            scores[:, self._grammar.forbidden(scores.shape[1])] = -torch.inf
        ids = torch.tensor([[*prompt, *said]] if self._penalty else [[]], dtype=torch.long)
        if self._penalty is not None:
            scores = self._penalty(ids, scores)
        token = self._pick(ids, scores)
        if self._grammar is not None:
            self._grammar.take(token)
        return token

    def _pick(self, ids: Tensor, scores: Tensor) -> int:
        if self._sampling.temperature == 0:
            return int(scores.argmax())
        for warper in self._warpers:
            scores = warper(ids, scores)
        return int(torch.multinomial(scores.softmax(-1)[0], 1, generator=self._random))


class _Row:
    """An answer in the batch."""

    def __init__(self, answer: Answer, base: BaseModel, text: Text, schemas: Schemas) -> None:
        self.answer = answer
        self.chooser = _Chooser(answer.sampling, base, schemas)
        if answer.unsaid is None:
            self.decoder = Decoder(text, answer.stop)
        else:
            self.decoder = Decoder(text, answer.stop, before=answer.prompt, unsaid=answer.unsaid)
        self.ends = base.end_tokens
        self.token = 0  # chosen, not yet fed
        self.position = 0  # of the token to feed: how many tokens the cache holds

    def take(self, logits: Tensor) -> FinishReason | None:
        """Choose the next token and hand out its text; returns why the answer ends, if it does."""
        answer = self.answer
        self.token = self.chooser.choose(logits, answer.prompt, answer.ids)
        answer.ids.append(self.token)
        if self.token in self.ends and not answer.sampling.ignore_end:
            self._say(self.decoder.finish())
            return "stop"
        self._say(self.decoder.push(self.token))
        if self.decoder.stopped:
            return "stop"
        if len(answer.ids) >= answer.most:
            self._say(self.decoder.finish(hold=answer.unsaid is not None))
            return "stop" if self.decoder.stopped else "length"
        return None

    def _say(self, piece: str) -> None:
        if piece:
            self.answer.text.append(piece)
            self.answer.channel.queue.put(piece)

    def end(self, reason: FinishReason | BaseException) -> None:
        answer = self.answer
        if isinstance(reason, BaseException):
            answer.channel.queue.put(reason)
            return
        if reason == "cancelled":
            self._say(self.decoder.finish(hold=answer.unsaid is not None))
        if answer.unsaid is not None:
            answer.unsaid = self.decoder.held
        if answer.kept is not None and (computed := answer.computed) is not None:
            answer.kept(computed)
        answer.channel.queue.put(
            Completion(
                text="".join(answer.text),
                finish_reason=reason,
                prompt_tokens=len(answer.prompt),
                completion_tokens=len(answer.ids),
            )
        )


# --- the batch ---------------------------------------------------------------------------------


class DecodeBatch:
    """All answers under way, on the worker's thread.

    Args:
        base: the model.
        text: between texts and tokens.
        most: answers at once; further ones wait. None: as many as come.
    """

    def __init__(self, base: BaseModel, text: Text, *, most: int | None = None) -> None:
        self._base = base
        self._text = text
        self._most = most
        self._schemas = Schemas(base)
        self._fresh: list[Answer] = []
        self._rows: list[_Row] = []
        self._cache: DynamicCache | None = None
        self._adapters: batched.Rows | None = None

    def add(self, answer: Answer) -> None:
        self._fresh.append(answer)

    @property
    def busy(self) -> bool:
        return bool(self._fresh or self._rows)

    @property
    def first(self) -> Absorb:
        every = (*self._fresh, *(row.answer for row in self._rows))
        return min((one.absorb for one in every), key=lambda absorb: absorb.rank)

    def fail(self, error: BaseException) -> None:
        for answer in (*self._fresh, *(row.answer for row in self._rows)):
            answer.channel.queue.put(error)
        self._fresh, self._rows, self._cache = [], [], None

    def step(self) -> None:
        """One round; an error ends the answers it concerns, nobody else's.

        It takes in one new prompt at most: many that come at once do not stop the others.
        """
        if (answer := self._next()) is not None:
            self._fresh.remove(answer)
            try:
                self._prefill(answer)
            except BaseException as error:  # noqa: BLE001  # belongs to this answer's caller
                answer.channel.queue.put(error)
        try:
            self._leave([row for row in self._rows if row.answer.gone], "cancelled")
            if self._rows:
                self._decode()
        except BaseException as error:  # noqa: BLE001  # the batch is lost, the worker goes on
            self.fail(error)

    def _next(self) -> Answer | None:
        """The next to begin; one that is gone needs no room."""
        if gone := next((one for one in self._fresh if one.gone), None):
            return gone
        if not self._fresh or len(self._rows) == self._most:
            return None
        return min(self._fresh, key=lambda one: one.absorb.rank)  # of equal ones the first

    def _prefill(self, answer: Answer) -> None:
        if answer.gone:
            _Row(answer, self._base, self._text, self._schemas).end("cancelled")
            return
        row = _Row(answer, self._base, self._text, self._schemas)
        known = len(answer.cache.ids) if answer.cache else 0
        cache = stored_cache(answer.cache.pairs if answer.cache else None)
        fresh = torch.tensor([answer.prompt[known:]], device=self._base.device)
        adapters = batched.rows_of([_choice(answer)], self._base.dtype)
        logits = self._forward(
            fresh, adapters, cache,
            position_ids=torch.arange(known, len(answer.prompt), device=self._base.device)[None],
        )  # fmt: skip
        row.position = len(answer.prompt)
        answer.pairs = pairs_of(cache)
        reason = row.take(logits[0, -1])
        if reason is None:
            self._join(row)
        else:
            row.end(reason)

    def _forward(
        self, ids: Tensor, adapters: batched.Rows | None, cache: DynamicCache, **inputs: Tensor
    ) -> Tensor:
        with torch.no_grad(), batched.using(adapters):
            return self._base.logits(
                ids, last=True, past_key_values=cache, use_cache=True, **inputs
            )

    def _decode(self) -> None:
        base, rows = self._base, self._rows
        assert self._cache is not None  # noqa: S101  # there are rows
        ids = torch.tensor([[row.token] for row in rows], device=base.device)
        positions = torch.tensor([[row.position] for row in rows], device=base.device)
        length = int(positions.max()) + 1
        inputs = {"position_ids": positions}
        if len(rows) > 1:
            seen = torch.arange(length, device=base.device)[None]
            inputs["attention_mask"] = (seen >= length - 1 - positions).long()
        logits = self._forward(ids, self._adapters, self._cache, **inputs)
        over: list[tuple[_Row, FinishReason | BaseException]] = []
        for index, row in enumerate(rows):
            row.position += 1
            try:
                reason = row.take(logits[index, -1])
            except BaseException as error:  # noqa: BLE001  # belongs to this answer's caller
                over.append((row, error))
            else:
                over += [] if reason is None else [(row, reason)]
        for row, end in over:
            self._leave([row], end)

    def _join(self, row: _Row) -> None:
        pairs = row.answer.pairs
        assert pairs is not None  # noqa: S101  # it was prefilled
        if self._rows and self._cache is not None:
            width = max(self._rows_width(), row.position)
            old, new = pairs_of(self._cache), pairs
            pairs = [
                (
                    torch.cat([pad_left(k, width), pad_left(nk, width)]),
                    torch.cat([pad_left(v, width), pad_left(nv, width)]),
                )
                for (k, v), (nk, nv) in zip(old, new, strict=True)
            ]
        row.answer.pairs = None
        self._rows.append(row)
        self._changed(pairs)

    def _rows_width(self) -> int:
        return max(row.position for row in self._rows)

    def _changed(self, pairs: Pairs) -> None:
        self._cache = stored_cache(pairs)
        self._adapters = batched.rows_of(
            [_choice(row.answer) for row in self._rows], self._base.dtype
        )

    def _leave(self, leaving: Sequence[_Row], reason: FinishReason | BaseException) -> None:
        if not leaving or self._cache is None:
            return
        pairs = pairs_of(self._cache)
        width = self._rows_width()
        stay = [index for index, row in enumerate(self._rows) if row not in leaving]
        for index, row in enumerate(self._rows):
            if row in leaving:
                if row.answer.keep_cache:
                    row.answer.pairs = [
                        (
                            k[index : index + 1, :, width - row.position :].clone(),
                            v[index : index + 1, :, width - row.position :].clone(),
                        )
                        for k, v in pairs
                    ]
                row.end(reason)
        self._rows = [self._rows[index] for index in stay]
        if not self._rows:
            self._cache, self._adapters = None, None
            return
        narrow = self._rows_width()
        self._changed(
            [(k[stay, :, width - narrow :], v[stay, :, width - narrow :]) for k, v in pairs]
        )


def _choice(answer: Answer) -> tuple[batched.Weights, float] | None:
    return None if answer.weights is None else (answer.weights, answer.strength)
