"""A prompt being answered, and the keys and values that it leaves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from templora_memory.backends.local.base_model import BaseModel
from templora_memory.backends.local.decode.json_grammar import GrammarFactory
from templora_memory.backends.local.decode.sampler import TokenSampler
from templora_memory.backends.local.decode.stream import Channel
from templora_memory.backends.local.detokenizer import IncrementalDetokenizer
from templora_memory.backends.local.kv_cache import KeyValues
from templora_memory.backends.local.lora.batched import LoraWeights
from templora_memory.backends.local.scheduler import DEFAULT_PRIORITY, AbsorbPriority
from templora_memory.backends.local.tokenizer import ChatTokenizer
from templora_memory.domain.results import FinishReason, TokenLogprob
from templora_memory.domain.settings import Sampling
from templora_memory.ports import Completion


@dataclass(frozen=True, slots=True, eq=False)
class PrefixCache:
    """Keys and values of the tokens `ids`, from position 0 on.

    `versions` names every adapter that wrote into it; more than one means that older entries were
    computed before the newest update.
    """

    key_values: KeyValues
    ids: tuple[int, ...]
    versions: frozenset[str]

    @property
    def bytes(self) -> int:
        """Memory that keys and values take."""
        return sum(keys.nbytes + values.nbytes for keys, values in self.key_values)

    def common_prefix(self, ids: Sequence[int]) -> PrefixCache | None:
        """Return what it holds of a beginning of these tokens, but never of all of them."""
        same = 0
        for cached, token in zip(self.ids, ids[:-1], strict=False):
            if cached != token:
                break
            same += 1
        if not same:
            return None
        key_values = [(keys[:, :, :same], values[:, :, :same]) for keys, values in self.key_values]
        return PrefixCache(key_values, self.ids[:same], self.versions)


@dataclass(slots=True, eq=False)
class DecodeRequest:
    """A prompt being answered.

    Args:
        prompt: its tokens.
        weights: the adapter; None: the base model.
        version: of the adapter, for what is cached.
        strength: of the adapter.
        sampling: temperature and so on.
        stop: texts that end the answer.
        max_tokens: longest answer.
        channel: where the text goes.
        priority: of the absorb that the answer is a draft for.
        cache: keys and values of a beginning of the prompt.
        keep_cache: leave the answer's own in `prefix_cache`.
        on_cache: called with them, before the end.
        undecoded: tokens at the prompt's end that the text begins with; None: the text begins
            after the prompt.
        output_ids, output_text: the answer so far.
        key_values: before the answer is in a batch, and after it has left.
    """

    prompt: tuple[int, ...]
    weights: LoraWeights | None
    version: str
    strength: float
    sampling: Sampling
    stop: tuple[str, ...]
    max_tokens: int
    channel: Channel
    priority: AbsorbPriority = DEFAULT_PRIORITY
    cache: PrefixCache | None = None
    keep_cache: bool = False
    on_cache: Callable[[PrefixCache], None] | None = None
    undecoded: int | None = None
    output_ids: list[int] = field(default_factory=list)
    output_text: list[str] = field(default_factory=list)
    key_values: KeyValues | None = None

    @property
    def abandoned(self) -> bool:
        """True once nobody wants it any more."""
        return self.channel.closed.is_set()

    @property
    def cached(self) -> int:
        """How many tokens of the prompt its cache holds."""
        return len(self.cache.ids) if self.cache else 0

    @property
    def prefix_cache(self) -> PrefixCache | None:
        """Its keys and values once it has ended, where `keep_cache` asks for them."""
        if self.key_values is None:
            return None
        cached = self.key_values[0][0].shape[2]  # the last token was chosen, but not yet fed
        older = self.cache.versions if self.cache else frozenset()
        return PrefixCache(
            self.key_values, (*self.prompt, *self.output_ids)[:cached], older | {self.version}
        )


class DecodeSlot:
    """A request with its row of the batch: its sampler, its text, and its position."""

    def __init__(
        self,
        request: DecodeRequest,
        base: BaseModel,
        tokenizer: ChatTokenizer,
        grammars: GrammarFactory,
    ) -> None:
        self.request = request
        self._sampler = TokenSampler(request.sampling, base, grammars)
        if request.undecoded is None:
            self._detokenizer = IncrementalDetokenizer(tokenizer, request.stop)
        else:
            self._detokenizer = IncrementalDetokenizer(
                tokenizer, request.stop, before=request.prompt, undecoded=request.undecoded
            )
        self._tokenizer = tokenizer
        self._eos_token_ids = base.eos_token_ids
        self.token = 0  # chosen, not yet fed
        self.position = 0  # of the token to feed: how many tokens the cache holds

    def accept(self, logits: Tensor) -> FinishReason | None:
        """Choose the next token from logits [V] and hand out its text.

        Returns:
            The reason for which the answer ends, if it does.
        """
        request = self.request
        told = request.sampling.logprobs
        # before the sampler, which may write into the logits
        log_p = None if told is None else logits.float().log_softmax(-1)  # [V]
        self.token = self._sampler.sample(logits, request.prompt, request.output_ids)
        request.output_ids.append(self.token)
        if self.token in self._eos_token_ids and not request.sampling.ignore_end:
            self._emit(self._detokenizer.finish())
            return "stop"
        if told is not None and log_p is not None:
            request.channel.queue.put(self._logprob(log_p, told))
        self._emit(self._detokenizer.push(self.token))
        if self._detokenizer.stopped:
            return "stop"
        if len(request.output_ids) >= request.max_tokens:
            self._emit(self._detokenizer.finish(hold=request.undecoded is not None))
            return "stop" if self._detokenizer.stopped else "length"
        return None

    def _logprob(self, log_p: Tensor, count: int) -> TokenLogprob:
        """Return the chosen token and the likeliest ones with their log-probabilities in [V]."""
        values, ids = log_p.topk(min(count, len(log_p)))
        top = zip(ids.tolist(), values.tolist(), strict=True)
        return TokenLogprob(
            self._text_of(self.token),
            float(log_p[self.token]),
            tuple(TokenLogprob(self._text_of(token), value) for token, value in top),
        )

    def _text_of(self, token: int) -> str:
        """Return the text of a token in the place of the newest one."""
        # after the one before it: alone, many tokenizers leave out its space
        ids = [*self.request.prompt[-1:], *self.request.output_ids[:-1]][-1:]
        before = self._tokenizer.decode(ids)
        after = self._tokenizer.decode([*ids, token])
        if after.startswith(before):
            return after[len(before) :]
        return self._tokenizer.decode([token])

    def _emit(self, piece: str) -> None:
        if piece:
            self.request.output_text.append(piece)
            self.request.channel.queue.put(piece)

    def finish(self, reason: FinishReason | BaseException) -> None:
        """Hand the caller the completion, or the error that ended the answer."""
        request = self.request
        if isinstance(reason, BaseException):
            request.channel.queue.put(reason)
            return
        if reason == "cancelled":
            self._emit(self._detokenizer.finish(hold=request.undecoded is not None))
        if request.undecoded is not None:
            request.undecoded = self._detokenizer.held
        if request.on_cache is not None and (cache := request.prefix_cache) is not None:
            request.on_cache(cache)
        request.channel.queue.put(
            Completion(
                text="".join(request.output_text),
                finish_reason=reason,
                prompt_tokens=len(request.prompt),
                completion_tokens=len(request.output_ids),
            )
        )
