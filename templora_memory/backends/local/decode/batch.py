"""Decoding: answers with different adapters, one token a round in one batch.

Each answer is prefilled alone and then joins the batch; rows join and leave between rounds. Their
caches are padded on the left to one length P = max(position), so that all of them end where the
next token goes. A row of which `position` tokens are cached::

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
    KeyValues,
    cached_key_values,
    dynamic_cache,
    pad_left,
)
from templora_memory.backends.local.lora.batched import (
    AdapterBatch,
    LoraWeights,
    adapter_batch,
    use_adapters,
)
from templora_memory.backends.local.scheduler import AbsorbPriority
from templora_memory.backends.local.tokenizer import ChatTokenizer
from templora_memory.domain.results import FinishReason


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
        self._adapters: AdapterBatch | None = None

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

    def step(self) -> None:
        """Run one round; an error ends the answers it concerns, nobody else's.

        It takes in one new prompt at most: many that come at once do not stop the others.
        """
        if (request := self._next()) is not None:
            self._waiting.remove(request)
            try:
                self._prefill(request)
            except BaseException as error:  # noqa: BLE001  # belongs to this answer's caller
                request.channel.queue.put(error)
        try:
            self._leave([slot for slot in self._slots if slot.request.abandoned], "cancelled")
            if self._slots:
                self._decode()
        except BaseException as error:  # noqa: BLE001  # the batch is lost, the thread goes on
            self.fail(error)

    def _next(self) -> DecodeRequest | None:
        """Return the next request to begin; an abandoned one needs no room."""
        for request in self._waiting:
            if request.abandoned:
                return request
        if not self._waiting or len(self._slots) == self._max_requests:
            return None
        return min(self._waiting, key=lambda request: request.priority.rank)  # of equals the first

    def _prefill(self, request: DecodeRequest) -> None:
        """Run a prompt alone, all but what its cache holds, and let it join the batch."""
        slot = DecodeSlot(request, self._base, self._tokenizer, self._grammars)
        if request.abandoned:
            slot.finish("cancelled")
            return
        cached, length = len(request.cache.ids) if request.cache else 0, len(request.prompt)
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
            self._join(slot)
        else:
            slot.finish(reason)

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
        length = int(position_ids.max()) + 1  # P + 1
        inputs = {"position_ids": position_ids}
        if len(slots) > 1:
            columns = torch.arange(length, device=base.device)[None]  # [1, P + 1]
            inputs["attention_mask"] = (columns >= length - 1 - position_ids).long()
        logits = self._forward(input_ids, self._adapters, self._cache, **inputs)  # [B, 1, V]
        ended: list[tuple[DecodeSlot, FinishReason | BaseException]] = []
        for index, slot in enumerate(slots):
            slot.position += 1
            try:
                reason = slot.accept(logits[index, -1])
            except BaseException as error:  # noqa: BLE001  # belongs to this answer's caller
                ended.append((slot, error))
            else:
                ended += [] if reason is None else [(slot, reason)]
        for slot, end in ended:
            self._leave([slot], end)

    def _join(self, slot: DecodeSlot) -> None:
        """Append a prefilled row, padding the shorter side's keys and values on the left."""
        key_values = slot.request.key_values
        assert key_values is not None  # noqa: S101  # it was prefilled
        if self._slots and self._cache is not None:
            length = max(self._cache_length(), slot.position)
            key_values = [
                (
                    torch.cat([pad_left(k, length), pad_left(new_k, length)]),
                    torch.cat([pad_left(v, length), pad_left(new_v, length)]),
                )
                for (k, v), (new_k, new_v) in zip(
                    cached_key_values(self._cache), key_values, strict=True
                )
            ]
        slot.request.key_values = None
        self._slots.append(slot)
        self._rebuild(key_values)

    def _cache_length(self) -> int:
        """Return P, the length that all rows are padded to."""
        return max(slot.position for slot in self._slots)

    def _rebuild(self, key_values: KeyValues) -> None:
        """Make cache and adapters anew for the rows there are now."""
        self._cache = dynamic_cache(key_values)
        self._adapters = adapter_batch(
            [_adapter(slot.request) for slot in self._slots], self._base.dtype
        )

    def _leave(self, leaving: Sequence[DecodeSlot], reason: FinishReason | BaseException) -> None:
        """Take rows out of the batch and end their answers; the others lose needless padding."""
        if not leaving or self._cache is None:
            return
        key_values = cached_key_values(self._cache)
        length = self._cache_length()
        stay = [index for index, slot in enumerate(self._slots) if slot not in leaving]
        for index, slot in enumerate(self._slots):
            if slot in leaving:
                if slot.request.keep_cache:
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
        if not self._slots:
            self._cache, self._adapters = None, None
            return
        shorter = self._cache_length()
        self._rebuild(
            [
                (k[stay, :, length - shorter :], v[stay, :, length - shorter :])
                for k, v in key_values
            ]
        )


def _adapter(request: DecodeRequest) -> tuple[LoraWeights, float] | None:
    return None if request.weights is None else (request.weights, request.strength)
