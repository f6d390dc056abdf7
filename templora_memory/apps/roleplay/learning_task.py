"""Learning beside the page: a thread for each character that learns, which any tab can look at.

It belongs to no request, so a reload, a second tab or a slow network changes nothing, and stopping
is a wish that the page can show until it is fulfilled.
"""

from __future__ import annotations

import logging
import math
import secrets
import threading
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from templora_memory.domain.results import AbsorbProgress
from templora_memory.errors import TemploraError, UnknownMemory

from .state import Actor, FactProbe, Visitor

_log = logging.getLogger(__name__)
Phase: TypeAlias = Literal["asking first", "learning", "asking again"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LearningStep:
    """The progress of an absorb.

    Args:
        done, total: steps; 0 of 0 before the first is planned.
        seconds: since it began.
        perplexities: mean perplexity of the text in each whole pass so far.
    """

    done: int
    total: int
    seconds: float
    perplexities: tuple[float, ...]

    @property
    def seconds_left(self) -> float | None:
        """Seconds to go at the pace so far; None before the first step."""
        return self.seconds * (self.total - self.done) / self.done if self.done else None


class PassPerplexities:
    """Gathers the progress of an absorb into one mean perplexity for each pass over its text.

    A pass ends where text comes again: from there on no new tokens are counted. A pass is worth a
    point once it is whole, because its examples differ from each other.
    """

    def __init__(self) -> None:
        self._points: list[tuple[int, AbsorbProgress]] = []  # with the chunks of texts before

    def add(self, progress: AbsorbProgress) -> None:
        """Note how far the absorb is; what is known already changes nothing."""
        before, last = self._points[-1] if self._points else (0, None)
        if progress is last or not math.isfinite(progress.perplexity):
            return
        if last is not None and progress.tokens < last.tokens:
            before = last.chunk  # another document, with passes of its own
        self._points.append((before, progress))

    def values(self) -> tuple[float, ...]:
        """Return the mean perplexity of every whole pass, in order."""
        return tuple(
            value
            for start in dict.fromkeys(before for before, _ in self._points)
            for value in _pass_means(start, [p for before, p in self._points if before == start])
        )


def _pass_means(start: int, points: Sequence[AbsorbProgress]) -> list[float]:
    newest = points[-1]
    size = min(point.chunk for point in points if point.tokens == newest.tokens) - start
    if newest.chunk - start == size and newest.chunk < newest.chunks:
        return []  # still in the first pass
    logs: dict[int, list[float]] = {}
    for point in points:
        number = (point.chunk - 1 - start) // size
        logs.setdefault(number, []).append(math.log(point.perplexity))
    whole = (newest.chunk - start) // size
    return [math.exp(sum(few) / len(few)) for number, few in logs.items() if number < whole]


class _StopWanted(Exception):  # nobody made an error
    pass


class LearningTask:
    """An absorb of one character under way, or the result of one.

    Args:
        actor: who learns.
        source: what is learned, in words.
        fresh: whether the character knows nothing yet, and goes if this is stopped.
        estimate: seconds that it will take.
    """

    def __init__(self, actor: Actor, source: str, *, fresh: bool, estimate: float) -> None:
        self.actor = actor
        self.source = source
        self.fresh = fresh
        self.estimate = estimate
        self.phase: Phase = "asking first" if fresh else "learning"
        self.step: LearningStep | None = None
        self.rows: tuple[FactProbe, ...] = ()
        self.note = ""
        self.succeeded = False
        self.announced = False
        self.started = time.monotonic()
        self.ended = threading.Event()
        self._stop = threading.Event()

    @property
    def stopping(self) -> bool:
        """Whether it was stopped and has not let go yet."""
        return self._stop.is_set() and not self.ended.is_set()

    @property
    def unlearned(self) -> bool:
        """Whether the character has nothing in weights yet, so that its card stands in for it."""
        return self.fresh and not self.ended.is_set()

    def stop(self) -> None:
        """Ask it to stop; it does so after the step at hand."""
        self._stop.set()

    def follow(
        self, phase: Phase, steps: Generator[LearningStep | tuple[FactProbe, ...], None, None]
    ) -> None:
        """Take over the steps of one phase, until it is stopped."""
        self.phase = phase
        for step in steps:
            if isinstance(step, LearningStep):
                self.step = step
            else:
                self.rows = step
            if self._stop.is_set():
                steps.close()
                raise _StopWanted

    def run(self, visitor: Visitor, work: Callable[[LearningTask], None]) -> None:
        """Do the work on this thread, and note how it ended."""
        label = self.actor.label
        try:
            work(self)
            self.succeeded = True
        except _StopWanted:
            stays = self.actor.id in visitor.actors
            self.note = (
                f"Stopped. {label} keeps what it knew before, and nothing of this."
                if stays and self.phase == "learning"
                else f"Stopped. {label} had learned all of it already, and stays."
                if stays
                else f"Stopped. {label} has learned nothing and is gone."
            )
        except UnknownMemory:
            self.note = f"{label} was deleted while it learned."
        except TemploraError as error:
            self.note = " ".join(str(error).split())
        except Exception:  # noqa: BLE001  # a thread has nobody else to tell
            number = secrets.token_hex(3)
            _log.exception("Learning failed (%s)", number)
            self.note = f"Learning failed (reference {number}). Nothing of it stays; try again."
        finally:
            with visitor.lock:
                visitor.learning.pop(self.actor.id, None)
                visitor.learned = self
            self.ended.set()
            visitor.changed()
