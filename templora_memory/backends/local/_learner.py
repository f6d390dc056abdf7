"""The training step: (adapters, optimizer state, examples) -> the same, one step on.

Rows are memories: each row of a batch trains its own adapter with its own optimizer state, and
gets the gradients it would get alone. Only the chunk pays for loss and backward; what stood before
it enters as keys and values without gradient, except in the published form of the algorithm, which
keeps it inside the graph.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from templora_memory._policy import Learning
from templora_memory._reports import AbsorbProgress, ChunkStats, LearnStats
from templora_memory.backends.local import _lora, _loss
from templora_memory.backends.local._model import BaseModel, pairs_of, stored_cache
from templora_memory.backends.local.recipes import Example
from templora_memory.errors import Cancelled, InvalidSetting, LearningFailed, StoreDamaged

OPTIMIZER, TRAINING = "optimizer.safetensors", "training.json"
_HALF = math.log(2)


class TrainingRows:
    """Adapters under training, S rows in one flat buffer, with gradients and AdamW state.

    The leaves of the graph are views made outside it, and their gradients are views of one
    buffer, bound in advance: slicing a leaf inside the graph is ten times slower. One parameter a
    row gives each memory its own step count.
    """

    def __init__(self, start: Sequence[_lora.Weights], settings: Learning) -> None:
        self._start = tuple(start)
        self._settings = settings
        layouts = {weights.layout for weights in start}
        if len(layouts) != 1:
            raise ValueError("rows of one batch need the same layers and rank")
        (self._layout,) = layouts
        self._flat = torch.stack([weights.flat for weights in start])
        self._grad = torch.zeros_like(self._flat)
        self._leaves = self._bind()
        self.parameters = [nn.Parameter(row) for row in self._flat]
        self.optimizer = torch.optim.AdamW(
            self.parameters,
            lr=_rate(settings),
            betas=(settings.beta1, settings.beta2),
            eps=settings.epsilon,
            weight_decay=settings.weight_decay,
            fused=True,
        )

    def _bind(self) -> list[dict[str, tuple[Tensor, Tensor]]]:
        """The graph's leaves of each row: views of the row, with their gradients bound."""
        leaves = []
        for row, grad in zip(self._flat[:, None], self._grad[:, None], strict=True):
            grads, own = self._layout.views(grad), {}
            for name, pair in self._layout.views(row).items():
                a, b = (view.detach().requires_grad_() for view in pair)
                a.grad, b.grad = grads[name]
                own[name] = (a, b)
            leaves.append(own)
        return leaves

    def _make_rows(self, dropout: float) -> _lora.Rows:
        strength = torch.tensor(
            [weights.scale for weights in self._start], device=self._flat.device
        )
        rows = {}
        for name in self._leaves[0]:
            pairs = [own[name] for own in self._leaves]
            a, b = pairs[0] if len(pairs) == 1 else map(torch.cat, zip(*pairs, strict=True))
            rows[name] = _lora.Row(a, b, strength[:, None, None], dropout)
        return rows

    @property
    def rows(self) -> _lora.Rows:
        """With dropout, for one training step."""
        return self._make_rows(self._settings.dropout)

    @property
    def frozen(self) -> _lora.Rows:
        """Without dropout and gradient, for measuring."""
        return {
            name: _lora.Row(row.a.detach(), row.b.detach(), row.strength, 0.0)
            for name, row in self._make_rows(0.0).items()
        }

    def weights(self, row: int) -> _lora.Weights:
        """A copy of one row as a value."""
        old = self._start[row]
        return _lora.Weights(
            old.layout, self._flat[row].detach().clone(), old.alpha, old.rank_stabilised
        )

    def step(self, factor: float, active: Sequence[bool] | None = None) -> None:
        """Clip each row's gradient, update the active rows, clear the gradients.

        An inactive row must have no gradient at all: with a zero one, momentum still moves it.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = _rate(self._settings) * factor
        norms = self._grad.norm(dim=1, keepdim=True)
        self._grad.mul_((self._settings.clip / (norms + 1e-6)).clamp_(max=1.0))
        for index, parameter in enumerate(self.parameters):
            wanted = active is None or active[index]
            parameter.grad = self._grad[index] if wanted else None
        self.optimizer.step()
        self._grad.zero_()


def _rate(settings: Learning) -> float:
    if settings.rate is None:
        raise InvalidSetting("learning.rate is not set: resolve the policy for the model first.")
    return settings.rate


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """One example a row, padded on the right.

    Args:
        ids: input tokens [S, T].
        labels: tokens to predict [n], row after row.
        weight: of each loss [n]; sums to 1 in each row.
        positions: of the labelled inputs in each row.
        prefix: keys and values of what stands before, or None.
        offset: how many tokens that is.
    """

    ids: Tensor
    labels: Tensor
    weight: Tensor
    positions: tuple[tuple[int, ...], ...]
    prefix: list[tuple[Tensor, Tensor]] | None
    offset: int

    @property
    def sizes(self) -> list[int]:
        return [len(row) for row in self.positions]


def make_batch(
    base: BaseModel, examples: Sequence[Example], rows: _lora.Rows, *, in_graph: bool
) -> Batch:
    """Tensors of one step. Without `in_graph` the context is run here, once, without gradient."""
    limit = base.context
    lengths = {min(len(e.context), limit - len(e.ids)) for e in examples}
    if not in_graph and len(lengths) != 1:
        raise ValueError("rows of one batch need contexts of the same length")
    inputs: list[tuple[int, ...]] = []
    positions, labels, weight = [], [], []
    contexts = []
    for example in examples:
        room = max(0, limit - len(example.ids))
        context = example.context[-room:] if room else ()
        split = 0 if in_graph else max(0, len(context) - 1)
        contexts.append(context[:split])
        sequence = context[split:] + example.ids
        marks = (0.0,) * (len(context) - split) + example.weights
        keep = [at for at in range(len(sequence) - 1) if marks[at + 1]]
        total = sum(marks[at + 1] for at in keep) or 1.0
        inputs.append(sequence[:-1])
        positions.append(tuple(keep))
        labels += [sequence[at + 1] for at in keep]
        weight += [marks[at + 1] / total for at in keep]
    length = max(1, *(len(row) for row in inputs))
    ids = torch.tensor([[*row, *([0] * (length - len(row)))] for row in inputs])
    prefix = None
    if not in_graph and contexts[0]:
        with torch.no_grad(), _lora.using(rows):
            cache = stored_cache(None)
            seen = torch.tensor(contexts, device=base.device)
            base.hidden(seen, past_key_values=cache, use_cache=True)
        prefix = [(k.detach(), v.detach()) for k, v in pairs_of(cache)]
    return Batch(
        ids=ids.to(base.device),
        labels=torch.tensor(labels, dtype=torch.long, device=base.device),
        weight=torch.tensor(weight, dtype=torch.float32, device=base.device),
        positions=tuple(positions),
        prefix=prefix,
        offset=len(contexts[0]) if not in_graph else 0,
    )


def batch_loss(base: BaseModel, batch: Batch, rows: _lora.Rows) -> tuple[Tensor, Tensor]:
    """Sum over rows of each row's mean loss, and the loss of every labelled token [n].

    The cache is a fresh one every time, because a forward appends to it; positions are explicit,
    because a rebuilt cache does not know them.
    """
    steps = torch.arange(batch.offset, batch.offset + batch.ids.shape[1], device=base.device)
    inputs: dict[str, Any] = {"position_ids": steps[None].expand(len(batch.ids), -1)}
    if batch.prefix is not None:
        inputs |= {"past_key_values": stored_cache(batch.prefix), "use_cache": True}
    else:
        inputs["use_cache"] = False
    places = [(index, at) for index, row in enumerate(batch.positions) for at in row]
    row, column = torch.tensor(places, dtype=torch.long, device=base.device).reshape(-1, 2).T
    with _lora.using(rows):
        if base.own_head:
            hidden = base.hidden(batch.ids, **inputs)[row, column]
            return _loss.weighted_loss(hidden, base.head, batch.labels, batch.weight, batch.sizes)
        logits = base.logits(batch.ids, last=False, **inputs)[row, column].float()
        nll = nn.functional.cross_entropy(logits, batch.labels, reduction="none")
        return (nll * batch.weight).sum(), nll.detach()


@dataclass(slots=True)
class Progress:
    """What the released schedule and a carried optimizer count."""

    steps: int = 0
    chunks: int = 0


def rate_factor(settings: Learning, chunk: int) -> float:
    """Share of the rate for the chunk with this number, counted from 0 over the memory's life."""
    return 1.0 if settings.schedule == "constant" else min(1.0, chunk / 2)


