"""A process killed anywhere in a random life of several memories, service and all."""

import shutil

import pytest


@pytest.mark.parametrize("seed", range(4))
def test_killed_at_random_places(child, life, judge, trials, rng, places, tmp_path, seed):
    lived = life(seed)

    def scenario(root):
        return lambda say: lived.run(root, lambda number, told: say((number, told)))

    whole = child(scenario(tmp_path / "whole" / "root")).wait()
    snapshots = [{}, *(told for _, told in whole.acknowledged)]
    for number in sorted(rng.sample(range(1, whole.calls), max(1, places // 4))):
        root = tmp_path / "life" / "root"
        root.parent.mkdir()
        made = child(scenario(root), number).wait()
        with trials.one("SIGKILL at a random call of a life", f"life {seed}, call {number}"):
            done = len(made.acknowledged)
            after = snapshots[min(done + 1, len(snapshots) - 1)]
            judge.between(root, snapshots[done], after)
        shutil.rmtree(root.parent)
