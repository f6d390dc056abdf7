"""Interactive translation: a project's memory is learned, and then what the translator corrects.

A translation project in a harbour, English to German. Its translation memory (TMX) is absorbed with
the recipe "pairs": only the approved translations are learned, never the source. Today the text
speaks of a "tide gate" for the first time; the translator corrects it to "Tidetor" in some
segments (tab-separated lines), which are absorbed as they come. Before, between and after, the
same held-out segments are measured: how well the approved translations are predicted, whether the
project's term is more likely than an equally good one in its place, and BLEU and chrF of what the
model writes itself (they need sacrebleu).

    python demos/translation.py
    python demos/translation.py --model Qwen/Qwen3-0.6B

The embedded model knows no German. All it says of it, it has from these few segments, and the
text is made of few parts; so this shows that terms and habits of a project reach the weights and
stay consistent, and nothing about translating. Exits with 1 if they do not.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from templora_memory import Learning, Message, ParametricMemory, Policy
from templora_memory.importers import Segment, load_segments, turns
from templora_memory.models import TINY

PROJECT = "harbour"
FILES = Path(__file__).with_name("harbour")
RIVALS = {
    "Hafenvogt": "Hafenmeister",
    "Fährfrau": "Bootsfrau",
    "Salzkrämerin": "Salzhändlerin",
    "Signalleuchte": "Signallampe",
    "Wachbuch": "Logbuch",
    "Festmacherleine": "Halteleine",
    "Tidetor": "Fluttor",
}
"""The project's terms, and what another translator might have written."""
NEW = "Tidetor"
"""The term that only the corrections have."""


@dataclass(frozen=True, slots=True)
class Score:
    """The scores of the project's memory on the held-out segments."""

    perplexity: float
    terms: int  # how often the approved term is likelier than its rival
    new_terms: int  # the same, of NEW alone
    bleu: float | None
    chrf: float | None
    example: str


def measure(memory: ParametricMemory, segments: Sequence[Segment], *, base: bool = False) -> Score:
    """Score every approved translation, with rivals in place of its terms, and let it write."""
    strength = 0.0 if base else 1.0

    def likely(source: str, target: str) -> tuple[float, int]:
        probe = memory[PROJECT].probe(source, target, strength=strength)
        return probe.with_memory, probe.tokens

    nats, tokens, written = 0.0, 0, []
    won = dict.fromkeys(RIVALS, 0)
    for pair in segments:
        own, count = likely(pair.source, pair.target)
        nats, tokens = nats + own, tokens + count
        for term, rival in RIVALS.items():
            if term in pair.target:
                won[term] += own > likely(pair.source, pair.target.replace(term, rival))[0]
        asked = [Message("user", pair.source)]
        reply = memory[PROJECT].reply(asked, revision="head", strength=strength, max_tokens=48)
        written.append(reply.text.strip())
    bleu, chrf = compare(written, [pair.target for pair in segments])
    return Score(math.exp(-nats / tokens), sum(won.values()), won[NEW], bleu, chrf, written[0])


def compare(written: list[str], wanted: list[str]) -> tuple[float | None, float | None]:
    """Corpus BLEU and chrF, 0 to 100; None without sacrebleu."""
    if importlib.util.find_spec("sacrebleu") is None:
        return None, None
    import sacrebleu  # noqa: PLC0415  # the extra `evaluation`

    scores = (sacrebleu.corpus_bleu(written, [wanted]), sacrebleu.corpus_chrf(written, [wanted]))
    return scores[0].score, scores[1].score


def show(console: Console, scores: dict[str, Score], terms: int, new_terms: int) -> None:
    """Print the scores as a table."""
    table = Table("held-out segments", *scores, box=box.SIMPLE_HEAD)
    values = list(scores.values())
    table.add_row("perplexity of the approved", *(f"{s.perplexity:.2f}" for s in values))
    table.add_row("approved term likelier", *(f"{s.terms} of {terms}" for s in values))
    table.add_row(f'"{NEW}" likelier', *(f"{s.new_terms} of {new_terms}" for s in values))
    if values[0].bleu is None:
        console.print("  no BLEU, chrF: pip install 'templora-memory\\[evaluation]'")
    else:
        table.add_row("BLEU of its own", *(f"{s.bleu:.1f}" for s in values))
        table.add_row("chrF of its own", *(f"{s.chrf:.1f}" for s in values))
    console.print(table)


def main() -> int:
    """Run the demo, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=TINY, help="a name, a hub id, a folder or a .gguf file")
    arguments = parser.parse_args()
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 110)
    approved = load_segments(FILES / "memory.tmx")
    corrected = load_segments(FILES / "corrected.tsv")
    held_out = load_segments(FILES / "held_out.tsv").pairs
    policy = Policy(recipe="pairs", chunk=192, learning=Learning(steps_per_chunk=12))
    scores: dict[str, Score] = {}
    with (
        tempfile.TemporaryDirectory() as root,
        ParametricMemory.from_pretrained(arguments.model, root=root, policy=policy) as memory,
    ):
        memory.open(PROJECT)
        console.rule(f"{approved.source_language} to {approved.target_language}, {arguments.model}")
        scores["before"] = measure(memory, held_out, base=True)
        known = 0
        for name, file in (("translation memory", approved), ("corrections", corrected)):
            lesson = turns(file.pairs)
            report = memory[PROJECT].absorb(lesson, after=known)
            known += len(lesson)
            console.print(
                f"  {name} ({file.source_format}): {len(file.pairs)} segments, {report.tokens:,} "
                f"tokens, {report.seconds:.1f} s"
            )
            scores[f"after {name}"] = measure(memory, held_out)
        memory[PROJECT].forget()
    total = sum(term in pair.target for pair in held_out for term in RIVALS)
    new = sum(NEW in pair.target for pair in held_out)
    show(console, scores, total, new)
    console.print(f"  {held_out[0].source}\n    approved: {held_out[0].target}")
    for name, score in scores.items():
        console.print(f"    {name}: {score.example}", markup=False)
    before, between, after = scores.values()
    consistent = after.terms >= 0.9 * total and after.new_terms > between.new_terms
    better = before.perplexity > between.perplexity > after.perplexity
    console.print(f"  terms are consistent: {'yes' if consistent else 'NO'}")
    console.print(f"  every step made the approved text likelier: {'yes' if better else 'NO'}")
    return 0 if consistent and better else 1


if __name__ == "__main__":
    sys.exit(main())
