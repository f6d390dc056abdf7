"""A backend without a model, exact enough to test an application against.

Words are tokens. Learning writes the learned words into ``adapter.json``; answering says what the
backend was shown: how many prompt words, which texts live in weights. Everything is deterministic,
so two answers are equal exactly when prompt and memory are.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from templora_memory.domain.manifest import ModelIdentity
from templora_memory.domain.messages import LEARNED_ROLES, Document, Item, Message
from templora_memory.domain.results import (
    AbsorbProgress,
    ChunkStats,
    FinishReason,
    JobPhase,
    LearnStats,
    TokenLogprob,
)
from templora_memory.domain.segmentation import words
from templora_memory.domain.settings import ModelLimits, Sampling
from templora_memory.errors import (
    Cancelled,
    Closed,
    InvalidText,
    LearningFailed,
    PromptTooLong,
    UnknownRevision,
)
from templora_memory.ports import (
    Adapter,
    Completion,
    GenerateRequest,
    LearningControl,
    LearnRequest,
    ScoreRequest,
    TokenStream,
)

ADAPTER = "adapter.json"
POISON = "NaN!"
"""A learned text with this word makes `FakeBackend.learn` fail as a NaN loss would."""
GARBAGE = "garbage!"
"""A learned text with this word makes an adapter that changes all other text a lot."""


def _words(text: str) -> tuple[str, ...]:
    return tuple(re.findall(r"\s*\S+\s*", text)) or ((text,) if text else ())


def _plain(text: str) -> list[str]:
    return words(text)


def _text(item: Item) -> str:
    if isinstance(item, Document):
        return item.text
    return item.content if item.role in LEARNED_ROLES else ""


class FakeBackend:
    """Fulfils every port of a backend with words and JSON; see the module.

    Args:
        context: words that prompt and reply may have together.
        name: two fakes with different names are different base models.
        on_learn: called before each chunk is learned; block or raise in it to test timing.
    """

    def __init__(
        self,
        *,
        context: int = 1024,
        name: str = "fake",
        on_learn: Callable[[], None] | None = None,
    ) -> None:
        self._context = context
        self._name = name
        self._on_learn = on_learn
        self._open = False
        self._lock = threading.Lock()
        self.requests: list[GenerateRequest] = []
        self.learned: list[LearnRequest] = []
        self.hurried: list[bool] = []  # whether each of `learned` was urgent when it ended
        self.released: list[str] = []

    def __repr__(self) -> str:
        return f"FakeBackend({self._name!r})"

    # --- life ----------------------------------------------------------------------------------

    def open(self) -> None:
        """Make it usable."""
        self._open = True

    def close(self) -> None:
        """Make it refuse all work."""
        self._open = False

    @property
    def identity(self) -> ModelIdentity:
        """An identity that depends on the name alone."""
        digest = hashlib.sha256(self._name.encode()).hexdigest()
        return ModelIdentity(
            name=self._name, revision=None, config=digest, tokenizer=digest, weights=digest
        )

    @property
    def limits(self) -> ModelLimits:
        """The length given to the constructor."""
        return ModelLimits(max_length=self._context)

    def release(self, prefix: str) -> tuple[str, ...]:
        """Note what is released; there is nothing to drop."""
        self.released.append(prefix)
        return ()

    def _check_open(self) -> None:
        if not self._open:
            raise Closed("The fake backend is not open.")

    # --- learning ------------------------------------------------------------------------------

    def learn(
        self,
        request: LearnRequest,
        *,
        into: Path,
        control: LearningControl,
    ) -> LearnStats:
        """Learn by writing the texts into a file."""
        self._check_open()
        texts = [text for text in map(_text, request.items) if text.strip()]
        words = [word for text in texts for word in _words(text)]
        if not words:
            raise LearningFailed("There is nothing to train on: only system or tool messages.")
        control.phase(JobPhase(name="learning"))
        known = self._learned(request.start)
        chunks, done = [], 0
        count = math.ceil(len(words) / request.chunk)
        for number in range(count):
            if control.cancelled():
                raise Cancelled("The absorb was cancelled.")
            if self._on_learn is not None:
                self._on_learn()
            piece = words[number * request.chunk : (number + 1) * request.chunk]
            if any(POISON in word for word in piece):
                raise LearningFailed("The loss became NaN. The old revision stays.")
            done += len(piece)
            new = sum(1 for word in piece if word.strip() not in known) / len(piece)
            chunks.append(
                ChunkStats(
                    tokens=len(piece),
                    nll_before=1.0 + new,
                    nll_after=0.5,
                    recalled=len(piece) // 2,
                    seconds=0.0,
                )
            )
            control.progress(
                AbsorbProgress(
                    chunk=number + 1, chunks=count, tokens=done, perplexity=math.exp(0.5)
                )
            )
        everything = self._texts(request.start) + texts
        (into / ADAPTER).write_text(json.dumps(everything), encoding="utf-8")
        with self._lock:
            self.learned.append(request)
            self.hurried.append(control.urgent())
        harm = 10.0 if any(GARBAGE in word for word in words) else 0.01
        return LearnStats(chunks=tuple(chunks), kl=harm)

    def _texts(self, adapter: Adapter | None) -> list[str]:
        if adapter is None:
            return []
        try:
            texts = json.loads((adapter.folder / ADAPTER).read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise UnknownRevision(f"{adapter.folder} is gone.") from error
        return [str(text) for text in texts]

    def _learned(self, adapter: Adapter | None) -> set[str]:
        return {word.strip() for text in self._texts(adapter) for word in _words(text)}

    # --- answering -----------------------------------------------------------------------------

    def count(self, messages: Sequence[Message]) -> int:
        """Two marks a message, its words, and one mark for the answer."""
        return 1 + sum(2 + len(message.content.split()) for message in messages)

    def split(self, text: str, tokens: int) -> tuple[str, ...]:
        """Cut a text into pieces of so many words."""
        words = _words(text)
        return tuple(
            "".join(words[start : start + tokens]) for start in range(0, len(words), tokens)
        )

    def stream(self, request: GenerateRequest) -> TokenStream:
        """Answer with the sentence that shares most words with the question."""
        self._check_open()
        with self._lock:
            self.requests.append(request)
        texts = self._texts(request.adapter) if request.strength else []
        digest = hashlib.sha256(json.dumps(texts).encode()).hexdigest()[:8]
        shown = self.count(request.messages) + len(_words(request.prefill))
        memory = f"{len(texts)} texts in weights ({digest})" if texts else "no memory"
        answer = f"I see {shown} tokens and have {memory}: {_recall(request.messages, texts)}"
        if request.sampling.schema is not None:
            schema = json.loads(request.sampling.schema)
            answer = json.dumps(_smallest(schema, schema))
        return self._stream(answer, request.sampling, shown, request.max_tokens)

    def _stream(self, text: str, sampling: Sampling, shown: int, max_tokens: int) -> FakeStream:
        cut = min((text.find(stop) for stop in sampling.stop if stop in text), default=-1)
        words = _words(text if cut < 0 else text[:cut])
        reason: FinishReason = "length" if len(words) > max_tokens else "stop"
        return FakeStream(
            words[:max_tokens], reason, shown, self._check_open, logprobs=sampling.logprobs
        )

    def open_text(self, prompt: str, *, window: int) -> FakeText:
        """Start a text of numbered words."""
        self._check_open()
        return FakeText(self, prompt, window)

    # --- measuring -----------------------------------------------------------------------------

    def score(self, requests: Sequence[ScoreRequest]) -> tuple[tuple[float, ...], ...]:
        """Words seen in the context are likely (p = 0.9), learned ones fairly (0.6), others not."""
        self._check_open()
        return tuple(self._score(request) for request in requests)

    def _score(self, request: ScoreRequest) -> tuple[float, ...]:
        target = request.target.split()
        if not target:
            raise InvalidText("The text to score is empty.")
        plain = isinstance(request.context, str)
        context = (
            request.context
            if isinstance(request.context, str)
            else " ".join(message.content for message in request.context)
        )
        if len(context.split()) + len(target) > self._context:
            raise PromptTooLong(f"Context and target have over {self._context} words.")
        learned = self._texts(request.adapter) if request.strength else []
        seen, known = set(_plain(context)), set(_plain(" ".join(learned)))
        scores = []
        for word in target:
            bare = set(_plain(word))
            likely = 0.9 if bare <= seen else 0.6 if bare <= known else 0.01
            scores.append(math.log(likely))
        return tuple(scores[1:] if plain and not context else scores)


def _recall(messages: Sequence[Message], texts: Sequence[str]) -> str:
    """Return the shown or learned sentence that shares most words with the question."""
    asked = set(_plain(messages[-1].content)) if messages else set()
    known = [*(message.content for message in messages[:-1]), *texts]
    sentences = [s.strip() for text in known for s in re.split(r"(?<=[.!?])\s+", text) if s.strip()]
    best = max(
        sentences, key=lambda s: sum((Counter(_plain(s)) & Counter(asked)).values()), default=""
    )
    return best if asked & set(_plain(best)) else "I do not know."


def _smallest(schema: dict[str, Any], root: dict[str, Any]) -> Any:
    """Return the simplest value that a JSON schema of everyday parts allows."""
    if "$ref" in schema:
        target: Any = root
        for part in schema["$ref"].removeprefix("#/").split("/"):
            target = target[int(part) if isinstance(target, list) else part]
        return _smallest(target, root)
    for word in ("anyOf", "oneOf", "allOf"):
        if word in schema:
            return _smallest(schema[word][0], root)
    kind = schema.get("type", "object")
    if kind == "object" and "enum" not in schema and "const" not in schema:
        parts = schema.get("properties", {})
        wanted = schema.get("required", parts)
        return {name: _smallest(parts[name], root) for name in wanted}
    if kind == "array":
        return [_smallest(schema["items"], root)] * schema.get("minItems", 0)
    number = min(max(0, schema.get("minimum", 0)), schema.get("maximum", math.inf))
    plain = {"string": "word", "boolean": False, "null": None, "integer": number, "number": number}
    return schema.get("const", schema.get("enum", [plain.get(kind)])[0])


class FakeStream:
    """A stream over words that are there already; `check` raises once the backend is closed."""

    def __init__(
        self,
        words: Sequence[str],
        reason: FinishReason,
        shown: int,
        check: Callable[[], None],
        *,
        logprobs: int | None = None,
    ) -> None:
        self._told = logprobs
        self._words = tuple(words)
        self._reason: FinishReason = reason
        self._shown = shown
        self._check = check
        self._given = 0
        self._closed = False

    def __iter__(self) -> Iterator[str]:
        while self._given < len(self._words) and not self._closed:
            self._check()
            self._given += 1
            yield self._words[self._given - 1]

    @property
    def completion(self) -> Completion:
        """The result of the whole answer."""
        given = self._given if self._closed else len(self._words)
        if given > self._given:
            self._check()
        self._given = given
        return Completion(
            text="".join(self._words[:given]),
            finish_reason=self._reason if given == len(self._words) else "cancelled",
            prompt_tokens=self._shown,
            completion_tokens=given,
            logprobs=self.logprobs,
        )

    @property
    def logprobs(self) -> tuple[TokenLogprob, ...]:
        """Of the words given out: each with a probability of 1/4, and likelier than all others."""
        if self._told is None:
            return ()
        alternatives = tuple(f"other{number}" for number in range(1, self._told))
        return tuple(
            TokenLogprob(
                word,
                -math.log(4),
                tuple(
                    TokenLogprob(text, -math.log(4 + number))
                    for number, text in enumerate((word, *alternatives)[: self._told])
                ),
            )
            for word in self._words[: self._given]
        )

    def close(self) -> None:
        """End the answer early."""
        self._closed = True


class FakeText:
    """A text session that counts up, word by word."""

    def __init__(self, backend: FakeBackend, prompt: str, window: int) -> None:
        self._backend = backend
        self._shown = min(window, len(prompt.split()))
        self._number = 0

    def generate(
        self,
        *,
        adapter: Adapter | None,
        strength: float,
        sampling: Sampling,
        max_tokens: int,
        reuse: bool,
    ) -> TokenStream:
        """Go on with the text."""
        del strength, reuse  # a counter does not depend on them
        if adapter is not None and not (adapter.folder / ADAPTER).exists():
            raise UnknownRevision(f"{adapter.folder} is gone.")
        words = [f"word{self._number + index} " for index in range(max_tokens)]
        self._number += max_tokens
        text = "".join(words)
        if any(stop in text for stop in sampling.stop):
            return self._backend._stream(text, sampling, self._shown, max_tokens)  # noqa: SLF001
        return FakeStream(words, "length", self._shown, self._backend._check_open)  # noqa: SLF001

    def close(self) -> None:
        """Nothing to give back."""
