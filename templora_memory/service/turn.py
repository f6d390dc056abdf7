"""What a history asks for: an answer, more of the newest answer, or what its last words say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

from templora_memory.domain.messages import Message, dialogue
from templora_memory.errors import InvalidText


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class AskedTurn:
    """The parts of a history, by what is done with them.

    Args:
        system: system messages, shown before everything.
        dialogue: what is shown, journalled and learned.
        instruction: system text after an assistant's message, or without any dialogue: what this
            one answer is to be. It is shown last, and neither journalled nor learned; nor is its
            answer, because the client alone knows what becomes of it.
        prefill: what the answer begins with; journalled with it.
    """

    system: tuple[Message, ...]
    dialogue: tuple[Message, ...]
    instruction: str
    prefill: str

    @classmethod
    def of(cls, messages: Sequence[Message], *, continue_final_message: bool) -> AskedTurn:
        """Take a history apart by how it ends.

        A user or tool message is answered; system messages after it go with the others. With
        system messages behind an assistant's message, they are the instruction. An assistant's
        message at the end is continued, or with `continue_final_message` False followed by another.

        Raises:
            InvalidText: there is nothing to answer.
        """
        body = dialogue(messages)
        system = tuple(message for message in messages if message.role == "system")
        last = body[-1] if body else None
        trailing = tuple(takewhile(lambda m: m.role == "system", reversed(messages)))[::-1]
        if not body and trailing:
            trailing = trailing[-1:]  # those before it set the scene
        if last is not None and last.role in {"user", "tool"}:
            return cls(system=system, dialogue=body, instruction="", prefill="")
        if instruction := "\n\n".join(m.content for m in trailing if m.content.strip()):
            before = system[: len(system) - len(trailing)]
            return cls(system=before, dialogue=body, instruction=instruction, prefill="")
        if last is None:
            raise InvalidText(
                "There is nothing to answer: the history is empty, or its last system message is."
            )
        if last.role == "assistant" and continue_final_message and last.content:
            return cls(system=system, dialogue=body[:-1], instruction="", prefill=last.content)
        return cls(system=system, dialogue=body, instruction="", prefill="")
