"""Faults, counted: what was tried, and what each of them did to a promise.

`trials` counts for one test and tells `python -m tools.trust`, which adds up. Numbers come from
the environment: `TEMPLORA_PLACES` random places for each kind of fault, `TEMPLORA_SEED`.
"""

import json
import os
import pickle
import random
import shutil
import signal
import traceback
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import pytest

from templora_memory import Message, ParametricMemory, Policy
from templora_memory.errors import StoreError, TemploraError
from templora_memory.stores import DirectoryStore
from templora_memory.testing import FakeBackend

PLACES = int(os.environ.get("TEMPLORA_PLACES", "8"))
SEED = int(os.environ.get("TEMPLORA_SEED", "0"))
CALLS = (
    "open", "write", "fsync", "rename", "replace", "unlink", "remove", "rmdir", "mkdir", "chmod",
    "ftruncate", "truncate", "close",
)  # fmt: skip
POLICY = Policy(window=64, reply_tokens=24, chunk=12, keep_revisions=3)


# --- counting ----------------------------------------------------------------------------------


class Broken(AssertionError):
    """A promise was broken; `column` says which."""

    def __init__(self, column, said):
        super().__init__(said)
        self.column = column


class Trials:
    """Counts faults, and which promise each of them broke."""

    def __init__(self):
        self._rows = {}
        self._found = []

    @contextmanager
    def one(self, kind, place=""):
        """One fault: what follows it is checked inside; a failed check counts."""
        row = self._rows.setdefault(kind, Counter(lost=0, half=0, unclear=0))
        row["tried"] += 1
        try:
            yield
        except Broken as error:
            row[error.column] += 1
            self._found.append(f"{kind}, {place}: {error}")
        except AssertionError as error:
            row["half"] += 1
            self._found.append(f"{kind}, {place}: {error}")

    @staticmethod
    def text_lost(said):
        raise Broken("lost", said)

    @staticmethod
    def half_state(said):
        raise Broken("half", said)

    @staticmethod
    def unclear_error(error):
        ours = [f for f in traceback.extract_tb(error.__traceback__) if "templora" in f.filename]
        where = " < ".join(f"{f.name}:{f.lineno}" for f in reversed(ours[-4:]))
        raise Broken("unclear", f"{type(error).__name__}: {error} (in {where})") from error

    def settle(self, record):
        for kind, row in self._rows.items():
            record("trust", {"suite": "faults", "kind": kind, **row})
        assert not self._found, f"{len(self._found)} broken: " + "\n".join(self._found[:5])


@pytest.fixture
def trials(record_property):
    made = Trials()
    yield made
    made.settle(record_property)


@pytest.fixture
def places():
    return PLACES


@pytest.fixture
def rng(request):
    """The same for every run of one test with one seed."""
    return random.Random(f"{SEED}/{request.node.name}")  # noqa: S311


# --- killing -----------------------------------------------------------------------------------


def _watch(around):
    """From now on, `around(name, real, *args)` makes each of `CALLS` in this process."""
    for name in CALLS:
        setattr(os, name, partial(around, name, getattr(os, name)))


@pytest.fixture(scope="session")
def watch():
    """For processes of their own only: it is never taken back."""
    return _watch


