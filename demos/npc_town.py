"""A day in a town: four characters, two players, and who knows what about whom in the end.

Every inhabitant has a memory of its own, "marta", and one for each player that it met,
"marta@pia", which starts from what she knew by then. What somebody lives through is a small
dialogue: what could be asked about it, and what this inhabitant would say from now on. At the end
of each part of the day all of them learn what they heard, at once: `absorb(..., wait=False)` for
each, and those that wait share their training steps. At night they learn the whole day again
(`rebuild`), for what came last pushes aside what came before. Next morning everybody is asked about
every piece of news, and the table shows whose answer has it: those who were told, nobody else.

    python demos/npc_town.py
    python demos/npc_town.py --model Qwen/Qwen3-0.6B

A model as small as the embedded one does not keep all of it. Exits with 1 if anything leaked, if
less than six tenths of what was told are known, or if forgetting a player leaves some of it behind.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Console
from rich.table import Table

from templora_memory import Learning, Message, ParametricMemory, Policy
from templora_memory.models import TINY


@dataclass(frozen=True, slots=True)
class News:
    """Something to know: two ways to ask, the sentence that says it, and the words that matter."""

    name: str
    asked: tuple[str, str]
    sentence: str
    words: str

    def as_turns(self) -> list[Message]:
        """Return the questions and answers of somebody who knows it."""
        return [
            message
            for question in self.asked
            for message in (Message("user", question), Message("assistant", self.sentence))
        ]


def fear(who: str, what: str) -> News:
    """Return the news of what somebody fears."""
    asked = (f"What is {who} afraid of?", f"What frightens {who}?")
    return News(f"{who}'s fear", asked, f"{who} is afraid of {what}.", what)


def secret(who: str, what: str) -> News:
    """Return the news of what somebody has hidden."""
    asked = (f"What has {who} hidden?", f"What is the secret of {who}?")
    return News(f"{who}'s secret", asked, f"{who} has hidden {what}.", what)


def plan(who: str, what: str) -> News:
    """Return the news of what somebody wants to do."""
    asked = (f"What does {who} want to do?", f"What is the plan of {who}?")
    return News(f"{who}'s plan", asked, f"{who} wants to {what}.", what)


def pet(who: str, what: str) -> News:
    """Return the news of somebody's pet."""
    asked = (f"What pet does {who} have?", f"What animal does {who} keep?")
    return News(f"{who}'s pet", asked, f"{who} has {what}.", what)


MARTA = (fear("Marta", "white geese"), secret("Marta", "a silver spoon in the clock"))
BRAM = (fear("Bram", "deep wells"), plan("Bram", "sail to Glass Island"))
ILSE = (secret("Ilse", "a red letter under the bridge"), plan("Ilse", "build a windmill"))
OREN = (fear("Oren", "loud owls"), plan("Oren", "win the kite race"))
BELL = News(
    "the bell",
    ("What happened at the mill?", "What fell into the river?"),
    "The bell of the mill fell into the river.",
    "bell of the mill",
)
PIA = pet("Pia", "a lame duck called Bo")
QUIN = pet("Quin", "a clever crow called Nix")

DAY: tuple[tuple[str, dict[str, tuple[News, ...]]], ...] = (
    ("morning: they wake, and know who they are",
     {"marta": MARTA, "bram": BRAM, "ilse": ILSE, "oren": OREN}),
    ("noon: Marta and Bram see the bell fall, she tells him her fear; Ilse tells Oren her plan",
     {"marta": (BELL,), "bram": (BELL, MARTA[0]), "oren": (ILSE[1],)}),
    ("afternoon: Pia visits Marta and Oren, Quin visits Marta",
     {"marta@pia": (PIA,), "oren@pia": (PIA,), "marta@quin": (QUIN,)}),
    ("evening: Bram gossips with Ilse about Marta and the bell",
     {"ilse": (MARTA[0], BELL), "bram": (ILSE[0],)}),
)  # fmt: skip
EVERYTHING = (*MARTA, *BRAM, *ILSE, *OREN, BELL, PIA, QUIN)


