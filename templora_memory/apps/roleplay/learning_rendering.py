"""What is shown of learning, as HTML: bars, curves, facts before and after."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from templora_memory.domain.segmentation import fold

from .charts import Series, chart
from .learning_estimate import duration
from .learning_task import LearningTask
from .markup import file_size, many, quiet, styled, table
from .state import AbsorbRecord, FactProbe

_SAME = 0.02  # relative change of a perplexity that is no change


def estimate(seconds: float) -> str:
    """Return the estimate before learning."""
    return styled(
        quiet(
            f"Learning takes about <b>{duration(seconds)}</b> on this machine. You can talk "
            "meanwhile: until then the card stands in the prompt."
        )
    )


def learning_bar(task: LearningTask) -> str:
    """A quiet bar for an absorb under way, with words."""
    label, step = escape(task.actor.label), task.step
    if task.stopping:
        return styled(
            _bar(None, f"Stopping: {task.actor.label} is going when the step at hand is done")
            if task.fresh
            else _bar(None, f"Stopping {task.actor.label} when the step at hand is done")
        )
    if task.phase == "asking first":
        asked = f"{len(task.rows)} of {len(task.actor.facts)}"
        text = (
            f"<b>{label}</b>: the untouched model is asked a few facts first ({asked}); then about "
            f"{duration(task.estimate)} of learning"
        )
        return styled(_bar(None, text))
    if task.phase == "asking again":
        return styled(_bar(1.0, f"<b>{label}</b>: learned; asking the facts again"))
    if step is None or not step.total:
        text = (
            f"<b>{label}</b>: the model reads the text and asks itself about it · about "
            f"{duration(task.estimate)} in all"
        )
        return styled(_bar(None, text))
    left = step.seconds_left or 0.0
    newest = f" · perplexity {step.perplexities[-1]:.2f}" if step.perplexities else ""
    text = (
        f"<b>{label}</b> is learning {escape(task.source)}: step {step.done} of {step.total} · "
        f"{duration(left)} left{newest}"
    )
    return styled(_bar(step.done / step.total, text))


def _bar(share: float | None, text: str) -> str:
    """A progress bar, of unknown length where the share is None; the text is HTML."""
    if share is None:
        bar = '<div class="bar wait" role="progressbar" aria-label="Learning"><i></i></div>'
    else:
        percent = 100 * share
        bar = (
            f'<div class="bar" role="progressbar" aria-label="Learning" aria-valuemin="0" '
            f'aria-valuemax="100" aria-valuenow="{percent:.0f}">'
            f'<i style="width:{percent:.1f}%"></i></div>'
        )
    return f'{bar}<p class="quiet">{text}</p>'


def details(task: LearningTask) -> str:
    """The curve and the facts of an absorb, under way or ended."""
    if task.ended.is_set():
        record = task.actor.absorbs[-1] if task.succeeded and task.actor.absorbs else None
        if record is None:
            return ""
        caption = "Asked with nothing but the question in the prompt"
        facts = probes(task.actor.probes, now="with memory", caption=caption)
        return facts + curve(record.perplexities)
    values = task.step.perplexities if task.step else ()
    if task.phase == "asking first":
        return probes(task.rows, now="now", caption="What the untouched model says")
    return curve(values)


def curve(values: Sequence[float]) -> str:
    """Mean perplexity of the text in each pass, and what became of it."""
    finite = [value for value in values if math.isfinite(value)]
    return chart(
        "Perplexity while learning",
        [Series("perplexity", finite)],
        x="pass over the text",
        caption=_change(finite),
        log=True,
    )


def _change(values: Sequence[float]) -> str:
    if not values:
        return "One point for each pass over the text. None is complete yet."
    if len(values) == 1:
        return f"Mean perplexity of the text in its one pass: {values[0]:.2f}."
    first, last = values[0], values[-1]
    meaning = " Lower means the model finds its own story less surprising."
    if abs(last - first) <= _SAME * first:
        moved, meaning = f"stayed at {last:.2f}", ""
    else:
        moved = f"{'fell' if last < first else 'rose'} from {first:.2f} to {last:.2f}"
        if last > first:
            meaning = " It did not learn its story: absorb it again, or with another model."
    passes = many(len(values), "pass", "passes")
    return f"Mean perplexity of the text {moved} over {passes}.{meaning}"


def probes(rows: Sequence[FactProbe], *, now: str, caption: str) -> str:
    """Facts before and after, as probabilities per token and in words."""
    if not rows:
        return ""
    spoken = any(row.fact.answer for row in rows)
    heads = ["question and right answer", "before#", f"{now}#"]
    heads += ["before, it said", "now it says"] if spoken else []
    cells = [
        [
            f"<b>{escape(row.fact.question)}</b><br><small>{escape(row.fact.sentence)}</small>",
            meter(row.base),
            meter(row.now),
            *([_reply(row.base_reply, row), _reply(row.now_reply, row)] if spoken else []),
        ]
        for row in rows
    ]
    return styled(f'<div class="probes">{table("Facts", caption, heads, cells)}</div>')


def meter(nats: float) -> str:
    """A bar and a number for the probability of each token of an answer."""
    share = f"{100 * math.exp(min(0.0, nats)):.0f}"
    bar = f'<span class="meter" aria-hidden="true"><i style="width:{share}%"></i></span>'
    return f"{bar}{share} %"


def _reply(reply: str, row: FactProbe) -> str:
    if not reply:
        return '<span class="quiet">-</span>'
    right = fold(row.fact.answer) in fold(reply)
    return f"<mark>✓ {escape(reply)}</mark>" if right else escape(reply)


def score(rows: Sequence[FactProbe]) -> str:
    """One sentence about the probes, which follows the numbers."""
    if not rows:
        return ""
    answerable = [row for row in rows if row.fact.answer]
    factor = math.exp(sum(row.now - row.base for row in rows) / len(rows))
    likely = (
        f"{factor:.1f} times as likely"
        if factor >= 1
        else f"{1 / factor:.1f} times less likely: it did not learn them"
    )
    if not answerable:
        return f"On average each token of its story is now {likely}."
    right = sum(fold(row.fact.answer) in fold(row.now_reply) for row in answerable)
    before = sum(fold(row.fact.answer) in fold(row.base_reply) for row in answerable)
    return (
        f"{right} of {len(answerable)} facts right with nothing in the prompt, {before} before. "
        f"Each token of a right answer is {likely}."
    )


def learned_from(record: AbsorbRecord) -> str:
    """Return how much text was learned, and by how much of what was made of it."""
    report, text = record.report, record.text_tokens
    if not report.tokens:
        return "Nothing was new to it"
    if not text or text == report.tokens:
        return f"{report.tokens:,} tokens"
    return f"{text:,} tokens of text, learned by {report.tokens:,} tokens of examples made from it"


def learning_result(task: LearningTask) -> str:
    """The end of an absorb, in a few words."""
    actor = task.actor
    if not task.succeeded:
        return styled(f'<div class="done warn" role="status">{escape(task.note)}</div>')
    record = actor.absorbs[-1] if actor.absorbs else None
    if record is None:  # a chat of one exchange, which stays in the prompt
        text = f"{escape(actor.label)} has the chat before its eyes; there was nothing to learn."
        return styled(f'<div class="done" role="status">{text}</div>')
    size = file_size(record.report.bytes)
    warnings = "".join(quiet(escape(text)) for text in actor.character.warnings)
    return styled(
        f'<div class="done" role="status"><h3 dir="auto">{escape(actor.label)} is in the weights'
        f"</h3><p>{learned_from(record)}, in an adapter of {size}. {score(actor.probes)}</p>"
        f"{warnings}</div>"
    )
