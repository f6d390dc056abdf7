"""`LocalBackend`: transformers on this machine, behind the ports."""

from __future__ import annotations

import itertools
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from templora_memory import models, plugins
from templora_memory.backends.local import base_model
from templora_memory.backends.local.decode.batch import (
    Answer,
    Channel,
    Computed,
    DecodeBatch,
    LocalStream,
)
from templora_memory.backends.local.decode.long_text import LocalText
from templora_memory.backends.local.lora import batched
from templora_memory.backends.local.priority_queue import Absorb
from templora_memory.backends.local.recipes import RECIPES, Recipe, Soft, Tools, with_replay
from templora_memory.backends.local.scheduler import SHARE, Slices, Worker
from templora_memory.backends.local.tokenizer import PLAIN_STOP, Text
from templora_memory.backends.local.train import step
from templora_memory.backends.local.train.kl_regularizer import Neutral, bundled_talk, bundled_text
from templora_memory.backends.local.train.runs import Lesson, Lessons
from templora_memory.backends.local.train.teacher import expected, shared_beginning
from templora_memory.domain.manifest import ModelIdentity
from templora_memory.domain.messages import Message
from templora_memory.domain.results import AbsorbProgress, LearnStats
from templora_memory.domain.settings import ModelLimits, Sampling, positive
from templora_memory.errors import (
    Cancelled,
    Closed,
    InvalidSetting,
    InvalidText,
    LearningFailed,
    PromptTooLong,
)
from templora_memory.ports import Adapter, GenerateRequest, LearnRequest, ScoreRequest

ADAPTER_BYTES = 512 << 20
"""How much memory loaded adapters may take; the least recently used leave first."""
PREFIX_BYTES = 256 << 20
"""How much memory the keys and values of ended answers may take; the least recently used leave."""
BATCH_TOKENS = 2048
WRITERS = 32
"""Answers that recipes let the model write at once."""


class _Loaded:
    """A base model, its text and its worker: what exists between open and close."""

    def __init__(
        self, base: base_model.BaseModel, *, batch_tokens: int, thinking: bool, share: float
    ) -> None:
        self.base = base
        self.text = Text(base.tokenizer, thinking=thinking)
        lessons = Lessons(
            base,
            lambda: Neutral(base, self.text, bundled_text(), bundled_talk()),
            most_tokens=batch_tokens,
        )
        answers, drafts = (DecodeBatch(base, self.text, most=n) for n in (None, WRITERS))
        self.worker = Worker(answers, drafts, lessons, share=share)


