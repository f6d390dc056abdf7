"""What a store remembers does not grow with the number of memories."""

from templora_memory.stores.lru import Recent

from templora_memory import Message
from templora_memory.stores.directory import store


def test_the_least_recently_used_leaves_first():
    kept = Recent(2)
    assert kept.put("a", 1) == 1
    kept.put("b", 2)
    assert kept.get("a") == 1
    kept.put("c", 3)
    assert [kept.get(key) for key in "abc"] == [1, None, 3]
    kept.drop(lambda key: key == "a")
    assert kept.get("a") is None
    assert len(kept) == 1


def test_more_memories_than_are_remembered_are_all_there(make_box, monkeypatch):
    monkeypatch.setattr(store, "JOURNALS", 3)
    monkeypatch.setattr(store, "CHECKED", 3)
    box = make_box(context=512)
    box.open(window=256, chunk=16)
    names = [f"m{number}" for number in range(9)]
    for name in names:
        box.service.absorb(name, f"{name} keeps bees.")
    for name in names:
        said = box.service.reply(name, [Message("user", "Who keeps bees?")]).text
        assert f"{name} keeps bees" in said
        assert [d.text for d in box.service.transcript(name).documents] == [f"{name} keeps bees."]
    assert len(box.store._journals) == 3
    assert len(box.store._checked) <= 3
