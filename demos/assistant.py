"""A chat assistant with a history of 500 turns and a window of 1,024 tokens.

Dara talks to an assistant for 500 turns: mostly about her days, each of which she mentions once,
and now and then about herself, in changing words. The application does what chat applications do:
it sends the whole history with every request. What left the window is learned meanwhile, so the
prompt stays short. The last hundred turns are about days only; then the assistant is asked who
Dara is, with nothing about it in the prompt, by the same prompt with and without the memory.

    python demos/assistant.py
    python demos/assistant.py --turns 1000 --model Qwen/Qwen3-0.6B

What comes again and again is held; what was said once is not, and the last line says so. Exits
with 1 if a prompt outgrew the window, or if the memory does not know Dara better than the base.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from rich import box
from rich.console import Console
from rich.table import Table

from templora_memory import Message, ParametricMemory, Policy
from templora_memory.models import TINY

ID = "dara"
WINDOW = 1024
EVERY = 20
"""Ask for a reply at every twentieth turn; the conversation itself is written beforehand."""
DAYS_ONLY = 100
"""Turns at the end without a word about Dara herself."""


@dataclass(frozen=True, slots=True)
class Fact:
    """A fact about Dara: how she says it and asks for it, its value, and that of a stranger."""

    statements: tuple[str, ...]
    questions: tuple[str, ...]
    value: str
    other: str


FACTS = (
    Fact(
        ("My name is Dara Millbrook.", "You may call me Dara Millbrook."),
        ("What is my name?", "Who am I?"),
        "Dara Millbrook",
        "Torin Ashwell",
    ),
    Fact(
        ("I live in Heron Cove.", "My home is in Heron Cove."),
        ("Where do I live?", "Where is my home?"),
        "Heron Cove",
        "Copper Ford",
    ),
    Fact(
        ("I work as a map painter.", "I earn my living as a map painter."),
        ("What is my work?", "What do I do for a living?"),
        "a map painter",
        "a salt seller",
    ),
    Fact(
        ("I have a lame duck called Bo.", "My pet is a lame duck called Bo."),
        ("What pet do I have?", "What animal do I keep?"),
        "a lame duck called Bo",
        "an old goat called Pim",
    ),
    Fact(
        ("My best friend is Tamsin.", "I trust Tamsin more than anyone."),
        ("Who is my best friend?", "Whom do I trust?"),
        "Tamsin",
        "Wullen",
    ),
    Fact(
        ("I am afraid of loud bells.", "Nothing frightens me like loud bells."),
        ("What am I afraid of?", "What frightens me?"),
        "loud bells",
        "deep snow",
    ),
    Fact(
        ("My favourite food is pear cake.", "I eat pear cake every day."),
        ("What is my favourite food?", "What do I like to eat?"),
        "pear cake",
        "onion soup",
    ),
    Fact(
        ("My hobby is flying kites.", "I spend every free hour flying kites."),
        ("What is my hobby?", "What do I enjoy?"),
        "flying kites",
        "keeping bees",
    ),
)
MONTHS = ("January", "February", "March", "April", "May", "June", "July", "August", "September",
          "October", "November", "December")  # fmt: skip
DID = ("saw", "bought", "lost", "found", "painted", "sold", "mended", "carried", "drew", "cleaned")
SORTS = ("red", "small", "broken", "heavy", "round", "yellow", "wooden", "thin", "white", "rusty")
THINGS = ("kettle", "lantern", "basket", "ladder", "fiddle", "mirror", "compass", "saddle", "drum",
          "umbrella", "trumpet", "anchor")  # fmt: skip
SAID = ("I see.", "Good to know.", "How interesting.", "I will remember that.", "Tell me more.")


def days(rng: Random) -> Iterator[str]:
    """Yield a sentence of Dara for one day after the other, each said once."""
    number = 0
    while True:
        day, month = number % 28 + 1, MONTHS[number // 28 % len(MONTHS)]
        item = f"a {rng.choice(SORTS)} {rng.choice(THINGS)}"
        yield f"On {day} {month} I {rng.choice(DID)} {item}."
        number += 1


def conversation(turns: int) -> list[Message]:
    """The same on every machine: in every fourth turn she speaks of herself, or asks for it."""
    rng = Random(11)  # noqa: S311  # the same on every machine, not secret
    sentences, spoken = days(rng), 0
    messages: list[Message] = []
    for number in range(turns):
        says, answer = next(sentences), rng.choice(SAID)
        if number % 4 == 0 and number < turns - DAYS_ONLY:
            fact, again = FACTS[spoken % len(FACTS)], spoken // len(FACTS)
            says = (fact.statements + fact.questions)[again % 4]
            if says in fact.questions:
                answer = f"{fact.value[0].upper()}{fact.value[1:]}."
            spoken += 1
        messages += [Message("user", says), Message("assistant", answer)]
    return messages


@dataclass(frozen=True, slots=True)
class Turn:
    """One reply in the middle of the conversation."""

    number: int
    prompt: int
    learned: int


def live_through(memory: ParametricMemory, history: list[Message]) -> list[Turn]:
    """Send the history so far at every twentieth turn, as an application does at every turn."""
    turns = []
    for number in range(EVERY, len(history) // 2 + 1, EVERY):
        reply = memory[ID].reply(history[: 2 * number - 1], max_tokens=16)
        turns.append(Turn(number, reply.prompt_tokens, reply.absorbed_tokens))
    memory[ID].wait()
    return turns


def ask(console: Console, memory: ParametricMemory, history: list[Message]) -> tuple[int, int]:
    """Ask for every fact behind the whole history; returns right answers with and without."""
    table = Table(
        "asked after all that", "with the memory", "same prompt without", box=box.SIMPLE_HEAD
    )
    right = [0, 0]
    for fact in FACTS:
        asked = [*history, Message("user", fact.questions[0])]
        answers = [
            memory[ID].reply(asked, strength=strength, max_tokens=16).text.strip()
            for strength in (1.0, 0.0)
        ]
        memory[ID].wait()
        for arm, text in enumerate(answers):
            right[arm] += fact.value.removeprefix("a ").lower() in text.lower()
        table.add_row(fact.questions[0], *answers)
    console.print(table)
    return right[0], right[1]


def preferred(memory: ParametricMemory) -> int:
    """Of how many facts the true value is likelier than a stranger's, by the weights alone."""
    count = 0
    for fact in FACTS:
        true, other = (
            memory[ID].probe(fact.questions[1], f"{value[0].upper()}{value[1:]}.")
            for value in (fact.value, fact.other)
        )
        # what the base already thinks of the two is taken away
        gain = true.with_memory - true.without_memory
        count += gain > other.with_memory - other.without_memory
    return count


