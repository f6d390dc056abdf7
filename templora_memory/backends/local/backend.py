"""`LocalBackend`: transformers on this machine, behind the ports."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

import torch

from templora_memory import models, plugins
from templora_memory.backends.local.base_model import (
    BaseModel,
    label_losses,
    load,
    prefill,
    prepare,
)
from templora_memory.backends.local.decode.batch import DecodeBatch
from templora_memory.backends.local.decode.greedy import (
    ROWS,
    GreedyBatch,
    score_continuations,
)
from templora_memory.backends.local.decode.long_text import LocalText
from templora_memory.backends.local.decode.request import DecodeRequest, PrefixCache
from templora_memory.backends.local.decode.stream import Channel, LocalStream
from templora_memory.backends.local.lora.batched import (
    LoraLayout,
    LoraWeights,
    adapter_batch,
    choose_targets,
    init_weights,
    use_adapters,
)
from templora_memory.backends.local.lora.peft_files import load_weights, save_weights
from templora_memory.backends.local.neutral import (
    everyday_chat,
    neutral_language,
    neutral_text,
)
from templora_memory.backends.local.recipes import (
    RECIPES,
    Continuation,
    Example,
    Recipe,
    RecipeTools,
    with_replay,
)
from templora_memory.backends.local.recipes.facts import facts_of
from templora_memory.backends.local.recipes.next_token import needs_extra_passes
from templora_memory.backends.local.recipes.questions import MAX_FACTS, leads_of
from templora_memory.backends.local.recipes.topic_words import topic_words
from templora_memory.backends.local.scheduler import (
    SHARE,
    AbsorbOrder,
    AbsorbPriority,
    CooperativeTask,
    ModelThread,
)
from templora_memory.backends.local.tokenizer import PLAIN_STOP, ChatTokenizer
from templora_memory.backends.local.train.kl_regularizer import Held, NeutralText
from templora_memory.backends.local.train.optimizer import save_optimizer
from templora_memory.backends.local.train.runs import (
    TrainingBatcher,
    TrainingResult,
    TrainingRun,
)
from templora_memory.domain.languages import SAMPLE
from templora_memory.domain.lru import LruCache
from templora_memory.domain.manifest import ModelIdentity
from templora_memory.domain.messages import Document, Message
from templora_memory.domain.results import LearnStats
from templora_memory.domain.settings import ModelLimits, Sampling, positive
from templora_memory.errors import (
    Cancelled,
    Closed,
    InvalidSetting,
    InvalidText,
    LearningFailed,
    PromptTooLong,
)
from templora_memory.ports import (
    Adapter,
    GenerateRequest,
    JobPhase,
    LearningControl,
    LearnRequest,
    ScoreRequest,
)

SAMPLED_ITEMS = 20
"""Texts that the language of what is learned is looked for in."""
ADAPTER_BYTES = 512 << 20
"""Memory that loaded adapters may take; the least recently used leave first."""
PREFIX_BYTES = 256 << 20
"""Memory that keys and values of ended answers may take; the least recently used leave first."""
BATCH_TOKENS = 2048
"""Tokens of one training step of several memories together."""
MAX_DRAFTS = 32
"""Answers that recipes let the model write at once."""


class LoadedModel:
    """A base model, its tokenizer and its thread: what exists between open and close."""

    def __init__(self, base: BaseModel, *, batch_tokens: int, thinking: bool, share: float) -> None:
        self.base = base
        self.tokenizer = ChatTokenizer(base.tokenizer, thinking=thinking)
        training = TrainingBatcher(
            base,
            lambda language: NeutralText(
                base, self.tokenizer, neutral_text(language), everyday_chat(language)
            ),
            max_tokens=batch_tokens,
        )
        answers, drafts = (
            DecodeBatch(base, self.tokenizer, max_requests=limit) for limit in (None, MAX_DRAFTS)
        )
        self.thread = ModelThread(answers, drafts, training, share=share)


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
        self._load: Callable[[], BaseModel] = lambda: load(
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
        self._max_prefix_bytes = prefix_bytes
        self._batch_tokens, self._thinking = batch_tokens, thinking
        positive("learning_share", learning_share)
        if learning_share >= 1:
            raise InvalidSetting(
                f"learning_share is {learning_share!r}: it must be below 1 (answers need time)."
            )
        self._share = learning_share
        self._absorb_order = AbsorbOrder()
        self._loaded: LoadedModel | None = None
        self._adapters: LruCache[str, LoraWeights] = LruCache(
            adapter_bytes, size_of=lambda weights: weights.bytes
        )
        self._prefixes: LruCache[str, PrefixCache] = LruCache(
            prefix_bytes, size_of=lambda cache: cache.bytes
        )
        self._releases = 0  # how often adapters were dropped
        self._lock = threading.RLock()

    @classmethod
    def of(
        cls, model: Any, tokenizer: Any, *, name: str = "model", **settings: Any
    ) -> LocalBackend:
        """Return a backend over a model and tokenizer that are loaded already; they become its own.

        `settings`: adapter_bytes, prefix_bytes, batch_tokens, learning_share, checkpointing,
        compiled, thinking, recipes.
        """
        backend = cls(name, **settings)
        backend._load = lambda: prepare(
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
        """Load the model and start its thread; an open backend stays as it is.

        Raises:
            ModelNotFound: no usable model under this name.
            UnsupportedModel: it cannot carry a memory.
            InvalidSetting: unknown device or precision.
        """
        with self._lock:
            if self._loaded is None:
                self._loaded = LoadedModel(
                    self._load(),
                    batch_tokens=self._batch_tokens,
                    thinking=self._thinking,
                    share=self._share,
                )

    def close(self) -> None:
        """Stop the thread and let go of the model; what waits ends with `Closed`."""
        with self._lock:
            loaded, self._loaded = self._loaded, None
            self._adapters.clear()
            self._prefixes.clear()
            self._releases += 1
        if loaded is not None:
            loaded.thread.close()

    @property
    def loaded(self) -> LoadedModel:
        """The open model, to look at; it belongs to this backend's thread.

        Raises:
            Closed: it is not open.
        """
        loaded = self._loaded
        if loaded is None:
            raise Closed("The model is not open: open the service first.")
        return loaded

    @property
    def identity(self) -> ModelIdentity:
        """Name and hashes of the base model."""
        return self.loaded.base.identity

    @property
    def limits(self) -> ModelLimits:
        """The model's length and size, and the recipes there are."""
        base = self.loaded.base
        return ModelLimits(
            max_length=base.max_length,
            hidden_size=base.hidden_size,
            model_type=base.model.config.get_text_config().model_type,
            recipes=tuple(sorted(self._recipes)),
        )

    @property
    def model(self) -> Any:
        """The transformers model, to look at. Its weights belong to this backend's thread."""
        return self.loaded.base.model

    # --- adapters ------------------------------------------------------------------------------

    def _weights(self, adapter: Adapter) -> LoraWeights:
        """Return an adapter from memory or disk.

        Loading is outside the lock: nobody waits for a disk.
        """
        with self._lock:
            if (cached := self._adapters.get(adapter.version)) is not None:
                return cached
            releases = self._releases
        base = self.loaded.base
        weights = load_weights(adapter.folder, base.layers, base.device)
        with self._lock:
            if releases != self._releases:
                return weights  # perhaps of a memory that was forgotten meanwhile: not kept
            return self._adapters.put(adapter.version, weights)

    def release(self, prefix: str) -> tuple[str, ...]:
        """Drop adapters and caches whose version begins with `prefix`; return () as all is gone."""
        with self._lock:
            self._releases += 1
            for cache in (self._adapters, self._prefixes):
                cache.drop(lambda version: version.startswith(prefix))
        return ()

    def _cached_prefix(self, version: str, prompt: Sequence[int]) -> PrefixCache | None:
        """Return keys and values that the last answer of this very version left for a prompt."""
        with self._lock:
            cache = self._prefixes.get(version)
        return None if cache is None else cache.common_prefix(prompt)

    def _cache_prefix(self, version: str) -> Callable[[PrefixCache], None]:
        """Return a function that caches what an answer leaves, unless it was released since."""
        releases = self._releases

        def store(cache: PrefixCache) -> None:
            with self._lock:
                if releases != self._releases or cache.bytes > self._max_prefix_bytes:
                    return
                self._prefixes.put(version, cache)

        return store

    # --- learning ------------------------------------------------------------------------------

    def learn(
        self,
        request: LearnRequest,
        *,
        into: Path,
        control: LearningControl,
    ) -> LearnStats:
        """Train an adapter on a request's items and write it into a folder; see `Learner.learn`.

        Raises:
            InvalidSetting: unknown recipe, or a chunk longer than the model.
            LearningFailed: nothing to train on, a loss that is no number, or too little memory.
            Cancelled: it was.
        """
        base = self.loaded.base
        if request.recipe not in self._recipes:
            raise InvalidSetting(
                f"recipe is {request.recipe!r}: use one of {sorted(self._recipes)}."
            )
        if request.chunk > base.max_length:
            raise InvalidSetting(
                f"chunk is {request.chunk} tokens, more than the model's {base.max_length}: make "
                "it smaller."
            )
        with self._absorb_order.turn(control.owner) as number:
            return self._learn(request, into, control, AbsorbPriority(number, control.urgent))

    def _learn(
        self,
        request: LearnRequest,
        into: Path,
        control: LearningControl,
        priority: AbsorbPriority,
    ) -> LearnStats:
        base, settings = self.loaded.base, request.settings
        examples = self._examples(request, priority, control)
        control.phase(JobPhase(name="learning"))
        run = TrainingRun(
            self._start(request),
            examples,
            settings,
            chunk=request.chunk,
            min_steps=request.min_steps,
            resume=request.start.folder if request.start else None,
            progress=control.progress,
            cancelled=control.cancelled,
            priority=priority,
            language=neutral_language(_sample(request)),
            held=_held(request, examples),
        )
        learned = self._train(run)
        save_weights(
            learned.weights, into, layers=base.layers, base=base.name, dropout=settings.lora_dropout
        )
        if settings.carry_optimizer:
            save_optimizer(into, learned.adapter, learned.counters)
        return learned.stats

    def _examples(
        self, request: LearnRequest, priority: AbsorbPriority, control: LearningControl
    ) -> Sequence[Example]:
        """Return what the recipe makes of a request."""
        loaded = self.loaded
        tools = RecipeTools(
            tokenizer=loaded.tokenizer,
            bos_token_id=loaded.base.bos_token_id,
            max_length=loaded.base.max_length,
            generate=partial(self._generate_texts, priority=priority, control=control),
            complete=partial(self._complete_texts, priority=priority, control=control),
            topics=partial(self._topic_words, priority=priority, cancelled=control.cancelled),
        )
        return with_replay(self._recipes[request.recipe](request, tools), request, tools)

    def _start(self, request: LearnRequest) -> LoraWeights:
        """Return the adapter to go on from, or a new one."""
        if request.start is not None:
            return self._weights(request.start)
        base, settings = self.loaded.base, request.settings
        targets = choose_targets(base.layers, settings.target_modules, settings.layers_to_transform)
        return init_weights(LoraLayout(targets, settings.r), settings, base.device)

    def _train(self, run: TrainingRun) -> TrainingResult:
        """Hand a run to the model thread and wait for its result."""
        self.loaded.thread.learn(run)
        try:
            return run.result.result()
        except (MemoryError, RuntimeError) as error:
            if not _out_of_memory(error):
                raise
            raise LearningFailed(
                f"There was not enough memory to learn this ({str(error)[:200]}): the old revision "
                "stays, the text is in the journal. Use a smaller chunk or batch_tokens, or load "
                "the model with checkpointing=True."
            ) from error

    def _generate_texts(
        self,
        prompts: Sequence[Sequence[Message]],
        *,
        max_tokens: int,
        priority: AbsorbPriority,
        control: LearningControl,
    ) -> list[str]:
        """Return greedy answers of the base model. The first one's cache serves the others."""
        control.phase(JobPhase(name="writing", steps=len(prompts)))
        shared: PrefixCache | None = None
        streams: list[LocalStream] = []
        try:
            for messages in prompts:
                prompt = self.loaded.tokenizer.prompt(messages)
                request = self._decode_request(prompt, max_tokens, sampling=Sampling())
                request.priority, request.keep_cache = priority, shared is None
                request.cache = None if shared is None else shared.common_prefix(prompt)
                streams.append(LocalStream(request.channel))
                self.loaded.thread.draft(request)
                if shared is None:
                    streams[0].finish(control.cancelled)
                    shared = request.prefix_cache
            texts: list[str] = []
            for stream in streams:
                control.phase(JobPhase(name="writing", step=len(texts), steps=len(streams)))
                texts.append(stream.finish(control.cancelled).text)
            return texts
        finally:
            for stream in streams:
                stream.close()

    def _complete_texts(
        self,
        before: str,
        texts: Sequence[str],
        *,
        against: Sequence[str],
        max_tokens: int,
        stop: str,
        priority: AbsorbPriority,
        control: LearningControl,
    ) -> list[Continuation]:
        """Return what the base model goes on with; see `ContinueTexts`."""
        base, tokenizer = self.loaded.base, self.loaded.tokenizer
        shared = [*tokenizer.beginning, *tokenizer.encode(before)]
        rows = [
            (tokenizer.encode(text), tokenizer.encode(other))
            for text, other in zip(texts, against, strict=True)
        ]

        def task() -> CooperativeTask[list[Continuation]]:
            prefix = prefill(base, shared)
            written: list[Continuation] = []
            for start in range(0, len(rows), ROWS):
                control.phase(JobPhase(name="writing", step=start, steps=len(rows)))
                part = rows[start : start + ROWS]
                batch = GreedyBatch(base, prefix, [text for text, _ in part])
                pieces = [""] * len(part)
                for _ in range(max_tokens):
                    yield
                    _check(control.cancelled)
                    batch.step()
                    pieces = [tokenizer.decode(ids) for ids in batch.output_ids]
                    batch.finish([stop in piece for piece in pieces])
                    if batch.done:
                        break
                whole = [number for number, piece in enumerate(pieces) if stop in piece]
                yield
                guessed = score_continuations(
                    base, prefix, [(part[n][1], batch.output_ids[n]) for n in whole]
                )
                found = [Continuation("", 0.0)] * len(part)
                for number, guess in zip(whole, guessed, strict=True):
                    text = pieces[number].partition(stop)[0]
                    found[number] = Continuation(text, sum(batch.log_p[number]) - guess)
                written += found
            return written

        return self.loaded.thread.run(task(), priority=priority)

    def _topic_words(
        self,
        before: str,
        texts: Sequence[str],
        *,
        others: Sequence[str],
        priority: AbsorbPriority,
        cancelled: Callable[[], bool],
    ) -> list[tuple[str, ...]]:
        """Return words that the base model expects where topics are named; see `NameTopics`."""
        loaded = self.loaded

        words = topic_words(
            loaded.base,
            loaded.tokenizer,
            before,
            texts,
            others,
            check=partial(_check, cancelled),
        )
        return loaded.thread.run(words, priority=priority)

    # --- answering -----------------------------------------------------------------------------

    def stream(self, request: GenerateRequest) -> LocalStream:
        """Begin to answer; see `Generator.stream`.

        Raises:
            PromptTooLong: prompt and answer do not fit the model.
            InvalidText: the chat template refuses the messages.
            UnknownRevision: the adapter's folder is gone.
        """
        loaded = self.loaded
        adapter = request.adapter if request.strength else None
        prompt = loaded.tokenizer.prompt(request.messages)
        if request.prefill:
            space = " " if loaded.tokenizer.uses_plain_template else ""
            prompt += loaded.tokenizer.encode(space + request.prefill)
        decode = self._decode_request(prompt, request.max_tokens, sampling=request.sampling)
        if request.prefill:  # a space before the first word stays one
            decode.undecoded = 0
        if adapter:
            decode.weights, decode.version = self._weights(adapter), adapter.version
            decode.strength = request.strength
            # nothing is shared between requests without a memory: they may come from anybody
            if self._max_prefix_bytes:
                version = f"{adapter.version}*{request.strength}"
                decode.cache = self._cached_prefix(version, prompt)
                decode.keep_cache, decode.on_cache = True, self._cache_prefix(version)
        stream = LocalStream(decode.channel)
        loaded.thread.answer(decode)
        return stream

    def _decode_request(
        self, prompt: Sequence[int], max_tokens: int, *, sampling: Sampling
    ) -> DecodeRequest:
        """Return a request to the base model, not yet begun.

        Raises:
            PromptTooLong: prompt and answer do not fit the model.
        """
        base, plain = self.loaded.base, self.loaded.tokenizer.uses_plain_template
        if len(prompt) > base.max_length - max_tokens:
            raise PromptTooLong(
                f"The prompt has {len(prompt)} tokens and the reply may have {max_tokens}: "
                f"together more than the model's {base.max_length}."
            )
        return DecodeRequest(
            prompt=tuple(prompt),
            weights=None,
            version="",
            strength=0.0,
            sampling=sampling,
            stop=(*sampling.stop, PLAIN_STOP) if plain else sampling.stop,
            max_tokens=max_tokens,
            channel=Channel(),
        )

    def open_text(self, prompt: str, *, window: int) -> LocalText:
        """Begin a text of unlimited length; see `Generator.open_text`.

        Raises:
            InvalidSetting: the window is longer than the model.
            InvalidText: an empty prompt, and the model has no begin token.
        """
        loaded = self.loaded
        base = loaded.base
        if window > base.max_length:
            raise InvalidSetting(
                f"window is {window} tokens, more than the model's {base.max_length}: make it "
                "smaller."
            )
        ids = loaded.tokenizer.encode(prompt)
        if base.bos_token_id is not None:
            ids = [base.bos_token_id, *ids]
        if not ids:
            if not base.eos_token_ids:
                raise InvalidText("This model has no begin token: give a prompt to go on from.")
            ids = [min(base.eos_token_ids)]  # texts follow it in training data
        return LocalText(ids, window, send=loaded.thread.answer, load=self._weights)

    def count(self, messages: Sequence[Message]) -> int:
        """Return the tokens of a prompt."""
        return len(self.loaded.tokenizer.prompt(messages))

    def split(self, text: str, tokens: int) -> tuple[str, ...]:
        """Cut text into pieces of `tokens` tokens; the pieces, joined, are the text."""
        return self.loaded.tokenizer.split(text, tokens)

    def token_ids(self, text: str) -> list[int]:
        """Return the model's tokens of plain text; no special tokens are added."""
        return self.loaded.tokenizer.encode(text)

    def tools_text(self, tools: Sequence[Mapping[str, Any]]) -> str | None:
        """Return what the model's chat template writes about tools into the system message.

        None where it writes nothing, or not there: then any wording does.
        """
        return self.loaded.tokenizer.tools(tools)

    # --- measuring -----------------------------------------------------------------------------

    def score(self, requests: Sequence[ScoreRequest]) -> tuple[tuple[float, ...], ...]:
        """Return log-probabilities of texts' tokens; see `Scorer.score`.

        Raises:
            InvalidText: a text is empty.
            PromptTooLong: context and text do not fit the model.
        """
        loaded = self.loaded
        inputs = [self._score_inputs(loaded, request) for request in requests]

        def task() -> CooperativeTask[tuple[tuple[float, ...], ...]]:
            scores = []
            for ids, count, weights, strength in inputs:
                scores.append(_score(loaded.base, ids, count, weights, strength))
                yield
            return tuple(scores)

        return loaded.thread.run(task())

    def _score_inputs(
        self, loaded: LoadedModel, request: ScoreRequest
    ) -> tuple[list[int], int, LoraWeights | None, float]:
        """Return tokens, how many of the last ones to score, adapter and strength."""
        target = loaded.tokenizer.encode(request.target)
        if not target:
            raise InvalidText("The text to score is empty.")
        if isinstance(request.context, str):
            before = loaded.tokenizer.encode(request.context)
            if loaded.base.bos_token_id is not None:
                before = [loaded.base.bos_token_id, *before]
        else:
            before = loaded.tokenizer.prompt(request.context)
        if len(before) + len(target) > loaded.base.max_length:
            raise PromptTooLong(
                f"Context ({len(before)} tokens) and text to score ({len(target)}) are longer than "
                f"the model's {loaded.base.max_length}."
            )
        adapter = request.adapter if request.strength else None
        weights = self._weights(adapter) if adapter else None
        return (
            [*before, *target],
            min(len(target), len(before) + len(target) - 1),
            weights,
            request.strength,
        )


