"""A cache forgets what was used longest ago, and does not grow with the number of memories."""

from templora_memory import Message
from templora_memory.domain.lru import LruCache
from templora_memory.stores.directory import store


def test_the_least_recently_used_leaves_first():
    cache = LruCache(2)
    assert cache.put("a", 1) == 1
    cache.put("b", 2)
    assert cache.get("a") == 1
    cache.put("c", 3)
    assert [cache.get(key) for key in "abc"] == [1, None, 3]
    cache.drop(lambda key: key == "a")
    assert cache.get("a") is None
    assert len(cache) == 1


def test_sizes_are_summed_and_the_newest_stays_however_large_it_is():
    cache = LruCache(10, size_of=len)
    cache.put("a", "xxxx")
    cache.put("b", "xxxx")
    cache.put("a", "xxxxxx")  # in place of the smaller one
    assert [cache.get(key) for key in "ba"] == ["xxxx", "xxxxxx"]
    cache.put("c", "x")
    assert [cache.get(key) for key in "abc"] == ["xxxxxx", None, "x"]
    cache.put("d", "x" * 11)
    assert [cache.get(key) for key in "acd"] == [None, None, "x" * 11]
    cache.put("e", "x")
    assert [cache.get(key) for key in "de"] == [None, "x"]


def test_what_leaves_is_told_and_may_use_the_cache():
    left = []
    cache = LruCache(2, on_evict=lambda value: left.append((value, len(cache))))
    first = [1]
    cache.put("a", first)
    cache.put("a", first)  # it is still there
    assert left == []
    cache.put("a", [2])
    cache.put("b", [3])
    cache.put("c", [4])
    cache.drop(lambda key: key == "b")
    assert left == [([1], 1), ([2], 2), ([3], 1)]


def test_more_memories_than_are_remembered_are_all_there(make_box, monkeypatch):
    monkeypatch.setattr(store, "MAX_OPEN_JOURNALS", 3)
    monkeypatch.setattr(store, "MAX_CHECKED_REVISIONS", 3)
    box = make_box(context=512)
    box.open(window=256, chunk=16)
    names = [f"m{number}" for number in range(9)]
    for name in names:
        box.service[name].absorb(f"{name} keeps bees.")
    for name in names:
        said = box.service[name].reply([Message("user", "Who keeps bees?")]).text
        assert f"{name} keeps bees" in said
        assert [d.text for d in box.service[name].transcript().documents] == [f"{name} keeps bees."]
    assert len(box.store._journals) == 3
    assert len(box.store._checked) <= 3