def said_once(memory: ParametricMemory, history: list[Message], count: int = 12) -> int:
    """Of how many days her own words are likelier than what she said of another day."""
    sentences = [m.content for m in history if m.role == "user" and m.content.startswith("On ")]
    step, won = len(sentences) // count, 0
    for number in range(count):
        day, did = sentences[number * step].split(" I ", 1)
        other = sentences[(number + 5) % count * step].split(" I ", 1)[1]
        gains = []
        for text in (did, other):
            probe = memory[ID].probe(
                f"What did I do {day[0].lower()}{day[1:]}?", f"{day} you {text}"
            )
            gains.append(probe.with_memory - probe.without_memory)
        won += gains[0] > gains[1]
    return won


def main() -> int:
    """Run the demo, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=TINY, help="a name, a hub id, a folder or a .gguf file")
    parser.add_argument("--turns", type=int, default=500, help="length of the conversation")
    arguments = parser.parse_args()
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 110)
    history = conversation(arguments.turns)
    policy = Policy(window=WINDOW, reply_tokens=32)
    with (
        tempfile.TemporaryDirectory() as root,
        ParametricMemory.from_pretrained(arguments.model, root=root, policy=policy) as memory,
    ):
        full = memory.backend.count(history)
        console.rule(f"{arguments.turns} turns, {full:,} tokens, a window of {WINDOW:,}")
        turns = live_through(memory, history)
        for turn in turns[:: max(1, len(turns) // 5)]:
            console.print(
                f"  turn {turn.number:4}: prompt {turn.prompt:4} tokens, "
                f"{turn.learned:6,} in weights"
            )
        right, without = ask(console, memory, history)
        known = preferred(memory)
        once = said_once(memory, history)
        late = memory[ID].status().absorbed_messages
    longest = max(turn.prompt for turn in turns)
    console.print(f"  longest prompt: {longest} tokens; the history has {full:,}")
    console.print(f"  messages in weights: {late} of {len(history)}")
    console.print(f"  right about Dara: {right} of {len(FACTS)}, without the memory {without}")
    console.print(f"  true likelier than a stranger's: {known} of {len(FACTS)}")
    console.print(f"  said once, likelier than another day's: {once} of 12; chance is 6")
    bounded = longest <= WINDOW and full > 4 * WINDOW
    return 0 if bounded and right > without and known > len(FACTS) // 2 else 1


if __name__ == "__main__":
    sys.exit(main())
