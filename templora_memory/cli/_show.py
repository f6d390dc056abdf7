"""Results as tables for people."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from templora_memory.cli._clean import clean

if TYPE_CHECKING:  # what makes these is loaded by the commands that show it
    from templora_memory.cli._sources import Source
    from templora_memory.domain.manifest import Revision
    from templora_memory.domain.results import (
        AbsorbReport,
        ForgetReceipt,
        Passage,
        Probe,
        RemovalReceipt,
        Status,
        TextPage,
        Transcript,
    )
    from templora_memory.evaluation._answers import Arm
    from templora_memory.evaluation.conversation import ConversationReport
    from templora_memory.evaluation.cost import CostReport
    from templora_memory.evaluation.damage import DamageReport
    from templora_memory.evaluation.perplexity import PerplexityReport
    from templora_memory.evaluation.recall import RecallReport
    from templora_memory.evaluation.retrieval import RetrievalReport
    from templora_memory.evaluation.translation import TranslationReport

SHORT = 12
"""Digits of a revision's name that are shown."""
_KIB = 1024
_LISTED = 20
_SHORT_TEXT = 72
_UNLIMITED = 10_000


def size(count: int) -> str:
    """Bytes for people: 812 B, 3.2 KiB, 1.4 MiB."""
    amount, units = float(count), ["B", "KiB", "MiB", "GiB"]
    while amount >= _KIB and len(units) > 1:
        amount, units = amount / _KIB, units[1:]
    return f"{amount:.0f} B" if units[0] == "B" else f"{amount:.1f} {units[0]}"


def pairs(rows: Mapping[str, object]) -> Table:
    """Return a table of names and values."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(name, Text(clean(str(value))))
    return table


def fitted(table: Table, console: Console) -> RenderableType:
    """Return a table as it is if the console has room for its words and numbers.

    Else its rows one below the other, each as names and values.
    """
    needed = Measurement.get(console, console.options.update(width=_UNLIMITED), table).minimum
    if needed <= console.width or not table.show_header:
        return table
    titles = [str(column.header) for column in table.columns]
    rows = zip(*(column.cells for column in table.columns), strict=True)
    records: list[RenderableType] = []
    for row in rows:
        values = {t: cell for t, cell in zip(titles, row, strict=True) if str(cell)}
        records += [pairs(values), Text()]
    return Group(*records[:-1])


def _columns(
    titles: Sequence[str], rows: Iterable[Sequence[object]], *, words: Sequence[str] = ()
) -> Table:
    """Return a table of names and numbers; the columns in `words` hold text, like the first."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title_justify="left")
    for index, title in enumerate(titles):
        left = not index or title in words
        table.add_column(
            title, justify="left" if left else "right", overflow="fold", no_wrap=not left
        )
    for row in rows:
        table.add_row(*(Text(clean(str(value))) for value in row))
    return table


def _number(value: float | None, digits: int = 2) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")


