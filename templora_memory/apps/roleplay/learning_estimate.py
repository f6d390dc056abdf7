"""How long learning a text will take on this machine: measured once, then known from experience."""

from __future__ import annotations

import json
import logging
import threading
import time
from pathlib import Path

from templora_memory import Message, ParametricMemory

_log = logging.getLogger(__name__)
_SAMPLE = "The keeper counts the boats that come home before the fog does. " * 12
_STEP_TOKENS = 280  # questions and answers that one step of a short document holds
_BACKWARD = 4.0  # a step over a forward pass of the same tokens: backward, and the penalty's share
_MIN_SECONDS = 1.0
_NEWEST = 0.5  # weight of the newest experience


class LearningEstimate:
    """Estimates seconds of learning for one model on one machine. Safe to use from any thread.

    Before anything was learned it takes the time of a forward pass; afterwards what learning took,
    which `home` keeps for the next server.
    """

    def __init__(self, memory: ParametricMemory, home: Path) -> None:
        self._memory = memory
        self._path = home / "learning_speed.json"
        self._guard = threading.Lock()
        self._forward: float | None = None  # seconds a token
        self._known: dict[str, float] | None = None  # seconds a token of text, by model

    @property
    def _model(self) -> str:
        return self._memory.base.name

    def seconds(self, tokens: int) -> float:
        """Return the seconds that learning so many tokens of text will take."""
        with self._guard:
            known = self._experience().get(self._model)
            if known is not None:
                return max(_MIN_SECONDS, known * tokens)
            if self._forward is None:
                self._forward = self._measure()
            policy, learning = self._memory.policy, self._memory.policy.learning
            passed = tokens * learning.steps_per_chunk
            short = passed < policy.chunk * learning.document_steps  # gets additional passes
            trained = learning.document_steps * _STEP_TOKENS if short else passed
            return max(_MIN_SECONDS, self._forward * trained * _BACKWARD)

    def _measure(self) -> float:
        """Return the seconds of a forward pass for each token of a prompt."""
        limit = max(1, self._memory.policy.window // 2)
        sample = self._memory.backend.split(_SAMPLE, limit)[0]
        prompt = [Message("user", sample)]
        spent = []
        for _ in range(2):  # the first also warms up
            started = time.monotonic()
            self._memory.without_memory.reply(prompt, max_tokens=1)
            spent.append(time.monotonic() - started)
        return min(spent) / max(1, self._memory.backend.count(prompt))

    def learned(self, tokens: int, seconds: float) -> None:
        """Note what learning took."""
        if not tokens:
            return
        with self._guard:
            every, pace = self._experience(), seconds / tokens
            before = every.get(self._model, pace)
            every[self._model] = before + _NEWEST * (pace - before)
            try:
                self._path.write_text(json.dumps(every), encoding="utf-8")
            except OSError as error:  # an estimate is not worth a failure
                _log.warning("The pace of learning cannot be kept: %s", error)

    def _experience(self) -> dict[str, float]:
        if self._known is None:
            try:
                rows = json.loads(self._path.read_text(encoding="utf-8"))
                self._known = {str(name): float(pace) for name, pace in rows.items()}
            except (OSError, ValueError, TypeError, AttributeError):
                self._known = {}  # nothing was learned here yet
        return self._known


def duration(seconds: float) -> str:
    """Return a duration in words, no more exact than it is known."""
    if seconds < 10:  # noqa: PLR2004
        return "a few seconds"
    if seconds < 55:  # noqa: PLR2004
        return f"{round(seconds / 10) * 10} seconds"
    minutes = round(seconds / 60)
    if minutes < 60:  # noqa: PLR2004
        return f"{minutes} minute{'' if minutes == 1 else 's'}"
    hours = seconds / 3600
    return f"{hours:.1f} hours"
