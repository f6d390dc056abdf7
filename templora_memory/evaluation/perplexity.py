"""Perplexity of a long text with and without the memory of what came before it.

The text is cut into chunks. Each chunk is scored by the base model and by the memory as it is
then, on the same window: the chunk behind the text directly before it. Only then is it absorbed.
So the memory is never asked about text it has learned; the first chunk scores the same with both.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from templora_memory._version import __version__
from templora_memory.domain.messages import Document
from templora_memory.domain.settings import whole
from templora_memory.errors import InvalidSetting, InvalidText
from templora_memory.evaluation._newest import newest
from templora_memory.evaluation._provenance import commit, machine
from templora_memory.ports import Backend, ScoreRequest
from templora_memory.service.memory import Memory
from templora_memory.service.parametric_memory import ParametricMemory

_SPARE = 8  # a begin token, and tokens that fall differently where a text was cut
_TENTH = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkScore:
    """One chunk.

    Args:
        start: tokens scored before it. (The first token of a text has no prediction; it is not
            counted.)
        tokens: tokens scored in it.
        base_nll, memory_nll: mean negative log-likelihood in nats per token, before it is learned.
        seconds: time to absorb it.
        kl: how much the memory then changes neutral text, in nats per token; None where measuring
            was off.
    """

    start: int
    tokens: int
    base_nll: float
    memory_nll: float
    seconds: float
    kl: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PerplexityReport:
    """The result of `perplexity`, and where it was measured.

    Args:
        model: name of the base model.
        policy: the settings in force, every number resolved.
        chunks: in the order of the text.
        version, commit: of this package; the commit where it is known.
        machine: system, processor, versions.
    """

    model: str
    policy: Mapping[str, Any]
    chunks: tuple[ChunkScore, ...]
    version: str
    commit: str | None
    machine: Mapping[str, Any]

    @property
    def tokens(self) -> int:
        """Tokens scored."""
        return sum(chunk.tokens for chunk in self.chunks)

    @property
    def base_ppl(self) -> float:
        """Exponential of the mean negative log-likelihood over all tokens, base model."""
        return _perplexity([(chunk.base_nll, chunk.tokens) for chunk in self.chunks])

    @property
    def memory_ppl(self) -> float:
        """The same with the memory of everything before each chunk."""
        return _perplexity([(chunk.memory_nll, chunk.tokens) for chunk in self.chunks])

    @property
    def seconds_ratio_last_over_first_tenth(self) -> float | None:
        """Seconds of absorbing at the end over those at the beginning; None for one chunk."""
        return _ratio([chunk.seconds for chunk in self.chunks])

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return {
            "base_ppl": self.base_ppl,
            "memory_ppl": self.memory_ppl,
            "tokens": self.tokens,
            "chunks": [asdict(chunk) for chunk in self.chunks],
            "seconds_ratio_last_over_first_tenth": self.seconds_ratio_last_over_first_tenth,
            "model": self.model,
            "policy": dict(self.policy),
            "version": self.version,
            "commit": self.commit,
            "machine": dict(self.machine),
        }


def perplexity(
    service: ParametricMemory,
    text: str,
    *,
    tokens: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> PerplexityReport:
    """Measure a text, chunk by chunk of `policy.chunk` tokens.

    Learns into a memory of its own, which is forgotten afterwards, also after an error.

    Args:
        service: whose model and policy are measured.
        text: one long text.
        tokens: use only so many tokens from its beginning; None: all.
        progress: called with chunks done and chunks in all, before each chunk and at the end.

    Raises:
        InvalidText: nothing to score.
        InvalidSetting: `tokens` is not positive, or the window has no room beside a chunk.
        LearningFailed, StoreError: as `Memory.absorb`.
    """
    service.load()
    policy, backend = service.policy, service.backend
    chunk, room = policy.chunk, policy.window - policy.chunk - _SPARE
    if room < 1:
        raise InvalidSetting(
            f"A chunk of {chunk} tokens leaves no room for context in a window of "
            f"{policy.window}: make the chunk smaller."
        )
    pieces = _pieces(backend, text, chunk, tokens)
    memory = service.open(f"bench-perplexity-{secrets.token_hex(8)}")
    scores: list[ChunkScore] = []
    before = ""
    try:
        for number, piece in enumerate(pieces):
            if progress is not None:
                progress(number, len(pieces))
            start = scores[-1].start + scores[-1].tokens if scores else 0
            scores += _chunk(memory, backend, piece, before, start)
            before = _ending(backend, before + piece, room)
        if progress is not None:
            progress(len(pieces), len(pieces))
    finally:
        memory.forget()
    if not scores:
        raise InvalidText("The text is a single token: there is nothing to predict.")
    return PerplexityReport(
        model=service.base.name,
        policy=policy.as_dict(),
        chunks=tuple(scores),
        version=__version__,
        commit=commit(),
        machine=machine(),
    )


def by_length(
    reports: Sequence[PerplexityReport], *, step: int = 10_000
) -> list[dict[str, float | int | None]]:
    """Perplexity by length of what came before: one row for each `step` tokens of a text.

    As the article's table (arXiv 2401.11504, table 1), on shorter texts. `mean_of_chunks` is the
    released code's average, a mean of the perplexities of chunks, which is larger than the
    perplexity over their tokens.

    Raises:
        InvalidSetting: `step` is not positive.
    """
    whole("step", step)
    groups: dict[int, list[ChunkScore]] = {}
    for report in reports:
        for chunk in report.chunks:
            groups.setdefault(chunk.start // step, []).append(chunk)
    rows: list[dict[str, float | int | None]] = []
    for number, chunks in sorted(groups.items()):
        base = _perplexity([(chunk.base_nll, chunk.tokens) for chunk in chunks])
        memory = _perplexity([(chunk.memory_nll, chunk.tokens) for chunk in chunks])
        rows.append({
            "after_tokens": number * step,
            "tokens": sum(chunk.tokens for chunk in chunks),
            "base_ppl": base,
            "memory_ppl": memory,
            "change": memory / base - 1,
            "kl": _mean(known) if (known := [c.kl for c in chunks if c.kl is not None]) else None,
            "mean_of_chunks_base": _mean([math.exp(chunk.base_nll) for chunk in chunks]),
            "mean_of_chunks_memory": _mean([math.exp(chunk.memory_nll) for chunk in chunks]),
        })  # fmt: skip
    return rows


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def total(reports: Mapping[str, PerplexityReport]) -> dict[str, Any]:
    """Several texts as one document: the whole, and each under its name in `files`.

    `chunks` holds those of all texts in order; `start` begins at 0 in each.
    """
    if not reports:
        raise InvalidText("There is no report to add up.")
    every = tuple(chunk for report in reports.values() for chunk in report.chunks)
    first = next(iter(reports.values()))
    both = PerplexityReport(
        model=first.model,
        policy=first.policy,
        chunks=every,
        version=first.version,
        commit=first.commit,
        machine=first.machine,
    )
    ratios = [r.seconds_ratio_last_over_first_tenth for r in reports.values()]
    known = [ratio for ratio in ratios if ratio is not None]
    keys = ("base_ppl", "memory_ppl", "tokens", "chunks", "seconds_ratio_last_over_first_tenth")
    return {
        **both.as_dict(),
        # each text has its own beginning and end, so this is a mean, not one over the whole
        "seconds_ratio_last_over_first_tenth": sum(known) / len(known) if known else None,
        "by_length": by_length(list(reports.values())),
        "files": [
            {"file": name, **{key: report.as_dict()[key] for key in keys}}
            for name, report in reports.items()
        ],
    }


def _pieces(backend: Backend, text: str, chunk: int, tokens: int | None) -> tuple[str, ...]:
    if tokens is not None:
        if tokens < 1:
            raise InvalidSetting(f"tokens is {tokens!r}: it must be more than zero.")
        text = next(iter(backend.split(text, tokens)), "")
    if not text.strip():
        raise InvalidText("There is nothing to score: the text is empty.")
    return backend.split(text, chunk)


def _chunk(
    memory: Memory, backend: Backend, piece: str, before: str, start: int
) -> list[ChunkScore]:
    adapter = newest(memory)
    request = ScoreRequest(context=before, target=piece, adapter=None)
    (base,) = backend.score([request])
    learned = base
    if adapter is not None:
        # one call each: rows of one batch may differ from a single row in the last bit
        (learned,) = backend.score(
            [ScoreRequest(context=before, target=piece, adapter=adapter, strength=1.0)]
        )
    # the title keeps passages that repeat word for word apart; it is not trained on
    report = memory.absorb(Document(piece, f"from token {start}", continues=True))
    if not base:
        return []
    return [
        ChunkScore(
            start=start,
            tokens=len(base),
            base_nll=-sum(base) / len(base),
            memory_nll=-sum(learned) / len(learned),
            seconds=report.seconds,
            kl=report.kl,
        )
    ]


def _ending(backend: Backend, text: str, room: int) -> str:
    """Return the last `room` tokens of a text."""
    return "".join(backend.split(text, 1)[-room:])


def _perplexity(losses: Sequence[tuple[float, int]]) -> float:
    tokens = sum(count for _, count in losses)
    return math.exp(min(700.0, sum(loss * count for loss, count in losses) / tokens))


def _ratio(seconds: Sequence[float]) -> float | None:
    """Mean of the last tenth over mean of the first tenth."""
    if len(seconds) < 2:  # noqa: PLR2004  # a ratio needs two
        return None
    tenth = max(1, len(seconds) // _TENTH)
    first, last = sum(seconds[:tenth]), sum(seconds[-tenth:])
    return last / first if first else None
