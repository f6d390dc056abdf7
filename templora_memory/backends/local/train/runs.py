"""Absorbs under way: several memories take their optimizer steps together, each its own.

A `TrainingRun` is one memory's way through its examples; a `TrainingBatcher` lets those that go
together share a batch, on the model thread. One that fails or is cancelled leaves, the others go
on.
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

from templora_memory.backends.local.base_model import BaseModel
from templora_memory.backends.local.kv_cache import dynamic_cache
from templora_memory.backends.local.lora.batched import LoraWeights, lowest_layer
from templora_memory.backends.local.recipes import Example
from templora_memory.backends.local.scheduler import (
    DEFAULT_PRIORITY,
    AbsorbPriority,
    PriorityQueue,
)
from templora_memory.backends.local.train.frozen_layers import FrozenStates, below
from templora_memory.backends.local.train.kl_regularizer import Held, NeutralText
from templora_memory.backends.local.train.optimizer import (
    TrainableAdapter,
    TrainCounters,
    load_optimizer,
    lr_factor,
    trainable_batch,
)
from templora_memory.backends.local.train.step import (
    EMPTY_PREFIX,
    KVPrefix,
    TrainInputs,
    batch_loss,
    collate,
    measure,
    prefixes_after,
    prepare_inputs,
)
from templora_memory.domain.languages import DEFAULT
from templora_memory.domain.results import AbsorbProgress, ChunkStats, LearnStats
from templora_memory.domain.settings import Learning
from templora_memory.errors import Cancelled, LearningFailed

_RECALLED_NLL = math.log(2)  # below: the token has more than half of the probability


@dataclass(frozen=True, slots=True, eq=False)
class TrainingResult:
    """The new adapter, its optimizer state and counters, and the figures of a receipt."""

    weights: LoraWeights
    adapter: TrainableAdapter
    counters: TrainCounters
    stats: LearnStats


class TrainingRun:
    """One memory's way through its examples; after construction on the model thread only.

    Args:
        start: adapter to go on from.
        examples: in training order.
        settings: learning rate and so on.
        chunk: tokens of a full chunk; shorter ones move the adapter less.
        min_steps: optimizer steps to take in all, also if that means additional passes. These go
            round the examples, until a pass finds them learned (`Learning.stop_loss`); otherwise
            each example gets its `steps_per_chunk` and is not seen again.
        resume: folder with optimizer state to go on from.
        progress: called after each example.
        cancelled: asked before each step.
        language: of the neutral text that it is held to the base model on.
        held: where else than behind the template's lead.
        priority: of the absorb; while somebody waits, the first in order learns alone.

    Raises:
        LearningFailed: there is nothing to train on.
        StoreDamaged: the optimizer state is damaged.
    """

    def __init__(
        self,
        start: LoraWeights,
        examples: Sequence[Example],
        settings: Learning,
        *,
        chunk: int,
        min_steps: int,
        resume: Path | None,
        progress: Callable[[AbsorbProgress], None],
        cancelled: Callable[[], bool],
        priority: AbsorbPriority = DEFAULT_PRIORITY,
        language: str = DEFAULT,
        held: Held = Held(),  # noqa: B008  # frozen
    ) -> None:
        self.priority = priority
        self.language = language
        self.held = held
        self._examples = [example for example in examples if any(example.weights)]
        if not self._examples:
            raise LearningFailed(
                "There is nothing to train on: only system messages, tool messages or white space."
            )
        self.settings = settings
        self.adapter = TrainableAdapter(start, settings)
        self.counters = TrainCounters()
        if settings.carry_optimizer and resume is not None:
            self.counters = load_optimizer(resume, self.adapter)
        rounds = math.ceil(min_steps / len(self._examples))
        more = rounds > settings.steps_per_chunk
        self._rounds, self._passes = (rounds, 1) if more else (1, settings.steps_per_chunk)
        self.result: Future[TrainingResult] = Future()
        self.cancelled = cancelled
        self._chunk = chunk
        self._progress = progress
        self._planned = self._rounds * len(self._examples) if more else None  # steps
        self._round = 0
        self._number = 0  # of the example
        self._pass = 0  # over it in this round
        self._inputs: TrainInputs | None = None
        self._prefix = EMPTY_PREFIX  # of the example before
        self._began = 0.0
        self._seconds = [0.0] * len(self._examples)
        self._pass_losses: list[float] = []  # of each example of this round, before its step
        self._before: dict[int, Tensor] = {}  # losses when an example was first seen
        self._after: dict[int, Tensor | None] = {}
        self.frozen = FrozenStates()

    @property
    def done(self) -> bool:
        """True once every example is learned."""
        return self._round == self._rounds

    @property
    def measures(self) -> bool:
        """True if the example at hand is seen for the last time and is to be measured."""
        sample = self._rounds > 1 or self._number % self.settings.measure_every == 0
        return self.settings.measure and sample and self._round == self._rounds - 1

    @property
    def keeps_cache(self) -> bool:
        """True if the next example may take over the keys and values of the pass at hand."""
        last = self._pass == self._passes - 1
        return last and self.settings.reuse_context and not self.measures

    @property
    def kl_weight(self) -> float:
        """Weight of the KL penalty in the step at hand; 0: none."""
        return self.settings.kl_weight if self._rounds > 1 else 0.0

    @property
    def kl_penalties(self) -> int:
        """KL penalties before the step at hand."""
        return self.counters.steps

    @property
    def chunk_length(self) -> int:
        """Tokens of the example that is learned now."""
        return len(self._example.ids)

    @property
    def packed(self) -> bool:
        """True if the example at hand has parts that do not see each other."""
        return bool(self._example.segments)

    @property
    def _example(self) -> Example:
        """The example at hand, as this round has it."""
        last = self._round == self._rounds - 1
        return self._examples[self._number].in_pass(self._round, last=last)

    def inputs(self, base: BaseModel) -> TrainInputs | None:
        """Return the example to learn now; None: all are learned. Runs a new one's context."""
        while self._inputs is None and not self.done:
            self._began = time.monotonic()
            self._inputs = prepare_inputs(base, self._example, self.adapter, self._prefix)
            if not self._inputs.labels:  # one token without anything before it
                self._next()
        return self._inputs

    def _next(self) -> None:
        self.counters.chunks += 1
        self._pass, self._inputs = 0, None
        self._number += 1
        if self._number == len(self._examples):
            self._number, self._round = 0, self._round + 1
            self._stop_when_learned()

    @property
    def _done(self) -> float | None:
        """The share of the steps that is taken, where their number is known."""
        taken = self._round * len(self._examples) + self._number
        return None if self._planned is None else taken / self._planned

    def _stop_when_learned(self) -> None:
        """Make the next round the last, if the one that ended had little left to learn."""
        losses, self._pass_losses = self._pass_losses, []
        if losses and sum(losses) / len(losses) <= self.settings.stop_loss:
            self._rounds = min(self._rounds, self._round + 1)

    def step(self, nll: Tensor) -> bool:
        """Take a step with the gradients at hand; return True if this was the example's last."""
        assert self._inputs is not None  # noqa: S101  # it was prepared
        share = 1.0
        if self.settings.scale_short and not self._inputs.segments:
            share = min(1.0, self._inputs.weight_sum / self._chunk)
        if self._planned is not None:  # only then somebody asks whether it is learned
            weights = torch.tensor(self._inputs.loss_weights)  # [t]
            self._pass_losses.append(float((nll.cpu() * weights).sum()))
        self.adapter.step(lr_factor(self.settings, self.counters.chunks, self._done) * share)
        self.counters.steps += 1
        if self._examples[self._number].in_receipt:
            self._before.setdefault(self._number, nll)
        self._pass += 1
        return self._pass == self._passes

    def finish_example(self, nll: Tensor, after: Tensor | None, prefix: KVPrefix) -> None:
        """Go on to the next example.

        Args:
            nll: losses of this one before its newest step [t].
            after: its losses after it [t], if they were measured.
            prefix: its keys and values of the newest forward.
        """
        self._prefix = prefix if self.settings.reuse_context else EMPTY_PREFIX
        self._seconds[self._number] += time.monotonic() - self._began
        if self._round == self._rounds - 1:
            self._after[self._number] = after
        learned = self._round * len(self._examples) + self._number + 1
        self._next()
        self._progress(
            AbsorbProgress(
                chunk=learned,
                chunks=self._rounds * len(self._examples),
                tokens=sum(len(losses) for losses in self._before.values()),
                perplexity=math.exp(min(700.0, float((nll if after is None else after).mean()))),
            )
        )

    def finish(self, kl: float | None) -> None:
        """Set the result; `kl` is how much the adapter changes neutral text.

        Raises:
            LearningFailed: nothing was learned, or the adapter is not finite.
        """
        if not self._before:
            raise LearningFailed("There is nothing to train on: the text is a single token.")
        if not self.adapter.finite:  # the last step is not measured by everybody
            raise LearningFailed(
                "The adapter came to hold values that are not finite; the old revision stays. "
                "Lower learning.learning_rate."
            )
        stats = LearnStats(
            chunks=tuple(
                _chunk_stats(before, self._after.get(number), self._seconds[number])
                for number, before in self._before.items()
            ),
            kl=kl,
        )
        self.result.set_result(
            TrainingResult(self.adapter.weights(), self.adapter, self.counters, stats)
        )


