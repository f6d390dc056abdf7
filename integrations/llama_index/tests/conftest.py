import asyncio
import hashlib
import re
from itertools import count

import llama_index.core
import pytest
from llama_index.core import Document, VectorStoreIndex
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.embeddings import BaseEmbedding
from llama_index.core.node_parser import TokenTextSplitter
from llama_index.core.utils import set_global_tokenizer
from templora_memory import ParametricMemory, Policy
from templora_memory.stores import DirectoryStore
from templora_memory.testing import FakeBackend

WINDOW = {"window": 96, "reply_tokens": 24, "chunk": 16}


class Scripted(FakeBackend):
    """A fake model that says what it is told to; without a script it says what it sees."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.script = []
        self.before_word = None

    def stream(self, request):
        if not self.script:
            return super().stream(request)
        self.requests.append(request)
        said = self._stream(
            self.script.pop(0), request.sampling, self.count(request.messages), request.max_tokens
        )
        if self.before_word is not None:
            said._check = self.before_word
        return said


class Box:
    """A service over the scripted fake, with its parts at hand."""

    def __init__(self, root, **backend):
        self.root = root
        self.backend = Scripted(**backend)
        self.service = None

    def open(self, **policy):
        store = DirectoryStore(self.root)
        self.service = ParametricMemory(self.backend, store, Policy(**(WINDOW | policy)))
        return self.service.load()

    @property
    def learned(self):
        """Every text that was trained on, in order."""
        return [
            getattr(item, "text", None) or item.content
            for request in self.backend.learned
            for item in request.items
        ]

    def on_disk(self, text):
        """Files under the root that hold a text."""
        return [
            path.name
            for path in self.root.rglob("*")
            if path.is_file() and text.encode() in path.read_bytes()
        ]


@pytest.fixture
def make_box(tmp_path):
    made, numbers = [], count()

    def make(**backend):
        root = backend.pop("root", tmp_path / f"root{next(numbers)}")
        made.append(Box(root, **backend))
        return made[-1]

    yield make
    for box in made:
        if box.service is not None:
            box.service.close(cancel=True)


@pytest.fixture
def box(make_box):
    made = make_box()
    made.open()
    return made


@pytest.fixture
def service(box):
    return box.service


@pytest.fixture
def counting():
    """LlamaIndex counts with a model's own tokenizer, as the README says."""
    before = llama_index.core.global_tokenizer
    yield set_global_tokenizer
    llama_index.core.global_tokenizer = before


@pytest.fixture
def user():
    return lambda text: ChatMessage(role="user", content=text)


@pytest.fixture
def talk():
    """`talk(n)`: n whole turns; each has words of its own and costs 16 fake tokens."""

    def make(turns, *, about="bees", start=0):
        rows = []
        for number in range(start, start + turns):
            asked, said = (
                f"Question {number} about {about} at house {number}?",
                f"Answer {number} is {about} number {number}.",
            )
            rows += [
                ChatMessage(role="user", content=asked),
                ChatMessage(role="assistant", content=said),
            ]
        return rows

    return make


@pytest.fixture
def run():
    return asyncio.run


class Hashing(BaseEmbedding):
    """Words to places by their hash: retrieval without a model or a network."""

    def _embed(self, text):
        vector = [0.0] * 256
        for word in re.findall(r"\w+", text.lower()):
            vector[int(hashlib.sha256(word.encode()).hexdigest(), 16) % 256] += 1.0
        size = sum(value * value for value in vector) ** 0.5 or 1.0
        return [value / size for value in vector]

    def _get_text_embedding(self, text):
        return self._embed(text)

    def _get_query_embedding(self, query):
        return self._embed(query)

    async def _aget_query_embedding(self, query):
        return self._embed(query)


@pytest.fixture
def index():
    """An index over a few invented documents, in memory."""
    texts = [
        "The marble lighthouse of Dunmore was built by Ivo Brand.",
        "The ferry to Glass Island leaves at nine from the marble pier.",
        "Barley soup is sold at the marble market on Thursday.",
    ]
    return VectorStoreIndex.from_documents(
        [Document(text=text) for text in texts],
        embed_model=Hashing(),
        transformations=[TokenTextSplitter(chunk_size=64, chunk_overlap=0)],
    )
