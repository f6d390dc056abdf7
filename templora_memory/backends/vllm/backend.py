"""`VllmBackend`: a backend that learns with another one and answers with vLLM."""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from templora_memory.backends.vllm.adapters import AdapterRegistry
from templora_memory.backends.vllm.client import Client, HttpError, ResponseStream
from templora_memory.domain.manifest import ModelIdentity
from templora_memory.domain.messages import Message
from templora_memory.domain.results import FinishReason, LearnStats, TokenLogprob
from templora_memory.domain.settings import ModelLimits, Sampling
from templora_memory.errors import (
    Closed,
    InvalidSetting,
    InvalidText,
    ModelError,
    ModelNotFound,
    UnknownRevision,
)
from templora_memory.ports import (
    Backend,
    Completion,
    GenerateRequest,
    LearningControl,
    LearnRequest,
    ScoreRequest,
    TextSession,
    TokenStream,
)
from templora_memory.tool_calls import template_description

_BAD_REQUEST, _MISSING = 400, 404
_TRIES = 2
_TOOL_ROLES = {"tool": "user", "call": "assistant"}


class VllmBackend:
    """Experimental: answers with a vLLM server; learns, counts and measures with `trainer`.

    **Not run against a real vLLM**: neither the project's tests nor its authors have had one. The
    calls are those of vLLM 0.33 as its source and documentation describe them, and the tests run
    against a small server that behaves so.

    Each revision is registered under a name and a path of its own before the first request that
    uses it, through ``/v1/load_lora_adapter``, and unloaded once `keep` newer ones are in use; a
    request that is under way keeps the revision it began with. Start the server with
    ``VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 vllm serve MODEL --enable-lora --max-lora-rank 16``, on a
    network of its own: these calls have no authentication and load any folder it can read. It must
    see the store's folders, under the same paths or as `path` says.

    What differs from answering locally:

    - `strength` is 0 (the base model) or 1.
    - The chat template and the rounding are vLLM's; `trainer` must be the same base model.
    - Texts of unlimited length (`open_text`) are written by `trainer`.
    - After a forget, vLLM has forgotten the name, but keeps weights and cached keys and values in
      its memory until it needs the place; the receipt (`remote`) and `pending` list these names.
      Restart it where that is too late.

    Args:
        trainer: the backend that learns: usually `LocalBackend` with the same model.
        url: ``http://host:port`` of the server.
        model: what the server calls the base model; None: the only one it serves.
        keep: most revisions registered at once.
        max_rank: the server's ``--max-lora-rank``.
        max_bytes: largest adapter that is registered.
        path: the folder of an adapter as the server sees it.
        key: bearer token, if the server wants one.
        seconds: longest wait for the next piece of an answer.
    """

    def __init__(
        self,
        trainer: Backend,
        url: str,
        *,
        model: str | None = None,
        keep: int = 64,
        max_rank: int = 16,
        max_bytes: int = 1 << 30,
        path: Callable[[Path], str] = str,
        key: str | None = None,
        seconds: float = 300.0,
    ) -> None:
        if keep < 1:
            raise InvalidSetting(f"keep is {keep!r}: at least one revision must be registered.")
        self._trainer = trainer
        self._client = Client(url, key=key, seconds=seconds)
        self._adapters = AdapterRegistry(
            self._client, keep=keep, max_rank=max_rank, max_bytes=max_bytes, path=path
        )
        self._model = model
        self._base: str | None = None
        self._length: int | None = None
        self._streams: set[VllmStream] = set()
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"VllmBackend({self._trainer!r}, {self._client.url!r})"

    # --- life ----------------------------------------------------------------------------------

    def open(self) -> None:
        """Ask the server for its base model, and open the trainer.

        Raises:
            ModelNotFound: it does not answer, or serves no such model.
        """
        if self._base is not None:
            return
        try:
            served = self._adapters.served()
        except (HttpError, ModelError) as error:
            raise ModelNotFound(
                f"vLLM at {self._client.url} does not say what it serves: {error}"
            ) from error
        bases = {name: length for name, length in served.items() if length is not None}
        name = self._model or (next(iter(bases)) if len(bases) == 1 else None)
        if name is None or name not in served:
            raise ModelNotFound(
                f"vLLM at {self._client.url} serves {sorted(served)}, not {self._model!r}: give "
                "one of them as model."
            )
        self._trainer.open()
        self._length = served[name]
        self._base = name

    def close(self) -> None:
        """End streams under way, unload the adapters, and close the trainer."""
        with self._lock:
            base, self._base = self._base, None
            streams = list(self._streams)
        for stream in streams:
            stream.end()
        if base is not None:
            self._adapters.close()
        self._trainer.close()

    @property
    def identity(self) -> ModelIdentity:
        """Name and hashes of the trainer's model."""
        return self._trainer.identity

    @property
    def limits(self) -> ModelLimits:
        """The trainer's limits; the length is the shorter of the two."""
        limits = self._trainer.limits
        return replace(limits, max_length=min(limits.max_length, self._length or limits.max_length))

    @property
    def registered(self) -> tuple[str, ...]:
        """Names of the revisions that are registered, the one used longest ago first."""
        return self._adapters.names

    @property
    def pending(self) -> tuple[str, ...]:
        """Names that were forgotten, and whose weights the server may still hold in its memory."""
        return self._adapters.pending

    def release(self, prefix: str) -> tuple[str, ...]:
        """Drop adapters whose version begins with `prefix`; return what may be left elsewhere."""
        return (*self._trainer.release(prefix), *self._adapters.release(prefix))

    # --- answering -----------------------------------------------------------------------------

    def stream(self, request: GenerateRequest) -> TokenStream:
        """Begin to answer; see `Generator.stream`.

        Raises:
            UnknownRevision: the adapter's folder is gone.
            InvalidSetting: a strength between 0 and 1, or an adapter over a limit.
            InvalidText: the server refuses the request.
            ModelError: the server cannot answer.
        """
        if request.adapter is not None and not request.adapter.folder.is_dir():
            raise UnknownRevision(f"{request.adapter.folder} is gone.")
        if request.strength not in {0.0, 1.0}:
            raise InvalidSetting(
                f"strength is {request.strength:g}: vLLM applies a memory wholly (1) or not at all "
                "(0)."
            )
        base = self._serving()
        with ExitStack() as stack:
            answer = self._ask(request, base, stack)
            stream = VllmStream(answer, stack.pop_all(), self._ended)
        with self._lock:
            self._streams.add(stream)
        return stream

    def _ask(self, request: GenerateRequest, base: str, stack: ExitStack) -> ResponseStream:
        """Send a request; put on the stack what it holds until its end."""
        for attempt in range(_TRIES):
            model = base
            if request.adapter is not None and request.strength:
                model = stack.enter_context(self._adapters.use(request.adapter))
            try:
                return self._client.stream("/v1/chat/completions", _body(request, model))
            except HttpError as error:
                if error.status == _MISSING and model != base and attempt + 1 < _TRIES:
                    self._adapters.lost(model)  # unloaded by another client: register it again
                    continue
                if error.status == _BAD_REQUEST:
                    raise InvalidText(f"vLLM refuses this request: {error}") from error
                raise ModelError(f"vLLM at {self._client.url} cannot answer: {error}") from error
        raise AssertionError  # the last try returns or raises

    def _serving(self) -> str:
        if self._base is None:
            raise Closed("The backend is not open.")
        return self._base

    def _ended(self, stream: VllmStream) -> None:
        with self._lock:
            self._streams.discard(stream)

    # --- what the trainer does -----------------------------------------------------------------

    def learn(
        self,
        request: LearnRequest,
        *,
        into: Path,
        control: LearningControl,
    ) -> LearnStats:
        """Learn with the trainer; see `Learner.learn`."""
        return self._trainer.learn(request, into=into, control=control)

    def open_text(self, prompt: str, *, window: int) -> TextSession:
        """Begin a text of unlimited length, written by the trainer."""
        return self._trainer.open_text(prompt, window=window)

    def count(self, messages: Sequence[Message]) -> int:
        """Return the tokens of a prompt, as the trainer counts them."""
        return self._trainer.count(messages)

    def split(self, text: str, tokens: int) -> tuple[str, ...]:
        """Cut text into pieces of `tokens` tokens; the pieces, joined, are the text."""
        return self._trainer.split(text, tokens)

    def tools_text(self, tools: Sequence[Mapping[str, Any]]) -> str | None:
        """Return what the trainer's chat template says about tools; see `ToolTemplate`."""
        return template_description(tools, self._trainer)

    def score(self, requests: Sequence[ScoreRequest]) -> tuple[tuple[float, ...], ...]:
        """Return log-probabilities of texts' tokens, as the trainer scores them."""
        return self._trainer.score(requests)


