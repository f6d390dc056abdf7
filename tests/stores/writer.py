"""A writer in a process of its own, which waits for a line before each step: writer.py WHERE CACHE.

Prints what became of it.
"""

import sys
from pathlib import Path

from templora_memory import Message, Revision
from templora_memory.errors import Conflict
from templora_memory.stores import DirectoryStore, Key, ObjectStore

STEP = [Message("user", f"writer says {number}") for number in range(4)]


def say(word):
    print(word, flush=True)  # noqa: T201  # the test reads it


def main(where, cache):
    key = Key.from_environment()
    if where.startswith("s3:"):
        store = ObjectStore(where, cache=cache, key=key)
    else:
        store = DirectoryStore(where, key=key)
    store.open()
    manifest = store.manifest("ada")
    store.record("ada", STEP[:1])
    revision = Revision(
        name="a" * 64, parent=None, dialogue=manifest.first, messages=0, documents=(),
        tokens=1, created=2.0, files=(),
    )  # fmt: skip
    with store.stage("ada") as folder:
        Path(folder, "adapter_model.safetensors").write_bytes(b"stale weights")
        say("staged")
        sys.stdin.readline()
        store.record("ada", STEP[:3])
        try:
            store.commit(manifest, revision, folder, keep=4)
        except Conflict:
            say("conflict")
        else:
            say("committed")
    store.record("ada", STEP)
    say("done")


if __name__ == "__main__":
    main(*sys.argv[1:])
