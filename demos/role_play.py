"""A character from a card: learned, played, compared with the card in the prompt, deleted.

Reads a Character Card (V1, V2 or V3; PNG, JSON or CHARX), learns it, plays a scene with nothing of
the bio in the prompt. The same questions are asked with the card in the prompt, as role-play
programs do it, and with neither. Then somebody else comes: what the character learns of one
visitor is a memory of its own, and deleting it leaves the character alone. At the end the
character is deleted, and the model answers, bit for bit, as before.

    python demos/role_play.py
    python demos/role_play.py my_character.png --model Qwen/Qwen3-0.6B

The cards that come with this project name questions and answers to check. Exits with 1 if the
memory answers fewer than two thirds of them, or if deleting leaves anything behind.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from templora_memory import Learning, Message, ParametricMemory, Policy
from templora_memory.importers import (
    Character,
    card_text,
    documents,
    greetings,
    instructions,
    load_character,
)
from templora_memory.models import TINY

CARD = Path(str(files("templora_memory.apps.roleplay"))) / "bundled" / "marta_quill.json"
ID = "character"
STEPS = 64
"""Half of the usual passes over a bio, for a quick demo."""
VISITOR = "Ben"
SCENE = ("Hello.", "What is your name?", "How are you today?", "Thank you.")
TOLD = (Message("user", "My name is Ben."), Message("assistant", "Nice to meet you, Ben."))
ANSWER = "Your name is Ben."


@dataclass(frozen=True, slots=True)
class Fact:
    """A question, a word of the right answer, and how the character says it."""

    question: str
    answer: str
    sentence: str


def facts_of(character: Character) -> tuple[Fact, ...]:
    """Return the facts that a card of this project lists; none for other cards."""
    data: dict[str, Any] = dict(character.raw).get("data", {})
    rows = data.get("extensions", {}).get("templora", {}).get("facts", [])
    return tuple(Fact(row["ask"], row["answer"], row["said"]) for row in rows)


class Play:
    """One character and the three ways to play it: from weights, from the card, from nothing."""

    def __init__(self, memory: ParametricMemory, character: Character) -> None:
        self.memory = memory
        always = instructions(character, user=VISITOR)
        self.lead = [Message("system", always)] if always else []
        self.card = card_text(character, user=VISITOR)

    def weights(self, *turns: Message, who: str = ID) -> tuple[str, int]:
        """Return an answer with the memory, and the tokens of its prompt."""
        reply = self.memory[who].reply([*self.lead, *turns], revision="head", max_tokens=32)
        return reply.text.strip(), reply.prompt_tokens

    def prompt(self, *turns: Message) -> tuple[str, int]:
        """Return an answer with the card in the prompt, and the tokens of its prompt."""
        reply = self.memory.without_memory.reply(
            [*self.lead, *turns], context=self.card, max_tokens=32
        )
        return reply.text.strip(), reply.prompt_tokens

    def nothing(self, *turns: Message) -> tuple[str, int]:
        """Return an answer with neither, and the tokens of its prompt."""
        reply = self.memory.without_memory.reply([*self.lead, *turns], max_tokens=32)
        return reply.text.strip(), reply.prompt_tokens

    def scene(self, console: Console, character: Character) -> None:
        """A few turns, the newest of which always stands in the prompt."""
        turns = [Message("assistant", hello) for hello in greetings(character, user=VISITOR)[:1]]
        for message in turns:
            console.print(f"  {character.name}: {message.content}", markup=False)
        for line in SCENE:
            turns.append(Message("user", line))
            text, _ = self.weights(*turns)
            turns.append(Message("assistant", text or "..."))
            console.print(f"  {VISITOR}: {line}\n  {character.name}: {text}", markup=False)

    def ask(self, console: Console, facts: tuple[Fact, ...]) -> dict[str, int]:
        """Every question in all three ways; returns how many answers hold the fact."""
        ways = {"memory": self.weights, "card in the prompt": self.prompt, "neither": self.nothing}
        table = Table("asked", *ways, box=box.SIMPLE_HEAD)
        right, tokens = dict.fromkeys(ways, 0), dict.fromkeys(ways, 0)
        for fact in facts:
            row = []
            for name, way in ways.items():
                text, shown = way(Message("user", fact.question))
                right[name] += fact.answer.lower() in text.lower()
                tokens[name] = max(tokens[name], shown)
                row.append(text)
            table.add_row(fact.question, *row)
        console.print(table)
        for name in ways:
            count = f"{right[name]} of {len(facts)}"
            console.print(f"  {name}: {count} right, longest prompt {tokens[name]} tokens")
        return right


def visitor(console: Console, play: Play) -> bool:
    """Return whether that which the character learns of one visitor stays apart."""
    memory, question = play.memory, "What is my name?"
    before = memory[ID].probe(question, ANSWER)
    pair = f"{ID}@{VISITOR.lower()}"
    memory[pair].absorb([*TOLD, Message("user", question), Message("assistant", ANSWER)])
    theirs = memory[pair].probe(question, ANSWER)
    receipt = memory.forget(user=VISITOR.lower())
    same = memory[ID].probe(question, ANSWER) == before
    console.print(
        f"  {VISITOR}'s name: {theirs.with_memory:.2f} nats for {pair}, "
        f"{before.with_memory:.2f} for {ID}\n"
        f"  forgotten: {', '.join(receipt.ids)}; the character is as before: "
        f"{'yes' if same else 'NO'}"
    )
    return same and theirs.with_memory > before.with_memory


def main() -> int:
    """Run the demo, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("card", nargs="?", type=Path, default=CARD, help="a character card")
    parser.add_argument("--model", default=TINY, help="a name, a hub id, a folder or a .gguf file")
    arguments = parser.parse_args()
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 110)
    character = load_character(arguments.card)
    facts = facts_of(character)
    policy = Policy(learning=Learning(document_steps=STEPS))
    with (
        tempfile.TemporaryDirectory() as root,
        ParametricMemory.from_pretrained(arguments.model, root=root, policy=policy) as memory,
    ):
        memory.open(ID)
        before = [memory[ID].probe(fact.question, fact.sentence).without_memory for fact in facts]
        console.rule(f"{character.name}, {character.source_format}")
        report = memory[ID].absorb(documents(character))
        size = f"{report.bytes / 1e6:.1f} MB"
        console.print(f"  {report.tokens:,} tokens learned in {report.seconds:.1f} s, {size}")
        play = Play(memory, character)
        play.scene(console, character)
        right = play.ask(console, facts)
        apart = visitor(console, play)
        receipt = memory[ID].forget()
        left = [path for path in Path(root).rglob("*") if path.is_file()]
        memory.open(ID)
        after = [memory[ID].probe(fact.question, fact.sentence).without_memory for fact in facts]
    console.print(f"  deleted: {len(receipt.files)} files; files left: {len(left)}")
    console.print(f"  the model is bit for bit as before: {'yes' if after == before else 'NO'}")
    enough = 3 * right["memory"] >= 2 * len(facts)
    return 0 if enough and apart and after == before and not left else 1


if __name__ == "__main__":
    sys.exit(main())