def _body(request: GenerateRequest, model: str) -> dict[str, Any]:
    sampling = request.sampling
    body: dict[str, Any] = {
        "model": model,
        "messages": [_message(message) for message in request.messages],
        "max_tokens": request.max_tokens,
        "temperature": sampling.temperature,
        "stream": True,
        "stream_options": {"include_usage": True},
        **_sampling_options(sampling),
    }
    if request.prefill:
        body["messages"].append({"role": "assistant", "content": request.prefill})
        body |= {"add_generation_prompt": False, "continue_final_message": True}
    return body


def _sampling_options(sampling: Sampling) -> dict[str, Any]:
    """Return what differs from the server's defaults."""
    options: dict[str, Any] = {"repetition_penalty": sampling.repetition_penalty}
    if sampling.temperature:
        options |= {"top_p": sampling.top_p, "top_k": sampling.top_k or -1, "seed": sampling.seed}
        options["min_p"] = sampling.min_p
    for name in ("frequency_penalty", "presence_penalty"):
        if value := getattr(sampling, name):
            options[name] = value
    if sampling.logprobs is not None:
        options |= {"logprobs": True, "top_logprobs": sampling.logprobs}
    if sampling.stop:
        options["stop"] = list(sampling.stop)
    if sampling.ignore_end:
        options["ignore_eos"] = True
    if sampling.schema is not None:
        schema = {"name": "answer", "schema": json.loads(sampling.schema)}
        options["response_format"] = {"type": "json_schema", "json_schema": schema}
    return options


