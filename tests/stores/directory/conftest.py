"""A store in a folder, and a memory in it."""

import pytest

from templora_memory import Document, Message, ModelIdentity
from templora_memory.domain.manifest import new_manifest
from templora_memory.stores import DirectoryStore

BASE = ModelIdentity(name="m", revision=None, config="c", tokenizer="t", weights="w")
TALK = [Message("user", "Füße"), Message("assistant", "two\nlines"), Message("user", "c")]


@pytest.fixture
def store(tmp_path):
    made = DirectoryStore(tmp_path / "root")
    made.open()
    return made


@pytest.fixture
def make(commit):
    """`make(store, name)`: a memory with a conversation, a document and a revision."""

    def make_memory(store, name):
        manifest = new_manifest(name, BASE, created=1.0, ttl=None)
        store.create(manifest)
        store.record(name, TALK)
        store.record_documents(name, [Document("Ada keeps bees.")])
        return commit(store, manifest, "0" * 64)

    return make_memory


@pytest.fixture
def ada(store, make):
    """A memory with a conversation, a document and a revision; returns its folder."""
    make(store, "ada")
    return store.root / "ada"
