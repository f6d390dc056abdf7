"""templora absorb with files of other programs: what is learned, kept for recall, not used."""

import json
from pathlib import Path

import pytest

from templora_memory import ParametricMemory
from templora_memory.cli import main
from templora_memory.stores import DirectoryStore
from templora_memory.testing import FakeBackend

SMALL = {"window": 96, "reply_tokens": 24, "chunk": 16}
CARD = {
    "spec": "chara_card_v2",
    "spec_version": "2.0",
    "data": {
        "name": "Ines",
        "description": "{{char}} keeps the light.",
        "first_mes": "Ahoy.",
        "creator_notes": "A note.",
        "system_prompt": "Stay calm.",
        "character_book": {"entries": [
            {"keys": ["cellar"], "content": "The cellar of {{char}} is flooded.", "enabled": True}
        ]},
    },
}  # fmt: skip
CHAT = "\n".join(
    json.dumps(row)
    for row in (
        {"user_name": "Tom", "character_name": "Ines", "chat_metadata": {}},
        {"name": "Ines", "is_user": False, "mes": "Ahoy, sailor."},
        {"name": "Tom", "is_user": True, "mes": "Good evening."},
    )
)
TMX = (
    '<tmx version="1.4"><header srclang="en"/><body><tu><tuv xml:lang="en"><seg>Bell</seg></tuv>'
    '<tuv xml:lang="de"><seg>Glocke</seg></tuv></tu></body></tmx>'
)


def conversation(number):
    return {
        "title": f"Talk {number}",
        "create_time": 1.7e9,
        "current_node": "b",
        "mapping": {
            name: {"id": name, "parent": above, "message": {
                "author": {"role": role}, "content": {"content_type": "text", "parts": [text]}}}
            for name, above, role, text in (
                ("a", None, "user", f"What is {number}?"), ("b", "a", "assistant", "A number."))
        },
    }  # fmt: skip


class Line:
    """Runs absorb and other commands in one store."""

    def __init__(self, root, capsys):
        self.root = root
        self.recipes = []
        self._capsys = capsys

    def open(self, model, *, root, policy, key, **_):
        self.recipes.append(policy.recipe)
        backend = FakeBackend(name=model)
        return ParametricMemory(backend, DirectoryStore(root, key=key), policy.changed(**SMALL))

    def __call__(self, *words, code=0):
        self._capsys.readouterr()
        found = main([*map(str, words), "--root", str(self.root)])
        out, err = self._capsys.readouterr()
        assert found == code, err
        return out, err

    def json(self, *words, code=0):
        return json.loads(self(*words, "--json", code=code)[0])

    def documents(self, memory_id):
        return self.json("show", memory_id, "--text")["text"]["documents"]


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    line = Line(tmp_path / "root", capsys)
    monkeypatch.setattr(ParametricMemory, "from_pretrained", line.open)
    monkeypatch.setenv("COLUMNS", "100")
    return line


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "files"
    (place / "more").mkdir(parents=True)
    (place / "card.json").write_text(json.dumps(CARD), encoding="utf-8")
    (place / "chat.jsonl").write_text(CHAT, encoding="utf-8")
    (place / "project.tmx").write_text(TMX, encoding="utf-8")
    (place / "more" / "note.txt").write_text("Ines fears fog.\n", encoding="utf-8")
    (place / ".hidden.txt").write_text("Nobody reads this.", encoding="utf-8")
    return place


def test_a_card_gives_its_bio_to_the_weights_and_its_lore_to_recall(run, folder):
    (source,) = run.json("absorb", "ines", folder / "card.json")["sources"]
    assert (source["kind"], source["name"]) == ("Character Card V2, JSON", "Ines")
    assert source["learned"] == ["the bio"]
    assert source["recalled"] == ["1 lorebook texts"]
    assert source["prompt"] == ["1 greeting", "the card's instructions"]
    assert "the creator's notes" in source["ignored"]
    bio, lore = run.documents("ines")
    assert (bio["text"], bio["recall_only"]) == ("Ines keeps the light.", False)
    assert (lore["text"], lore["recall_only"]) == ("The cellar of Ines is flooded.", True)
    assert run.json("show", "ines")["absorbed_documents"] == 1
    found = run.json("search", "ines", "cellar")["passages"]
    assert found[0]["text"] == "The cellar of Ines is flooded."


def test_lore_is_learned_where_that_is_asked_for(run, folder):
    run("absorb", "ines", folder / "card.json", "--lore", "learn")
    assert run.json("show", "ines")["absorbed_documents"] == 2
    run("absorb", "other", folder / "card.json", "--lore", "ignore")
    assert len(run.documents("other")) == 1
    _, err = run("absorb", "ines", folder / "card.json", "--lore", "maybe", code=2)
    assert "recall, learn, ignore" in err


def test_a_chat_becomes_a_text_with_its_speakers(run, folder):
    run("absorb", "ines", folder / "chat.jsonl")
    assert run.documents("ines")[0]["text"] == "Ines: Ahoy, sailor.\nTom: Good evening."


