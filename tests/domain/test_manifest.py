import copy
import json
import math
from dataclasses import replace

import pytest
from hypothesis import given, strategies as st

from templora_memory import Message, ModelIdentity, Revision
from templora_memory.domain.manifest import FileRecord, Manifest, as_root, new_manifest
from templora_memory.errors import BaseMismatch, StoreDamaged, UnknownRevision

BASE = ModelIdentity(name="m", revision="main", config="c", tokenizer="t", weights="w")
EMPTY = new_manifest("ada", BASE, created=1.0, ttl=None)
TALK = [Message("user" if n % 2 == 0 else "assistant", f"m{n}") for n in range(12)]


def revision(name, messages=0, *, documents=(), history=TALK):
    return Revision(
        name=name * 64,
        parent=None,
        dialogue=EMPTY.chain(history[:messages])[-1],
        messages=messages,
        documents=documents,
        tokens=1,
        created=2.0,
        files=(FileRecord(path="a.json", bytes=2, sha256="0" * 64),),
    )


def manifest(*revisions, keep=9):
    made = EMPTY
    for one in revisions:
        made = made.with_revision(one, keep)
    return made


@given(st.lists(st.integers(0, 12), max_size=5), st.integers(0, 12), st.integers(0, 12))
def test_the_covering_revision_is_the_longest_one_the_history_continues(lengths, shown, limit):
    made = manifest(*(revision("abcdef"[i], n) for i, n in enumerate(lengths)))
    found = made.covering(made.chain(TALK[:shown]), limit)
    fitting = [n for n in lengths if n <= min(shown, limit)]
    assert (found.messages if found else None) == (max(fitting) if fitting else None)


def test_an_edited_history_falls_back_to_what_it_still_continues():
    made = manifest(revision("a", 2), revision("b", 6))
    edited = [*TALK[:4], Message("user", "something else"), *TALK[5:]]
    assert made.covering(made.chain(edited), 12).name == "a" * 64


def test_among_equals_more_documents_win_then_the_newer():
    made = manifest(revision("a", 2, documents=("d",)), revision("b", 2), revision("c", 2))
    assert made.covering(made.chain(TALK), 12).name == "a" * 64
    made = manifest(revision("b", 2), revision("c", 2))
    assert made.covering(made.chain(TALK), 12).name == "c" * 64


def test_system_messages_do_not_change_what_is_covered():
    made = manifest(revision("a", 2))
    history = [Message("system", "today"), TALK[0], Message("system", "x"), TALK[1]]
    assert made.covering(made.chain(history), 12).name == "a" * 64


def test_retention_keeps_the_newest_and_the_newest_root():
    made = manifest(
        *(revision(c, n) for c, n in zip("abcde", (0, 0, 2, 4, 6), strict=True)), keep=2
    )
    assert [r.name[0] for r in made.revisions] == ["b", "d", "e"]
    assert (made.head, made.epoch) == ("e" * 64, 5)


def test_rolling_back_drops_what_is_newer():
    made = manifest(revision("a", 0), revision("b", 2), revision("c", 4))
    back = made.rolled_back(made.revisions[1])
    assert ([r.name[0] for r in back.revisions], back.head[0], back.epoch) == (["a", "b"], "b", 4)


def test_a_revision_is_found_by_an_unambiguous_beginning():
    made = manifest(revision("a"), revision("b"))
    assert made.get("a" * 64) == made.get("a" * 8) == made.revisions[0]
    for name in ("a" * 7, "c" * 64, ""):
        with pytest.raises(UnknownRevision, match="It has: aaaaaaaaaaaa, bbbbbbbbbbbb"):
            made.get(name)


def test_rebuilt_revisions_get_new_names():
    rebuilt = EMPTY.rebuilt(BASE)
    assert rebuilt.name_after(None, TALK) != EMPTY.name_after(None, TALK)


def test_another_base_model_is_refused_with_the_way_out():
    with pytest.raises(BaseMismatch, match=r"'ada' was learned on .*\(rebuild\)"):
        EMPTY.check_base(replace(BASE, weights="other"))
    EMPTY.check_base(replace(BASE, name="copy", revision=None))


def test_a_memory_starts_from_its_origins_documents_without_its_conversation():
    origin = manifest(revision("a", 4, documents=("d",)))
    started = new_manifest("ada@bob", BASE, created=5.0, ttl=None, origin=origin)
    root = started.newest
    assert (root.messages, root.documents, root.dialogue) == (0, ("d",), started.first)
    assert (started.origin.id, started.salt) == ("ada", origin.salt)


def test_json_gives_the_same_manifest():
    made = replace(manifest(revision("a", 2, documents=("d",)), revision("b", 4)), ttl=3.5)
    assert Manifest.from_json(json.loads(json.dumps(made.as_json()))) == made


SUMMED = manifest(revision("a", 2)).as_json()
# without what a manifest may lack, so that each part is refused for itself
GOOD = {k: v for k, v in SUMMED.items() if k not in {"sum", "forks", "exports"}}


