"""Retrieval beside memory: exact lists in the prompt, the person in the weights.

The keeper of a lamp has a bio, which is learned, and a store room whose lists change all the time,
which are not: the list that fits a question comes into the prompt with it (`context=`), found by
words (any retriever will do). Questions about her and about the store are asked in four ways; where
there is no memory, the retriever has her bio, too. Then a list changes, and the answer with it, at
once, because nothing of it was learned.

    python demos/rag_beside_memory.py
    python demos/rag_beside_memory.py --model Qwen/Qwen3-0.6B

With everything to retrieve from, the retriever answers about as much as both together; its prompts
are several times as long, and it needs a word in common. Exits with 1 if both do not answer more
than the memory alone, and about as much as retrieval with half its prompt; or if a list reached the
memory.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from collections.abc import Sequence

from character import FACTS, NAME, bio
from rich import box
from rich.console import Console
from rich.table import Table

from templora_memory import Learning, Message, ParametricMemory, Policy
from templora_memory.models import TINY

ID = "orla"
STEPS = 64
"""Half of the usual passes over a bio, for a quick demo."""
LISTS = (
    "In the box is a tin kite. In the jar is a red feather. In the basket is a wooden spoon.",
    "In the kettle is a silver key. In the drum is a torn map. In the boot is a white shell.",
    "In the barrel is a long rope. In the hat is a green button. In the purse is an old coin.",
    "Numbers\nTamsin: 417\nJory: 86\nWenna: 302",
    "Tamsin went to Mill Heath. Jory went to Crow Harbour. Wenna went to Salt Bridge.",
)
"""The store room and the keeper's notes today: retrieved, never learned."""
STORE = (
    ("What is in the jar?", "red feather"),
    ("What is in the kettle?", "silver key"),
    ("What is in the drum?", "torn map"),
    ("What is in the hat?", "green button"),
    ("What is in the purse?", "old coin"),
    ("Where did Wenna go?", "Salt Bridge"),
)
HERSELF = tuple((FACTS[n].question, FACTS[n].answer.split()[-1]) for n in (1, 3, 4, 6, 7, 11))
CHANGED = ("What is in the jar?", "In the jar is a black candle.", "black candle")
FORMS = {"go": "went", "numbers": "number"}
COMMON = {"what", "is", "in", "the", "of", "did", "where", "who", "you", "your", "do", "a", "an"}


def words(text: str) -> set[str]:
    """Return the words of a text that matter for retrieval."""
    return {FORMS.get(word, word) for word in re.findall(r"\w+", text.lower())} - COMMON


def retrieve(question: str, texts: Sequence[str]) -> tuple[str, ...]:
    """The text that shares most words with the question; none if none shares any."""
    best = max(texts, key=lambda text: len(words(question) & words(text)), default="")
    return (best,) if words(question) & words(best) else ()


class Way:
    """One way to ask: with the memory or without, and with texts to retrieve from."""

    def __init__(self, memory: ParametricMemory, texts: Sequence[str], *, learned: bool) -> None:
        self._memory = memory
        self._texts = texts
        self._learned = learned
        self.longest = 0

    def ask(self, question: str) -> str:
        """Return the answer to a question."""
        asked, context = [Message("user", question)], retrieve(question, self._texts)
        if self._learned:
            reply = self._memory[ID].reply(asked, context=context, revision="head", max_tokens=24)
        else:
            reply = self._memory.without_memory.reply(asked, context=context, max_tokens=24)
        self.longest = max(self.longest, reply.prompt_tokens)
        return reply.text.strip()


def compare(console: Console, memory: ParametricMemory) -> bool:
    """Every question in four ways; returns whether both together are worth it."""
    paragraphs = tuple(bio().split("\n\n"))
    ways = {
        "neither": Way(memory, (), learned=False),
        "retrieval": Way(memory, (*LISTS, *paragraphs), learned=False),
        "memory": Way(memory, (), learned=True),
        "both": Way(memory, LISTS, learned=True),
    }
    table = Table("", "about her", "about the store", "longest prompt", box=box.SIMPLE_HEAD)
    right = {}
    for name, way in ways.items():
        answers = {question: way.ask(question) for question, _ in (*HERSELF, *STORE)}
        her, store = (
            sum(answer.lower() in answers[question].lower() for question, answer in asked)
            for asked in (HERSELF, STORE)
        )
        right[name] = her + store
        counts = (f"{her} of {len(HERSELF)}", f"{store} of {len(STORE)}")
        table.add_row(name, *counts, f"{way.longest} tokens")
    console.print(table)
    for question, text in answers.items():  # of both
        console.print(f"  {question:32} {text}", markup=False)
    enough = right["memory"] < right["both"] >= right["retrieval"] - 2
    return enough and 2 * ways["both"].longest < ways["retrieval"].longest


def change(console: Console, memory: ParametricMemory) -> bool:
    """A list changes; returns whether the answer does."""
    question, text, answer = CHANGED
    asked = [Message("user", question)]
    first = memory[ID].reply(asked, context=retrieve(question, LISTS), max_tokens=24).text.strip()
    now = memory[ID].reply(asked, context=text, max_tokens=24).text.strip()
    console.print(f"  the jar yesterday: {first}\n  the jar today:     {now}", markup=False)
    return answer in now.lower()


def untouched(memory: ParametricMemory, head: str | None) -> bool:
    """Return whether the memory has learned nothing since, and kept none of the lists."""
    memory[ID].wait()
    transcript = memory[ID].transcript()
    texts = [item.text for item in transcript.documents]
    texts += [message.content for message in transcript.messages if message.role == "user"]
    return memory[ID].status().head_name == head and not any(text in LISTS for text in texts)


def main() -> int:
    """Run the demo, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=TINY, help="a name, a hub id, a folder or a .gguf file")
    arguments = parser.parse_args()
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 110)
    policy = Policy(learning=Learning(document_steps=STEPS))
    with (
        tempfile.TemporaryDirectory() as root,
        ParametricMemory.from_pretrained(arguments.model, root=root, policy=policy) as memory,
    ):
        console.rule(f"{NAME} and her store room")
        report = memory[ID].absorb(bio())
        console.print(f"  her bio: {report.tokens:,} tokens in weights, {report.seconds:.1f} s")
        worth = compare(console, memory)
        follows = change(console, memory)
        clean = untouched(memory, report.revision)
    console.print(f"  an answer follows its list: {'yes' if follows else 'NO'}")
    console.print(f"  learned or kept of the lists: {'nothing' if clean else 'SOMETHING'}")
    console.print(f"  both are worth it: {'yes' if worth else 'NO'}")
    return 0 if worth and follows and clean else 1


if __name__ == "__main__":
    sys.exit(main())
