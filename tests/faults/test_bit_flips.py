"""One bit of one file is another one: it is noticed, or it had no meaning."""

import shutil

import pytest

from templora_memory import Message
from templora_memory.errors import StoreDamaged, TemploraError

KINDS = {
    "manifest": "root/*/manifest.json",
    "journal": "root/*/journal.jsonl",
    "adapter": "root/*/revisions/*/adapter.json",
    "report": "root/*/revisions/*/report.json",
    "archive": "export.zip",
}


@pytest.fixture(scope="module")
def template(tmp_path_factory, life):
    folder = tmp_path_factory.mktemp("template")
    with life.service(folder / "root") as memory:
        for name in ("ada", "ada@bob", "eve"):
            memory[name].absorb(f"zanzibar bees of {name}.")
            memory[name].reply([Message("user", f"What of zanzibar for {name}?")])
            memory[name].absorb(f"zanzibar cats of {name}.")
        memory["ada"].export(folder / "export.zip")
    return folder


def looked_at(memory, name):
    """Everything that a memory tells, all of its files read."""
    found = memory[name].transcript()
    for revision in memory[name].revisions():
        memory._store.folder(name, revision)
    status = memory[name].status().as_dict()
    said = memory[name].reply([Message("user", "What of zanzibar?")], revision="head").text
    hits = [passage.text for passage in memory[name].search("zanzibar")]
    return found.documents, found.messages, status, said, hits, memory[name].revisions()


@pytest.mark.parametrize("kind", KINDS)
def test_a_bit_flips(kind, template, life, trials, rng, places, tmp_path):
    with life.service(template / "root") as memory:
        expected = {name: looked_at(memory, name) for name in memory.list()}
    for _ in range(places):
        shutil.copytree(template, tmp_path / "life")
        path = rng.choice(sorted((tmp_path / "life").glob(KINDS[kind])))
        body = bytearray(path.read_bytes())
        place, bit = rng.randrange(len(body)), rng.randrange(8)
        body[place] ^= 1 << bit
        path.write_bytes(body)
        with trials.one(f"bit flip in {kind}", f"{path.name}, byte {place}, bit {bit}"):
            if kind == "archive":
                imported(path, life, trials, expected)
            else:
                damaged(path, life, trials, expected)
        shutil.rmtree(tmp_path / "life")


def damaged(path, life, trials, expected):
    with life.service(root_of(path)) as memory:
        for name, before in sorted(expected.items(), reverse=True):  # a pair before its name
            try:
                now = looked_at(memory, name)
            except StoreDamaged as error:
                if str(root_of(path)) not in str(error) and name not in str(error):
                    trials.unclear_error(error)
                memory[name].forget()  # the way out that is always there
            except TemploraError as error:
                trials.unclear_error(error)
            else:
                if now != before:
                    trials.half_state(f"{name} tells something else")
        for name in memory.list():
            memory[name].absorb("zanzibar afterwards")
        for name in ("eve", "ada"):
            if name in memory.list():
                memory[name].forget()
        assert not [p for p in root_of(path).rglob("*") if p.is_file()]


def root_of(path):
    return next(parent for parent in path.parents if parent.name == "root")


def imported(path, life, trials, expected):
    with life.service(path.parent / "fresh") as memory:
        try:
            memory.import_(path, "ada")
        except StoreDamaged:
            assert memory.list() == ()
            assert list((path.parent / "fresh").iterdir()) == []
        except (TemploraError, ValueError) as error:
            trials.unclear_error(error)
        else:
            now = looked_at(memory, "ada")
            if (now[0], now[1], now[3]) != tuple(expected["ada"][at] for at in (0, 1, 3)):
                trials.half_state("the import tells something else")
