"""A long use of a service, made short, and what it says of one that leaks."""

import json
import threading

import pytest

from templora_memory.testing import FakeBackend
from tools import soak


def sample(number, **grown):
    held = {"threads": 3, "files": 9, "resident": 10**8, "memories": 10 * number} | grown
    return soak.Sample(seconds=float(number), **held)


def test_a_short_soak_grows_nothing_and_is_written_down(tmp_path, capsys):
    out = tmp_path / "soak.json"
    words = ["--minutes", "0", "--out", str(out), "--per-memory", "1000000"]
    assert soak.main(words) == 0, capsys.readouterr().out
    report = json.loads(out.read_text())
    assert report["grew"] == []
    assert report["calls"] >= soak.MIN_SAMPLES
    assert len(report["samples"]) == soak.MIN_SAMPLES
    assert "grew: nothing" in capsys.readouterr().out


def test_threads_that_stay_are_found(tmp_path, monkeypatch):
    class Leaking(FakeBackend):
        def learn(self, *args, **kwargs):
            threading.Thread(target=stop.wait, daemon=True).start()
            return super().learn(*args, **kwargs)

    monkeypatch.setattr(soak, "MIN_SAMPLES", 14)
    stop = threading.Event()
    try:
        samples, _ = soak.soak(tmp_path / "root", seconds=0, backend=Leaking)
    finally:
        stop.set()
    assert any("open threads grew" in said for said in soak.growth(samples, 10**9))


@pytest.mark.parametrize("what", ["threads", "files"])
def test_one_more_is_growth(what):
    samples = [sample(number, **{what: 20 + (number > 15)}) for number in range(20)]
    assert soak.growth(samples, 10**9) == [f"open {what} grew from 20 to 21"]


def test_what_each_memory_may_cost_is_a_limit():
    samples = [sample(number, resident=10**8 + 1000 * 10 * number) for number in range(20)]
    assert soak.growth(samples, 1001) == []
    (said,) = soak.growth(samples, 500)
    assert "bytes for each of 140 new memories, 500 are allowed" in said


def test_what_is_held_from_the_beginning_is_no_growth():
    assert soak.growth([sample(number, resident=10**9) for number in range(20)], 0) == []


def test_too_few_samples_are_refused():
    with pytest.raises(ValueError, match="7 samples are too few, 8 are needed"):
        soak.growth([sample(number) for number in range(7)], 0)
