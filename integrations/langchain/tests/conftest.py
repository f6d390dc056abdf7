"""Services over the fake backend, and one over the embedded model."""

from __future__ import annotations

import inspect
import json

import pytest
from langchain_core.messages import AIMessage, HumanMessage
from templora_memory import Learning, Message, ParametricMemory, Policy
from templora_memory.stores import DirectoryStore
from templora_memory.testing import FakeBackend

from langchain_templora import ChatTempLora


def pytest_collection_modifyitems(items):
    """Run coroutine tests, LangChain's own among them, whatever the mode of the repository."""
    for item in items:
        if inspect.iscoroutinefunction(getattr(item, "function", None)):
            item.add_marker(pytest.mark.asyncio)


class ToolBackend(FakeBackend):
    """A fake that calls the first tool it is offered, once a turn, and then answers.

    Forced calls are the fake's own: they follow a schema.
    """

    def stream(self, request):
        system = request.messages[0].content if request.messages[0].role == "system" else ""
        asked = request.messages[-1].role == "user" and not request.sampling.schema
        if "<tools>" in system and asked:
            tool = json.loads(system.split("<tools>\n")[1].split("\n")[0])
            text = json.dumps({"name": tool["name"], "arguments": {"query": "bees"}})
            with self._lock:
                self.requests.append(request)
            shown = self.count(request.messages)
            said = f"I look.\n<tool_call>\n{text}\n</tool_call>"
            return self._stream(said, request.sampling, shown, request.max_tokens)
        if request.messages[-1].role == "tool":
            with self._lock:
                self.requests.append(request)
            shown = self.count(request.messages)
            return self._stream("I looked it up.", request.sampling, shown, request.max_tokens)
        return super().stream(request)


class Box:
    """A service over a fake backend, and a chat model over the service."""

    def __init__(self, root, backend, **policy):
        self.root = root
        self.backend = backend
        settings = {"window": 200, "reply_tokens": 40, "chunk": 16} | policy
        self.service = ParametricMemory(backend, DirectoryStore(root), Policy(**settings))
        self.model = ChatTempLora(model="fake", memory=self.service)

    @property
    def learned(self):
        """Every text that was trained on, in order."""
        return [
            getattr(item, "text", None) or item.content
            for request in self.backend.learned
            for item in request.items
            if getattr(item, "role", "user") in {"user", "assistant"}
        ]

    @property
    def shown(self):
        """The messages of the newest prompt."""
        return self.backend.requests[-1].messages


@pytest.fixture
def make_box(tmp_path):
    made = []

    def make(root="root", *, kind=FakeBackend, backend=None, **policy):
        made.append(Box(tmp_path / root, kind(**(backend or {})), **policy))
        return made[-1]

    yield make
    for box in made:
        box.service.close(cancel=True)


@pytest.fixture
def box(make_box):
    return make_box()


@pytest.fixture
def tool_box(make_box):
    return make_box(kind=ToolBackend)


@pytest.fixture
def talk():
    """`talk(n)`: n whole turns of LangChain messages, and a question."""

    def make(turns, *, about="bees", question="And what happened then?"):
        history = []
        for number in range(turns):
            history.append(HumanMessage(f"Question {number} about {about} at house {number}?"))
            history.append(AIMessage(f"Answer {number} is {about} number {number}."))
        return [*history, HumanMessage(question)] if question else history

    return make


@pytest.fixture
def core():
    """Messages as the core takes them, from pairs."""
    return lambda *pairs: [Message(role, text) for role, text in pairs]


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """A service over the embedded model, for all tests that need a real one."""
    root = tmp_path_factory.mktemp("memories")
    policy = Policy(
        recipe="continue", recall_tokens=0, learning=Learning(document_steps=24)
    )  # quick
    with ParametricMemory.from_pretrained(
        root=root, policy=policy, device="cpu", dtype="float32"
    ) as service:
        yield service
