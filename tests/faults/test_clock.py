"""The clock jumps: nothing is lost for it, and time only ever matters where a `ttl` says so."""

import time

from templora_memory import ParametricMemory
from templora_memory.stores import DirectoryStore
from templora_memory.testing import FakeBackend

YEAR = 365 * 86400.0


def test_a_clock_that_jumps(life, judge, trials, rng, places, tmp_path, monkeypatch):
    real = time.time
    for number in range(max(2, places // 4)):
        root, snapshots = tmp_path / f"life{number}" / "root", [{}]
        with monkeypatch.context() as patch:
            moved = {"by": 0.0}
            patch.setattr(time, "time", lambda moved=moved: real() + moved["by"])

            def jump(_, told, moved=moved, snapshots=snapshots):
                snapshots.append(told)
                moved["by"] = rng.choice((-30, -1, 1, 30)) * YEAR

            with trials.one("clock jump", f"life {number}"):
                life(number).run(root, jump)
                judge.between(root, snapshots[-1], snapshots[-1])


def test_a_clock_that_goes_back_forgets_nothing(life, trials, rng, places, tmp_path, monkeypatch):
    """Only one that jumps ahead by more than the `ttl` does, as its documentation says."""
    policy = life.service(tmp_path)._wanted.changed(ttl=3600.0)

    def service(root):
        return ParametricMemory(FakeBackend(), DirectoryStore(root), policy)

    real = time.time
    for number in range(max(2, places // 4)):
        root = tmp_path / f"root{number}"
        with service(root) as memory:
            memory["ada"].absorb("zanzibar bees")
        with trials.one("clock jump with a ttl", f"round {number}"), monkeypatch.context() as patch:
            back = rng.uniform(1, 30) * YEAR
            patch.setattr(time, "time", lambda back=back: real() - back)
            with service(root) as memory:
                if memory.list() != ("ada",):
                    trials.text_lost("ada was forgotten")