class LocalBackend:
    """A Hugging Face causal language model that learns, answers and measures on this machine.

    Args:
        model: "templora/smollm2", "templora/tiny", a hub id, a folder, or a GGUF file.
        device: "cpu", "cuda", "cuda:1", "mps", "auto"; None: the first GPU if there is one.
        dtype: "float32", "bfloat16" or "float16"; None: what suits device and model.
        adapter_bytes: memory for loaded adapters.
        prefix_bytes: memory for keys and values of ended answers. The next answer of the same
            revision takes over what its prompt begins with. 0: every prompt is computed anew.
        batch_tokens: of one training step of several memories together; more of them at once is
            faster and takes more memory.
        learning_share: how much of the model's time learning gets while somebody waits for an
            answer, between 0 and 1; otherwise it has all of it. Between two tokens it takes about
            as long as one training step, or, if that is longer, its share of the time.
        checkpointing: keep no activations while learning, but compute them again in the backward
            pass: for models that would not fit otherwise. A third slower; a chunk's context then
            stays inside the graph, which costs as much as the chunk.
        compiled: learn with compiled layers (torch.compile), which takes a C++ compiler or Triton
            and some seconds for every new shape. It pays where a step is many small operations.
        thinking: whether a chat template with such a switch (`enable_thinking`) lets the model
            think before it answers. What a memory learns are answers, so it is off; prompts of a
            model that thinks differ from those that its memories were trained with.
        recipes: of your own, by name, beside the ones there are. A name that is none of these is
            looked for among the installed plugins (`templora_memory.plugins`).
        options: passed on to ``AutoModelForCausalLM.from_pretrained``.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] = models.TINY,
        *,
        device: str | None = None,
        dtype: str | None = None,
        adapter_bytes: int = ADAPTER_BYTES,
        prefix_bytes: int = PREFIX_BYTES,
        batch_tokens: int = BATCH_TOKENS,
        learning_share: float = SHARE,
        checkpointing: bool = False,
        compiled: bool = False,
        thinking: bool = False,
        recipes: Mapping[str, Recipe] | None = None,
        **options: Any,
    ) -> None:
        self._load: Callable[[], base_model.BaseModel] = lambda: base_model.load(
            os.fspath(model),
            device=device,
            dtype=dtype,
            checkpointing=checkpointing,
            compiled=compiled,
            options=options,
        )
        self._checkpointing, self._compiled = checkpointing, compiled
        self._recipes = plugins.WithPlugins("recipes", {**RECIPES, **(recipes or {})})
        self._name = os.fspath(model)
        self._most = adapter_bytes
        self._most_prefixes = prefix_bytes
        self._batch_tokens, self._thinking = batch_tokens, thinking
        positive("learning_share", learning_share)
        if learning_share >= 1:
            raise InvalidSetting(
                f"learning_share is {learning_share!r}: it must be below 1 (answers need time)."
            )
        self._share = learning_share
        self._numbers = itertools.count(1)  # of absorbs
        self._loaded: _Loaded | None = None
        self._adapters: OrderedDict[str, batched.Weights] = OrderedDict()
        self._prefixes: OrderedDict[str, Computed] = OrderedDict()
        self._releases = 0  # how often adapters were dropped
        self._lock = threading.RLock()

    @classmethod
    def of(
        cls, model: Any, tokenizer: Any, *, name: str = "model", **settings: Any
    ) -> LocalBackend:
        """A backend over a model and tokenizer that are loaded already; they become its own.

        `settings`: adapter_bytes, prefix_bytes, batch_tokens, learning_share, checkpointing,
        compiled, thinking, recipes.
        """
        backend = cls(name, **settings)
        backend._load = lambda: base_model.prepare(
            model,
            tokenizer,
            name=name,
            checkpointing=backend._checkpointing,
            compiled=backend._compiled,
        )
        return backend

    def __repr__(self) -> str:
        return f"LocalBackend({self._name!r}, {'open' if self._loaded else 'not open'})"

    # --- life ----------------------------------------------------------------------------------

    def open(self) -> None:
        with self._lock:
            if self._loaded is None:
                self._loaded = _Loaded(
                    self._load(),
                    batch_tokens=self._batch_tokens,
                    thinking=self._thinking,
                    share=self._share,
                )

    def close(self) -> None:
        with self._lock:
            loaded, self._loaded = self._loaded, None
            self._adapters.clear()
            self._prefixes.clear()
            self._releases += 1
        if loaded is not None:
            loaded.worker.close()

    @property
    def _now(self) -> _Loaded:
        loaded = self._loaded
        if loaded is None:
            raise Closed("The model is not open: open the service first.")
        return loaded

    @property
    def identity(self) -> ModelIdentity:
        return self._now.base.identity

    @property
    def limits(self) -> ModelLimits:
        base = self._now.base
        return ModelLimits(
            context=base.context, width=base.width, recipes=tuple(sorted(self._recipes))
        )

    @property
    def model(self) -> Any:
        """The transformers model, to look at. Its weights belong to this backend's thread."""
        return self._now.base.model

    # --- adapters ------------------------------------------------------------------------------

    def _weights(self, adapter: Adapter) -> batched.Weights:
        """An adapter from memory or disk. Loading is outside the lock: nobody waits for a disk."""
        with self._lock:
            if adapter.version in self._adapters:
                self._adapters.move_to_end(adapter.version)
                return self._adapters[adapter.version]
            releases = self._releases
        base = self._now.base
        weights = batched.load_weights(adapter.folder, base.layers, base.device)
        with self._lock:
            if releases != self._releases:
                return weights  # perhaps of a memory that was forgotten meanwhile: not kept
            self._adapters[adapter.version] = weights
            while len(self._adapters) > 1 and self._held() > self._most:
                self._adapters.popitem(last=False)
        return weights

    def _held(self) -> int:
        return sum(weights.bytes for weights in self._adapters.values())

    def release(self, prefix: str) -> tuple[str, ...]:
        with self._lock:
            self._releases += 1
            for version in [v for v in self._adapters if v.startswith(prefix)]:
                del self._adapters[version]
            for version in [v for v in self._prefixes if v.startswith(prefix)]:
                del self._prefixes[version]
        return ()

    def _known_prefix(self, version: str, prompt: Sequence[int]) -> Computed | None:
        """Keys and values that the last answer of this very version left for a prompt."""
        with self._lock:
            found = self._prefixes.get(version)
        return None if found is None else found.beginning(prompt)

    def _keep_prefix(self, version: str) -> Callable[[Computed], None]:
        """What an answer calls when it ends; nothing is kept of a memory released meanwhile."""
        releases = self._releases

        def keep(computed: Computed) -> None:
            with self._lock:
                if releases != self._releases or computed.bytes > self._most_prefixes:
                    return
                self._prefixes[version] = computed
                self._prefixes.move_to_end(version)
                while sum(kept.bytes for kept in self._prefixes.values()) > self._most_prefixes:
                    self._prefixes.popitem(last=False)

        return keep

    # --- learning ------------------------------------------------------------------------------

    def learn(
        self,
        request: LearnRequest,
        *,
        into: Path,
        progress: Callable[[AbsorbProgress], None],
        cancelled: Callable[[], bool],
        urgent: Callable[[], bool],
    ) -> LearnStats:
        loaded = self._now
        base, settings = loaded.base, request.settings
        if request.recipe not in self._recipes:
            raise InvalidSetting(
                f"recipe is {request.recipe!r}: use one of {sorted(self._recipes)}."
            )
        if request.chunk > base.context:
            raise InvalidSetting(
                f"chunk is {request.chunk} tokens, more than the model's {base.context}: make it "
                "smaller."
            )
        absorb = Absorb(next(self._numbers), urgent)
        tools = Tools(
            text=loaded.text,
            start=base.start_token,
            room=base.context,
            write=partial(self._write, absorb=absorb, cancelled=cancelled),
            expect=partial(self._expect, absorb=absorb, cancelled=cancelled),
        )
        examples = with_replay(self._recipes[request.recipe](request, tools), request, tools)
        if request.start is None:
            targets = batched.choose_targets(base.layers, settings.target_modules)
            start = batched.fresh_weights(
                batched.Layout(targets, settings.r), settings, base.device
            )
        else:
            start = self._weights(request.start)

        lesson = Lesson(
            start,
            examples,
            settings,
            chunk=request.chunk,
            least_steps=request.least_steps,
            resume=request.start.folder if request.start else None,
            progress=progress,
            cancelled=cancelled,
            absorb=absorb,
        )
        loaded.worker.learn(lesson)
        try:
            learned = lesson.result.result()
        except (MemoryError, RuntimeError) as error:
            if not _out_of_memory(error):
                raise
            raise LearningFailed(
                f"There was not enough memory to learn this ({str(error)[:200]}): the old revision "
                "stays, the text is in the journal. Use a smaller chunk or batch_tokens, or load "
                "the model with checkpointing=True."
            ) from error
        batched.save_weights(
            learned.weights, into, layers=base.layers, base=base.name, dropout=settings.lora_dropout
        )
        if settings.carry_optimizer:
            step.save_state(into, learned.state, learned.counted)
        return learned.stats

    def _write(
        self,
        prompts: Sequence[Sequence[Message]],
        *,
        max_tokens: int,
        absorb: Absorb,
        cancelled: Callable[[], bool],
    ) -> list[str]:
        """Greedy answers of the base model. The first one's keys and values serve the others."""
        common: Computed | None = None
        streams: list[LocalStream] = []
        try:
            for messages in prompts:
                prompt = self._now.text.prompt(messages)
                answer = self._answer_to(prompt, max_tokens, sampling=Sampling())
                answer.absorb, answer.keep_cache = absorb, common is None
                answer.cache = None if common is None else common.beginning(prompt)
                streams.append(LocalStream(answer.channel))
                self._now.worker.draft(answer)
                if common is None:
                    streams[0].finish(cancelled)
                    common = answer.computed
            return [stream.finish(cancelled).text for stream in streams]
        finally:
            for stream in streams:
                stream.close()

    def _expect(
        self,
        texts: Sequence[tuple[Sequence[int], int]],
        *,
        top: int,
        absorb: Absorb,
        cancelled: Callable[[], bool],
    ) -> list[Soft]:
        """What the base model expects. What all texts begin with is computed once."""
        base = self._now.base

        def slices() -> Slices[list[Soft]]:
            shared = shared_beginning(base, [ids[: len(ids) - count] for ids, count in texts])
            found = []
            for ids, count in texts:
                yield
                if cancelled():
                    raise Cancelled("The absorb was cancelled; the old revision stays.")
                found.append(expected(base, ids, count, shared, top=top))
            return found

        return self._now.worker.run(slices(), absorb=absorb)

    # --- answering -----------------------------------------------------------------------------

    def stream(self, request: GenerateRequest) -> LocalStream:
        loaded = self._now
        adapter = request.adapter if request.strength else None
        prompt = loaded.text.prompt(request.messages)
        # nothing is shared between requests without a memory: they may come from anybody
        kept = f"{adapter.version}*{request.strength}" if adapter and self._most_prefixes else ""
        answer = self._answer_to(prompt, request.max_tokens, sampling=request.sampling)
        if adapter:
            answer.weights, answer.version = self._weights(adapter), adapter.version
            answer.strength = request.strength
        if kept:
            answer.cache = self._known_prefix(kept, prompt)
            answer.keep_cache, answer.kept = True, self._keep_prefix(kept)
        stream = LocalStream(answer.channel)
        loaded.worker.answer(answer)
        return stream

    def _answer_to(self, prompt: Sequence[int], most: int, *, sampling: Sampling) -> Answer:
        """An answer of the base model, not yet begun.

        Raises:
            PromptTooLong: prompt and answer do not fit the model.
        """
        base, plain = self._now.base, self._now.text.plain
        if len(prompt) > base.context - most:
            raise PromptTooLong(
                f"The prompt has {len(prompt)} tokens and the reply may have {most}: "
                f"together more than the model's {base.context}."
            )
        return Answer(
            prompt=tuple(prompt),
            weights=None,
            version="",
            strength=0.0,
            sampling=sampling,
            stop=(*sampling.stop, PLAIN_STOP) if plain else sampling.stop,
            most=most,
            channel=Channel(),
        )

    def open_text(self, prompt: str, *, window: int) -> LocalText:
        loaded = self._now
        base = loaded.base
        if window > base.context:
            raise InvalidSetting(
                f"window is {window} tokens, more than the model's {base.context}: make it smaller."
            )
        ids = loaded.text.encode(prompt)
        if base.start_token is not None:
            ids = [base.start_token, *ids]
        if not ids:
            if not base.end_tokens:
                raise InvalidText("This model has no begin token: give a prompt to go on from.")
            ids = [min(base.end_tokens)]  # texts follow it in training data
        return LocalText(ids, window, send=loaded.worker.answer, load=self._weights)

    def count(self, messages: Sequence[Message]) -> int:
        return len(self._now.text.prompt(messages))

    def split(self, text: str, tokens: int) -> tuple[str, ...]:
        return self._now.text.split(text, tokens)

    def token_ids(self, text: str) -> list[int]:
        """The model's tokens of plain text; no special tokens are added."""
        return self._now.text.encode(text)

    def tools_text(self, tools: Sequence[Mapping[str, Any]]) -> str | None:
        """What the model's chat template writes about tools into the system message.

        None where it writes nothing, or not there: then any wording does.
        """
        return self._now.text.tools(tools)

    # --- measuring -----------------------------------------------------------------------------

    def score(self, requests: Sequence[ScoreRequest]) -> tuple[tuple[float, ...], ...]:
        loaded = self._now
        ready = [self._ready_to_score(loaded, request) for request in requests]

        def slices() -> Slices[tuple[tuple[float, ...], ...]]:
            found = []
            for ids, count, weights, strength in ready:
                found.append(_score(loaded.base, ids, count, weights, strength))
                yield
            return tuple(found)

        return loaded.worker.run(slices())

    def _ready_to_score(
        self, loaded: _Loaded, request: ScoreRequest
    ) -> tuple[list[int], int, batched.Weights | None, float]:
        target = loaded.text.encode(request.target)
        if not target:
            raise InvalidText("The text to score is empty.")
        if isinstance(request.context, str):
            before = loaded.text.encode(request.context)
            if loaded.base.start_token is not None:
                before = [loaded.base.start_token, *before]
        else:
            before = loaded.text.prompt(request.context)
        if len(before) + len(target) > loaded.base.context:
            raise PromptTooLong(
                f"Context ({len(before)} tokens) and text to score ({len(target)}) are longer than "
                f"the model's {loaded.base.context}."
            )
        adapter = request.adapter if request.strength else None
        weights = self._weights(adapter) if adapter else None
        return (
            [*before, *target],
            min(len(target), len(before) + len(target) - 1),
            weights,
            request.strength,
        )


def _out_of_memory(error: BaseException) -> bool:
    """Whether this is what an allocator says; torch's for CPUs has no class of its own."""
    kinds = (MemoryError, torch.OutOfMemoryError)
    return isinstance(error, kinds) or "DefaultCPUAllocator" in str(error)


def _score(
    base: base_model.BaseModel,
    ids: Sequence[int],
    count: int,
    weights: batched.Weights | None,
    strength: float,
) -> tuple[float, ...]:
    """Log-probabilities of the last `count` tokens."""
    if count == 0:
        return ()
    given = torch.tensor([ids[:-1]], device=base.device)
    labels = torch.tensor(ids[-count:], device=base.device)
    keep = torch.arange(len(ids) - 1 - count, len(ids) - 1, device=base.device)
    rows = batched.rows_of([None if weights is None else (weights, strength)], base.dtype)
    with batched.using(rows):
        losses = base_model.losses(base, given, labels, keep, use_cache=False)
    return tuple(-value for value in losses.tolist())