def _sample(request: LearnRequest) -> str:
    """Return enough of what is learned to know its language by."""
    texts = (item.text if isinstance(item, Document) else item.content for item in request.items)
    return "\n".join(text[:SAMPLE] for text in islice(texts, SAMPLED_ITEMS))


def _held(request: LearnRequest, examples: Sequence[Example]) -> Held:
    """Return where a memory of this is held to the base model, see `train/kl_regularizer.py`."""
    if not needs_extra_passes(request, examples):  # only then it is held
        return Held()
    learned = (*request.items, *chain.from_iterable(request.replay))
    documents = [item for item in learned if isinstance(item, Document)]
    contents = [facts_of(document) for document in documents]
    said = [answer for one in contents for answer in (*one.facts, *(a for _, a in one.exchanges))]
    leads = leads_of(document.character for document in documents)
    return Held(leads, tuple(dict.fromkeys(said))[:MAX_FACTS])


def _check(cancelled: Callable[[], bool]) -> None:
    """Raise Cancelled if an absorb was cancelled while its recipe works."""
    if cancelled():
        raise Cancelled("The absorb was cancelled; the old revision stays.")


def _out_of_memory(error: BaseException) -> bool:
    """Return True for what an allocator raises; torch's for CPUs has no class of its own."""
    kinds = (MemoryError, torch.OutOfMemoryError)
    return isinstance(error, kinds) or "DefaultCPUAllocator" in str(error)


def _score(
    base: BaseModel,
    ids: Sequence[int],
    count: int,
    weights: LoraWeights | None,
    strength: float,
) -> tuple[float, ...]:
    """Return the log-probabilities of the last `count` tokens."""
    if count == 0:
        return ()
    input_ids = torch.tensor([ids[:-1]], device=base.device)  # [1, S]
    labels = torch.tensor(ids[-count:], device=base.device)  # [T]
    positions = torch.arange(len(ids) - 1 - count, len(ids) - 1, device=base.device)  # [T]
    choice = None if weights is None else (weights, strength)
    with use_adapters(adapter_batch([choice], base.dtype)):
        losses = label_losses(base, input_ids, labels, positions, use_cache=False)
    return tuple(-value for value in losses.tolist())
