"""The power fails at any moment of a random life: what was not synced is gone, all of it or some.

A kill leaves what was written, synced or not. Here a folder is rebuilt as a disk may hold it
afterwards: of each file what it held when it was last synced, of each folder the names that it
had then, or, where chance says so, what they hold now.
"""

import os
import shutil
import signal
import stat
import threading
from contextlib import suppress

import pytest

from templora_memory.stores import Key

posix = pytest.importorskip("posix")  # the calls themselves: those of `os` are counted here
pytestmark = pytest.mark.skipif(not hasattr(os, "O_PATH"), reason="files are held as Linux can")


class Disk:
    """What of a folder has been synced. Held files keep their number, so no two are mixed up."""

    def __init__(self, folder):
        self._held = {}
        self._contents = {}
        self._names = {}
        self._folder = self._hold(folder)

    def _hold(self, path):
        handle = posix.open(path, os.O_PATH)
        number = posix.fstat(handle).st_ino
        if self._held.setdefault(number, handle) != handle:
            posix.close(handle)
        return number

    def _path(self, number):
        return f"/proc/self/fd/{self._held[number]}"

    def _content(self, number):
        handle = posix.open(self._path(number), os.O_RDONLY)
        try:
            return posix.read(handle, 1 << 24)
        finally:
            posix.close(handle)

    def _entries(self, number):
        found = {}
        for name in posix.listdir(self._path(number)):
            with suppress(FileNotFoundError):
                found[name] = self._hold(f"{self._path(number)}/{name}")
        return found

    def synced(self, handle):
        number = self._hold(f"/proc/self/fd/{handle}")
        if stat.S_ISDIR(posix.fstat(handle).st_mode):
            self._names[number] = self._entries(number)
        else:
            self._contents[number] = self._content(number)

    def rebuild(self, target, now):
        """The folder as `target`; `now()` says of each file and folder whether it is as it is."""
        self._rebuild(self._folder, str(target), now)

    def _rebuild(self, number, target, now):
        if stat.S_ISDIR(posix.fstat(self._held[number]).st_mode):
            posix.mkdir(target, 0o700)
            names = self._entries(number) if now() else self._names.get(number, {})
            for name, inside in names.items():
                self._rebuild(inside, f"{target}/{name}", now)
            return
        content = self._content(number) if now() else self._contents.get(number, b"")
        handle = posix.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        posix.write(handle, content)
        posix.close(handle)


def fail_at(watch, number, folder, target, now):
    """In a process of its own: rebuild `folder` before the n-th change to it, and die."""
    disk, lock, calls = Disk(folder), threading.RLock(), 0

    def call(name, real, *args, **kwargs):
        nonlocal calls
        with lock:  # nothing changes while it is rebuilt
            calls += 1
            if calls == number:
                disk.rebuild(target, now)
                os.kill(os.getpid(), signal.SIGKILL)
            done = real(*args, **kwargs)
            if name == "fsync":
                disk.synced(*args)
            return done

    watch(call)
    return disk


@pytest.mark.parametrize("kept", [0.0, 0.5], ids=["nothing more", "some more"])
@pytest.mark.parametrize("seed", range(2))
def test_the_power_fails(child, watch, life, judge, trials, rng, places, tmp_path, seed, kept):
    lived = life(seed)

    def scenario(folder, number):
        def work(say):
            if number:
                fail_at(watch, number, folder, tmp_path / "after", lambda: rng.random() < kept)
            lived.run(folder / "root", lambda at, told: say((at, told)))

        return work

    def start():
        folder = tmp_path / "before"
        folder.mkdir()
        return folder

    whole = child(scenario(start(), 0)).wait()
    shutil.rmtree(tmp_path / "before")
    snapshots = [{}, *(told for _, told in whole.acknowledged)]
    for number in sorted(rng.sample(range(1, whole.calls), max(1, places // 4))):
        folder = start()
        made = child(scenario(folder, number)).wait()
        shutil.rmtree(folder)
        (tmp_path / "after").rename(folder)  # an export is looked for where it was written
        with trials.one("power failure", f"life {seed}, {kept} kept, call {number}"):
            assert not made.finished
            done = len(made.acknowledged)
            after = snapshots[min(done + 1, len(snapshots) - 1)]
            (folder / "root").mkdir(exist_ok=True)
            judge.between(folder / "root", snapshots[done], after)
        shutil.rmtree(folder)


@pytest.mark.parametrize("key", [None, Key(b"k" * 32)], ids=["plain", "encrypted"])
def test_what_was_forgotten_stays_so_when_the_power_fails(
    child, watch, life, trials, tmp_path, key
):
    """Nothing of it comes back, not even until somebody opens the store."""
    folder = tmp_path / "before"
    folder.mkdir()

    def work(say):
        disk = fail_at(watch, 0, folder, None, None)
        with life.service(folder / "root", key=key) as memory:
            memory["ada"].absorb("zanzibar bees")
            disk.rebuild(tmp_path / "told", lambda: False)
            memory["ada"].forget()
            disk.rebuild(tmp_path / "forgotten", lambda: False)
        say("done")

    assert child(work).wait().acknowledged == ["done"]
    left = [path.name for path in (tmp_path / "told").rglob("*") if path.is_file()]
    assert {"journal.jsonl", "manifest.json"} <= set(left)  # it was there
    with trials.one("power failure after a forget", str(key)):
        left = [path for path in (tmp_path / "forgotten").rglob("*") if path.is_file()]
        assert left == []