def _message(message: Message) -> dict[str, str]:
    role = _TOOL_ROLES.get(message.role, message.role)
    return {"role": role, "content": message.content}


def _logprob(token: dict[str, Any]) -> TokenLogprob:
    top = tuple(_logprob(other) for other in token.get("top_logprobs") or ())
    return TokenLogprob(str(token["token"]), float(token["logprob"]), top)


class VllmStream:
    """An answer of vLLM, as text and as a completion."""

    def __init__(
        self, answer: ResponseStream, held: ExitStack, ended: Callable[[VllmStream], None]
    ) -> None:
        self._answer = answer
        self._events = answer.events()
        self._held = held
        self._ended = ended
        self._lock = threading.Lock()  # one reads at a time
        self._waiting: deque[str] = deque()
        self._given: list[str] = []
        self.logprobs: list[TokenLogprob] = []
        self._reason: FinishReason | None = None
        self._usage: tuple[int, int] | None = None
        self._done = False
        self._closed = False
        self._lost: Closed | None = None

    def __iter__(self) -> Iterator[str]:
        while (piece := self._next()) is not None:
            yield piece

    def _next(self) -> str | None:
        with self._lock:
            while not self._waiting and not self._done:
                self._take()
            if self._lost is not None:
                raise self._lost
            if not self._waiting or self._closed:
                return None
            self._given.append(self._waiting.popleft())
            return self._given[-1]

    def _take(self) -> None:
        """Read one event."""
        try:
            event = next(self._events, None)
        except BaseException:
            self._finish()
            raise
        if event is None or "error" in event:
            self._finish()
            if event is not None or (self._reason is None and not self._closed):
                why = "" if event is None else f" ({event['error']})"
                raise ModelError(f"vLLM broke off in the middle of an answer{why}: try again.")
            return
        if usage := event.get("usage"):
            self._usage = int(usage["prompt_tokens"]), int(usage["completion_tokens"])
        for choice in event.get("choices", ()):
            if reason := choice.get("finish_reason"):
                self._reason = "length" if reason == "length" else "stop"
            told = choice.get("logprobs") or {}
            self.logprobs += [_logprob(token) for token in told.get("content") or ()]
            if piece := choice.get("delta", {}).get("content"):
                self._waiting.append(piece)

    def _finish(self) -> None:
        if not self._done:
            self._done = True
            self._answer.close()
            self._held.close()
            self._ended(self)

    @property
    def completion(self) -> Completion:
        """The whole answer; waits for its end, and raises what ended it."""
        while self._next() is not None:
            pass
        prompt, tokens = self._usage or (0, len(self._given))
        complete = self._reason is not None and not self._waiting
        return Completion(
            text="".join(self._given),
            finish_reason=self._reason if self._reason and complete else "cancelled",
            prompt_tokens=prompt,
            completion_tokens=tokens if complete else len(self._given),
            logprobs=tuple(self.logprobs),
        )

    def close(self) -> None:
        """Stop the answer; safe from any thread, and twice."""
        self._closed = True
        self._answer.stop()
        with self._lock:  # a thread that reads has seen the end by now
            self._finish()

    def end(self) -> None:
        """Stop because the backend is closed."""
        self._lost = Closed("The backend was closed in the middle of an answer.")
        self.close()
