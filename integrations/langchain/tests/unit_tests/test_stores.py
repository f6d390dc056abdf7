"""The store whose items are found by their words."""

import gc

import pytest
from langchain.agents import create_agent
from langchain_core.messages import HumanMessage
from langchain_core.tools import tool
from langgraph.config import get_store
from langgraph.store.memory import InMemoryStore
from langgraph.store.sqlite import SqliteStore

from langchain_templora.stores import FullTextStore

ADA = ("users", "ada")


@pytest.fixture(params=["memory", "sqlite"])
def inner(request, tmp_path):
    if request.param == "memory":
        yield InMemoryStore()
        return
    with SqliteStore.from_conn_string(str(tmp_path / "store.db")) as store:
        store.setup()
        yield store


@pytest.fixture
def store(inner):
    return FullTextStore(inner)


def fill(store):
    store.put(ADA, "bees", {"text": "Ada keeps seven bees on the roof.", "kind": "pet"})
    store.put(ADA, "car", {"text": "She drives a green car.", "kind": "thing", "year": 1971})
    store.put(ADA, "ja", {"notes": ["猫は屋根の上で眠っています。"]})
    store.put(("users", "eve"), "bees", {"text": "Eve sells bees."})


def keys(items):
    return [item.key for item in items]


def test_items_are_found_by_words_in_any_language(store):
    fill(store)
    best, *others = store.search(ADA, query="Who has bees?")
    assert (best.key, best.value["kind"]) == ("bees", "pet")
    assert best.score > 0
    assert sorted(keys(others)) == ["car", "ja"]
    assert [item.score for item in others] == [None, None]
    assert keys(store.search(ADA, query="屋根で眠る猫"))[0] == "ja"
    assert keys(store.search(ADA, query="What is of 1971?"))[0] == "car"
    assert {i.namespace[1] for i in store.search(("users",), query="bees") if i.score} == {
        "ada",
        "eve",
    }


def test_limits_filters_and_all_else_are_the_other_stores(store, inner):
    fill(store)
    assert keys(store.search(ADA, query="bees", limit=1)) == ["bees"]
    assert "bees" not in keys(store.search(ADA, query="bees", limit=5, offset=1))
    assert keys(store.search(ADA, query="bees", filter={"kind": "thing"})) == ["car"]
    assert len(store.search(ADA)) == 3
    assert inner.get(ADA, "car").value == store.get(ADA, "car").value
    assert store.list_namespaces(prefix=("users",)) == inner.list_namespaces(prefix=("users",))
    assert store.search(("nobody",), query="bees") == []


def test_what_is_replaced_or_deleted_is_found_no_more(store):
    fill(store)
    assert store.search(ADA, query="roof")[0].key == "bees"
    store.put(ADA, "bees", {"text": "Ada keeps owls."})
    assert not any(item.score for item in store.search(ADA, query="roof"))
    assert store.search(ADA, query="owl")[0].key == "bees"
    store.delete(ADA, "bees")
    gc.collect()
    assert not any("owls" in row.text for row in store._index._rows)
    assert keys(store.search(ADA, query="owl")) == keys(store.search(ADA))


async def test_asynchronous_calls_do_the_same():
    store = FullTextStore()
    await store.aput(ADA, "bees", {"text": "Ada keeps seven bees."})
    await store.aput(ADA, "car", {"text": "She drives a green car."})
    assert keys(await store.asearch(ADA, query="green")) == ["car", "bees"]
    assert (await store.aget(ADA, "bees")).value["text"].startswith("Ada")


def test_an_agents_tools_reach_it(tool_box):
    store = FullTextStore()
    fill(store)

    @tool
    def look(query: str) -> str:
        """Look it up."""
        return get_store().search(ADA, query=query)[0].value["text"]

    agent = create_agent(tool_box.model, [look], store=store)
    state = agent.invoke({"messages": [HumanMessage("What do I keep?")]})
    assert "Ada keeps seven bees" in str([m.text for m in state["messages"]])
