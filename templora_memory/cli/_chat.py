"""A conversation in a terminal: typed lines are messages, lines that begin with / are commands."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from prompt_toolkit import PromptSession
from prompt_toolkit.history import InMemoryHistory

from templora_memory.cli._call import Call
from templora_memory.cli._clean import clean
from templora_memory.domain.messages import Message
from templora_memory.domain.results import Reply
from templora_memory.domain.settings import Sampling
from templora_memory.domain.suggestions import did_you_mean
from templora_memory.errors import TemploraError, UnknownMemory
from templora_memory.service.answering import ReplyOptions
from templora_memory.service.memory import Memory, WithoutMemory

COMMANDS = {
    "/help": "show this",
    "/bye": "leave, as Ctrl-D does",
    "/undo": "take back your newest message and its answer",
    "/retry": "answer your newest message once more, differently",
    "/memory on|off": "answer with the memory, or as if there were none; off keeps nothing",
    "/strength N": "factor on the memory; 0 is the base model",
    "/probe QUESTION | ANSWER": "how likely an answer is, with the memory and without it",
    "/system TEXT": "set the system message; without TEXT show it, - removes it",
    "/multi": "write one message of several lines",
    "/forget": "delete the memory and all it learned, and leave",
}
_WORDS = [line.split()[0] for line in COMMANDS]
_LEAVE = {"exit", "quit", "/exit", "/quit", "/bye"}
_RETRY_TEMPERATURE = 0.8  # where answers are not drawn: the likeliest one would come again


class ReadLine(Protocol):
    """Reads what is typed; raises `EOFError` at its end and `KeyboardInterrupt` on Ctrl-C."""

    def __call__(self, prompt: str, *, multiline: bool = False) -> str:
        """Return the text."""
        ...


def typed_lines() -> ReadLine:
    """Return a reader with line editing and a history of this session."""
    session: PromptSession[str] = PromptSession(history=InMemoryHistory())

    def read(prompt: str, *, multiline: bool = False) -> str:
        return session.prompt(prompt, multiline=multiline)

    return read


class TerminalChat:
    """One memory, its conversation so far, and how it is to answer.

    Args:
        call: where text goes.
        memory: whom one talks with.
        without: the base model alone, for ``/memory off``.
        history: the conversation that goes on.
        system: system message; "" for none.
        options: of every answer.
        keeps: False if nothing of the conversation is to be journalled or learned.
    """

    def __init__(
        self,
        call: Call,
        memory: Memory,
        without: WithoutMemory,
        *,
        history: list[Message],
        system: str,
        options: ReplyOptions,
        keeps: bool = True,
    ) -> None:
        self._call = call
        self._memory = memory
        self._without = without
        self._history = history
        self._first_here = len(history)  # what was said before stands in no prompt without memory
        self._system = system
        self._options = options
        self._keeps = keeps
        self._with_memory = True
        self._asked = ""  # the newest message, also if it has no answer
        self._commands: dict[str, Callable[[str, ReadLine], bool]] = {
            "/help": self._help,
            "/undo": self._undo,
            "/retry": self._retry,
            "/memory": self._switch,
            "/strength": self._set_strength,
            "/probe": self._probe,
            "/system": self._set_system,
            "/multi": self._write_lines,
            "/forget": self._forget,
        }

    def run(self, read: ReadLine) -> None:
        """Talk until Ctrl-D, /bye or /forget."""
        self._greet()
        while True:
            try:
                line = clean(read("> ")).strip()
            except EOFError:
                return
            except KeyboardInterrupt:
                self._note("Ctrl-D or /bye leaves.")
                continue
            if line in _LEAVE:
                return
            if not line:
                continue
            try:
                if not self._obey(line, read):
                    return
            except KeyboardInterrupt:
                self._call.piece("\n")
                self._note("stopped; /retry answers again.")
            except TemploraError as error:
                self._note(str(error))

    def _note(self, text: str) -> None:
        self._call.warn(text)

    def _greet(self) -> None:
        told = f"{len(self._history)} messages so far" if self._history else "a new conversation"
        self._note(
            f"talking with {self._memory.id} ({told}). /help shows the commands, Ctrl-C stops an "
            "answer, Ctrl-D leaves."
        )

    def _obey(self, line: str, read: ReadLine) -> bool:
        """Do what a line says; returns whether the conversation goes on."""
        if not line.startswith("/"):
            self.say(line)
            return True
        word, _, rest = line.partition(" ")
        command = self._commands.get(word)
        if command is None:
            self._note(f"There is no command {word}.{did_you_mean(word, _WORDS)} See /help.")
            return True
        return command(rest.strip(), read)

    # --- answers -------------------------------------------------------------------------------

    def say(self, text: str, sampling: Sampling | None = None) -> Reply:
        """Send a message and show its answer as it comes."""
        self._asked = text
        question = Message("user", text)
        lead = [Message("system", self._system)] if self._system else []
        options = self._options
        if sampling is not None:
            options = {**options, "sampling": sampling}
        if self._with_memory:
            stream = self._memory.stream([*lead, *self._history, question], **options)
        else:
            here = self._history[self._first_here :]
            without: ReplyOptions = {**options, "revision": None}
            stream = self._without.stream([*lead, *here, question], **without)
        with stream:
            for piece in stream:
                self._call.piece(piece)
            self._call.piece("\n")
            reply = stream.reply
        if self._with_memory:
            self._history += [question, Message("assistant", reply.text)]
        return reply

    def _retry(self, rest: str, read: ReadLine) -> bool:
        del rest, read
        start = self._newest_exchange()
        exchange = self._history[start:]
        asked = self._asked or (exchange[0].content if exchange else "")
        if not asked:
            self._note("there is nothing to answer again.")
            return True
        # one that was stopped is not in the history
        taken = exchange if exchange and exchange[0].content == asked else []
        del self._history[len(self._history) - len(taken) :]
        drawn = self._options.get("sampling") or Sampling()
        drawn = replace(
            drawn,
            temperature=drawn.temperature or _RETRY_TEMPERATURE,
            seed=secrets.randbits(31),
        )
        try:
            self.say(asked, drawn)
        except BaseException:
            self._history += taken  # the older answer stays
            raise
        return True

    def _newest_exchange(self) -> int:
        """Return where the newest message of the user stands."""
        users = (i for i, said in enumerate(self._history) if said.role == "user")
        return max(users, default=0)

    def _undo(self, rest: str, read: ReadLine) -> bool:
        del rest, read
        if not self._history:
            self._note("there is nothing to take back.")
            return True
        shorter = self._history[: self._newest_exchange()]
        if self._keeps:
            self._memory.rewind(len(shorter))
        self._history = shorter
        self._first_here = min(self._first_here, len(shorter))
        self._asked = ""
        self._note("taken back: your newest message and its answer.")
        return True

    # --- settings ------------------------------------------------------------------------------

    def _help(self, rest: str, read: ReadLine) -> bool:
        del rest, read
        width = max(map(len, COMMANDS))
        for command, meaning in COMMANDS.items():
            self._call.piece(f"{command:<{width}}  {meaning}\n")
        return True

    def _switch(self, rest: str, read: ReadLine) -> bool:
        del read
        if rest in {"on", "off"}:
            self._with_memory = rest == "on"
        elif rest:
            self._note(f"/memory {rest}: on or off?")
            return True
        self._note(f"memory is {'on' if self._with_memory else 'off: nothing said now is kept'}.")
        return True

    def _set_strength(self, rest: str, read: ReadLine) -> bool:
        del read
        try:
            value = float(rest) if rest else self._options.get("strength", 1.0)
        except ValueError:
            value = -1.0
        if not 0 <= value < float("inf"):
            self._note(f"/strength {rest}: a number from 0, such as 0.5.")
            return True
        self._options["strength"] = value
        self._note(f"strength is {value:g}.")
        return True

    def _set_system(self, rest: str, read: ReadLine) -> bool:
        del read
        if rest:
            self._system = "" if rest == "-" else rest
        self._note(f"system message: {self._system or 'none'}")
        return True

    def _probe(self, rest: str, read: ReadLine) -> bool:
        del read
        question, bar, answer = (part.strip() for part in rest.partition("|"))
        if not (question and bar and answer):
            self._note("/probe QUESTION | ANSWER")
            return True
        result = self._memory.probe(question, answer, strength=self._options.get("strength", 1.0))
        self._call.piece(
            f"{result.without_memory:.2f} nats without, {result.with_memory:.2f} with the memory; "
            f"gain {result.gain:+.3f} per token\n"
        )
        return True

    def _write_lines(self, rest: str, read: ReadLine) -> bool:
        del rest
        self._note("Esc and then Enter sends, Ctrl-C gives it up.")
        try:
            text = clean(read(". ", multiline=True)).strip()
        except (EOFError, KeyboardInterrupt):
            self._note("nothing was sent.")
            return True
        if text:
            self.say(text)
        return True

    def _forget(self, rest: str, read: ReadLine) -> bool:
        del rest
        name = self._memory.id
        try:
            answer = read(f"Forget memory {name!r} and all it learned, for good? [y/N] ")
        except (EOFError, KeyboardInterrupt):
            answer = ""
        if answer.strip().lower() not in {"y", "yes"}:
            self._note("nothing was forgotten.")
            return True
        try:
            receipt = self._memory.forget()
        except UnknownMemory as error:  # nothing was said yet
            self._note(str(error))
            return True
        self._note(f"forgotten: {', '.join(receipt.ids)}; {len(receipt.files)} files removed.")
        return False