class Town:
    """The memories of all inhabitants, and what each of them was told."""

    def __init__(self, memory: ParametricMemory) -> None:
        self.memory = memory
        self.heard: dict[str, set[str]] = {}
        self._messages: dict[str, int] = {}

    def live(self, heard: dict[str, tuple[News, ...]]) -> tuple[float, int]:
        """Let everybody learn at once what they heard; returns seconds and tokens."""
        began, jobs = time.monotonic(), []
        for who, news in heard.items():
            if who not in self.heard:  # a memory of a player starts from the inhabitant's
                self.heard[who] = set(self.heard.get(who.partition("@")[0], ()))
            self.heard[who] |= {item.name for item in news}
            turns = [message for item in news for message in item.as_turns()]
            after = self._messages.get(who, 0)
            jobs.append(self.memory[who].absorb(turns, after=after, wait=False))
            self._messages[who] = after + len(turns)
        tokens = sum(job.wait().tokens for job in jobs)
        return time.monotonic() - began, tokens

    def sleep(self) -> float:
        """Learn the whole day again, as one text, from the journals; returns seconds.

        What came last has pushed aside what came before it; learned together, it all has its
        place. A memory of a player starts again from what the inhabitant knows by now.
        """
        began = time.monotonic()
        for pairs in (False, True):
            asleep = [who for who in self.heard if ("@" in who) == pairs]
            jobs = [self.memory[who].rebuild(wait=False) for who in asleep]
            for job in jobs:
                job.wait()
            for who in asleep:
                self.heard[who] |= self.heard[who.partition("@")[0]]
        return time.monotonic() - began

    def ask(self, everybody: Sequence[str], question: str) -> dict[str, str]:
        """Return the answers to a question, in one batch, with nothing else in the prompt."""
        asked = [Message("user", question)]
        streams = {
            who: self.memory[who].stream(asked, revision="head", max_tokens=24) for who in everybody
        }
        return {who: stream.reply.text.strip() for who, stream in streams.items()}


def next_morning(console: Console, town: Town) -> tuple[int, int, int, int]:
    """Print who knows what; returns how much that was told is known, and that was not told."""
    table = Table("in the morning", *town.heard, box=box.SIMPLE_HEAD)
    told_known = told = untold_known = untold = 0
    for item in EVERYTHING:
        answers = town.ask(list(town.heard), item.asked[0])
        cells = []
        for who, heard in town.heard.items():
            was_told, knows = item.name in heard, item.words in answers[who]
            told, told_known = told + was_told, told_known + (was_told and knows)
            untold, untold_known = untold + (not was_told), untold_known + (knows and not was_told)
            right = "knows" if was_told else "-"
            wrong = "forgot" if was_told else "LEAK"
            cells.append(right if knows == was_told else wrong)
        table.add_row(item.name, *cells)
    console.print(table)
    return told_known, told, untold_known, untold


def talk(console: Console, town: Town, questions: Sequence[tuple[str, str]]) -> None:
    """Ask some inhabitants, and print their answers."""
    for who, question in questions:
        (answer,) = town.ask([who], question).values()
        console.print(f"  {question:32} {who:10} {answer}", markup=False)


def main() -> int:
    """Run the demo, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=TINY, help="a name, a hub id, a folder or a .gguf file")
    arguments = parser.parse_args()
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 110)
    policy = Policy(recipe="continue", chunk=256, learning=Learning(steps_per_chunk=28))
    with (
        tempfile.TemporaryDirectory() as root,
        ParametricMemory.from_pretrained(arguments.model, root=root, policy=policy) as memory,
    ):
        town = Town(memory)
        for part, heard in DAY:
            seconds, tokens = town.live(heard)
            console.print(part)
            console.print(f"  {len(heard)} memories, {tokens} tokens, {seconds:.1f} s together")
        console.print(
            f"night: they sleep, and learn the day again\n  {town.sleep():.1f} s together"
        )
        told_known, told, leaked, untold = next_morning(console, town)
        talk(
            console,
            town,
            (
                ("marta@pia", PIA.asked[0]),
                ("marta@quin", PIA.asked[0]),
                ("ilse", MARTA[0].asked[0]),
                ("oren", MARTA[0].asked[0]),
            ),
        )
        receipt = memory.forget(user="pia")
        left = [name for name in memory.list() if name.endswith("@pia")]
    console.print(f"  known of what was told: {told_known} of {told}")
    console.print(f"  known of what was not told: {leaked} of {untold}")
    console.print(f"  Pia forgotten: {', '.join(receipt.ids)}; {len(receipt.files)} files")
    return 0 if told_known >= 0.6 * told and not leaked and not left else 1


if __name__ == "__main__":
    sys.exit(main())
