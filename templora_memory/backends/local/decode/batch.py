"""Decoding: answers with different adapters, one token a round in one batch.

Each answer is prefilled alone and then joins the batch; rows join and leave between rounds, and the
last rows take the places of those that leave. Their caches are padded on the left to one length
P = max(position) + `BaseModel.decode_padding`, so that all of them end where the next token goes. A
row of which `position` tokens are cached::

    attention_mask [B, P + 1]    0 ........ 0   1 ........ 1   1
                                 P - position   its tokens     the token that is fed
    position_ids   [B, 1]                                      position

A key carries its position already (rotary embeddings are applied before a key is stored), so that
padding moves no token.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from templora_memory.backends.local.base_model import BaseModel
from templora_memory.backends.local.decode.json_grammar import GrammarFactory
from templora_memory.backends.local.decode.request import DecodeRequest, DecodeSlot
from templora_memory.backends.local.kv_cache import (
    cached_key_values,
    dynamic_cache,
    growing_cache,
    pad_left,
)
from templora_memory.backends.local.lora.batched import (
    AdapterBatch,
    AdapterChoice,
    AdapterRows,
    adapter_batch,
    use_adapters,
)
from templora_memory.backends.local.scheduler import AbsorbPriority
from templora_memory.backends.local.tokenizer import ChatTokenizer
from templora_memory.domain.results import FinishReason

PREFILL_TOKENS = 256
"""Tokens of prompts that a round takes in before it goes on with the answers under way; a longer
prompt has a round for itself."""


class DecodeBatch:
    """All answers under way, on the model thread.

    Args:
        base: the model.
        tokenizer: between texts and tokens.
        max_requests: answers at once; further ones wait. None: as many as come.
    """

    def __init__(
        self, base: BaseModel, tokenizer: ChatTokenizer, *, max_requests: int | None = None
    ) -> None:
        self._base = base
        self._tokenizer = tokenizer
        self._max_requests = max_requests
        self._grammars = GrammarFactory(base)
        self._waiting: list[DecodeRequest] = []
        self._slots: list[DecodeSlot] = []
        self._cache: DynamicCache | None = None
        self._adapters = AdapterRows(base.dtype)

    def add(self, request: DecodeRequest) -> None:
        """Take in a request that waits."""
        self._waiting.append(request)

    @property
    def busy(self) -> bool:
        """True while there is a request, waiting or in the batch."""
        return bool(self._waiting or self._slots)

    @property
    def first(self) -> AbsorbPriority:
        """The highest priority among all requests."""
        requests = (*self._waiting, *(slot.request for slot in self._slots))
        return min((request.priority for request in requests), key=lambda priority: priority.rank)

    def fail(self, error: BaseException) -> None:
        """End every request with this error."""
        for request in (*self._waiting, *(slot.request for slot in self._slots)):
            request.channel.queue.put(error)
        self._waiting, self._slots, self._cache = [], [], None
        self._adapters.clear()

    def step(self) -> None:
        """Run one round; an error ends the answers it concerns, nobody else's.

        It takes in `PREFILL_TOKENS` of prompts at most, or one prompt: many that come at once do
        not stop the others.
        """
        begun: list[DecodeSlot] = []
        room = PREFILL_TOKENS
        while (request := self._next(len(begun))) is not None:
            tokens = 0 if request.abandoned else len(request.prompt) - request.cached
            if tokens > room and room < PREFILL_TOKENS:
                break
            room -= tokens
            self._waiting.remove(request)
            try:
                slot = self._prefill(request)
            except BaseException as error:  # noqa: BLE001  # belongs to this answer's caller
                request.channel.queue.put(error)
            else:
                begun += [] if slot is None else [slot]
            if room <= 0:
                break
        try:
            self._join(begun)
            self._leave([(slot, "cancelled") for slot in self._slots if slot.request.abandoned])
            if self._slots:
                self._decode()
        except BaseException as error:  # noqa: BLE001  # the batch is lost, the thread goes on
            self.fail(error)

    def _next(self, begun: int) -> DecodeRequest | None:
        """Return the next request to begin, after so many; an abandoned one needs no room."""
        for request in self._waiting:
            if request.abandoned:
                return request
        if not self._waiting or len(self._slots) + begun == self._max_requests:
            return None
        return min(self._waiting, key=lambda request: request.priority.rank)  # of equals the first

    def _prefill(self, request: DecodeRequest) -> DecodeSlot | None:
        """Run a prompt alone, all but what its cache holds; return its row unless it has ended."""
        slot = DecodeSlot(request, self._base, self._tokenizer, self._grammars)
        if request.abandoned:
            slot.finish("cancelled")
            return None
        cached, length = request.cached, len(request.prompt)
        cache = dynamic_cache(request.cache.key_values if request.cache else None)
        logits = self._forward(
            torch.tensor([request.prompt[cached:]], device=self._base.device),  # [1, S]
            adapter_batch([_adapter(request)], self._base.dtype),
            cache,
            position_ids=torch.arange(cached, length, device=self._base.device)[None],  # [1, S]
        )  # [1, 1, V]
        slot.position = length
        request.key_values = cached_key_values(cache)
        reason = slot.accept(logits[0, -1])
        if reason is None:
            return slot
        slot.finish(reason)
        return None

    def _forward(
        self,
        input_ids: Tensor,
        adapters: AdapterBatch | None,
        cache: DynamicCache,
        **inputs: Tensor,
    ) -> Tensor:
        """Return the logits [B, 1, V] after input_ids [B, S]; the cache is filled on the way."""
        with torch.no_grad(), use_adapters(adapters):
            return self._base.logits(
                input_ids, last=True, past_key_values=cache, use_cache=True, **inputs
            )

    def _decode(self) -> None:
        """Feed every row's newest token, and choose its next one."""
        base, slots = self._base, self._slots
        assert self._cache is not None  # noqa: S101  # there are rows
        input_ids = torch.tensor([[slot.token] for slot in slots], device=base.device)  # [B, 1]
        position_ids = torch.tensor([[slot.position] for slot in slots], device=base.device)
        length = self._cache_length() + 1  # P + 1
        inputs = {"position_ids": position_ids}
        if len(slots) > 1 or base.decode_padding:
            columns = torch.arange(length, device=base.device)[None]  # [1, P + 1]
            inputs["attention_mask"] = (columns >= length - 1 - position_ids).long()
        logits = self._forward(input_ids, self._adapters.batch, self._cache, **inputs)  # [B, 1, V]
        ended: list[tuple[DecodeSlot, FinishReason | BaseException]] = []
        for index, slot in enumerate(slots):
            slot.position += 1
            try:
                reason = slot.accept(logits[index, -1])
            except BaseException as error:  # noqa: BLE001  # belongs to this answer's caller
                ended.append((slot, error))
            else:
                ended += [] if reason is None else [(slot, reason)]
        self._leave(ended)

    def _join(self, begun: Sequence[DecodeSlot]) -> None:
        """Append prefilled rows, padding the shorter ones' keys and values on the left."""
        if not begun:
            return
        rows = [] if self._cache is None else [cached_key_values(self._cache)]
        rows += [slot.request.key_values or [] for slot in begun]
        self._slots += begun
        length = self._cache_length()
        self._cache = growing_cache([
            (
                torch.cat([pad_left(keys, length) for keys, _ in layers]),
                torch.cat([pad_left(values, length) for _, values in layers]),
            )
            for layers in zip(*rows, strict=True)
        ])  # fmt: skip
        for slot in begun:
            slot.request.key_values = None
            self._adapters.append(_adapter(slot.request))

    def _cache_length(self) -> int:
        """Return P, the length that all rows are padded to."""
        return max(slot.position for slot in self._slots) + self._base.decode_padding

    def _leave(self, ended: Sequence[tuple[DecodeSlot, FinishReason | BaseException]]) -> None:
        """Take rows out of the batch and end their answers; the others lose needless padding."""
        if not ended or self._cache is None:
            return
        key_values, length = cached_key_values(self._cache), self._cache_length()
        places = {id(slot): index for index, slot in enumerate(self._slots)}
        stay = list(range(len(self._slots)))
        for index in sorted((places[id(slot)] for slot, _ in ended), reverse=True):
            last = stay.pop()  # stays: rows behind this one that leave are out already
            if index < len(stay):
                stay[index] = last
        for slot, reason in ended:
            if slot.request.keep_cache:
                index = places[id(slot)]
                # a copy without the padding: a view would keep the whole batch in memory
                slot.request.key_values = [
                    (
                        k[index : index + 1, :, length - slot.position :].clone(),
                        v[index : index + 1, :, length - slot.position :].clone(),
                    )
                    for k, v in key_values
                ]
            slot.finish(reason)
        self._slots = [self._slots[index] for index in stay]
        self._adapters.keep(stay)
        if not self._slots:
            self._cache = None
            return
        shorter = self._cache_length()
        self._cache = growing_cache(
            [
                (k[stay, :, length - shorter :], v[stay, :, length - shorter :])
                for k, v in key_values
            ]
        )


def _adapter(request: DecodeRequest) -> AdapterChoice:
    return None if request.weights is None else (request.weights, request.strength)
