"""The cost of a turn as the history grows: in a memory, in the prompt, or in a sliding window.

Three arms answer the same kind of turn behind histories of growing length: `memory`, where all of
the history is absorbed and the prompt holds the newest exchange; `full_history`, all of it in the
prompt, as far as the model reaches; `sliding_window`, as much of its end as a quarter of the
window holds. Seconds are medians of this run and mean nothing on another machine; floating point
operations are counted, not measured.
"""

from __future__ import annotations

import secrets
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

from templora_memory._version import __version__
from templora_memory.domain.messages import Document, Message
from templora_memory.domain.settings import Sampling, whole
from templora_memory.errors import InvalidSetting, InvalidText
from templora_memory.evaluation._newest import newest_reply
from templora_memory.evaluation._provenance import commit, machine
from templora_memory.service.parametric_memory import ParametricMemory

ANSWER = 32  # tokens
TURN = 128
"""Tokens of history that a turn adds, for what learning it costs."""
ARMS = ("memory", "full_history", "sliding_window")


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One arm's turn behind one history.

    Args:
        arm: which.
        history: tokens of history.
        prompt_tokens: of the turn's prompt.
        seconds: median of a turn, learning not included.
        flops: operations of prompt and answer, counted.
        learn_seconds: to learn the TURN tokens that one turn adds, mean over the newest part of
            the history; 0 in arms that learn nothing.
        learn_flops: operations of that, counted.
    """

    arm: str
    history: int
    prompt_tokens: int
    seconds: float
    flops: float
    learn_seconds: float = 0.0
    learn_flops: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CostReport:
    """The result of `cost`, and where it was measured."""

    model: str
    policy: Mapping[str, Any]
    turns: tuple[Turn, ...]
    version: str
    commit: str | None
    machine: Mapping[str, Any]

    def arm(self, name: str) -> tuple[Turn, ...]:
        """Return the turns of one arm, by growing history."""
        return tuple(turn for turn in self.turns if turn.arm == name)

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """The sizes of a model that the count of operations depends on.

    Args:
        parameters: of the whole model, an embedding that is also the head counted once.
        layers, width: of the decoder; `width` is heads times their size.
    """

    parameters: int
    layers: int
    width: int

    def forward(self, tokens: int, before: int = 0) -> float:
        """Operations of so many tokens behind `before` others whose keys and values are there.

        Two per parameter and token, and four per layer, channel and pair of places in attention
        (arXiv 2001.08361, section 2.1).
        """
        seen = tokens * before + tokens * (tokens + 1) / 2
        return 2.0 * self.parameters * tokens + 4.0 * self.layers * self.width * seen

    def learn(self, tokens: int, *, context: int, epochs: int) -> float:
        """Operations to learn so many tokens: forward, and backward without frozen weights."""
        seen = tokens * context + tokens * (tokens + 1) / 2
        linear, attention = 4.0 * self.parameters * tokens, 12.0 * self.layers * self.width * seen
        return epochs * (linear + attention)


def shape_of(service: ParametricMemory) -> Shape:
    """Return the shape of a service's model.

    Raises:
        InvalidSetting: its backend does not show a transformers model.
    """
    service.load()
    model = getattr(service.backend, "model", None)  # without importing torch
    if model is None:
        raise InvalidSetting("Operations are counted for models of the local backend only.")
    config = model.config.get_text_config()
    heads = config.num_attention_heads
    return Shape(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        layers=config.num_hidden_layers,
        width=heads * (getattr(config, "head_dim", None) or config.hidden_size // heads),
    )


def cost(
    service: ParametricMemory,
    text: str,
    shape: Shape,
    *,
    lengths: Sequence[int],
    repeats: int = 3,
    progress: Callable[[int, int], None] | None = None,
) -> CostReport:
    """Measure a turn behind histories of these lengths.

    Learns into a memory of its own, which is forgotten afterwards, also after an error.

    Args:
        service: whose model and policy are measured.
        text: one long text as history; it is cut where the lengths end.
        shape: of the model.
        lengths: tokens of history, growing.
        repeats: turns of each kind; the median counts.
        progress: called with histories done and histories in all.

    Raises:
        InvalidText: the text is shorter than the longest history.
        InvalidSetting: the lengths do not grow.
        LearningFailed, StoreError: as `Memory.absorb`.
    """
    whole("repeats", repeats)
    if not lengths or any(a >= b for a, b in pairwise((0, *lengths))):
        raise InvalidSetting(f"lengths are {list(lengths)}: they must grow, from 1 or more.")
    service.load()
    pieces = service.backend.split(text, 1)
    if len(pieces) < lengths[-1]:
        raise InvalidText(
            f"The text has {len(pieces)} tokens, fewer than the {lengths[-1]} of the longest "
            "history: give a longer one, or ask for less."
        )
    bench = _CostBench(service, shape, pieces, repeats)
    try:
        turns: list[Turn] = []
        for number, (start, stop) in enumerate(pairwise((0, *lengths))):
            if progress is not None:
                progress(number, len(lengths))
            turns += bench.behind(start, stop)
    finally:
        if bench.name in service.list():
            service[bench.name].forget()
    if progress is not None:
        progress(len(lengths), len(lengths))
    return CostReport(
        model=service.base.name,
        policy=service.policy.as_dict(),
        turns=tuple(turns),
        version=__version__,
        commit=commit(),
        machine=machine(),
    )


class _CostBench:
    def __init__(
        self, service: ParametricMemory, shape: Shape, pieces: Sequence[str], repeats: int
    ) -> None:
        self.name = f"cost-{secrets.token_hex(4)}"
        self._service = service
        self._shape = shape
        self._pieces = pieces
        self._repeats = repeats

    def behind(self, start: int, stop: int) -> list[Turn]:
        """Turns of all arms behind `stop` tokens, of which `start` are learned."""
        service, policy = self._service, self._service.policy
        document = Document("".join(self._pieces[start:stop]), f"to {stop}", continues=True)
        report = service[self.name].absorb(document)
        learning = policy.learning
        share = TURN / report.tokens
        found = [
            self._turn(
                "memory", stop, (), self.name,
                learn_seconds=report.seconds * share,
                learn_flops=self._shape.learn(
                    TURN, context=learning.context, epochs=learning.steps_per_chunk
                ),
            )
        ]  # fmt: skip
        window = policy.window
        room = window - ANSWER - 64  # what a question and the template take
        if stop <= room:
            found.append(self._turn("full_history", stop, self._pieces[:stop], None))
        shown = self._pieces[max(0, stop - window // 4) : stop]
        found.append(self._turn("sliding_window", stop, shown, None))
        return found

    def _turn(
        self, arm: str, history: int, shown: Sequence[str], memory: str | None, **learn: float
    ) -> Turn:
        seconds, prompt = [], 0
        for repeat in range(self._repeats):
            began = time.perf_counter()
            reply = newest_reply(
                self._service,
                memory,
                [Message("user", f"{repeat}: what happened then?")],
                context="".join(shown) if shown else (),
                sampling=Sampling(ignore_end=True),
                max_tokens=ANSWER,
            )
            seconds.append(time.perf_counter() - began)
            prompt = reply.prompt_tokens
        return Turn(
            arm=arm,
            history=history,
            prompt_tokens=prompt,
            seconds=statistics.median(seconds),
            flops=self._shape.forward(prompt) + self._shape.forward(ANSWER, prompt),
            **learn,
        )
