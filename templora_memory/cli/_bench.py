"""`templora bench`: every command measures one thing, and can write it down as files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from templora_memory.cli import _save, _show
from templora_memory.cli._call import Call, command
from templora_memory.cli._input import read

PEOPLE = ("bundled", "plain", "plain-dev", "natural", "natural-dev")
"""Names of sets of people, the default first; `evaluation.recall` says what they are."""
ARMS = ("prompt", "memory", "half", "bm25", "memory_bm25", "none", "wrong", "forgotten")
"""What `evaluation.recall` asks, all of it by default."""

bench = typer.Typer(help="Measure what a memory is worth on your own text.")

Files = Annotated[
    list[Path],
    typer.Argument(metavar="FILE", help='UTF-8 text files; "-" is standard input.'),
]
Other = Annotated[
    Path | None,
    typer.Option(help="Unrelated text: how much less likely does a memory make it?"),
]
People = Annotated[
    str | None,
    typer.Option(
        help=f"Invented people: {', '.join(PEOPLE)}, or a JSON file. Default: {PEOPLE[0]}.",
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        help="Folder to write the result into, too: JSON, a Markdown table, a picture.",
        file_okay=False,
    ),
]


@command(bench)
def perplexity(
    call: Call,
    files: Files,
    tokens: Annotated[
        int | None, typer.Option(help="Use so many tokens of each file. Default: all.")
    ] = None,
    out: Out = None,
) -> None:
    """Perplexity of long texts: each chunk before it is learned, with and without the memory.

    Every file gets a memory of its own, which is forgotten at the end.

    **Examples**

        templora bench perplexity book.txt
        templora bench perplexity one.txt two.txt --tokens 20000 --preset reference --json
        templora bench perplexity *.txt --out results
    """
    from templora_memory.cli import _plots
    from templora_memory.cli._progress import counting
    from templora_memory.evaluation.perplexity import perplexity as measure, total

    texts = {str(path): read(path) for path in files}
    reports = {}
    with call.service() as service:
        for name, text in texts.items():
            with counting(call, name, "chunks") as progress:
                reports[name] = measure(service, text, tokens=tokens, progress=progress)
    document = {**total(reports), "preset": call.common.preset}
    _save.finish(
        call, "perplexity", document, _show.perplexities(reports, document),
        out=out, plot=lambda folder: _plots.perplexity(folder, document),
    )  # fmt: skip


@command(bench)
def recall(  # noqa: PLR0917  # typer calls it by name
    call: Call,
    people: People = None,
    other: Other = None,
    then: Annotated[
        Path | None,
        typer.Option(help="A text that each memory learns after the bio, before it is asked."),
    ] = None,
    chunks: Annotated[int, typer.Option(help="How many chunks of it.")] = 50,
    arms: Annotated[
        str, typer.Option(help="Which to ask, with commas between them; fewer are quicker.")
    ] = ",".join(ARMS),
    out: Out = None,
) -> None:
    """Questions about invented people, with their bio in the prompt, in a memory, or nowhere.

    Each person gets a memory of its own, which is forgotten at the end.

    **Examples**

        templora bench recall
        templora bench recall --other story.txt
        templora bench recall --people natural --model templora/smollm2 --json
        templora bench recall --people mine.json --model Qwen/Qwen3-0.6B --json
        templora bench recall --set recipe=statements --set learning.kl_weight=0.4
        templora bench recall --then book.txt --chunks 50 --set learning.replay=0.25
    """
    from templora_memory.cli import _plots
    from templora_memory.cli._progress import counting
    from templora_memory.evaluation.recall import people_called, recall as measure

    asked = people_called(people or PEOPLE[0])
    text = _maybe(other)
    later = _maybe(then)
    with call.service() as service, counting(call, "asking", "people") as progress:
        report = measure(
            service,
            asked,
            other=text,
            then=later,
            chunks=chunks,
            arms=arms.split(","),
            progress=progress,
        )
    _save.finish(
        call, "recall", _arms_first(call, report.as_dict()), _show.recalled(report),
        out=out, plot=lambda folder: _plots.arms(folder / "recall.svg", report.arms),
    )  # fmt: skip


@command(bench)
def damage(
    call: Call,
    people: People = None,
    other: Other = None,
    out: Out = None,
) -> None:
    """Changes that memories of people make in answers and text that have nothing to do with them.

    **Examples**

        templora bench damage --other story.txt
        templora bench damage --set gate=0.05 --json
    """
    from templora_memory.cli import _plots
    from templora_memory.cli._progress import counting
    from templora_memory.evaluation.damage import damage as measure
    from templora_memory.evaluation.recall import people_called

    learned = people_called(people or PEOPLE[0])
    text = _maybe(other)
    with call.service() as service, counting(call, "asking", "people") as progress:
        report = measure(service, learned, other=text, progress=progress)
    _save.finish(
        call, "damage", _arms_first(call, report.as_dict()), _show.spoilt(report),
        out=out, plot=lambda folder: _plots.spoilt(folder / "damage.svg", report.arms),
    )  # fmt: skip


@command(bench)
def cost(
    call: Call,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A long text, as history.")],
    history: Annotated[int, typer.Option(help="Tokens of the longest history.")] = 30_000,
    repeats: Annotated[int, typer.Option(help="Turns of each kind; the median counts.")] = 3,
    out: Out = None,
) -> None:
    """The cost of a turn as the history grows: in a memory, in the prompt, in a sliding window.

    **Examples**

        templora bench cost book.txt
        templora bench cost book.txt --history 100000 --out results
    """
    from templora_memory.cli import _plots
    from templora_memory.cli._progress import counting
    from templora_memory.evaluation.cost import TURN, cost as measure, shape_of

    text = read(file)
    steps = (250, 500, 1_000, 3_000, 10_000, 30_000, 100_000)
    lengths = (*(step for step in steps if step < history), history)
    with call.service() as service, counting(call, "histories", "lengths") as progress:
        shape = shape_of(service)
        report = measure(service, text, shape, lengths=lengths, repeats=repeats, progress=progress)
    _save.finish(
        call, "cost", {**report.as_dict(), "preset": call.common.preset}, _show.costs(report, TURN),
        out=out, plot=lambda folder: _plots.cost(folder, report),
    )  # fmt: skip


@command(bench)
def conversation(
    call: Call,
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="Conversations, one JSON object a line.")
    ],
    out: Out = None,
) -> None:
    """Questions about conversations of many sessions, asked in a new one.

    A line holds "sessions", a list of lists of messages, and "questions" with "ask" and "fact".

    **Examples**

        templora bench conversation talks.jsonl
        templora bench conversation talks.jsonl --model Qwen/Qwen3-0.6B --json
    """
    from templora_memory.cli import _plots
    from templora_memory.cli._progress import counting
    from templora_memory.evaluation.conversation import conversation as measure, load_talks

    talks = load_talks(file)
    with call.service() as service, counting(call, "asking", "conversations") as progress:
        report = measure(service, talks, progress=progress)
    _save.finish(
        call, "conversation", _arms_first(call, report.as_dict()), _show.conversed(report),
        out=out, plot=lambda folder: _plots.arms(folder / "conversation.svg", report.arms),
    )  # fmt: skip


@command(bench)
def retrieval(
    call: Call,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="LoCoMo's JSON.")],
    out: Out = None,
) -> None:
    """Whether passages are found that answer a question, and whether it was told. Needs no model.

    **Examples**

        templora bench retrieval locomo10.json
        templora bench retrieval locomo10.json --json
    """
    from templora_memory.cli._progress import counting
    from templora_memory.evaluation.retrieval import load_dated, retrieval as measure_retrieval

    talks = load_dated(file)
    with counting(call, "looking", "conversations") as progress:
        report = measure_retrieval(talks, progress=progress)
    _save.finish(
        call, "retrieval", report.as_dict(), _show.retrieved(report),
        out=out, plot=lambda _: None,
    )  # fmt: skip


@command(bench)
def translation(
    call: Call,
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="Tab-separated source and translation, or a GuoFeng file."
        ),
    ],
    *,
    write: Annotated[bool, typer.Option(help="Let the model translate, for BLEU and chrF.")] = True,
    out: Out = None,
) -> None:
    """Translate in order, while the approved translations are learned section by section.

    **Examples**

        templora bench translation novel.tsv --model Qwen/Qwen3-0.6B
        templora bench translation 4-mrly.eval --no-write --json
    """
    from templora_memory.cli import _plots
    from templora_memory.cli._progress import counting
    from templora_memory.evaluation.translation import load_pairs, translation as measure

    sections = load_pairs(file)
    with (
        call.service(recipe="pairs") as service,
        counting(call, "translating", "sections") as progress,
    ):
        report = measure(service, sections, write=write, progress=progress)
    _save.finish(
        call, "translation", _arms_first(call, report.as_dict()), _show.translated(report),
        out=out, plot=lambda folder: _plots.translated(folder / "translation.svg", report.arms),
    )  # fmt: skip


@command(bench)
def speed(  # noqa: PLR0917  # typer calls it by name
    call: Call,
    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="[FILE]", help="A book, for the comparison of quality. Default: left out."
        ),
    ] = None,
    repeats: Annotated[int, typer.Option(help="Runs of each side; the median counts.")] = 5,
    chunk: Annotated[int, typer.Option(help="Tokens of a chunk.")] = 256,
    context: Annotated[int, typer.Option(help="Tokens before a chunk.")] = 768,
    learned: Annotated[int, typer.Option(help="Chunks that each run of learning takes.")] = 8,
    book: Annotated[int, typer.Option(help="Tokens of the book to learn.")] = 60_000,
    history: Annotated[
        int, typer.Option(help="Absorbed tokens after which the last turn is timed.")
    ] = 100_000,
    memories: Annotated[int, typer.Option(help="Memories of a root that is opened.")] = 10_000,
    documents: Annotated[
        int, typer.Option(help="Documents that a memory of a fake model learns.")
    ] = 100,
    plots: Annotated[
        Path | None, typer.Option(help="Folder for pictures.", file_okay=False)
    ] = None,
) -> None:
    """The cost of learning and answering, as ratios, beside a plain loop of transformers and PEFT.

    --model may also be 121m, 1b or 8b: a Llama of that size with random weights. Leave the machine
    alone meanwhile.

    **Examples**

        templora bench speed book.txt --json
        templora bench speed --model 121m --history 8000
        templora bench speed book.txt --plots docs/results
    """
    from templora_memory.cli._progress import bar
    from templora_memory.evaluation.speed import SpeedSettings, speed as measure

    steps = [1_000, 3_000, 10_000, 30_000, 100_000]
    settings = SpeedSettings(
        chunk=chunk,
        context=context,
        repeats=repeats,
        learned=learned,
        book=book,
        history=(*(step for step in steps if step < history), history),
        memories=memories,
        documents=documents,
    )
    with bar(call, "measurements") as shown:
        task = shown.add_task("starting", total=14, note="")

        def progress(name: str) -> None:
            shown.update(task, description=name, advance=1)

        report = measure(
            call.common.model,
            text=_maybe(file),
            settings=settings,
            device=call.common.device,
            dtype=call.common.dtype,
            progress=progress,
        )
    if plots is not None:
        report.plot(plots)
    call.say(report.as_dict(), _show.speeds(report.model, report.ratios))


def _arms_first(call: Call, report: dict[str, Any]) -> dict[str, Any]:
    """Return a comparison as one document, its arms at the top."""
    arms = report.pop("arms")
    return {**arms, **report, "preset": call.common.preset}


def _maybe(path: Path | None) -> str | None:
    """Return the text of a file that need not be given."""
    return None if path is None else read(path)
