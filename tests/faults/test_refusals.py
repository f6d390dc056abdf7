"""The file system refuses a call: full disk, read-only root, lost permissions, broken disk."""

import errno
import os
import shutil

import pytest

from templora_memory.errors import TemploraError

REFUSED = {
    "full disk": errno.ENOSPC,
    "read-only root": errno.EROFS,
    "permission lost": errno.EACCES,
    "disk error": errno.EIO,
}
CALLS = ("open", "write", "fsync", "rename", "replace", "unlink", "rmdir", "mkdir", "chmod",
         "ftruncate")  # fmt: skip


class Refuser:
    """Makes the n-th call fail, and all after it if the disk stays as it is."""

    def __init__(self, number, code, *, stays):
        self._number, self._code, self._stays = number, code, stays
        self.calls = 0

    def install(self, patch):
        for name in CALLS:
            patch.setattr(os, name, self._wrap(name, getattr(os, name)))

    def _wrap(self, name, real):
        def call(*args, **kwargs):
            if name == "open" and not self._changes(args):
                return real(*args, **kwargs)
            self.calls += 1
            due = self.calls >= self._number if self._stays else self.calls == self._number
            if not due:
                return real(*args, **kwargs)
            if name == "write" and len(args[1]) > 1:
                real(args[0], args[1][: len(args[1]) // 2])  # some of it fitted
            raise OSError(self._code, os.strerror(self._code), "x")

        return call

    @staticmethod
    def _changes(args):
        return len(args) > 1 and args[1] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)


@pytest.mark.parametrize("kind", REFUSED)
def test_a_refused_call(kind, life, judge, trials, rng, places, tmp_path, monkeypatch):
    lived = life(rng.randrange(1000))
    snapshots, counter = [{}], Refuser(0, 0, stays=False)
    with monkeypatch.context() as patch:
        counter.install(patch)
        lived.run(tmp_path / "whole" / "root", lambda _, told: snapshots.append(told))
    assert counter.calls > 100
    for _ in range(places):
        number, stays = rng.randrange(1, counter.calls), rng.random() < 0.5
        root = tmp_path / "life" / "root"
        refuser = Refuser(number, REFUSED[kind], stays=stays)
        done = []
        with trials.one(kind, f"call {number}, {'stays' if stays else 'once'}"):
            with monkeypatch.context() as patch:
                refuser.install(patch)
                try:
                    lived.run(root, lambda step, _, done=done: done.append(step))
                except TemploraError as error:
                    if os.strerror(REFUSED[kind]) not in str(error):
                        trials.unclear_error(error)
                except OSError as error:
                    trials.unclear_error(error)
            after = snapshots[min(len(done) + 1, len(snapshots) - 1)]
            judge.between(root, snapshots[len(done)], after)
        shutil.rmtree(root.parent, ignore_errors=True)
