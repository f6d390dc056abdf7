"""Random orders of learning, talking, editing, copying, going back and forgetting, real weights.

After every step each memory that was not touched has the same weights, bit for bit, gives the same
probabilities and the same reply of the same size; the base model, too. Counted for
`python -m tools.trust`; `TEMPLORA_EXAMPLES` says how many orders.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings, strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from templora_memory import Learning, Message, ParametricMemory, Policy
from templora_memory.ports import ScoreRequest
from templora_memory.stores import DirectoryStore

EXAMPLES = int(os.environ.get("TEMPLORA_EXAMPLES", "4"))
POLICY = Policy(
    window=160,
    reply_tokens=4,
    chunk=48,
    recipe="continue",
    keep_revisions=3,
    learning=Learning(
        r=2, learning_rate=1e-2, steps_per_chunk=1, document_steps=2, measure=False, kl_weight=0
    ),
    health_kl=None,
)
NAMES = ("a", "a@bob", "b", "c")
TEXT = "The bees of Ada fly over the sea."
ASKED = [Message("user", "What is there?")]
names = st.sampled_from(NAMES)


class Isolation(RuleBasedStateMachine):
    make_backend: Any = None
    steps = 0
    compared = 0

    @initialize()
    def start(self):
        self.folder = Path(tempfile.mkdtemp())
        self.fresh = count()
        self.documents: dict[str, set[str]] = {}
        self.asked: dict[str, list[str]] = {}
        self.prints: dict[str, Any] = {}
        self.open()
        self.base = self.measured(None)

    def open(self):
        self.backend = self.make_backend()
        self.service = ParametricMemory(
            self.backend, DirectoryStore(self.folder / "root"), POLICY
        ).load()

    # --- what is compared ----------------------------------------------------------------------

    def measured(self, adapter):
        return self.backend.score([ScoreRequest(context="", target=TEXT, adapter=adapter)])

    def print_of(self, name):
        """Everything of a memory that another one must not change."""
        manifest = self.service._store.manifest(name)
        adapter = self.service._parts.absorber.adapter(manifest, manifest.newest)
        reply = self.service[name].reply(ASKED, revision="head", max_tokens=3)
        weights = b""
        if adapter is not None:
            weights = (adapter.folder / "adapter_model.safetensors").read_bytes()
        return manifest, weights, self.measured(adapter), reply

    def settle(self, *touched):
        """Compare all memories that were not touched, and the base; note the others anew."""
        self.service.wait()
        Isolation.steps += 1
        assert self.service.list() == tuple(sorted(self.documents))
        assert self.measured(None) == self.base
        for name in self.documents:
            now = self.print_of(name)
            if name not in touched and name in self.prints:
                Isolation.compared += 1
                before = self.prints[name]
                assert now[1:] == before[1:], f"{name} changed"
                assert now[0].revisions == before[0].revisions
            self.prints[name] = now
            told = self.service[name].transcript()
            assert {d.text for d in told.documents} == self.documents[name]
            assert [m.content for m in told.messages if m.role == "user"] == self.asked[name]
            assert self.service[name].status().last_error is None
        for name in set(self.prints) - set(self.documents):
            del self.prints[name]
        self.caches()

    def caches(self):
        """Whatever is cached is keyed by a revision of a memory that exists."""
        for key in (*self.backend._adapters, *self.backend._prefixes):
            assert key.rpartition("/")[0] in self.documents, f"{key} outlived its memory"

    # --- steps ---------------------------------------------------------------------------------

    def made(self, name):
        self.documents.setdefault(name, set())
        self.asked.setdefault(name, [])

    @rule(name=names)
    def absorb(self, name):
        text = f"Note {next(self.fresh)} of {name}."
        self.made(name)
        self.documents[name].add(text)
        self.service[name].absorb(text)
        self.settle(name)

    @rule(name=names, turns=st.integers(1, 2))
    def talk(self, name, turns):
        self.made(name)
        for _ in range(turns):
            said = f"Number {next(self.fresh)}, {name}?"
            told = self.service[name].transcript().messages if name in self.service.list() else ()
            self.asked[name].append(said)
            self.service[name].reply([*told, Message("user", said)])
            self.service.wait()
        self.settle(name)

    @precondition(lambda self: any(self.asked.values()))
    @rule(data=st.data())
    def edit(self, data):
        name = data.draw(st.sampled_from(sorted(n for n, asked in self.asked.items() if asked)))
        turn = data.draw(st.integers(0, len(self.asked[name]) - 1))
        said = f"No, {next(self.fresh)}?"
        told = self.service[name].transcript().messages
        self.asked[name][turn:] = [said]
        self.service[name].reply([*told[: 2 * turn], Message("user", said)])
        self.settle(name)

    @precondition(lambda self: "b" in self.documents and "copy" not in self.documents)
    @rule()
    def fork(self):
        self.service["b"].fork("copy")
        self.documents["copy"], self.asked["copy"] = set(self.documents["b"]), [*self.asked["b"]]
        self.settle("copy")

    @precondition(lambda self: bool(self.documents))
    @rule(data=st.data())
    def rollback(self, data):
        name = data.draw(st.sampled_from(sorted(self.documents)))
        if not (history := self.service[name].revisions()):
            return
        chosen = data.draw(st.sampled_from(history))
        self.service[name].rollback(chosen.name)
        journal = self.service._store.journal(name)
        own = set(chosen.documents) & set(journal.documents)
        self.documents[name] = {journal.document(digest).text for digest in own}
        self.settle(name)

    @precondition(lambda self: bool(self.documents))
    @rule(data=st.data())
    def forget(self, data):
        name = data.draw(st.sampled_from(sorted(self.documents)))
        for gone in self.service[name].forget().ids:
            del self.documents[gone], self.asked[gone]
        self.settle()

    @rule()
    def start_again(self):
        """What was cached equals what a fresh process reads."""
        self.service.close()
        self.open()
        self.settle()

    def teardown(self):
        if hasattr(self, "service"):
            self.service.close(cancel=True)
            shutil.rmtree(self.folder)


def test_memories_do_not_touch_each_other(make_backend, record_property):
    Isolation.make_backend = staticmethod(make_backend)
    Isolation.steps, Isolation.compared = 0, 0
    run_state_machine_as_test(
        Isolation,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=12,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
    assert Isolation.compared > 10
    record_property(
        "trust",
        {"suite": "isolation", "kind": "steps in random orders", "tried": Isolation.steps},
    )
    record_property(
        "trust",
        {"suite": "isolation", "kind": "untouched memories compared", "tried": Isolation.compared},
    )


@pytest.mark.parametrize("other", ["Short.", "A long text about the sea. " * 20])
def test_counts_do_not_depend_on_the_text_of_others(make_backend, tmp_path, other):
    with ParametricMemory(make_backend(), DirectoryStore(tmp_path / "root"), POLICY) as service:
        service["a"].absorb(TEXT)
        before = service["a"].reply(ASKED, max_tokens=3)
        service["b"].absorb(other)
        service["b"].reply([Message("user", other[:60])], max_tokens=3)
        after = service["a"].reply(ASKED, max_tokens=3, revision=before.revision)
        assert (after.prompt_tokens, after.completion_tokens, after.text) == (
            before.prompt_tokens, before.completion_tokens, before.text
        )  # fmt: skip