def broken():
    def change(path, value):
        body = copy.deepcopy(GOOD)
        place = body
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value
        return body

    rev, file = ("revisions", 0), ("revisions", 0, "files", 0)
    wrong_paths = (
        "../a.json", "/a.json", "a/b.json", "..", ".hidden", "", "a\\b.json", "a\x00.json", 5, None,
        "c:a.json",
    )  # fmt: skip
    yield from (change((*file, "path"), value) for value in wrong_paths)
    yield from (change((*file, "bytes"), value) for value in (-1, 1.5, True, "2", None))
    yield from (change((*rev, "messages"), value) for value in (-1, 1.5, True, "2", None))
    yield from (change((*rev, "name"), v) for v in ("../x", "A" * 64, "a" * 63, 5, ["a"], {}))
    yield from (change((*rev, "created"), value) for value in (math.nan, math.inf, "x"))
    yield from (change((*rev, "dialogue"), 5), change((*rev, "documents"), [5]))
    yield from (change((*rev, "documents"), 5), change((*rev, "parent"), 5))
    yield from (change(("head",), value) for value in ("b" * 64, 5, []))
    yield from (change(("epoch",), value) for value in (-1, 0.5, None, "1"))
    yield from (change(("ttl",), value) for value in ("x", math.nan, []))
    yield from (change(("base",), value) for value in (None, {}, {"name": "m"}, 5))
    yield from (
        change(("origin",), value) for value in (5, {"id": 1, "revision": "x"}, {"id": "a"})
    )
    yield from (change(("revisions",), value) for value in (5, [5], [{}], GOOD["revisions"] * 2))
    yield change((*rev, "files"), GOOD["revisions"][0]["files"] * 2)
    yield from ({**GOOD, part: v} for part in ("forks", "exports") for v in (5, "x", [5], None))
    yield change(("unknown",), 1)
    yield from ({k: v for k, v in GOOD.items() if k != gone} for gone in GOOD)
    yield from ([], "text", 5, None)


@pytest.mark.parametrize("body", list(broken()), ids=lambda _: "")
def test_what_is_no_manifest_is_damaged(body):
    with pytest.raises(StoreDamaged):
        Manifest.from_json(body)


def test_a_newer_format_says_what_to_do():
    with pytest.raises(StoreDamaged, match="use the version of templora-memory that wrote it"):
        Manifest.from_json({**GOOD, "format": 4}, lambda *_: ())


def test_only_a_memory_whose_texts_were_edited_needs_the_newest_version():
    plain = EMPTY.as_json(lambda _: EMPTY.first)
    edited = replace(EMPTY, edits=2).as_json(lambda _: EMPTY.first)
    assert (plain["format"], "edits" in plain) == (2, False)
    assert (edited["format"], edited["edits"]) == (3, 2)
    assert Manifest.from_json(edited, lambda *_: ()).edits == 2


def test_a_manifest_of_before_there_were_checksums_is_read():
    assert Manifest.from_json(GOOD) == Manifest.from_json(SUMMED)


@pytest.mark.parametrize(
    "change", [{"epoch": 7}, {"created": 2.0}, {"ttl": 1.0}, {"sum": "0" * 64}]
)
def test_a_manifest_that_was_changed_is_noticed(change):
    with pytest.raises(StoreDamaged, match="its checksum differs"):
        Manifest.from_json({**SUMMED, **change})


def test_copies_are_noted_once():
    made = EMPTY.copied_to(fork="eve").copied_to(export="/x").copied_to(fork="eve")
    assert (made.forks, made.exports, made.epoch) == (("eve",), ("/x",), 3)
    assert Manifest.from_json(made.as_json()) == made


def test_a_rebuild_begins_without_revisions_on_another_base_under_new_names():
    made = manifest(revision("a"), revision("b"))
    other = ModelIdentity(name="n", revision=None, config="c2", tokenizer="t", weights="w2")
    again = made.rebuilt(other)
    assert (again.base, again.build, again.revisions, again.head) == (other, 1, (), None)
    assert again.rebuilt(BASE).build == 2
    assert again.name_after(None, TALK) != made.name_after(None, TALK)
    assert (again.id, again.salt, again.epoch) == (made.id, made.salt, made.epoch)


def test_an_unknown_revision_lists_those_there_are():
    with pytest.raises(UnknownRevision, match=r"has: none\. Older ones were retired by retention"):
        EMPTY.get("f" * 64)
    with pytest.raises(UnknownRevision, match=r"'f+'\. It has: a{12}, b{12}\. "):
        manifest(revision("a"), revision("b")).get("f" * 64)


def test_a_start_for_another_memory_has_no_parent_and_no_conversation():
    root = as_root(replace(revision("a", 4, documents=("d",)), parent="b" * 64), "first")
    assert (root.parent, root.dialogue, root.messages, root.documents) == (None, "first", 0, ("d",))
