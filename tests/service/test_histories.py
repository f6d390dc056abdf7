"""Any order of talking, editing, absorbing, forking, going back and forgetting, against a model."""

import json
import shutil
import tempfile
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from hypothesis import HealthCheck, settings, strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from templora_memory import Message, ParametricMemory, Policy
from templora_memory.stores import DirectoryStore
from templora_memory.testing import FakeBackend

NAMES = ("ada", "ada@bob", "eve")
names = st.sampled_from(NAMES)


@dataclass
class Expected:
    """What a memory should know: documents by digest, own and inherited, and the conversation."""

    documents: dict = field(default_factory=dict)
    inherited: tuple = ()
    history: list = field(default_factory=list)


class Histories(RuleBasedStateMachine):
    @initialize()
    def start(self):
        self.folder = Path(tempfile.mkdtemp())
        self.backend = FakeBackend()
        self.service = ParametricMemory(
            self.backend,
            DirectoryStore(self.folder / "root"),
            Policy(window=80, reply_tokens=24, chunk=12, keep_revisions=3),
        ).load()
        self.expected = {}
        self.forgotten = set()
        self.fresh = count()

    def word(self, name):
        return f"{name.replace('@', 'at')}word{next(self.fresh)}x"

    def made(self, name):
        if name not in self.expected:
            head = (
                self.service["ada"].head() if name == "ada@bob" and "ada" in self.expected else None
            )
            inherited = tuple(self.texts("ada", head.name)) if head else ()
            self.expected[name] = Expected(inherited=inherited)
        return self.expected[name]

    def texts(self, name, revision):
        if revision is None:
            return []
        (found,) = [r for r in self.service[name].revisions() if r.name == revision]
        folder = self.service._store.folder(name, found)
        return json.loads((folder / "adapter.json").read_text())

    @rule(name=names)
    def absorb(self, name):
        expected = self.made(name)
        text = f"The bio says {self.word(name)}."
        self.service[name].absorb(text)
        expected.documents[self.service[name].head().documents[-1]] = text

    @rule(name=names, talk=st.integers(1, 4))
    def talk(self, name, talk):
        for _ in range(talk):
            expected = self.made(name)
            expected.history.append(
                Message("user", f"Please tell me all about {self.word(name)} now?")
            )
            self.answer(name)

    @precondition(lambda self: any(e.history for e in self.expected.values()))
    @rule(name=names, data=st.data(), again=st.booleans())
    def edit_or_retry(self, name, data, again):
        expected = self.expected.get(name)
        if expected is None or not expected.history:
            return
        turn = data.draw(st.integers(0, len(expected.history) // 2 - 1))
        asked = expected.history[2 * turn]
        if not again:
            asked = Message("user", f"No, what about {self.word(name)} then?")
        expected.history[2 * turn :] = [asked]
        self.answer(name)

    def answer(self, name):
        expected = self.expected[name]
        reply = self.service[name].reply(expected.history)
        request = self.backend.requests[-1]
        assert self.backend.count(request.messages) <= 80 - 24
        learned = self.texts(name, reply.revision)
        shown = [message.content for message in request.messages]
        documents = {*expected.documents.values(), *expected.inherited}
        dialogue = [text for text in learned if text not in documents]
        # what the model has, in weights and prompt, is the conversation: once, and nothing else
        assert dialogue + shown == [message.content for message in expected.history]
        assert {text for text in learned if text in documents} == documents
        expected.history.append(Message("assistant", reply.text))
        self.service.wait()
        assert self.service[name].status().last_error is None
        assert self.service[name].transcript().messages == tuple(expected.history)

    @rule(name=names, data=st.data())
    def rollback(self, name, data):
        if name not in self.expected or not self.service[name].revisions():
            return
        chosen = data.draw(st.sampled_from(self.service[name].revisions()))
        self.service[name].rollback(chosen.name)
        expected = self.expected[name]
        kept = {d: t for d, t in expected.documents.items() if d in chosen.documents}
        expected.documents = kept

    @rule()
    def fork(self):
        if "eve" in self.expected or "ada" not in self.expected:
            return
        self.service["ada"].fork("eve")
        ada = self.expected["ada"]
        self.expected["eve"] = Expected(dict(ada.documents), ada.inherited, list(ada.history))

    @rule(name=names)
    def forget(self, name):
        if name not in self.expected:
            return
        gone = [n for n in self.expected if n == name or n.startswith(f"{name}@")]
        assert self.service[name].forget().ids == tuple(sorted(gone))
        for one in gone:
            del self.expected[one]
        self.forgotten.update(gone)

    @invariant()
    def only_what_is_expected_is_there(self):
        if not hasattr(self, "service"):
            return
        assert self.service.list() == tuple(sorted(self.expected))
        if not self.expected:
            assert list((self.folder / "root").iterdir()) == []

    @invariant()
    def documents_are_kept(self):
        for name, expected in getattr(self, "expected", {}).items():
            kept = {d.text for d in self.service[name].transcript().documents}
            assert kept == set(expected.documents.values())

    @invariant()
    def nothing_leaks_into_another_memory(self):
        for name in getattr(self, "expected", {}):
            for other in NAMES:
                if other == name or {name, other} == {"ada", "eve"}:
                    continue  # one may be the fork of the other
                mark = f"{other.replace('@', 'at')}word".encode()
                if other == "ada" and name == "ada@bob":
                    continue
                folder = self.folder / "root" / name
                assert not any(mark in p.read_bytes() for p in folder.rglob("*") if p.is_file())

    def teardown(self):
        if hasattr(self, "service"):
            self.service.close(cancel=True)
            shutil.rmtree(self.folder)


Histories.TestCase.settings = settings(
    max_examples=20,
    stateful_step_count=20,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
TestHistories = Histories.TestCase
