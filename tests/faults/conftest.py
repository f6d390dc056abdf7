"""Killing a process at each of its system calls that change something, one after the other."""

import os
import pickle
import shutil
import signal

import pytest

CALLS = (
    "open", "write", "fsync", "rename", "replace", "unlink", "remove", "rmdir", "mkdir", "chmod",
    "ftruncate", "truncate", "close",
)  # fmt: skip


def _die_at(number):
    """From now on, kill this process when one of `CALLS` is made for the n-th time."""
    seen = {"calls": 0}

    def wrap(name, real):
        def call(*args, **kwargs):
            seen["calls"] += 1
            if seen["calls"] == number:
                if name == "write" and len(args[1]) > 1:
                    real(args[0], args[1][: len(args[1]) // 2])  # a torn write
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **kwargs)

        return call

    for name in CALLS:
        setattr(os, name, wrap(name, getattr(os, name)))


class Killer:
    """Runs a scenario again and again, each time killed one call later."""

    def __init__(self, folder):
        self._folder = folder
        self.kills = 0

    def run(self, prepare, scenario, check):
        """`check(root, acknowledged, finished)` after every death and after the full run.

        `scenario(root, acknowledge)` runs in a child; what it acknowledged is pickled before the
        next call can kill it.
        """
        template = self._folder / "template"
        prepare(template)
        finished = False
        while not finished:
            number = self.kills + 1
            root = self._folder / f"run{number}"
            shutil.copytree(template, root)
            finished, acknowledged = self._child(root, number, scenario)
            self.kills += not finished
            check(root, acknowledged, finished)
            shutil.rmtree(root)
        assert self.kills > 3, "the scenario changes hardly anything: is it the right one?"

    def _child(self, root, number, scenario):
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            code = 1
            try:
                os.close(reader)
                real_write = os.write
                _die_at(number)
                scenario(root, lambda value: real_write(writer, pickle.dumps(value)))
                code = 0
            except BaseException:  # noqa: BLE001  # shown, then the child must end
                import traceback  # noqa: PLC0415

                traceback.print_exc()
            finally:
                os._exit(code)
        os.close(writer)
        acknowledged = []
        with os.fdopen(reader, "rb") as pipe:
            while True:
                try:
                    acknowledged.append(pickle.load(pipe))  # noqa: S301  # our own child's
                except EOFError:
                    break
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            assert os.WTERMSIG(status) == signal.SIGKILL
            return False, acknowledged
        assert os.WEXITSTATUS(status) == 0, "the scenario failed by itself"
        return True, acknowledged


@pytest.fixture
def killer(tmp_path):
    return Killer(tmp_path)