def _die_at(number):
    """From now on, kill this process when one of `CALLS` is made for the n-th time."""
    seen = {"calls": 0}

    def call(name, real, *args, **kwargs):
        seen["calls"] += 1
        if seen["calls"] == number:
            if name == "write" and len(args[1]) > 1:
                real(args[0], args[1][: len(args[1]) // 2])  # a torn write
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **kwargs)

    _watch(call)
    return seen


class Child:
    """A forked process that is killed at one of its calls, and what it said before."""

    def __init__(self, work, number=0):
        """`work(acknowledge)` runs in the child; what it acknowledges survives its death."""
        reader, writer = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            code = 1
            try:
                os.close(reader)
                real_write = os.write
                seen = _die_at(number)
                work(lambda value: real_write(writer, pickle.dumps(value)))
                real_write(writer, pickle.dumps(("calls", seen["calls"])))
                code = 0
            except BaseException:  # noqa: BLE001  # shown, then the child must end
                traceback.print_exc()
            finally:
                os._exit(code)
        os.close(writer)
        self._reader = reader
        self.acknowledged = []
        self.calls = None  # how many there were, of one that was not killed
        self.finished = False

    def kill(self):
        os.kill(self._pid, signal.SIGKILL)

    def wait(self):
        with os.fdopen(self._reader, "rb") as pipe:
            while True:
                try:
                    self.acknowledged.append(pickle.load(pipe))  # noqa: S301  # our own child's
                except EOFError:
                    break
        _, status = os.waitpid(self._pid, 0)
        if os.WIFSIGNALED(status):
            assert os.WTERMSIG(status) == signal.SIGKILL
        else:
            assert os.WEXITSTATUS(status) == 0, "the scenario failed by itself"
            self.finished = True
            _, self.calls = self.acknowledged.pop()
        return self


@pytest.fixture
def child():
    return Child


class Killer:
    """Runs a scenario again and again, each time killed one call later."""

    def __init__(self, folder, trials):
        self._folder = folder
        self._trials = trials
        self.kills = 0

    def run(self, prepare, scenario, check):
        """`check(root, acknowledged, finished)` after every death and after the full run."""
        template = self._folder / "template"
        prepare(template)
        finished = False
        while not finished:
            number = self.kills + 1
            root = self._folder / f"run{number}"
            shutil.copytree(template, root)
            made = Child(lambda say, root=root: scenario(root, say), number).wait()
            finished = made.finished
            self.kills += not finished
            with self._trials.one("SIGKILL at each call", f"call {number}"):
                check(root, made.acknowledged, finished)
            shutil.rmtree(root)
        assert self.kills > 3, "the scenario changes hardly anything: is it the right one?"


@pytest.fixture
def killer(tmp_path, trials):
    return Killer(tmp_path, trials)


# --- a life to disturb -------------------------------------------------------------------------


@dataclass(frozen=True)
class Told:
    """What a memory holds: its documents and its newest conversation.

    Of replies only that they are there: they depend on what was learned by then.
    """

    documents: tuple
    messages: tuple

    @classmethod
    def of(cls, memory, name):
        found = memory[name].transcript()
        said = (m.content if m.role == "user" else "(a reply)" for m in found.messages)
        return cls(tuple(d.text for d in found.documents), tuple(said))


class Life:
    """Random, but always the same: some memories that learn, talk, are copied and forgotten."""

    names = ("ada", "ada@bob", "eve")

    def __init__(self, seed, steps=16):
        rng = random.Random(seed)  # noqa: S311
        self.steps = [("absorb", "ada", "zanzibar bees of Ada")]
        verbs = (
            "absorb",
            "talk",
            "talk",
            "edit",
            "fork",
            "rollback",
            "rebuild",
            "forget",
            "export",
        )
        for number in range(1, steps):
            self.steps.append((rng.choice(verbs), rng.choice(self.names), f"zanzibar {number}"))

    @staticmethod
    def service(root, *, key=None, **backend):
        return ParametricMemory(FakeBackend(**backend), DirectoryStore(root, key=key), POLICY)

    def run(self, root, after=lambda *_: None, *, memory=None):
        """Take the steps; `after(number, snapshot)` after each of them."""
        own = memory or self.service(root).load()
        try:
            for number, (verb, name, words) in enumerate(self.steps):
                self._step(own, verb, name, words)
                own.wait()
                if name in own.list() and (failed := own[name].status().last_error):
                    raise StoreError(failed)  # the reply is not kept yet: its caller has it
                after(number, self.snapshot(own))
        finally:
            if memory is None:
                own.close()

    @staticmethod
    def snapshot(memory):
        return {name: Told.of(memory, name) for name in memory.list()}

    def _step(self, memory, verb, name, words):  # noqa: C901, PLR0912  # one branch a verb
        exists = name in memory.list()
        if verb == "absorb":
            memory[name].absorb(f"Text {words} of {name}.")
        elif verb == "talk":
            said = memory[name].transcript().messages if exists else ()
            memory[name].reply([*said, Message("user", f"What of {words} for {name}, please?")])
        elif not exists:
            return
        elif verb == "edit":
            said = memory[name].transcript().messages
            if said:
                memory[name].reply([*said[: len(said) // 4 * 2], Message("user", f"No, {words}?")])
        elif verb == "fork":
            if "copy" not in memory.list():
                memory[name].fork("copy")
        elif verb == "rollback":
            if memory[name].revisions():
                memory[name].rollback(memory[name].revisions()[0].name)
        elif verb == "rebuild":
            origin = memory._store.manifest(name).origin
            if origin is None or (origin.id in memory.list() and memory[origin.id].head()):
                memory[name].rebuild()
        elif verb == "forget":
            memory[name].forget()
        else:
            memory[name].export(memory._store.root.parent / "export.zip")


@pytest.fixture(scope="session")
def life():
    return Life


def _common(one, other):
    count = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        count += 1
    return count


class Judge:
    """Looks at a root after a fault, as the next start would."""

    def __init__(self, trials):
        self._trials = trials

    def between(self, root, before, after):
        """A fresh start finds each memory as it was before the disturbed step, or on its way."""
        try:
            with Life.service(root) as memory:
                self._entries(root, memory)
                self.texts(self._snapshot(memory), before, after)
                self.use(memory)
        except TemploraError as error:
            self._trials.unclear_error(error)

    @staticmethod
    def _snapshot(memory):
        return Life.snapshot(memory)

    def texts(self, now, before, after):
        lost, half = self._trials.text_lost, self._trials.half_state
        for name in set(before) & set(after) - set(now):
            lost(f"{name} is gone")
        for name, told in now.items():
            if name not in before and name not in after:
                half(f"{name} came from nowhere")
            old = before.get(name, Told((), ()))
            new = after.get(name, old)
            documents = set(told.documents)
            if missing := set(old.documents) & set(new.documents) - documents:
                lost(f"{name} lacks {missing}")
            if strange := documents - set(old.documents) - set(new.documents):
                half(f"{name} holds {strange}")
            messages = told.messages
            on_the_way = messages == new.messages[: len(messages)]
            if messages != old.messages and not on_the_way:
                half(f"{name} says {messages}")
            if len(messages) < _common(old.messages, new.messages):
                lost(f"{name} lacks messages: {messages}")

    def _entries(self, root, memory):
        if {entry.name for entry in root.iterdir()} != set(memory.list()):
            self._trials.half_state(f"{sorted(e.name for e in root.iterdir())} are there")
        for name in memory.list():
            folder = root / name
            manifest = memory._store.manifest(name)
            there = {entry.name for entry in folder.iterdir()}
            if not there <= {"manifest.json", "journal.jsonl", "lock", "revisions"}:
                self._trials.half_state(f"{sorted(there)} are in {name}")
            folders = {entry.name for entry in (folder / "revisions").iterdir()}
            if folders != {revision.name for revision in manifest.revisions}:
                self._trials.half_state(f"{name}: other folders than the manifest names")
            for revision in manifest.revisions:
                held = memory._store.folder(name, revision) / "adapter.json"
                texts = json.loads(held.read_text())
                if not all("zanzibar" in text or text.startswith("I see") for text in texts):
                    self._trials.half_state(f"{name} has learned something else")

    @staticmethod
    def use(memory):
        """What was interrupted is made up for, and everything works."""
        for name in memory.list():
            memory[name].resume().wait()
            status = memory[name].status()
            assert status.absorbed_documents >= status.document_count, f"{name} cannot go on"
            assert memory[name].reply([Message("user", "Who keeps bees?")]).text
            memory[name].absorb("zanzibar afterwards")
            memory.wait()
            assert memory[name].status().last_error is None
        for name in memory.list():
            if name in memory.list():
                memory[name].forget()
        assert memory.list() == ()
        left = [p for p in memory._store.root.rglob("*") if p.is_file()]
        left += memory._store.root.parent.glob(".export.zip*")
        assert not left, f"{left} outlived the forget"


@pytest.fixture
def judge(trials):
    return Judge(trials)