def train(
    base: BaseModel,
    start: _lora.Weights,
    examples: Sequence[Example],
    settings: Learning,
    *,
    chunk: int,
    least_steps: int,
    resume: Path | None,
    progress: Callable[[AbsorbProgress], None],
    cancelled: Callable[[], bool],
) -> Generator[None, None, tuple[TrainingRows, Progress, LearnStats]]:
    """Train one memory; yields between optimizer steps, so that replies get their turn.

    Raises:
        Cancelled, LearningFailed: nothing was written.
    """
    useful = [example for example in examples if any(example.weights)]
    if not useful:
        raise LearningFailed(
            "There is nothing to train on: only system messages, tool messages or white space."
        )
    state = TrainingRows([start], settings)
    counted = Progress()
    if settings.carry_optimizer and resume is not None:
        counted = load_state(resume, state)
    passes = max(settings.epochs, math.ceil(least_steps / len(useful)))
    stats: list[ChunkStats] = []
    for number, example in enumerate(useful, start=1):
        began = time.monotonic()
        batch = make_batch(base, [example], state.frozen, in_graph=settings.context_gradient)
        if not len(batch.labels):  # one token without anything before it
            counted.chunks += 1
            continue
        share = min(1.0, len(batch.labels) / chunk) if settings.scale_short else 1.0
        before: Tensor | None = None
        for _ in range(passes):
            if cancelled():
                raise Cancelled("The absorb was cancelled; the old revision stays.")
            nll = _one_step(base, batch, state, settings, counted, share=share)
            before = nll if before is None else before
            _check(nll, base)
            yield
        after = None
        if settings.measure:
            with torch.no_grad():
                _, after = batch_loss(base, batch, state.frozen)
            _check(after, base)
        counted.chunks += 1
        assert before is not None  # noqa: S101  # epochs is at least 1
        stats.append(_stats(before, after, time.monotonic() - began))
        shown = stats[-1].nll_after if after is not None else stats[-1].nll_before
        progress(
            AbsorbProgress(
                chunk=number,
                chunks=len(useful),
                tokens=sum(chunk.tokens for chunk in stats),
                perplexity=math.exp(min(700.0, shown or 0.0)),
            )
        )
    if not stats:
        raise LearningFailed("There is nothing to train on: the text is a single token.")
    if not state.weights(0).flat.isfinite().all():  # the last step is not measured by everybody
        raise LearningFailed(
            "The adapter came to hold values that are not finite; the old revision stays. Lower "
            "learning.rate."
        )
    return state, counted, LearnStats(chunks=tuple(stats))


