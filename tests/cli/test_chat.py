"""A conversation in a terminal: in a real one (a pty), and what of it is kept."""

import json
import os
import select
import signal
import sys
import time

import pytest

from templora_memory import ParametricMemory
from templora_memory.cli._clean import clean
from templora_memory.stores import DirectoryStore
from templora_memory.testing import FakeBackend

pty = pytest.importorskip("pty", reason="no pseudo-terminals on this system")

PROGRAM = """
import sys, time
from templora_memory import ParametricMemory, Policy
from templora_memory.cli import main
from templora_memory.stores import DirectoryStore
from templora_memory.testing import FakeBackend
from templora_memory.testing import _fake

slow = _fake.FakeStream.__iter__

def slowly(self):
    for piece in slow(self):
        yield piece
        time.sleep(0.5 if "slowly" in piece else 0)

_fake.FakeStream.__iter__ = slowly

def open_service(*_, root, **__):
    policy = Policy(window=96, reply_tokens=24, chunk=16)
    return ParametricMemory(FakeBackend(name="templora/tiny"), DirectoryStore(root), policy)

ParametricMemory.from_pretrained = open_service
sys.exit(main(["chat", "ada", "--root", sys.argv[1], *sys.argv[2:]]))
"""


PROMPT = "\x1b[?2004h"  # a prompt is ready: it asks for bracketed paste


class Terminal:
    """A chat in a pseudo-terminal."""

    def __init__(self, root, *options):
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            os.environ |= {"TERM": "xterm", "TEMPLORA_CONFIG": str(root / "no-config.json")}
            os.environ.pop("COLUMNS", None)
            command = [sys.executable, "-c", PROGRAM, str(root), *options]
            os.execv(command[0], command)  # noqa: S606
        self.shown = b""
        self.seen = 0

    def wait_for(self, text):
        """Read until this stands somewhere behind what was waited for before."""
        until = time.monotonic() + 60
        while text.encode() not in self.shown[self.seen :]:
            assert time.monotonic() < until, self.shown.decode(errors="replace")[-2000:]
            self._read()
        self.seen = self.shown.index(text.encode(), self.seen) + len(text.encode())

    def _read(self):
        if select.select([self.fd], [], [], 0.2)[0]:
            try:
                data = os.read(self.fd, 65536)
            except OSError:
                data = b""
            # as a terminal answers prompt_toolkit's question where the cursor is
            if b"\x1b[6n" in data:
                os.write(self.fd, b"\x1b[1;1R")
            self.shown += data

    def type(self, text):
        os.write(self.fd, text.encode())

    def ask(self, text, expected):
        self.wait_for(PROMPT)
        self.type(f"{text}\r")
        self.wait_for(expected)

    def leave(self, text="\x04"):
        self.wait_for(PROMPT)
        self.type(text)
        return self.end()

    def end(self):
        until = time.monotonic() + 60
        while time.monotonic() < until:
            done, status = os.waitpid(self.pid, os.WNOHANG)
            if done:
                os.close(self.fd)
                self.pid = 0
                return os.waitstatus_to_exitcode(status)
            self._read()
        raise AssertionError(self.shown[-2000:])


@pytest.fixture
def terminal(tmp_path):
    opened = []

    def make(*options):
        opened.append(Terminal(tmp_path, *options))
        return opened[-1]

    yield make
    for one in opened:
        if one.pid:
            os.kill(one.pid, signal.SIGKILL)
            os.waitpid(one.pid, 0)


def messages(root, memory_id="ada"):
    with ParametricMemory(FakeBackend(name="templora/tiny"), DirectoryStore(root)) as memory:
        return [m.content for m in memory[memory_id].transcript().messages if m.role == "user"]


def test_a_chat_greets_answers_and_ends_with_ctrl_d(terminal, tmp_path):
    chat = terminal()
    chat.wait_for("Ctrl-D leaves")
    chat.ask("My boat is called Heron.", "\r\n")
    chat.ask("", "\r\n")
    chat.ask("What is my boat called?", "Heron")
    chat.ask("/help", "/strength N")
    assert chat.leave() == 0
    assert messages(tmp_path) == ["My boat is called Heron.", "What is my boat called?"]


def test_keys_and_escape_sequences_reach_neither_journal_nor_terminal(terminal, tmp_path):
    chat = terminal()
    # arrow keys edit the line; what is pasted raw is cleaned
    chat.ask("My cat is called Pin\x1b[D\x1b[C\x7fm.", "\r\n")
    chat.ask("\x1b[A", "\r\n")  # the line before, once more
    assert chat.leave("exit\r") == 0
    journal = (tmp_path / "ada" / "journal.jsonl").read_text("utf-8")
    said = [line.get("content", "") for line in map(json.loads, journal.splitlines())]
    assert not any(ord(sign) < 32 or ord(sign) == 127 for text in said for sign in text)
    assert set(messages(tmp_path)) == {"My cat is called Pim."}


def test_commands_are_no_messages(terminal, tmp_path):
    chat = terminal()
    chat.ask("My boat is called Heron.", "\r\n")
    chat.ask("/strenght 0", "Did you mean '/strength'")
    chat.ask("/strength 0", "strength is 0")
    chat.ask("/strength x", "a number from 0")
    chat.ask("/strength 1", "strength is 1")
    chat.ask("/memory off", "memory is off")
    chat.ask("A secret word.", "\r\n")
    chat.ask("/memory on", "memory is on")
    chat.ask("/system Be brief.", "system message: Be brief.")
    chat.ask("/probe What is my boat called? | Heron", "nats")
    chat.ask("A mistake.", "\r\n")
    chat.ask("/retry", "\r\n")
    chat.ask("/undo", "taken back")
    assert chat.leave("/bye\r") == 0
    assert messages(tmp_path) == ["My boat is called Heron."]


def test_several_lines_are_one_message(terminal, tmp_path):
    chat = terminal()
    chat.ask("/multi", "Esc and then Enter")
    chat.wait_for(PROMPT)
    chat.type("First line.\rSecond line.\x1b\r")
    assert chat.leave() == 0
    assert messages(tmp_path) == ["First line.\nSecond line."]


def test_forget_asks_and_leaves_nothing(terminal, tmp_path):
    chat = terminal()
    chat.ask("My boat is called Heron.", "\r\n")
    chat.ask("/forget", PROMPT)
    chat.type("n\r")
    chat.wait_for("nothing was forgotten")
    chat.ask("/forget", PROMPT)
    chat.type("y\r")
    chat.wait_for("files removed")
    assert chat.end() == 0
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_ctrl_c_stops_the_answer_and_not_the_chat(terminal, tmp_path):
    chat = terminal()
    told = f"The list is {' '.join(f'slowly{n}' for n in range(12))}."
    chat.ask(told, "I see")
    chat.ask("What is the list?", "slowly3")
    chat.type("\x03")
    chat.wait_for("stopped; /retry")
    chat.ask("Another thing.", "\r\n")
    assert chat.leave() == 0
    assert messages(tmp_path) == [told, "Another thing."]


@pytest.mark.parametrize(
    ("typed", "kept"),
    [
        ("plain\ttext\nmore", "plain\ttext\nmore"),
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]0;title\x07after", "after"),
        ("a\x00b\x7fc\x9bd", "abc"),
        ("\x1b", ""),
        ("line\r\nline", "line\nline"),
        ("Füße 漢字 🎉", "Füße 漢字 🎉"),
    ],
)
def test_control_characters_are_taken_out(typed, kept):
    assert clean(typed) == kept
