"""Planted words through every way in: after a forget no byte of them is left anywhere.

Counted for `python -m tools.trust`.
"""

from __future__ import annotations

import logging
import os
import tempfile
from itertools import accumulate, pairwise
from urllib.parse import quote

import pytest

from templora_memory import Document, Learning, Message, ParametricMemory, Policy, Sampling
from templora_memory.backends.local import LocalBackend
from templora_memory.errors import TemploraError
from templora_memory.stores import DirectoryStore

LEARNING = Learning(r=2, learning_rate=3e-3, document_steps=8, carry_optimizer=True)
POLICY = Policy(window=200, reply_tokens=20, chunk=48, recipe="continue", learning=LEARNING)
PLANTED = {
    "document": "heliotrope-4711",
    "title": "marigold-0815",
    "author": "Quillfeather-13",
    "question": "zinnia-2001",
    "speaker": "Tamburlaine-77",
    "evicted message": "oleander-31",
    "tool answer": "wisteria-64",
    "prompt of a long text": "hyacinth-86",
    "name in the id": "Ferdinande Ö",
    "user in the id": "Balthasar-5",
    "text that fails": "narcissus-9",
}
IDS = ("name in the id", "user in the id")


@pytest.fixture
def world(tmp_path, monkeypatch):
    """A folder for everything that a process may write to."""
    for name in ("root", "tmp", "home", "cwd", "cache"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.chdir(tmp_path / "cwd")
    return tmp_path


def told_everything(service, name, user):
    """Every way in."""
    p = PLANTED
    ada = service.open(name)
    ada.absorb(Document(f"The word is {p['document']}.", p["title"], author=p["author"]))
    history = [
        Message("user", f"Remember {p['question']}, please.", name=p["speaker"]),
        Message("call", "look it up"),
        Message("tool", f"It is {p['tool answer']}."),
    ]
    history.append(Message("assistant", ada.reply(history, max_tokens=4).text))
    ada.absorb(history)
    ada.absorb([Message("user", f"And {p['evicted message']}."), Message("assistant", "Yes.")],
               after=len(history))  # fmt: skip
    ada.search(p["document"])
    pair = service.open(f"{name}@{user}")
    pair.absorb(f"{user} says {p['document']} again.")
    pair.reply([Message("user", f"What of {p['question']}?")], max_tokens=4, recall_tokens=40)
    list(
        ada.generate(
            p["prompt of a long text"], max_tokens=60, sampling=Sampling(temperature=1, seed=1)
        )
    )
    service.wait()


def found_in(folder, *, but=()):
    """Which planted words the files below a folder hold, in their content or their names."""
    found = set()
    for path in folder.rglob("*"):
        if path in but:
            continue
        body = os.fsencode(path.name)
        body += path.read_bytes() if path.is_file() and not path.is_symlink() else b""
        for what, word in PLANTED.items():
            forms = {word.encode(), word.encode("utf-16-le"), quote(word).lower().encode()}
            if any(form in body or form.lower() in body.lower() for form in forms):
                found.add(what)
    return found


def test_no_planted_word_is_left(make_backend, world, caplog, record_property):
    caplog.set_level(logging.DEBUG)
    name, user = (PLANTED[what] for what in IDS)
    backend = make_backend()
    service = ParametricMemory(backend, DirectoryStore(world / "root"), POLICY).load()
    told_everything(service, name, user)
    wild = ParametricMemory(
        backend, DirectoryStore(world / "root"), POLICY.changed(learning={"learning_rate": 1e30})
    ).load()
    with pytest.raises(TemploraError):
        wild[name].absorb(f"Learning {PLANTED['text that fails']} goes wrong. " * 8)
    export = service[name].export(world / "home" / "mine.zip")
    service[name].fork("copy")
    (world / "home" / ".mine.zip.12345678.partial").write_text(PLANTED["document"])
    assert found_in(world) == set(PLANTED)  # so the test could fail
    there = {str(p.relative_to(world / "root")) for p in (world / "root").rglob("*")
             if p.is_file() and "copy" not in p.parts}  # fmt: skip

    receipt = service[name].forget()
    listed = {file.path for file in receipt.files}
    assert there <= listed
    assert (receipt.forks, receipt.exports) == (("copy",), (str(export),))
    assert found_in(world / "root" / "copy") >= {"document", "question", "author"}
    service["copy"].forget()
    found = found_in(world, but=(export,))
    record_property(
        "trust",
        {"suite": "forget", "kind": "planted words", "tried": len(PLANTED), "found": len(found)},
    )
    assert found == set()
    assert list((world / "root").iterdir()) == []
    assert not backend._adapters
    assert not backend._prefixes
    assert not service._searcher._indexes
    said = caplog.text + "".join(str(record.__dict__) for record in caplog.records)
    in_logs = {what for what, word in PLANTED.items() if word in said} - set(IDS)
    record_property(
        "trust",
        {"suite": "forget", "kind": "planted words in logs", "tried": len(PLANTED) - len(IDS),
         "found": len(in_logs)},
    )  # fmt: skip
    assert in_logs == set()
    service.close()


@pytest.mark.slow
def test_what_a_model_asks_itself_about_a_text_is_gone_too(world, record_property):
    """Recipe "study": questions that it writes hold words of the text."""
    policy = Policy(recipe="study", learning=Learning(r=4, document_steps=4))
    text = (
        "Ada Heliotrope keeps seven hives of bees. Her cat is called Marigold. She lives in Ghent."
    )
    asked = []
    backend = LocalBackend()
    real = backend._recipes["study"]

    def watched(request, tools):
        made = real(request, tools)
        for example in (one for first in made for one in (first, *first.variants)):
            ends = list(accumulate(example.segments))
            asked.extend(
                tools.tokenizer.decode(example.ids[start:end]) for start, end in pairwise(ends)
            )
        return made

    backend._recipes = {**backend._recipes, "study": watched}
    with ParametricMemory(backend, DirectoryStore(world / "root"), policy) as service:
        service["ada"].absorb(text)
        lines = {line.strip() for turn in asked for line in turn.splitlines() if line.strip()}
        assert any("Heliotrope" in line for line in lines)
        service["ada"].forget()
    left = b"".join(path.read_bytes() for path in world.rglob("*") if path.is_file())
    found = [line for line in lines if len(line) > 3 and line.encode() in left]
    record_property(
        "trust",
        {
            "suite": "forget",
            "kind": "lines that were learned",
            "tried": len(lines),
            "found": len(found),
        },
    )
    assert found == []
    for word in (b"Heliotrope", b"Marigold", b"Ghent"):
        assert word not in left


def test_a_removed_text_leaves_weights_as_if_it_had_never_been_told(world):
    texts = ["Ada keeps bees on the roof.", f"The code is {PLANTED['document']}.", "Ada likes tea."]
    policy = POLICY.changed(learning={"document_steps": 4, "kl_weight": 0.0, "measure": False})
    backend = LocalBackend("templora/tiny")
    told, never = (
        ParametricMemory(backend, DirectoryStore(world / "root" / name), policy)
        for name in ("told", "never")
    )
    with told, never:
        for service, chosen in ((told, texts), (never, texts[::2])):
            for text in chosen:
                service["ada"].absorb(text)
        (code,) = told["ada"].texts("code")
        asked = ("What is the code?", PLANTED["document"])
        receipt = told["ada"].remove([code.id], ask=[asked])
        assert told["ada"].probe(*asked).with_memory == receipt.changes[1].after
        adapters = [
            (service["ada"].adapter() / "adapter_model.safetensors").read_bytes()
            for service in (told, never)
        ]
    text, answer = receipt.changes
    assert text.before > text.base
    assert text.over_base < 1.05
    assert answer.tokens > 1
    assert adapters[0] == adapters[1]
    assert found_in(world) == set()
