"""Pictures of measurements."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from templora_memory.evaluation._answers import Arm
from templora_memory.evaluation._plots import bars, lines
from templora_memory.evaluation.cost import ARMS, CostReport
from templora_memory.evaluation.damage import Spoilt
from templora_memory.evaluation.translation import TranslationArm


def arms(target: Path, results: Mapping[str, Arm]) -> Path:
    """Share of right answers by arm."""
    values = {name: (arm.accuracy, arm.low, arm.high) for name, arm in results.items()}
    return bars(target, values, title="Right answers, 95 % intervals", y="share")


def spoilt(target: Path, results: Mapping[str, Spoilt]) -> Path:
    """Share of unchanged answers by arm."""
    values = {name: (arm.same, arm.low, arm.high) for name, arm in results.items()}
    return bars(target, values, title="Unrelated answers that stay the same", y="share")


def translated(target: Path, results: Mapping[str, TranslationArm]) -> Path:
    """Perplexity of the translations by arm."""
    values = {name: (arm.perplexity,) * 3 for name, arm in results.items()}
    return bars(target, values, title="Approved translations", y="perplexity")


def perplexity(folder: Path, document: Mapping[str, Any]) -> Path:
    """Perplexity by length of what came before."""
    rows = document["by_length"]
    return lines(
        folder / "perplexity.svg",
        {
            "base model": (rows, "after_tokens", "base_ppl"),
            "with the memory of what came before": (rows, "after_tokens", "memory_ppl"),
        },
        title=f"Perplexity by length of preceding text, {document['model']}",
        x="tokens before",
        y="perplexity",
        log_x=False,
    )


def cost(folder: Path, report: CostReport) -> list[Path]:
    """Seconds, and counted operations, of a turn by length of history."""
    rows = {
        arm: [
            {"history": turn.history, "seconds": turn.seconds, "flops": turn.flops / 1e9}
            for turn in report.arm(arm)
        ]
        for arm in ARMS
    }
    return [
        lines(
            folder / f"cost_{kind}.svg",
            {arm.replace("_", " "): (points, "history", kind) for arm, points in rows.items()},
            title=f"A turn behind a history, {report.model}",
            x="tokens of history",
            y=unit,
        )
        for kind, unit in (("seconds", "seconds"), ("flops", "GFLOP, counted"))
    ]
