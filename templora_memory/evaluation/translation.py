"""Translating a text sentence by sentence, while the approved translations are learned.

The text is cut into sections. Every sentence of a section is translated after the pairs directly
before it, each pair one turn of a conversation; then the section's approved pairs are absorbed, as
a post-editor's corrections would be. So no pair is learned before it was translated. The base model
sees the same prompts. The perplexity is that of the approved translations; BLEU and chrF compare
the model's own with them (sacrebleu, over the whole text).

The published setting (arXiv 2401.11504, GuoFeng) puts context and section into one prompt with an
instruction in Chinese; here a pair is a turn, as an application would hold them.
"""

from __future__ import annotations

import importlib.util
import json
import math
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from templora_memory._version import __version__
from templora_memory.domain.messages import Message
from templora_memory.errors import InvalidSetting, InvalidText
from templora_memory.evaluation._newest import newest, newest_reply
from templora_memory.evaluation._provenance import commit, machine
from templora_memory.ports import ScoreRequest
from templora_memory.service.memory import Memory
from templora_memory.service.parametric_memory import ParametricMemory

INSTRUCTION = "Translate what the user says into English."
SECTION = 20
"""Pairs of a section, in files that have none of their own."""
BEFORE = 8
"""Pairs in the prompt before a sentence, as far as the window allows."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A sentence and its approved translation."""

    source: str
    target: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TranslationArm:
    """The result of one arm.

    Args:
        perplexity: of the approved translations, over all their tokens.
        bleu, chrf: of the model's own translations; None where none were made.
        prompt_tokens: mean length of a prompt.
    """

    perplexity: float
    bleu: float | None
    chrf: float | None
    prompt_tokens: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TranslationReport:
    """The result of `translation`. `arms`: "none", the base model, and "memory"."""

    model: str
    policy: Mapping[str, Any]
    pairs: int
    sections: int
    arms: Mapping[str, TranslationArm]
    version: str
    commit: str | None
    machine: Mapping[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return asdict(self)


def load_pairs(path: Path) -> tuple[tuple[Pair, ...], ...]:
    """Sections of pairs from a file.

    Either tab-separated lines of source and translation, or JSON as the GuoFeng files have it: a
    list of sections, each with `inference`, a list of `zh` and `en`.

    Raises:
        InvalidText: neither, or nothing in it.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidText(f"{path} cannot be read: {error}.") from error
    if text.lstrip().startswith("["):
        sections = _guofeng(text, path)
    else:
        pairs = [
            _row(line, path, number)
            for number, line in enumerate(text.splitlines(), start=1)
            if line.strip()
        ]
        sections = [pairs[at : at + SECTION] for at in range(0, len(pairs), SECTION)]
    if len(sections) < 2:  # noqa: PLR2004  # the first one is only learned from
        raise InvalidText(f"{path} needs two sections or more: {SECTION + 1} pairs at least.")
    return tuple(map(tuple, sections))


def _row(line: str, path: Path, number: int) -> Pair:
    parts = line.split("\t")
    if len(parts) != 2 or not all(part.strip() for part in parts):  # noqa: PLR2004  # a pair
        raise InvalidText(
            f"{path}, line {number}: expected source, one tab, translation; found {line[:60]!r}."
        )
    return Pair(*(part.strip() for part in parts))


def _guofeng(text: str, path: Path) -> list[list[Pair]]:
    try:
        rows = json.loads(text)
        sections = [[Pair(p["zh"], p["en"]) for p in row["inference"]] for row in rows]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise InvalidText(f"{path} is no list of sections with pairs: {error}.") from error
    complete = [
        [p for p in section if p.source.strip() and p.target.strip()] for section in sections
    ]
    return [section for section in complete if section]


def translation(
    service: ParametricMemory,
    sections: Sequence[Sequence[Pair]],
    *,
    write: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> TranslationReport:
    """Translate a text in order, with and without the memory of its approved translations.

    Learns into a memory of its own, which is forgotten afterwards, also after an error.

    Args:
        service: whose model and policy are measured; its recipe should be "pairs".
        sections: two or more; the first is learned and not counted.
        write: also let the model translate, for BLEU and chrF.
        progress: called with sections done and sections in all.

    Raises:
        InvalidSetting: `write` needs sacrebleu, which is not installed.
        PromptTooLong: a sentence does not fit the window.
        LearningFailed, StoreError: as `Memory.absorb`.
    """
    if write and importlib.util.find_spec("sacrebleu") is None:
        raise InvalidSetting(
            "BLEU and chrF need sacrebleu: pip install 'templora-memory[evaluation]', or leave "
            "the writing out."
        )
    memory = service.open(f"translation-{secrets.token_hex(4)}")
    done: list[Pair] = []
    counts: dict[str, _Count] = {"none": _Count(), "memory": _Count()}
    try:
        for number, section in enumerate(sections):
            if progress is not None:
                progress(number, len(sections))
            for pair in section if number else ():
                prompt = _prompt(service, done, pair)
                for arm, count in counts.items():
                    count.add(service, memory if arm == "memory" else None, prompt, pair, write)
                done.append(pair)
            if not number:
                done += section
            turns = [m for pair in section for m in _turn(pair)]
            memory.absorb(turns, after=2 * (len(done) - len(section)))
    finally:
        memory.forget()
    if progress is not None:
        progress(len(sections), len(sections))
    return TranslationReport(
        model=service.base.name,
        policy=service.policy.as_dict(),
        pairs=len(done) - len(sections[0]),
        sections=len(sections),
        arms={arm: count.arm() for arm, count in counts.items()},
        version=__version__,
        commit=commit(),
        machine=machine(),
    )


class _Count:
    """Adds up one arm."""

    def __init__(self) -> None:
        self._scores: list[float] = []
        self._prompts: list[int] = []
        self._written: list[str] = []
        self._wanted: list[str] = []

    def add(
        self,
        service: ParametricMemory,
        memory: Memory | None,
        prompt: Sequence[Message],
        pair: Pair,
        write: bool,  # noqa: FBT001  # handed through
    ) -> None:
        adapter = newest(memory) if memory else None
        request = ScoreRequest(context=tuple(prompt), target=pair.target, adapter=adapter)
        self._scores += service.backend.score([request])[0]
        self._prompts.append(service.backend.count(prompt))
        if write:
            reply = newest_reply(service, memory.id if memory else None, prompt)
            self._written.append(reply.text.strip())
            self._wanted.append(pair.target)

    def arm(self) -> TranslationArm:
        bleu = chrf = None
        if self._written:
            import sacrebleu  # noqa: PLC0415  # an extra

            bleu = sacrebleu.corpus_bleu(self._written, [self._wanted]).score
            chrf = sacrebleu.corpus_chrf(self._written, [self._wanted]).score
        return TranslationArm(
            perplexity=math.exp(-sum(self._scores) / len(self._scores)),
            bleu=bleu,
            chrf=chrf,
            prompt_tokens=sum(self._prompts) / len(self._prompts),
        )


def _turn(pair: Pair) -> tuple[Message, Message]:
    return Message("user", pair.source), Message("assistant", pair.target)


def _prompt(service: ParametricMemory, done: Sequence[Pair], pair: Pair) -> tuple[Message, ...]:
    """Instruction, the pairs before, and the sentence; fewer pairs if the window is short."""
    policy = service.policy
    target = service.backend.count([Message("assistant", pair.target)])
    room = policy.window - max(policy.reply_tokens, target)
    lead, last = Message("system", INSTRUCTION), Message("user", pair.source)
    before = list(done[-BEFORE:])
    while True:
        messages = (lead, *(m for p in before for m in _turn(p)), last)
        if not before or service.backend.count(messages) <= room:
            return messages
        before.pop(0)
