import itertools

import pytest

from templora_memory import ParametricMemory, Policy
from templora_memory.apps.roleplay import bundled_characters
from templora_memory.apps.roleplay.studio import Studio
from templora_memory.importers import Character
from templora_memory.stores import DirectoryStore
from templora_memory.testing import FakeBackend


@pytest.fixture
def make_memory(tmp_path):
    """Services over the fake backend; the same name is the same folder."""
    made = []

    def make(name="memories", **backend):
        policy = Policy(window=160, reply_tokens=40, chunk=16)
        store = DirectoryStore(tmp_path / name)
        made.append(ParametricMemory(FakeBackend(context=400, **backend), store, policy))
        return made[-1]

    yield make
    for memory in made:
        memory.close(cancel=True)


@pytest.fixture
def make_studio(make_memory, tmp_path):
    made = []

    def make(memory=None, home="home", **options):
        studio = Studio(memory or make_memory(), home=tmp_path / home, **options)
        made.append(studio)
        return studio.open()

    yield make
    for studio in made:
        studio.close()


@pytest.fixture
def studio(make_studio):
    return make_studio()


@pytest.fixture
def enter(studio):
    """A browser that opens the page; its visitor."""
    sessions = (f"session{number}" for number in itertools.count())
    return lambda token=None: studio.visitors.enter(token, next(sessions))


@pytest.fixture
def absorbed(studio):
    """`absorbed(visitor, name)`: a bundled character in the weights, probed."""

    def make(visitor, name="orla_fernwick", bio=None):
        if bio is None:
            actor = bundled_characters.actor(name)
        else:
            actor = bundled_characters.from_character(Character(name=name, description=bio))
        studio.add(visitor, actor)
        list(studio.base_probes(actor))
        list(studio.absorb(visitor, actor, documents_of(actor), "its bio"))
        list(studio.probe(actor))
        return actor

    return make


def documents_of(actor):
    from templora_memory.importers import documents  # noqa: PLC0415

    return documents(actor.character)