def named_models(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Return a table of the models that have names."""
    body = [
        (
            row["name"],
            row["model"],
            row["licence"],
            "in this package" if row["bytes"] is None else size(row["bytes"]),
            row["file"] or ("yes" if row["here"] else "not fetched"),
        )
        for row in rows
    ]
    titles = ("name", "model", "licence", "size", "on this machine")
    return _columns(titles, body, words=titles[1:])


def absorbed(memory_id: str, report: AbsorbReport, read: Sequence[Source] = ()) -> Table:
    """Return the receipt of an absorb as a table; with what was read, how long that was."""
    if not report.tokens:
        return pairs({"memory": memory_id, "learned": "nothing new: all of this is known already"})
    before, after = _number(report.perplexity_before), _number(report.perplexity_after)
    return pairs(
        {
            "memory": memory_id,
            **({"text": f"{_length(read):,} characters"} if read else {}),
            "trained on": f"{report.tokens:,} tokens, the text and what was made of it to ask",
            "perplexity": f"{before} before, {after} after",
            "recalled verbatim": "-" if report.recalled is None else f"{report.recalled:.1%}",
            "change of other text": "-" if report.kl is None else f"{report.kl:.3f} nats a token",
            "revision": f"{(report.revision or '-')[:SHORT]} ({size(report.bytes)})",
            "seconds": f"{report.seconds:.1f}",
        }
    )


def _length(read: Sequence[Source]) -> int:
    """Return the characters of what was learned, not counting what is only kept for recall."""
    documents = (d for item in read for d in item.documents if not d.recall_only)
    segments = (turn for item in read for turn in item.segments)
    return sum(len(d.text) for d in documents) + sum(len(turn.content) for turn in segments)


def sources(read: Sequence[Source]) -> tuple[Table | Text, ...]:
    """Return what becomes of each file: a table, and below it what of each is not used."""
    body = [
        (
            item.path,
            item.kind + (f": {item.name}" if item.name else ""),
            "; ".join(item.learned) or "-",
            "; ".join((*item.recalled, *item.prompt)) or "-",
        )
        for item in read
    ]
    titles = ("file", "read as", "into the weights", "for recall and the prompt")
    shown: list[Table | Text] = [_columns(titles, body, words=titles[1:])]
    for item in read:
        shown += [Text(f"{item.path}: not used: {text}") for text in item.ignored]
    return tuple(shown)


def memories(statuses: Sequence[Status], damaged: Mapping[str, str]) -> Table | Text:
    """Return a table of memories, damaged ones among them."""
    if not statuses and not damaged:
        return Text("There are no memories yet. Make one: templora absorb ada bio.txt")
    rows: list[Sequence[object]] = [
        (
            memory.id,
            f"{memory.absorbed_documents}/{memory.document_count}",
            f"{memory.absorbed_messages}/{memory.message_count}",
            f"{memory.absorbed_tokens:,} tokens",
            memory.revisions,
            size(memory.bytes),
            memory.base,
        )
        for memory in statuses
    ]
    rows += [(name, "damaged", "", "", "", "", "") for name in damaged]
    titles = ("memory", "documents", "messages", "tokens", "revisions", "size", "base model")
    return _columns(titles, rows)


def status(memory: Status) -> Table:
    """Return the status of a memory as a table."""
    return pairs(
        {
            "memory": memory.id,
            "base model": memory.base,
            "started from": memory.origin or "nothing",
            "documents": f"{memory.absorbed_documents} of {memory.document_count} learned",
            "messages": f"{memory.absorbed_messages} of {memory.message_count} learned",
            "in weights": f"{memory.absorbed_tokens:,} tokens",
            "size": size(memory.bytes),
        }
    )


def revisions(stored: Sequence[Revision], head: str | None) -> Table:
    """Return a table of revisions, the head marked."""
    rows = [
        (
            one.name[:SHORT] + (" (newest)" if one.name == head else ""),
            _time(one.created),
            len(one.documents),
            one.messages,
            f"{one.tokens:,}",
            size(one.bytes),
        )
        for one in stored
    ]
    return _columns(("revision", "made (UTC)", "documents", "messages", "tokens", "size"), rows)


def transcript(texts: Transcript) -> Text:
    """Return the texts of a memory, one after the other."""
    parts = [f"[document] {document.text}" for document in texts.documents]
    parts += [f"[{message.role}] {message.content}" for message in texts.messages]
    return Text(clean("\n\n".join(parts)) or "There is no text.")


def probed(probe: Probe) -> tuple[Table, Text]:
    """Return the result of a probe as a table."""

    def row(name: str, total: float) -> tuple[object, ...]:
        return name, _number(total), _number(total / probe.tokens, 3)

    table = _columns(
        ("log-probability of the answer", "nats", "nats per token"),
        [row("base model", probe.without_memory), row("with memory", probe.with_memory)],
    )
    return table, Text(
        f"{probe.tokens} tokens, {probe.recalled:.0%} of them more likely than not; "
        f"gain {probe.gain:+.3f} nats per token."
    )


def passages(hits: Sequence[Passage]) -> tuple[Table | Text, ...]:
    """Passages as they were told, the best first."""
    if not hits:
        return (Text("Nothing it was told has these words."),)
    rows = [(number, hit.text) for number, hit in enumerate(hits, 1)]
    return (_columns(("rank", "passage"), rows, words=["passage"]),)


def shortened(text: str) -> str:
    """Return the beginning of a text on one line."""
    return textwrap.shorten(clean(text), _SHORT_TEXT, placeholder=" ...")


def texts(page: TextPage) -> tuple[Table | Text, ...]:
    """Return a page of texts as a table."""
    if not page.texts:
        return (Text("It was told nothing of the kind."),)
    rows = [
        (
            text.id[:SHORT],
            "-" if text.time is None else _time(text.time),
            text.speaker or text.title or "-",
            text.state + (", pinned" if text.pinned else ""),
            shortened(text.text),
        )
        for text in page
    ]
    titles = ("text", "told", "speaker", "state", "beginning")
    shown: list[Table | Text] = [_columns(titles, rows, words=titles[1:])]
    if page.next_offset is not None:
        left = page.total - page.next_offset
        shown.append(Text(f"... and {left} more: --offset {page.next_offset}"))
    return tuple(shown)


def removed(memory_id: str, receipt: RemovalReceipt) -> tuple[Table | Text, ...]:
    """Return the receipt of a remove or correct as text."""
    if not receipt.ids:
        return (Text("Nothing was changed: it says that already, or is gone."),)
    again = receipt.relearned
    rows: dict[str, object] = {
        "memory": memory_id,
        "texts": ", ".join(name[:SHORT] for name in receipt.ids),
        "removed": f"{len(receipt.files)} files, {size(receipt.bytes)}; "
        f"{len(receipt.revisions)} revisions",
        "learned again": f"{again.tokens:,} tokens from {(receipt.start or 'nothing')[:SHORT]}, "
        f"{again.seconds:.1f} s"
        if again.tokens
        else "nothing",
    }
    if receipt.forks or receipt.exports:
        rows["left elsewhere"] = ", ".join((*receipt.forks, *receipt.exports))
    shown: list[Table | Text] = [pairs(rows)]
    if receipt.changes:
        body = [
            (
                change.id[:SHORT] if change.id else "the answer asked for",
                change.tokens,
                _number(change.before / change.tokens),
                _number(change.after / change.tokens),
                _number(change.base / change.tokens),
            )
            for change in receipt.changes
        ]
        titles = ("nats per token of", "tokens", "before", "now", "base model")
        shown.append(_columns(titles, body))
    return tuple(shown)


def forgotten(receipt: ForgetReceipt) -> tuple[Table, Text]:
    """Return the receipt of a forget as text."""
    files = [file.path for file in receipt.files[:_LISTED]]
    if more := len(receipt.files) - len(files):
        files.append(f"... and {more} more (all of them with --json)")
    table = pairs(
        {
            "forgotten": ", ".join(receipt.ids),
            "removed": f"{len(receipt.files)} files, {size(receipt.bytes)}",
        }
    )
    return table, Text("\n".join(files))


def _arms(arms: Mapping[str, Arm]) -> Table:
    body = [
        (
            name,
            f"{arm.accuracy:.0%}",
            f"{arm.low:.0%} - {arm.high:.0%}",
            f"{arm.right} of {arm.asked}",
            f"{arm.prompt_tokens:.0f}",
        )
        for name, arm in arms.items()
    ]
    return _columns(("arm", "right", "95 %", "answers", "prompt tokens"), body)


def recalled(report: RecallReport) -> Group:
    """Return the report of `recall` as tables."""
    same = {True: "yes", False: "no", None: "not asked"}[report.same_after_forget]
    peak = (
        ""
        if report.peak_bytes is None
        else f" Memory held at most: {report.peak_bytes / 1e9:.1f} GB."
    )
    unanswered = [
        Text(
            f"Questions that the bio does not answer, {name}: of {arm.asked}, {arm.declined} "
            f"declined, {arm.from_bio} answered with something else of the bio, {arm.other} with "
            "something invented or vague."
        )
        for name, arm in report.unanswerable.items()
    ]
    if (everyday := report.everyday) is not None:
        unanswered.append(
            Text(
                f"Everyday questions, memory: of {everyday.asked}, {everyday.from_bio} answered "
                "out of the bio."
            )
        )
    if (memory := report.arms.get("memory")) is not None:
        unanswered.append(
            Text(
                f"Answers of the memory: {memory.first_person:.0%} in the first person, "
                f"{memory.ended:.0%} end by themselves."
            )
        )
    other = report.other_text
    harm = "" if other is None else f" Perplexity of the other text: {other - 1:+.1%}."
    return Group(
        _arms(report.arms),
        Text(
            f"{report.people} people, {report.absorb_seconds:.1f} s to absorb a bio "
            f"({report.absorb_cpu_seconds:.0f} s of processors), gain {report.gain:+.2f} nats per "
            f"token; forgotten answers as if never told: {same}.{harm}{peak}"
        ),
        *unanswered,
    )


def conversed(report: ConversationReport) -> Group:
    """Return the report of `conversation` as a table."""
    return Group(
        _arms(report.arms),
        Text(
            f"{report.talks} conversations of {report.messages} messages, "
            f"{report.absorb_seconds:.1f} s to absorb one, gain {report.gain:+.2f} nats per token."
        ),
    )


def retrieved(report: RetrievalReport) -> Group:
    """Return the report of `retrieval` as tables."""
    shown: list[Table | Text] = []
    for talk in report.conversations:
        arms = [
            (name, str(score.questions), *(f"{value:.3f}" for value in score.recall.values()))
            for chosen in (talk.arms, talk.dated_arms)
            for name, score in chosen.items()
        ]
        cuts = tuple(
            f"recall@{cut}" for score in list(talk.arms.values())[:1] for cut in score.recall
        )
        gates = [
            (name, f"{score.auc:.3f}", f"{score.auc_foreign:.3f}")
            for name, score in talk.gates.items()
        ]
        below = [
            (f"{threshold:g}", *(f"{share:.0%}" for share in shares))
            for threshold, shares in talk.gates["coverage"].below.items()
        ]
        shown += [
            Text(
                f"{talk.name}, {talk.messages} messages. In the second half of the table only "
                "questions that name a time."
            ),
            _columns(("looked for by", "questions", *cuts), arms),
            _columns(("score", "AUC", "AUC, foreign"), gates),
            _columns(("coverage below", "answerable", "unanswerable", "foreign"), below),
        ]
    return Group(*shown)


def translated(report: TranslationReport) -> Group:
    """Return the report of `translation` as a table."""
    body = [
        (name, _number(arm.perplexity), _number(arm.bleu), _number(arm.chrf))
        for name, arm in report.arms.items()
    ]
    return Group(
        _columns(("arm", "perplexity", "BLEU", "chrF"), body),
        Text(f"{report.pairs} sentences in {report.sections} sections."),
    )


def speeds(model: str, ratios: Mapping[str, float | None]) -> Group:
    """Return the ratios of `speed` as a table."""
    body = [(name, _number(ratio)) for name, ratio in ratios.items()]
    return Group(
        _columns(("ratio", model), body),
        Text("Times of this run stand in the JSON output; they mean nothing on another machine."),
    )


def spoilt(report: DamageReport) -> Group:
    """Return the report of `damage` as a table."""
    body = [
        (
            name,
            f"{arm.same:.0%}",
            f"{arm.low:.0%} - {arm.high:.0%}",
            f"{arm.loss:+.3f}",
            "-" if arm.other_text is None else f"{arm.other_text - 1:+.1%}",
            _number(arm.strength),
        )
        for name, arm in report.arms.items()
    ]
    titles = ("arm", "same answers", "95 %", "nats per token lost", "other text", "strength")
    asked = next(iter(report.arms.values())).asked
    return Group(
        _columns(titles, body),
        Text(
            f"{report.people} people, {asked} answers; KL on neutral text {_number(report.kl, 3)}."
        ),
    )


def costs(report: CostReport, turn_tokens: int) -> Group:
    """Return the report of `cost`, of turns of so many tokens, as a table."""
    body = [
        (
            turn.arm,
            f"{turn.history:,}",
            f"{turn.prompt_tokens:,}",
            _number(turn.seconds, 3),
            _number(turn.flops / 1e9, 1),
            _number(turn.learn_seconds, 3),
            _number(turn.learn_flops / 1e9, 1),
        )
        for turn in report.turns
    ]
    titles = (
        "arm", "history", "prompt tokens", "seconds", "GFLOP", "learning, s", "learning, GFLOP",
    )  # fmt: skip
    return Group(
        _columns(titles, body),
        Text(f"Learning: of the {turn_tokens} tokens that a turn adds. Seconds are of this run."),
    )


def perplexities(rows: Mapping[str, PerplexityReport], total: Mapping[str, Any]) -> Group:
    """Return the report of `perplexity` as a table."""

    def row(name: str, figures: Mapping[str, Any]) -> tuple[object, ...]:
        base, memory = figures["base_ppl"], figures["memory_ppl"]
        change = f"{memory / base - 1:+.1%}"
        ratio = figures["seconds_ratio_last_over_first_tenth"]
        return (
            name,
            f"{figures['tokens']:,}",
            _number(base),
            _number(memory),
            change,
            _number(ratio),
        )

    body = [row(name, report.as_dict()) for name, report in rows.items()]
    if len(rows) > 1:
        body.append(row("total", total))
    titles = ("file", "tokens", "base ppl", "memory ppl", "change", "last/first s")
    length = [
        (
            f"{part['after_tokens']:,}",
            f"{part['tokens']:,}",
            _number(part["base_ppl"]),
            _number(part["memory_ppl"]),
            f"{part['change']:+.1%}",
            _number(part["kl"], 3),
        )
        for part in total["by_length"]
    ]
    return Group(
        _columns(titles, body),
        _columns(("after tokens", "tokens", "base ppl", "memory ppl", "change", "KL"), length),
    )