class TrainingBatcher(PriorityQueue[TrainingRun]):
    """All absorbs under way, on the model thread.

    Args:
        base: the model.
        neutral_text: makes the neutral text of a language, when it is first needed.
        max_tokens: of one batch, padding included, unless a single example has more.
    """

    def __init__(
        self, base: BaseModel, neutral_text: Callable[[str], NeutralText], *, max_tokens: int
    ) -> None:
        super().__init__()
        self._base = base
        self._make_neutral_text = neutral_text
        self._neutral_texts: dict[str, NeutralText] = {}
        self._max_tokens = max_tokens

    def fail(self, error: BaseException) -> None:
        """End every run with this error."""
        for run in self._waiting:
            if not run.result.done():
                run.result.set_exception(error)
        self._waiting = []

    def step(self, *, short: bool) -> None:
        """Take one optimizer step of as many runs as go together; never raises.

        With `short`, of one run only: somebody waits.
        """
        group: list[tuple[TrainingRun, TrainInputs]] = []
        for run in self.ordered:
            together = [member for member, _ in group]
            if together and not run.done and (short or not self._can_share(run, together)):
                continue
            inputs = self._begin(run)
            if inputs is not None:
                group.append((run, inputs))
        if not group:
            return
        try:
            losses, prefixes = self._backward(group)
        except BaseException as error:  # noqa: BLE001  # belongs to whoever waits for the result
            for run, _ in group:
                run.adapter.clear()
            if len(group) == 1:
                self._fail_run(group[0][0], error)
                return
            for member in group:  # whose fault was it? The others take their step alone
                self._step_alone(member)
            return
        self._update([run for run, _ in group], losses, prefixes)

    def _step_alone(self, member: tuple[TrainingRun, TrainInputs]) -> None:
        try:
            losses, prefixes = self._backward([member])
        except BaseException as error:  # noqa: BLE001  # belongs to whoever waits for the result
            member[0].adapter.clear()
            self._fail_run(member[0], error)
            return
        self._update([member[0]], losses, prefixes)

    def _can_share(self, run: TrainingRun, group: Sequence[TrainingRun]) -> bool:
        """Return True if a run may share the batch: same layers, and little padding.

        Packed examples stay among themselves: their mask says for every token what it sees, and
        takes the place of a model's own sliding window.
        """
        first = group[0]
        lengths = [member.chunk_length for member in (*group, run)]
        return (
            run.adapter.start.layout == first.adapter.start.layout
            and not run.settings.lora_dropout  # its random numbers would depend on the company
            and not first.settings.lora_dropout
            and run.packed == first.packed
            and run.settings.kl_weight == first.settings.kl_weight
            and max(lengths) * len(lengths) <= min(self._max_tokens, 3 * sum(lengths) // 2)
        )

    def _begin(self, run: TrainingRun) -> TrainInputs | None:
        """Return a run's next inputs; None if it has ended, well or not."""
        try:
            if run.cancelled():
                raise Cancelled("The absorb was cancelled; the old revision stays.")  # noqa: TRY301
            inputs = run.inputs(self._base)
            if inputs is None:
                run.finish(self._kl_to_base(run))
                self._waiting.remove(run)
        except BaseException as error:  # noqa: BLE001  # belongs to whoever waits for the result
            self._fail_run(run, error)
            return None
        return inputs

    def _fail_run(self, run: TrainingRun, error: BaseException) -> None:
        self._waiting.remove(run)
        run.result.set_exception(error)

    def _backward(
        self, group: Sequence[tuple[TrainingRun, TrainInputs]]
    ) -> tuple[Sequence[Tensor], Sequence[KVPrefix]]:
        """Compute every member's gradient; return each one's losses [t], and its prefix by now.

        The loss of the batch is the sum over its rows, and a row's loss depends on no adapter but
        its own: so each adapter gets the gradient that it would get alone.
        """
        base, runs = self._base, [run for run, _ in group]
        examples = [inputs for _, inputs in group]
        batch = collate(base, examples)
        packed = runs[0].packed  # those of a group are alike in this
        keep = not packed and any(run.keeps_cache for run in runs)
        cache = dynamic_cache(batch.prefix) if keep else None
        settings = runs[0].settings
        devices = [base.device] if base.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices, enabled=settings.lora_dropout > 0):
            if settings.lora_dropout > 0:
                torch.manual_seed(settings.seed + runs[0].counters.steps)
            adapters = trainable_batch([run.adapter for run in runs], dropout=settings.lora_dropout)
            states = None
            if packed:
                known = zip([run.frozen for run in runs], examples, strict=True)
                states = below(base, lowest_layer(adapters), list(known))
            with base.learning(adapters):
                loss, nll = batch_loss(base, batch, adapters, cache, states)
            loss.backward()  # type: ignore[no-untyped-call]
        for weight, language in sorted({(run.kl_weight, run.language) for run in runs}):
            if weight:
                held = [run for run in runs if (run.kl_weight, run.language) == (weight, language)]
                self._add_kl_penalty(held, weight, language)
        prefixes = [EMPTY_PREFIX] * len(group) if cache is None else prefixes_after(examples, cache)
        return torch.split(nll, list(batch.labels_per_row)), prefixes

    def _update(
        self,
        runs: Sequence[TrainingRun],
        losses: Sequence[Tensor],
        prefixes: Sequence[KVPrefix],
    ) -> None:
        """Step every run whose loss is sound; measure those whose example is learned."""
        learned: dict[TrainingRun, tuple[Tensor, KVPrefix]] = {}
        for run, nll, prefix in zip(runs, losses, prefixes, strict=True):
            if failed := _failure(nll, self._base):
                run.adapter.clear()
                self._fail_run(run, failed)
            elif run.step(nll):
                learned[run] = nll, prefix
        measured = [run for run in learned if run.measures]
        after: dict[TrainingRun, tuple[Tensor, KVPrefix]] = {}
        try:
            if measured:
                after = dict(zip(measured, self._measure(measured), strict=True))
        except BaseException as error:  # noqa: BLE001  # belongs to whoever waits for the result
            for run in measured:
                self._fail_run(run, error)
                del learned[run]
        for run, (nll, prefix) in learned.items():
            self._finish_example(run, nll, *after.get(run, (None, prefix)))

    def _measure(self, runs: Sequence[TrainingRun]) -> list[tuple[Tensor, KVPrefix]]:
        inputs = [run.inputs(self._base) for run in runs]
        return measure(
            self._base,
            [example for example in inputs if example is not None],
            [run.adapter for run in runs],
        )

    def neutral_text(self, language: str) -> NeutralText:
        """Return the neutral text of a language, made when it is first needed."""
        if language not in self._neutral_texts:
            self._neutral_texts[language] = self._make_neutral_text(language)
        return self._neutral_texts[language]

    def _add_kl_penalty(self, runs: Sequence[TrainingRun], weight: float, language: str) -> None:
        """Add the gradient of weight * KL(base || adapter) on a piece of neutral text."""
        adapters = trainable_batch([run.adapter for run in runs])
        turns = [run.kl_penalties for run in runs]
        held = [run.held for run in runs]
        with self._base.learning(adapters):
            penalty = self.neutral_text(language).kl_penalty(turns, adapters, held)
        (weight * penalty).backward()  # type: ignore[no-untyped-call]

    def _kl_to_base(self, run: TrainingRun) -> float | None:
        """Return how much an adapter changes neutral text; None where it is not measured."""
        if not run.settings.measure or not run.adapter.finite:
            return None
        return self.neutral_text(run.language).kl_to_base(trainable_batch([run.adapter]))

    def _finish_example(
        self, run: TrainingRun, nll: Tensor, after: Tensor | None, prefix: KVPrefix
    ) -> None:
        try:
            if after is not None and (failed := _failure(after, self._base)):
                raise failed  # noqa: TRY301
            run.finish_example(nll, after, prefix)
        except BaseException as error:  # noqa: BLE001  # belongs to whoever waits
            self._fail_run(run, error)


def _failure(nll: Tensor, base: BaseModel) -> LearningFailed | None:
    """Return an error for a loss that is no number, or twice as bad as knowing nothing."""
    mean = float(nll.mean())
    worst = 2 * math.log(base.model.get_input_embeddings().weight.shape[0])  # 2 log V
    if math.isfinite(mean) and mean <= worst:
        return None
    return LearningFailed(
        f"The loss became {mean:.4g} (knowing nothing is {worst / 2:.3g}): learning stopped, "
        "the old revision stays. Lower learning.learning_rate, or look for damaged text."
    )


def _chunk_stats(before: Tensor, after: Tensor | None, seconds: float) -> ChunkStats:
    return ChunkStats(
        tokens=len(before),
        nll_before=float(before.mean()),
        nll_after=None if after is None else float(after.mean()),
        recalled=None if after is None else int((after < _RECALLED_NLL).sum()),
        seconds=seconds,
    )
