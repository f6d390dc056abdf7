"""A memory in weights at work, in the terminal, without a question to the user.

Learns an invented character (a bio and a long conversation), on the embedded model unless another
one is named, asks before and after, puts retrieved text into the prompt, forgets, and checks that
the base model is bit for bit what it was. Whatever the model says is printed. Exits with 1 if the
check fails.

    python demos/terminal_demo.py
    python demos/terminal_demo.py --model templora/smollm2
    python demos/terminal_demo.py --model Qwen/Qwen3-0.6B
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from character import NAME, QUESTIONS, bio, conversation
from rich import box
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from templora_memory import AbsorbReport, Job, Message, ParametricMemory
from templora_memory.models import TINY

ID = "orla"
FOUND = "In the box is a tin kite. In the jar is a red feather."
ASKED = "What is in the jar?"

Answers = tuple[tuple[str, float], ...]


def ask_base(memory: ParametricMemory) -> Answers:
    """Return the replies of the base model, and its log-probability of each right answer."""
    return tuple(
        (
            memory.without_memory.reply(
                [Message("user", fact.question)], max_tokens=24
            ).text.strip(),
            memory[ID].probe(fact.question, fact.sentence).without_memory,
        )
        for fact in QUESTIONS
    )


def follow(console: Console, job: Job, title: str) -> AbsorbReport:
    """Show a bar until a job is done, and return its report."""
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(title, total=None)
        while not job.done:
            if now := job.progress:
                bar.update(task, completed=now.chunk, total=now.chunks)
            time.sleep(0.05)
    return job.wait()


def learn(console: Console, memory: ParametricMemory, history: Sequence[Message]) -> None:
    """Learn the bio, then the conversation, and print both reports."""
    for title, text in (("bio", bio()), ("conversation", history)):
        report = follow(console, memory[ID].absorb(text, wait=False), title)
        console.print(
            f"  {title:12} {report.tokens:5,} tokens, perplexity {report.perplexity_before:6.2f}"
            f" -> {report.perplexity_after:.2f}, {report.recalled:.0%} recalled verbatim,"
            f" {report.seconds:.1f} s, {report.bytes / 1e6:.1f} MB"
        )


def ask_both(console: Console, memory: ParametricMemory, before: Answers) -> None:
    """Ask every question with the memory, and print the answers beside those of the base model."""
    table = Table(
        "question", "right answer", "before", "after", "nats per token", box=box.SIMPLE_HEAD
    )
    for fact, (base_reply, _) in zip(QUESTIONS, before, strict=True):
        now = memory[ID].reply([Message("user", fact.question)], revision="head", max_tokens=24)
        probe = memory[ID].probe(fact.question, fact.sentence)
        base, learned = probe.without_memory / probe.tokens, probe.with_memory / probe.tokens
        nats = f"{base:.2f} -> {learned:.2f}"
        table.add_row(fact.question, fact.answer, base_reply, now.text.strip(), nats)
    console.print(table)


def show_prompt(console: Console, memory: ParametricMemory, history: Sequence[Message]) -> bool:
    """Go on with retrieved text in the prompt; returns whether it stayed out of the memory."""
    turn = [*history, Message("user", ASKED)]
    head = memory[ID].head()
    without = memory[ID].reply(turn, max_tokens=24)
    retrieved = memory[ID].reply(turn, context=FOUND, max_tokens=24)
    half = memory[ID].reply(turn, context=FOUND, max_tokens=24, strength=0.5)
    count = memory.backend.count
    full = count([Message("system", bio()), *turn])
    console.print(f"  retrieved:            {FOUND}")
    console.print(f"  asked:                {ASKED}")
    console.print(f"  without it:           {without.text.strip()}")
    console.print(f"  with it:              {retrieved.text.strip()}")
    console.print(f"  memory half strength: {half.text.strip()}")
    console.print(
        f"  prompt: {without.prompt_tokens} tokens, {retrieved.prompt_tokens} with it; bio and "
        f"conversation in the prompt would be {full:,}, the window is {memory.policy.window:,}"
    )
    memory[ID].wait()
    journal = memory[ID].transcript()
    texts = [item.text for item in journal.documents] + [
        item.content for item in journal.messages[:-1]
    ]
    kept_out = memory[ID].head() == head and not any(FOUND in text for text in texts)
    console.print(f"  learned or kept of it: {'nothing' if kept_out else 'SOMETHING'}")
    return kept_out


def main() -> int:
    """Run the demo, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=TINY, help="a name, a hub id, a folder or a .gguf file")
    parser.add_argument("--turns", type=int, default=150, help="length of the conversation")
    arguments = parser.parse_args()
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 110)
    history = conversation(arguments.turns)
    with tempfile.TemporaryDirectory() as root:
        memory = ParametricMemory.from_pretrained(arguments.model, root=root)
        with memory:
            console.rule(f"{NAME} on {memory.base.name}")
            memory.open(ID)
            before = ask_base(memory)
            console.print(f"\n1. Learn a bio and {len(history)} messages")
            learn(console, memory, history)
            console.print("\n2. Ask, with nothing in the prompt but the question")
            ask_both(console, memory, before)
            console.print("\n3. Go on with the conversation; retrieved text goes into the prompt")
            kept_out = show_prompt(console, memory, history)
            console.print("\n4. Forget")
            receipt = memory[ID].forget()
            console.print(f"  {len(receipt.files)} files removed, {receipt.bytes / 1e6:.1f} MB")
            left = [path for path in Path(root).rglob("*") if path.is_file()]
            memory.open(ID)
            same = ask_base(memory) == before
    console.print(f"  files left: {len(left)}")
    console.print(f"  base model bit for bit as before: {'yes' if same else 'NO'}")
    return 0 if same and kept_out and not left else 1


if __name__ == "__main__":
    sys.exit(main())