def _one_step(
    base: BaseModel,
    batch: Batch,
    state: TrainingRows,
    settings: Learning,
    counted: Progress,
    *,
    share: float = 1.0,
) -> Tensor:
    devices = [base.device] if base.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices, enabled=settings.dropout > 0):
        if settings.dropout > 0:
            torch.manual_seed(settings.seed + counted.steps)
        loss, nll = batch_loss(base, batch, state.rows)
        loss.backward()  # type: ignore[no-untyped-call]
    state.step(rate_factor(settings, counted.chunks) * share)
    counted.steps += 1
    return nll


def _check(nll: Tensor, base: BaseModel) -> None:
    """Refuse a loss that is no number, or twice as bad as knowing nothing."""
    mean = float(nll.mean())
    worst = 2 * math.log(base.model.get_input_embeddings().weight.shape[0])
    if not math.isfinite(mean) or mean > worst:
        raise LearningFailed(
            f"The loss became {mean:.4g} (knowing nothing is {worst / 2:.3g}): learning stopped, "
            "the old revision stays. Lower learning.rate, or look for damaged text."
        )


def _stats(before: Tensor, after: Tensor | None, seconds: float) -> ChunkStats:
    return ChunkStats(
        tokens=len(before),
        nll_before=float(before.mean()),
        nll_after=None if after is None else float(after.mean()),
        recalled=None if after is None else int((after < _HALF).sum()),
        seconds=seconds,
    )


# --- optimizer state on disk -------------------------------------------------------------------


def save_state(folder: Path, state: TrainingRows, counted: Progress) -> None:
    """Write AdamW's moments of the first row, for the next absorb."""
    kept = state.optimizer.state[state.parameters[0]]
    tensors = {
        key: kept[key].detach().cpu().contiguous() for key in ("exp_avg", "exp_avg_sq", "step")
    }
    save_file(tensors, folder / OPTIMIZER, metadata={"format": "pt"})
    body = {"steps": counted.steps, "chunks": counted.chunks}
    (folder / TRAINING).write_text(json.dumps(body), encoding="utf-8")


def load_state(folder: Path, state: TrainingRows) -> Progress:
    """Read what `save_state` wrote; a folder without it starts afresh.

    Raises:
        StoreDamaged: the file does not fit the adapter.
    """
    if not (folder / OPTIMIZER).exists():
        return Progress()
    parameter = state.parameters[0]
    try:
        tensors = load_file(folder / OPTIMIZER)
        if any(tensors[key].shape != parameter.shape for key in ("exp_avg", "exp_avg_sq")):
            raise StoreDamaged(f"The optimizer state in {folder} does not fit its adapter.")
        body = json.loads((folder / TRAINING).read_text(encoding="utf-8"))
        counted = Progress(steps=int(body["steps"]), chunks=int(body["chunks"]))
    except (SafetensorError, ValueError, KeyError, TypeError, FileNotFoundError) as error:
        raise StoreDamaged(f"The optimizer state in {folder} is damaged: {error}.") from error
    state.optimizer.state[parameter] = {
        key: value.to(parameter.device) for key, value in tensors.items()
    }
    return counted
