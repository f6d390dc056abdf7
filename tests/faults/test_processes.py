"""Several processes on one root, one of them killed: what was acknowledged is there."""

import shutil
import time

from templora_memory import Message
from templora_memory.errors import Cancelled, Conflict, UnknownMemory, UnknownRevision

RIVALS = (Conflict, Cancelled, UnknownMemory, UnknownRevision)
"""What a verb may end with when somebody else was faster."""
NAMES = ("ada", "ada@bob", "eve")


def work(root, life, who, seed, count=12):
    """One process: learns and talks; says what it was told is done."""
    import random  # noqa: PLC0415

    rng = random.Random(f"{seed}/{who}")  # noqa: S311

    def run(say):
        with life.service(root) as memory:
            for number in range(count):
                name, text = rng.choice(NAMES), f"zanzibar {number} by {who}."
                verb = rng.choice(("absorb", "absorb", "talk", "rollback", "search"))
                try:
                    if verb == "absorb":
                        memory[name].absorb(text)
                        say((name, text))
                    elif verb == "talk":
                        memory[f"{name.partition('@')[0]}@{who}"].reply([Message("user", text)])
                    elif verb == "rollback":
                        memory.open(name)
                        memory[name].rollback(memory[name].revisions()[-1].name)
                    elif name in memory.list():
                        memory[name].search("zanzibar")
                except IndexError:
                    assert verb == "rollback"  # nothing is learned yet
                except RIVALS:
                    continue

    return run


def test_processes_share_a_root(child, life, trials, rng, places, tmp_path):
    for number in range(max(2, places // 6)):
        root = tmp_path / f"root{number}"
        runs = [child(work(root, life, who, number)) for who in ("bob", "cyd", "dan")]
        time.sleep(rng.uniform(0.05, 0.6))
        runs[-1].kill()
        told = [pair for run in runs for pair in run.wait().acknowledged]
        with (
            trials.one("three processes on one root, one killed", f"round {number}"),
            life.service(root) as memory,
        ):
            for name, text in told:
                journal = memory._store.journal(name)
                every = {journal.document(digest).text for digest in journal._documents}
                if text not in every:
                    trials.text_lost(f"{text} of {name}")
            for name in memory.list():
                for revision in memory[name].revisions():
                    assert memory._store.folder(name, revision)
                memory[name].resume().wait()
                memory[name].absorb("zanzibar afterwards")
            assert {entry.name for entry in root.iterdir()} == set(memory.list())
        shutil.rmtree(root)
