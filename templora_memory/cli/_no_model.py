"""A backend for commands that only move text and files, so that they start at once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from templora_memory.domain.manifest import ModelIdentity
from templora_memory.domain.messages import Message
from templora_memory.domain.results import LearnStats
from templora_memory.domain.settings import ModelLimits
from templora_memory.ports import (
    GenerateRequest,
    LearningControl,
    LearnRequest,
    ScoreRequest,
    TextSession,
    TokenStream,
)


class NoModel:
    """Opens, closes and releases like any backend; whatever needs the model itself is an error.

    Its limits are no limits: a policy resolves, and nothing ever measures itself against it.

    Args:
        recipe: of the policy; also one of another distribution is taken.
    """

    def __init__(self, recipe: str) -> None:
        self._recipe = recipe

    def __repr__(self) -> str:
        return "NoModel()"

    def open(self) -> None:
        """Nothing to load."""

    def close(self) -> None:
        """Nothing to give back."""

    def release(self, prefix: str) -> tuple[str, ...]:  # noqa: ARG002  # of the port
        """Nothing is cached."""
        return ()

    @property
    def limits(self) -> ModelLimits:
        """Limits that refuse nothing."""
        return ModelLimits(max_length=1 << 30, recipes=(self._recipe,))

    @property
    def identity(self) -> ModelIdentity:
        """Refuse: there is no model."""
        _refuse("identity")

    def learn(
        self,
        request: LearnRequest,
        *,
        into: Path,
        control: LearningControl,
    ) -> LearnStats:
        """Refuse to learn."""
        del request, into, control
        _refuse("learn")

    def stream(self, request: GenerateRequest) -> TokenStream:
        """Refuse to answer."""
        del request
        _refuse("stream")

    def open_text(self, prompt: str, *, window: int) -> TextSession:
        """Refuse to write."""
        del prompt, window
        _refuse("open_text")

    def count(self, messages: Sequence[Message]) -> int:
        """Refuse to count."""
        del messages
        _refuse("count")

    def split(self, text: str, tokens: int) -> tuple[str, ...]:
        """Refuse to split."""
        del text, tokens
        _refuse("split")

    def score(self, requests: Sequence[ScoreRequest]) -> tuple[tuple[float, ...], ...]:
        """Refuse to score."""
        del requests
        _refuse("score")


def _refuse(what: str) -> NoReturn:
    raise RuntimeError(f"{what} was asked of a service that was opened without a model.")
