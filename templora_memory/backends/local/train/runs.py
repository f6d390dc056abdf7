"""Absorbs under way: several memories take their optimizer steps together, each its own.

A `Lesson` is one memory's way through its examples; `Lessons` lets those that go together share a
batch, on the worker's thread. One that fails or is cancelled leaves, the others go on.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from templora_memory.backends.local.base_model import BaseModel, stored_cache
from templora_memory.backends.local.lora import batched
from templora_memory.backends.local.priority_queue import NO_ABSORB, Absorb, Line
from templora_memory.backends.local.recipes import Example
from templora_memory.backends.local.train import step as step_module
from templora_memory.backends.local.train.kl_regularizer import Neutral
from templora_memory.domain.results import AbsorbProgress, ChunkStats, LearnStats
from templora_memory.domain.settings import Learning
from templora_memory.errors import Cancelled, LearningFailed

_HALF = math.log(2)


@dataclass(frozen=True, slots=True, eq=False)
class Learned:
    """What a lesson ends with."""

    weights: batched.Weights
    state: step_module.TrainingRow
    counted: step_module.Progress
    stats: LearnStats


class Lesson:
    """One memory's way through its examples; after construction on the worker's thread only.

    Args:
        start: adapter to go on from.
        examples: in training order.
        settings: rate and so on.
        chunk: tokens of a whole chunk; shorter ones move the adapter less.
        min_steps: optimizer steps to take in all, also if that means additional passes. These go
            round the examples; otherwise each example gets its epochs and is not seen again.
        resume: folder with optimizer state to go on from.
        progress: called after each example.
        cancelled: asked before each step.
        absorb: whose it is; while somebody waits, the one whose turn it is learns alone.

    Raises:
        LearningFailed: there is nothing to train on.
        StoreDamaged: the optimizer state is damaged.
    """

    def __init__(
        self,
        start: batched.Weights,
        examples: Sequence[Example],
        settings: Learning,
        *,
        chunk: int,
        min_steps: int,
        resume: Path | None,
        progress: Callable[[AbsorbProgress], None],
        cancelled: Callable[[], bool],
        absorb: Absorb = NO_ABSORB,
    ) -> None:
        self.absorb = absorb
        self._examples = [example for example in examples if any(example.weights)]
        if not self._examples:
            raise LearningFailed(
                "There is nothing to train on: only system messages, tool messages or white space."
            )
        self.settings = settings
        self.state = step_module.TrainingRow(start, settings)
        self.counted = step_module.Progress()
        if settings.carry_optimizer and resume is not None:
            self.counted = step_module.load_state(resume, self.state)
        wanted = math.ceil(min_steps / len(self._examples))
        more = wanted > settings.steps_per_chunk
        self._rounds, self._passes = (wanted, 1) if more else (1, settings.steps_per_chunk)
        self.result: Future[Learned] = Future()
        self.cancelled = cancelled
        self._chunk = chunk
        self._progress = progress
        self._round = 0
        self._number = 0  # of the example
        self._pass = 0  # over it in this round
        self._now: step_module.Prepared | None = None
        self._seen = step_module.NOTHING  # of the example before
        self._began = 0.0
        self._seconds = [0.0] * len(self._examples)
        self._before: dict[int, Tensor] = {}  # losses when an example was first seen
        self._after: dict[int, Tensor | None] = {}

    @property
    def over(self) -> bool:
        """Whether every example is learned."""
        return self._round == self._rounds

    @property
    def measured(self) -> bool:
        """Whether the example at hand is seen for the last time and wants to be measured."""
        sample = self._rounds > 1 or self._number % self.settings.measure_every == 0
        return self.settings.measure and sample and self._round == self._rounds - 1

    @property
    def keeps(self) -> bool:
        """Whether the next example may take over what the pass at hand has seen."""
        last = self._pass == self._passes - 1
        return last and self.settings.reuse_context and not self.measured

    @property
    def pull(self) -> float:
        """Weight of the pull towards the base model in the step at hand; 0: none."""
        return self.settings.kl_weight if self._rounds > 1 else 0.0

    @property
    def pulls(self) -> int:
        """How many pulls there were before."""
        return self.counted.steps

    @property
    def length(self) -> int:
        """Tokens of the example that is learned now."""
        return len(self._examples[self._number].ids)

    def prepared(self, base: BaseModel) -> step_module.Prepared | None:
        """The example to learn now; None: all are learned. Runs its context when it is new."""
        while self._now is None and not self.over:
            self._began = time.monotonic()
            example = self._examples[self._number]
            self._now = step_module.prepare(base, example, self.state, self._seen)
            if not self._now.labels:  # one token without anything before it
                self._next()
        return self._now

    def _next(self) -> None:
        self.counted.chunks += 1
        self._pass, self._now = 0, None
        self._number += 1
        if self._number == len(self._examples):
            self._number, self._round = 0, self._round + 1

    def step(self, nll: Tensor) -> bool:
        """Take a step with the gradients at hand; returns whether this example has its passes."""
        assert self._now is not None  # noqa: S101  # it was prepared
        share = min(1.0, self._now.mass / self._chunk) if self.settings.scale_short else 1.0
        factor = step_module.rate_factor(self.settings, self.counted.chunks)
        self.state.step(factor * share)
        self.counted.steps += 1
        if self._examples[self._number].counted:
            self._before.setdefault(self._number, nll)
        self._pass += 1
        return self._pass == self._passes

    def note(self, nll: Tensor, after: Tensor | None, seen: step_module.Seen) -> None:
        """Go on to the next example.

        Args:
            nll: losses of this one before its newest step.
            after: its losses after it, if they were measured.
            seen: its keys and values of the newest forward.
        """
        self._seen = seen if self.settings.reuse_context else step_module.NOTHING
        self._seconds[self._number] += time.monotonic() - self._began
        if self._round == self._rounds - 1:
            self._after[self._number] = after
        done = self._round * len(self._examples) + self._number + 1
        self._next()
        self._progress(
            AbsorbProgress(
                chunk=done,
                chunks=self._rounds * len(self._examples),
                tokens=sum(len(losses) for losses in self._before.values()),
                perplexity=math.exp(min(700.0, float((nll if after is None else after).mean()))),
            )
        )

    def end(self, kl: float | None) -> None:
        """Hand out the result; `kl` is how much the adapter changes neutral text."""
        if not self._before:
            raise LearningFailed("There is nothing to train on: the text is a single token.")
        if not self.state.finite:  # the last step is not measured by everybody
            raise LearningFailed(
                "The adapter came to hold values that are not finite; the old revision stays. "
                "Lower learning.learning_rate."
            )
        stats = LearnStats(
            chunks=tuple(
                _stats(before, self._after.get(number), self._seconds[number])
                for number, before in self._before.items()
            ),
            kl=kl,
        )
        self.result.set_result(Learned(self.state.weights(), self.state, self.counted, stats))


class Lessons(Line[Lesson]):
    """All absorbs under way, on the worker's thread.

    Args:
        base: the model.
        neutral: makes the neutral text, when it is first needed.
        most_tokens: of one batch, padding included, unless a single example has more.
    """

    def __init__(
        self, base: BaseModel, neutral: Callable[[], Neutral], *, most_tokens: int
    ) -> None:
        super().__init__()
        self._base = base
        self._make_neutral = neutral
        self._neutral: Neutral | None = None
        self._most = most_tokens

    def fail(self, error: BaseException) -> None:
        """End every lesson with this error."""
        for lesson in self._waiting:
            if not lesson.result.done():
                lesson.result.set_exception(error)
        self._waiting = []

    def step(self, *, short: bool) -> None:
        """One optimizer step of as many lessons as go together; never raises.

        With `short`, of one lesson only: somebody waits.
        """
        group: list[tuple[Lesson, step_module.Prepared]] = []
        for lesson in self.ordered:
            together = [member for member, _ in group]
            if together and not lesson.over and (short or not self._fits(lesson, together)):
                continue
            prepared = self._begin(lesson)
            if prepared is not None:
                group.append((lesson, prepared))
        if not group:
            return
        try:
            losses, seen = self._gradients(group)
        except BaseException as error:  # noqa: BLE001  # belongs to whoever waits for the result
            for lesson, _ in group:
                lesson.state.clear()
            if len(group) == 1:
                self._leave(group[0][0], error)
                return
            for member in group:  # whose fault was it? The others take their step alone
                self._alone(member)
            return
        self._take([lesson for lesson, _ in group], losses, seen)

    def _alone(self, member: tuple[Lesson, step_module.Prepared]) -> None:
        try:
            losses, seen = self._gradients([member])
        except BaseException as error:  # noqa: BLE001  # belongs to whoever waits for the result
            member[0].state.clear()
            self._leave(member[0], error)
            return
        self._take([member[0]], losses, seen)

    def _fits(self, lesson: Lesson, group: Sequence[Lesson]) -> bool:
        """Whether a lesson may share the batch: same layers, and little padding."""
        first = group[0]
        lengths = [member.length for member in (*group, lesson)]
        return (
            lesson.state.start.layout == first.state.start.layout
            and not lesson.settings.lora_dropout  # its random numbers would depend on the company
            and not first.settings.lora_dropout
            and lesson.settings.kl_weight == first.settings.kl_weight
            and max(lengths) * len(lengths) <= min(self._most, 3 * sum(lengths) // 2)
        )

    def _begin(self, lesson: Lesson) -> step_module.Prepared | None:
        try:
            if lesson.cancelled():
                raise Cancelled("The absorb was cancelled; the old revision stays.")  # noqa: TRY301
            prepared = lesson.prepared(self._base)
            if prepared is None:
                lesson.end(self._drift(lesson))
                self._waiting.remove(lesson)
        except BaseException as error:  # noqa: BLE001  # belongs to whoever waits for the result
            self._leave(lesson, error)
            return None
        return prepared

    def _leave(self, lesson: Lesson, error: BaseException) -> None:
        self._waiting.remove(lesson)
        lesson.result.set_exception(error)

    def _gradients(
        self, group: Sequence[tuple[Lesson, step_module.Prepared]]
    ) -> tuple[Sequence[Tensor], Sequence[step_module.Seen]]:
        """Backward for every member; returns the losses of each one's tokens, and what it saw."""
        base, members = self._base, [lesson for lesson, _ in group]
        examples = [prepared for _, prepared in group]
        batch = step_module.collate(base, examples)
        cache = stored_cache(batch.prefix) if any(member.keeps for member in members) else None
        settings = members[0].settings
        devices = [base.device] if base.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices, enabled=settings.lora_dropout > 0):
            if settings.lora_dropout > 0:
                torch.manual_seed(settings.seed + members[0].counted.steps)
            rows = step_module.rows_of([m.state for m in members], dropout=settings.lora_dropout)
            with base.learning(rows):
                loss, nll = step_module.batch_loss(base, batch, rows, cache)
            loss.backward()  # type: ignore[no-untyped-call]
        for weight in sorted({lesson.pull for lesson in members} - {0.0}):
            self._pull_back([lesson for lesson in members if lesson.pull == weight], weight)
        seen = (
            [step_module.NOTHING] * len(group)
            if cache is None
            else step_module.seen_by(examples, cache)
        )
        return torch.split(nll, list(batch.sizes)), seen

    def _take(
        self,
        members: Sequence[Lesson],
        losses: Sequence[Tensor],
        seen: Sequence[step_module.Seen],
    ) -> None:
        """A step of every member whose loss is sound; measures those whose example is learned."""
        learned: dict[Lesson, tuple[Tensor, step_module.Seen]] = {}
        for lesson, own, states in zip(members, losses, seen, strict=True):
            if failed := _failure(own, self._base):
                lesson.state.clear()
                self._leave(lesson, failed)
            elif lesson.step(own):
                learned[lesson] = own, states
        measured = [lesson for lesson in learned if lesson.measured]
        after: dict[Lesson, tuple[Tensor, step_module.Seen]] = {}
        try:
            if measured:
                after = dict(zip(measured, self._measure(measured), strict=True))
        except BaseException as error:  # noqa: BLE001  # belongs to whoever waits for the result
            for lesson in measured:
                self._leave(lesson, error)
                del learned[lesson]
        for lesson, (own, states) in learned.items():
            self._close(lesson, own, *after.get(lesson, (None, states)))

    def _measure(self, lessons: Sequence[Lesson]) -> list[tuple[Tensor, step_module.Seen]]:
        prepared = [lesson.prepared(self._base) for lesson in lessons]
        return step_module.measure(
            self._base,
            [one for one in prepared if one is not None],
            [lesson.state for lesson in lessons],
        )

    @property
    def neutral(self) -> Neutral:
        """The neutral text, made when it is first needed."""
        if self._neutral is None:
            self._neutral = self._make_neutral()
        return self._neutral

    def _pull_back(self, lessons: Sequence[Lesson], weight: float) -> None:
        """Add the gradients that keep neutral text as likely as it is for the base model."""
        rows = step_module.rows_of([lesson.state for lesson in lessons])
        turns = [lesson.pulls for lesson in lessons]
        with self._base.learning(rows):
            divergence = self.neutral.pull(turns, rows)
        (weight * divergence).backward()  # type: ignore[no-untyped-call]

    def _drift(self, lesson: Lesson) -> float | None:
        """How much an adapter changes neutral text."""
        if not lesson.settings.measure or not lesson.state.finite:
            return None
        return self.neutral.drift(step_module.rows_of([lesson.state]))

    def _close(
        self, lesson: Lesson, nll: Tensor, after: Tensor | None, seen: step_module.Seen
    ) -> None:
        try:
            if after is not None and (failed := _failure(after, self._base)):
                raise failed  # noqa: TRY301
            lesson.note(nll, after, seen)
        except BaseException as error:  # noqa: BLE001  # belongs to whoever waits
            self._leave(lesson, error)


def _failure(nll: Tensor, base: BaseModel) -> LearningFailed | None:
    """Refuse a loss that is no number, or twice as bad as knowing nothing."""
    mean = float(nll.mean())
    worst = 2 * math.log(base.model.get_input_embeddings().weight.shape[0])
    if math.isfinite(mean) and mean <= worst:
        return None
    return LearningFailed(
        f"The loss became {mean:.4g} (knowing nothing is {worst / 2:.3g}): learning stopped, "
        "the old revision stays. Lower learning.learning_rate, or look for damaged text."
    )


def _stats(before: Tensor, after: Tensor | None, seconds: float) -> ChunkStats:
    return ChunkStats(
        tokens=len(before),
        nll_before=float(before.mean()),
        nll_after=None if after is None else float(after.mean()),
        recalled=None if after is None else int((after < _HALF).sum()),
        seconds=seconds,
    )
