"""Sixty turns with an absorbed character through a small window: does she stay herself?

Absorbs the bio of an invented character, then talks with her for sixty turns: small talk, and
every fact of her bio twice, in two wordings. Only the newest turns fit the window of 512 tokens;
what leaves it is learned while the conversation goes on. Prints every turn, checks the facts along
the way, and compares the prompt with what the full history would be.

    python demos/long_chat.py
    python demos/long_chat.py --model Qwen/Qwen3-0.6B --quiet
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import dataclass

from character import FACTS, NAME, Fact, bio
from rich.console import Console

from templora_memory import Learning, Message, ParametricMemory, Policy
from templora_memory.models import TINY

ID = "orla"
SMALL_TALK = (
    "Hello! Nice to meet you.", "How are you today?", "What a beautiful day.", "I am a bit tired.",
    "I like talking with you.", "What did you do today?", "That is interesting.", "Is that true?",
    "Are you happy?", "I brought you something.", "Shall we go for a walk?", "It is raining again.",
    "Do you know a joke?", "You are very kind.", "Can you help me?", "I had a good day.",
    "I did not know that.", "What do you think?", "Do you have time to talk?", "I am sorry.",
    "Tell me about yourself.", "It is cold today.", "How are things?", "I see.",
    "You are funny.", "Are you sure?", "How was your day?", "I will come back tomorrow.",
    "Will you remember me?", "Goodbye, and thank you.",
)  # fmt: skip
AGAIN = (
    "Where is your home?", "What do you do for a living?", "What is your age?",
    "Do you have a pet?", "Whom do you trust?", "Whom do you dislike?", "What frightens you?",
    "What do you like to eat?", "Which colour do you like best?", "What is your treasure?",
    "Who taught you?", "What do you enjoy?", "What is your market day?",
    "What do you want to do?", "What have you hidden?",
)  # fmt: skip
"""The questions about FACTS in other words, in the same order."""


@dataclass(frozen=True, slots=True)
class Turn:
    """A message of the user, and the fact that a right answer contains."""

    says: str
    fact: Fact | None


def script() -> list[Turn]:
    """Sixty turns: small talk and questions by turns, every fact twice."""
    asked = [Turn(fact.question, fact) for fact in FACTS]
    asked += [Turn(says, fact) for says, fact in zip(AGAIN, FACTS, strict=True)]
    talk = [Turn(says, None) for says in SMALL_TALK]
    return [turn for pair in zip(talk, asked, strict=True) for turn in pair]


def main() -> int:
    """Run the demo, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=TINY, help="a name, a hub id, a folder or a .gguf file")
    parser.add_argument("--window", type=int, default=512, help="tokens of prompt and reply")
    # half of the default: so small a model has no room for all it knows and all it is told
    parser.add_argument("--pull", type=float, default=0.5, help="pull to the base while learning")
    parser.add_argument("--quiet", action="store_true", help="print the figures only")
    arguments = parser.parse_args()
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 110)
    policy = Policy(
        window=arguments.window, reply_tokens=48, learning=Learning(kl_weight=arguments.pull)
    )
    history: list[Message] = []
    right, longest = [0, 0], 0
    with (
        tempfile.TemporaryDirectory() as root,
        ParametricMemory.from_pretrained(arguments.model, root=root, policy=policy) as memory,
    ):
        memory[ID].absorb(bio())
        for number, turn in enumerate(script()):
            history.append(Message("user", turn.says))
            reply = memory[ID].reply(history)
            history.append(Message("assistant", reply.text.strip() or "..."))
            longest = max(longest, reply.prompt_tokens)
            good = turn.fact and turn.fact.answer.removeprefix("to ").lower() in reply.text.lower()
            right[number >= 2 * len(FACTS)] += bool(good)
            if not arguments.quiet:
                mark = "" if turn.fact is None else " [right]" if good else " [wrong]"
                console.print(f"user  {turn.says}", markup=False)
                console.print(f"  {NAME.split()[0]}  {reply.text.strip()}{mark}", markup=False)
            memory[ID].wait()
        full = memory.backend.count([Message("system", bio()), *history])
        learned = memory[ID].status().absorbed_messages
    console.print(
        f"{len(history) // 2} turns; facts right: {right[0]} of {len(FACTS)} in the first half, "
        f"{right[1]} of {len(FACTS)} in the second; {learned} of {len(history)} messages learned; "
        f"longest prompt {longest} tokens, bio and history would be {full:,}."
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
