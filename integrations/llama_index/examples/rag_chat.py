"""A long chat over retrieved documents in a window of 1,024 tokens: three memories side by side.

The same questions go through the same chat engine, once with LlamaIndex's ``Memory``, once with its
``ChatMemoryBuffer`` (both as the engine makes them) and once with ``TempLoraMemory``. Every tenth
turn tells a fact; at the end each fact is asked for, and the likelihood of the right answer is
measured with what the memory would put into the prompt then. Then the conversation is deleted, and
the folder of the memories is searched for what was told. Nothing is fetched.

    python rag_chat.py --turns 200
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from llama_index.core import Document, VectorStoreIndex
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.chat_engine.types import ChatMode
from llama_index.core.embeddings import BaseEmbedding
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.events import BaseEvent
from llama_index.core.instrumentation.events.llm import LLMChatEndEvent
from llama_index.core.memory import BaseMemory, ChatMemoryBuffer, Memory
from llama_index.core.node_parser import TokenTextSplitter
from llama_index.core.settings import Settings
from llama_index_instrumentation import get_dispatcher
from templora_memory import ParametricMemory, Policy
from templora_memory.errors import PromptTooLong
from templora_memory.models import TINY

from llama_index.memory.templora import PARAMETRIC_CONTEXT_PROMPT, TempLoraLLM, TempLoraMemory

PLACES = ("Dunmore", "Heron Cove", "Saltmarsh", "Wick", "Oldham Quay", "Brine", "Tarn", "Ashford")
THINGS = ("lighthouse", "market", "ferry", "church", "bridge", "mill", "inn", "school")
NAMES = ("Ivo", "Tamsin", "Jory", "Wenna", "Piran", "Morwen", "Cador", "Elowen")
ANIMALS = ("dog", "cat", "goose", "horse", "goat", "parrot", "donkey", "rabbit", "owl", "pig")
CALLED = ("Rex", "Button", "Plum", "Star", "Biscuit", "Pepper", "Thunder", "Clover", "Moss", "Fig")


class Hashing(BaseEmbedding):
    """Words to places by their hash: retrieval without a model."""

    def _embed(self, text: str) -> list[float]:
        vector = [0.0] * 512
        for word in re.findall(r"\w+", text.lower()):
            vector[int(hashlib.sha256(word.encode()).hexdigest(), 16) % 512] += 1.0
        size = sum(value * value for value in vector) ** 0.5 or 1.0
        return [value / size for value in vector]

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._embed(text)

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._embed(query)

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return self._embed(query)


@dataclass(slots=True)
class Result:
    """The figures of one memory.

    Turns, errors by kind, prompt tokens of each answer; of each fact nats per token of the right
    answer, and nats by which the right name beats wrong ones; what is on disk.
    """

    name: str
    turns: int = 0
    errors: dict[str, int] = field(default_factory=dict)
    first_error: int | None = None
    prompts: list[int] = field(default_factory=list)
    seconds: float = 0.0
    known: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    facts_that_fit: int = 0
    disk: dict[str, str] = field(default_factory=dict)


def documents() -> list[Document]:
    """Return the documents to retrieve from."""
    return [
        Document(
            text=f"The {thing} of {place} was built by {NAMES[(i + j) % len(NAMES)]} and is open "
            f"on {'even' if (i * j) % 2 else 'odd'} days. It has {3 + i + j} windows."
        )
        for i, place in enumerate(PLACES)
        for j, thing in enumerate(THINGS)
    ]


def conversation(turns: int) -> Iterator[str]:
    """Return what the user says, turn by turn."""
    told = 0
    for number in range(turns):
        if number % 10 == 0 and told < len(ANIMALS):
            yield f"I have a {ANIMALS[told]} called {CALLED[told]}. Isn't that nice?"
            told += 1
        else:
            place, thing = PLACES[number % 8], THINGS[(number // 8) % 8]
            yield f"Who built the {thing} of {place}, and how many windows does it have?"


def chat(
    result: Result, index: VectorStoreIndex, memory: BaseMemory, llm: TempLoraLLM, n: int
) -> None:
    """Hold the conversation, and return what it took."""
    engine = index.as_chat_engine(
        chat_mode=ChatMode.CONTEXT,
        llm=llm,
        memory=memory,
        context_template=PARAMETRIC_CONTEXT_PROMPT,
        similarity_top_k=2,
    )
    begun = time.perf_counter()
    for number, asked in enumerate(conversation(n)):
        result.turns += 1
        try:
            engine.chat(asked)
        except (
            ValueError
        ) as error:  # what LlamaIndex and the model raise where a prompt is too long
            kind = re.sub(r"-?\d+", "N", f"{type(error).__name__}: {error}")[:60]
            result.errors[kind] = result.errors.get(kind, 0) + 1
            if result.first_error is None:
                result.first_error = number + 1
            memory.put(ChatMessage(role="user", content=asked))  # the user goes on all the same
            memory.put(ChatMessage(role="assistant", content="Sorry, something went wrong."))
    if isinstance(memory, TempLoraMemory):
        memory.wait_absorbed()
    result.seconds = time.perf_counter() - begun


def ask(result: Result, service: ParametricMemory, memory: BaseMemory, told: int) -> None:
    """Measure the right answers in the prompt that this memory makes, in nats per token.

    And by how many nats the right name beats wrong ones, which a change of style does not move.
    """
    learned = isinstance(memory, TempLoraMemory)
    for place in range(told):
        question = f"What is my {ANIMALS[place]} called?"
        shown = [(m.role.value, m.content or "") for m in memory.get(input=question)]
        history = [{"role": role, "content": text} for role, text in shown]
        asked = [*history, {"role": "user", "content": question}]
        names = [CALLED[(place + step) % len(CALLED)] for step in (0, 1, 2, 3)]
        try:
            probes = [
                service["ada"].probe(asked, f"Your {ANIMALS[place]} is called {name}.")
                for name in names
            ]
        except PromptTooLong:
            continue  # this memory's prompt does not even fit the window
        result.facts_that_fit += 1
        right, *wrong = [p.with_memory if learned else p.without_memory for p in probes]
        result.known.append(right / probes[0].tokens)
        result.gaps.append(right - sum(wrong) / len(wrong))


def on_disk(folder: str, told: int) -> str:
    """Return how many files are under a folder, and how many of them hold a fact that was told."""
    facts = [f"{ANIMALS[place]} called {CALLED[place]}".encode() for place in range(told)]
    texts = [path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()]
    holding = sum(any(fact in text for fact in facts) for text in texts)
    return f"{len(texts)} files, {holding} with told facts"


class Prompts(BaseEventHandler):
    """Notes the prompt tokens of every answer."""

    tokens: list[int]

    @classmethod
    def class_name(cls) -> str:
        """Return the name of this handler."""
        return "Prompts"

    def handle(self, event: BaseEvent, **_: Any) -> None:
        """Note the prompt of every call of the model."""
        if isinstance(event, LLMChatEndEvent) and event.response is not None:
            self.tokens.append(event.response.additional_kwargs["prompt_tokens"])


def main() -> None:
    """Run the example."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=TINY)
    parser.add_argument("--turns", type=int, default=200)
    parser.add_argument("--reply", type=int, default=24, help="most tokens of an answer")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    told = min(len(ANIMALS), -(-arguments.turns // 10))
    policy = Policy(window=1024, reply_tokens=arguments.reply)
    with (
        tempfile.TemporaryDirectory() as root,
        ParametricMemory.from_pretrained(arguments.model, root=root, policy=policy) as service,
    ):
        base, prompts = TempLoraLLM(service), Prompts(tokens=[])
        get_dispatcher().add_event_handler(prompts)
        Settings.tokenizer = base.tokenizer_fn
        index = VectorStoreIndex.from_documents(
            documents(),
            embed_model=Hashing(),
            transformations=[TokenTextSplitter(chunk_size=128, chunk_overlap=0)],
        )
        window = base.metadata.context_window
        ours = TempLoraMemory.from_defaults(service, "ada", llm=base.for_session("ada"))
        arms = {
            "Memory": (Memory.from_defaults(token_limit=window - 256), base),
            "ChatMemoryBuffer": (ChatMemoryBuffer.from_defaults(llm=base), base),
            "TempLoraMemory": (ours, ours.llm),
        }
        results = []
        for name, (memory, llm) in arms.items():
            prompts.tokens.clear()
            result = Result(name)
            chat(result, index, memory, llm, arguments.turns)
            result.prompts = list(prompts.tokens)
            results.append((result, memory))
        for result, memory in results:
            ask(result, service, memory, told)
        ours_result = results[-1][0]
        ours_result.disk["before deleting"] = on_disk(root, told)
        ours.reset()
        ours_result.disk["after deleting"] = on_disk(root, told)
    if arguments.json:
        print(json.dumps([asdict(result) for result, _ in results], indent=1))
    else:
        show([result for result, _ in results])


def show(results: list[Result]) -> None:
    """Print the figures as a table."""
    head = "  errors  first at  mean prompt  longest  nats/token  right-wrong"
    print(f"{'memory':18}{head}")
    for r in results:
        mean = sum(r.prompts) / len(r.prompts) if r.prompts else 0
        known = f"{sum(r.known) / len(r.known):.2f}" if r.known else "-"
        gap = f"{sum(r.gaps) / len(r.gaps):+.2f}" if r.gaps else "-"
        print(
            f"{r.name:18}{sum(r.errors.values()):>8}{r.first_error or '-':>10}"
            f"{mean:>13.0f}{max(r.prompts, default=0):>9}{known:>12}{gap:>13}"
        )
        for kind, count in r.errors.items():
            print(f"    {count} x {kind}")
        for when, found in r.disk.items():
            print(f"    on disk {when}: {found}")


if __name__ == "__main__":
    main()
