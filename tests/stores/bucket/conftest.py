"""A store in a bucket as machines have it, and a memory in it."""

import pytest

from templora_memory import Message, ModelIdentity
from templora_memory.domain.manifest import new_manifest
from templora_memory.stores import ObjectStore

BASE = ModelIdentity(name="m", revision=None, config="c", tokenizer="t", weights="w")
TALK = [Message("user", "Füße"), Message("assistant", "two\nlines"), Message("user", "c")]
URL = "s3://memories/some/where"


@pytest.fixture
def machine(bucket, s3, tmp_path):  # noqa: ARG001  # it must be there
    """`machine("a")`: the store as that machine has it."""

    def make(name="a"):
        store = ObjectStore(URL, cache=tmp_path / name, client=s3)
        store.open()
        return store

    return make


@pytest.fixture
def store(machine, commit):
    made = machine()
    manifest = new_manifest("ada", BASE, created=1.0, ttl=None)
    made.create(manifest)
    made.record("ada", TALK)
    commit(made, manifest, "0" * 64)
    return made


@pytest.fixture
def keys(s3, bucket):
    def found():
        return [one["Key"] for one in s3.list_objects_v2(Bucket=bucket).get("Contents", ())]

    return found
