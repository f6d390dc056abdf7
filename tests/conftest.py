"""Fixtures of a service over the fake backend, and the marker `real`.

Tests of the marker `real` run on the fetched model, and say how to get it where it is not.
"""

from __future__ import annotations

import threading

import pytest

from templora_memory import Message, ParametricMemory, Policy, models
from templora_memory.stores import DirectoryStore
from templora_memory.testing import FakeBackend


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    asking = [item for item in items if item.get_closest_marker("real")]
    entry = models.CATALOG[models.SMOLLM2]
    if asking and not models.is_cached(entry):
        reason = f"{entry.name} is not on this machine: `templora model get smollm2` fetches it"
        for item in asking:
            item.add_marker(pytest.mark.skip(reason=reason))


class Box:
    """A service over the fake backend, with both at hand."""

    def __init__(self, root, **backend):
        self.root = root
        self.backend = FakeBackend(**backend)
        self.store = DirectoryStore(root)
        self.service = None

    def open(self, **policy):
        settings = {"window": 96, "reply_tokens": 24, "chunk": 16} | policy
        self.service = ParametricMemory(self.backend, self.store, Policy(**settings))
        return self.service.load()

    @property
    def learned(self):
        """Every text the backend was given to train on, in order."""
        return [
            getattr(item, "text", None) or item.content
            for request in self.backend.learned
            for item in request.items
        ]


@pytest.fixture
def make_box(tmp_path):
    made = []

    def make(root="root", **backend):
        made.append(Box(tmp_path / root, **backend))
        return made[-1]

    yield make
    for box in made:
        if box.service is not None:
            box.service.close(cancel=True)


@pytest.fixture
def box(make_box):
    made = make_box()
    made.open()
    return made


@pytest.fixture
def talk():
    """`talk(n)`: n whole turns; each has words of its own, and costs 16 fake tokens."""

    def make(turns, *, about="bees", question="And what happened then?"):
        history = []
        for number in range(turns):
            history.append(Message("user", f"Question {number} about {about} at house {number}?"))
            history.append(Message("assistant", f"Answer {number} is {about} number {number}."))
        if question:
            history.append(Message("user", question))
        return history

    return make


class Gate:
    """Blocks the fake backend in the middle of learning until it is opened."""

    def __init__(self):
        self.reached, self.open = threading.Event(), threading.Event()

    def __call__(self):
        self.reached.set()
        assert self.open.wait(30)


@pytest.fixture
def gate():
    made = Gate()
    yield made
    made.open.set()
