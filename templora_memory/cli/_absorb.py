"""Learning what was read from files: documents first, then translations by their own recipe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from templora_memory.cli._call import Call
from templora_memory.cli._progress import follow
from templora_memory.cli._sources import Source
from templora_memory.domain.manifest import Revision
from templora_memory.domain.messages import Message
from templora_memory.domain.results import AbsorbReport
from templora_memory.errors import InvalidText


def learn(
    call: Call, memory_id: str, read: Sequence[Source]
) -> tuple[AbsorbReport, Revision | None]:
    """Learn documents, and then segments of translations, by the recipe that is made for them."""
    documents = [document for item in read for document in item.documents]
    segments = [turn for item in read for turn in item.segments]
    if not documents and not segments:
        raise InvalidText(
            "There is nothing to learn in these files: --dry-run shows what becomes of them."
        )
    report, head = None, None
    if documents:
        with call.service() as service:
            memory = service.open(memory_id)
            job = memory.absorb(documents, wait=False)
            report = follow(call, job, f"Learning {memory_id}")
            head = memory.head()
    if segments:
        chosen = any(change.startswith("recipe=") for change in call.common.changes or ())
        with call.service(**({} if chosen else {"recipe": "pairs"})) as service:
            memory = service.open(memory_id)
            known = list(memory.transcript().messages)
            if new := _new_pairs(known, segments):
                job = memory.absorb(new, after=len(known), wait=False)
                later = follow(call, job, f"Learning translations into {memory_id}")
                report = _together(report, later)
            head = memory.head()
    return report or _NOTHING, head


_NOTHING = AbsorbReport(
    revision=None,
    tokens=0,
    chunks=0,
    perplexity_before=None,
    perplexity_after=None,
    recalled=None,
    kl=None,
    seconds=0.0,
    bytes=0,
)


def _new_pairs(known: Sequence[Message], segments: Sequence[Message]) -> list[Message]:
    """The turns that a conversation does not have yet."""
    there = set(pairwise(known))
    pairs = dict.fromkeys(zip(segments[::2], segments[1::2], strict=True))
    return [message for pair in pairs if pair not in there for message in pair]


def _together(first: AbsorbReport | None, later: AbsorbReport) -> AbsorbReport:
    """One receipt of two absorbs, one after the other; perplexities are those of the longer one."""
    if first is None or not first.tokens:
        return later
    if not later.tokens:
        return first
    longer = max(first, later, key=lambda report: report.tokens)
    return replace(
        longer,
        revision=later.revision,
        tokens=first.tokens + later.tokens,
        chunks=first.chunks + later.chunks,
        kl=later.kl,
        seconds=first.seconds + later.seconds,
        bytes=later.bytes,
    )
