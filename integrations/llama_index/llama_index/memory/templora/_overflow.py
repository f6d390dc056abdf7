"""The turns that may leave a prompt which does not fit the window as it is sent.

A memory counts its own turns. Beside them stand a system prompt, tool descriptions and what an
agent did in this run, which only the language model sees.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import TypeAlias

from llama_index.core.base.llms.types import ChatMessage, MessageRole

from llama_index.memory.templora._messages import is_same

Prompt: TypeAlias = Sequence[ChatMessage]
Fits: TypeAlias = Callable[[Prompt], bool]
"""Whether a prompt, with all that is sent beside its messages, fits the window."""
MakeRoom: TypeAlias = Callable[[Prompt, Fits], "list[ChatMessage] | None"]
"""Evicts and learns turns of a prompt that does not fit, and returns the rest; None: it cannot."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownRows:
    """The place of a memory's rows in a prompt.

    Args:
        prompt: the messages of a call.
        begin: position of the first shown row in it.
        skipped: older rows of the memory that the prompt leaves out.
        rows: the memory's rows that stand there, one after the other.
    """

    prompt: tuple[ChatMessage, ...]
    begin: int
    skipped: int
    rows: tuple[ChatMessage, ...]

    @classmethod
    def find(cls, prompt: Prompt, rows: Prompt) -> ShownRows | None:
        """Return where a prompt shows a memory's rows, from its oldest on."""
        for skipped, row in enumerate(rows):
            for begin, message in enumerate(prompt):
                if is_same(message, row):
                    pairs = zip(prompt[begin:], rows[skipped:], strict=False)
                    shown = tuple(row for _, row in takewhile(lambda pair: is_same(*pair), pairs))
                    return cls(prompt=tuple(prompt), begin=begin, skipped=skipped, rows=shown)
        return None

    def cuts(self) -> list[int]:
        """Return how many rows may leave, fewest first: whole turns, never the newest one.

        The newest turn is the memory's own, unless the prompt goes on with the message of another:
        chat engines put that into the memory only when it is answered.
        """
        starts = [i for i, row in enumerate(self.rows) if i and row.role is MessageRole.USER]
        after = self.prompt[self.begin + len(self.rows) :]
        answered = self.rows[-1].role is not MessageRole.USER
        if after and after[0].role is MessageRole.USER and answered:
            starts.append(len(self.rows))
        return starts

    def without(self, count: int) -> list[ChatMessage]:
        """Return the prompt without the oldest `count` rows."""
        return [*self.prompt[: self.begin], *self.prompt[self.begin + count :]]

    def surplus(self, fits: Fits, size: Callable[[list[ChatMessage]], int], least: int) -> int:
        """Return how many rows have to leave so that the prompt fits; 0 if none may.

        Args:
            fits: says whether a prompt fits.
            size: counts the tokens of rows.
            least: tokens that leave at once, where there are as many: each time costs an update.
        """
        count = 0
        for count in self.cuts():
            if size(list(self.rows[:count])) >= least and fits(self.without(count)):
                break
        return count