def test_an_export_becomes_a_text_for_each_conversation(run, tmp_path):
    path = tmp_path / "conversations.json"
    path.write_text(json.dumps([conversation(n) for n in range(3)]), encoding="utf-8")
    (source,) = run.json("absorb", "me", path, "--as", "Sam")["sources"]
    assert source["learned"] == ["3 conversations, 6 messages"]
    first = run.documents("me")[0]
    assert first["title"] == "Talk 0"
    assert first["text"] == "Talk 0 (2023-11-14)\nSam: What is 0?\nAssistant: A number."


def test_a_translation_memory_is_learned_as_pairs_and_only_once(run, folder):
    report = run.json("absorb", "ines", folder / "project.tmx")
    assert run.recipes == ["pairs"]
    assert report["tokens"] > 0
    assert report["sources"][0]["learned"] == ["1 segments en > de"]
    assert run.json("absorb", "ines", folder / "project.tmx")["tokens"] == 0
    messages = run.json("show", "ines", "--text")["text"]["messages"]
    assert [message["content"] for message in messages] == ["Bell", "Glocke"]


def test_a_folder_stands_for_its_files_and_each_is_read_as_it_is(run, folder):
    (folder / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    report = run.json("absorb", "ines", folder)
    kinds = {Path(item["path"]).name: item["kind"] for item in report["sources"]}
    assert kinds == {
        "card.json": "Character Card V2, JSON",
        "chat.jsonl": "SillyTavern chat",
        "note.txt": "text",
        "picture.png": "not read",
        "project.tmx": "TMX",
    }
    assert run.recipes == ["auto", "pairs"]
    picture = next(item for item in report["sources"] if item["kind"] == "not read")
    assert "no character inside" in picture["ignored"][0]


def test_a_pattern_stands_for_the_files_that_fit(run, folder, monkeypatch):
    monkeypatch.chdir(folder)
    report = run.json("absorb", "ines", "**/*.txt")
    assert [item["path"] for item in report["sources"]] == ["more/note.txt"]
    _, err = run("absorb", "ines", "*.docx", code=2)
    assert "No file fits *.docx" in err


def test_a_dry_run_shows_it_and_learns_nothing(run, folder):
    out, _ = run("absorb", "ines", folder / "card.json", "--dry-run")
    for words in ("the bio", "1 lorebook texts", "instructions", "creator's notes"):
        assert words in out
    document = run.json("absorb", "ines", folder / "card.json", "--dry-run")
    assert document["dry_run"] is True
    assert run.recipes == []
    assert run.json("list")["memories"] == []


def test_the_receipt_says_what_is_not_used(run, folder):
    out, _ = run("absorb", "ines", folder / "card.json")
    assert "not used: the creator's notes" in out


def test_a_file_that_was_named_and_cannot_be_read_stops_all(run, folder):
    bad = folder / "bad.json"
    bad.write_text('{"name": "Ines", ', encoding="utf-8")
    _, err = run("absorb", "ines", folder / "more" / "note.txt", bad, code=2)
    assert "bad.json: The JSON in this file is damaged" in err
    assert run.json("list")["memories"] == []


def test_any_file_can_be_taken_as_plain_text(run, folder):
    run("absorb", "ines", folder / "chat.jsonl", "--text")
    assert run.documents("ines")[0]["text"] == CHAT


def test_the_user_of_a_messenger_is_given(run, tmp_path):
    path = tmp_path / "_chat.txt"
    path.write_text("[27.11.26, 10:01:02] Ines: Ahoy\n[27.11.26, 10:02:02] Tom: Hi\n", "utf-8")
    told = run.json("absorb", "ines", path, "--dry-run")["sources"][0]
    assert "was guessed" in told["ignored"][0]
    told = run.json("absorb", "ines", path, "--dry-run", "--as", "Tom")["sources"][0]
    assert (told["name"], told["ignored"]) == ("Ines", [])
    _, err = run("absorb", "ines", path, "--as", "Zoe", code=2)
    assert "Ines, Tom" in err


def test_a_world_with_nothing_to_learn_is_kept_for_recall(run, tmp_path):
    path = tmp_path / "world.json"
    world = {"entries": {"0": {"uid": 0, "key": ["lamp"], "content": "The lamp is green."}}}
    path.write_text(json.dumps(world), encoding="utf-8")
    report = run.json("absorb", "ines", path)
    assert (report["tokens"], report["sources"][0]["recalled"]) == (0, ["1 lorebook texts"])
    assert run.json("search", "ines", "lamp")["passages"]


def test_a_card_with_neither_bio_nor_lore_is_nothing_to_learn(run, tmp_path):
    path = tmp_path / "card.json"
    path.write_text('{"name": "Ines", "first_mes": "Ahoy.", "description": ""}', encoding="utf-8")
    _, err = run("absorb", "ines", path, code=2)
    assert "nothing to learn" in err
