"""A backend that several services share, each under a prefix of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from templora_memory.domain.manifest import ModelIdentity
from templora_memory.domain.messages import Message
from templora_memory.domain.results import LearnStats
from templora_memory.domain.settings import ModelLimits, Sampling
from templora_memory.ports import (
    Adapter,
    Backend,
    GenerateRequest,
    LearningControl,
    LearnRequest,
    ScoreRequest,
    TextSession,
    TokenStream,
)
from templora_memory.tool_calls import template_description


class NamespacedBackend:
    """One base model for several services; its creator opens and closes it.

    Every adapter version gets the namespace as a prefix, so nothing that is cached for one
    namespace is ever used for another, not even for equal files.

    Args:
        backend: the shared backend.
        namespace: prefix of all adapter versions of this service.
    """

    def __init__(self, backend: Backend, namespace: str) -> None:
        self._backend = backend
        self._prefix = f"{namespace}/"

    def __repr__(self) -> str:
        return repr(self._backend)

    def open(self) -> None:
        """Open the shared backend."""
        self._backend.open()

    def close(self) -> None:
        """Do nothing: other services go on with the shared backend."""

    @property
    def identity(self) -> ModelIdentity:
        """Identity of the base model."""
        return self._backend.identity

    @property
    def limits(self) -> ModelLimits:
        """Limits of the base model."""
        return self._backend.limits

    def release(self, prefix: str) -> tuple[str, ...]:
        """Drop cached adapters of this namespace whose version starts with `prefix`."""
        return self._backend.release(self._prefix + prefix)

    def _with_prefix(self, adapter: Adapter | None) -> Adapter | None:
        return adapter and replace(adapter, version=self._prefix + adapter.version)

    def learn(
        self,
        request: LearnRequest,
        *,
        into: Path,
        control: LearningControl,
    ) -> LearnStats:
        """Train an adapter; see `Backend.learn`."""
        return self._backend.learn(
            replace(request, start=self._with_prefix(request.start)),
            into=into,
            control=replace(control, owner=self._prefix),
        )

    def stream(self, request: GenerateRequest) -> TokenStream:
        """Generate an answer; see `Backend.stream`."""
        return self._backend.stream(replace(request, adapter=self._with_prefix(request.adapter)))

    def open_text(self, prompt: str, *, window: int) -> TextSession:
        """Start a long text; see `Backend.open_text`."""
        session = self._backend.open_text(prompt, window=window)
        return _NamespacedTextSession(session, self._with_prefix)

    def tools_text(self, tools: Sequence[Mapping[str, Any]]) -> str | None:
        """Return what the chat template says about tools; see `ToolTemplate`."""
        return template_description(tools, self._backend)

    def count(self, messages: Sequence[Message]) -> int:
        """Count the tokens of a prompt; see `Backend.count`."""
        return self._backend.count(messages)

    def split(self, text: str, tokens: int) -> tuple[str, ...]:
        """Split a text into parts of so many tokens; see `Backend.split`."""
        return self._backend.split(text, tokens)

    def score(self, requests: Sequence[ScoreRequest]) -> tuple[tuple[float, ...], ...]:
        """Return log-probabilities of tokens; see `Backend.score`."""
        return self._backend.score(
            [replace(r, adapter=self._with_prefix(r.adapter)) for r in requests]
        )


class _NamespacedTextSession:
    """A text session whose adapters get the prefix of a namespace."""

    def __init__(
        self, session: TextSession, with_prefix: Callable[[Adapter | None], Adapter | None]
    ) -> None:
        self._session = session
        self._with_prefix = with_prefix

    def generate(
        self,
        *,
        adapter: Adapter | None,
        strength: float,
        sampling: Sampling,
        max_tokens: int,
        reuse: bool,
    ) -> TokenStream:
        """Continue the text; see `TextSession.generate`."""
        return self._session.generate(
            adapter=self._with_prefix(adapter),
            strength=strength,
            sampling=sampling,
            max_tokens=max_tokens,
            reuse=reuse,
        )

    def close(self) -> None:
        """End the session."""
        self._session.close()
