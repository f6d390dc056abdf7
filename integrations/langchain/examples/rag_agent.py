"""An agent with a memory, a retriever as a tool, and a prompt that retrieves by itself.

A model trained for tools calls `search_manual` when it wants to. The dynamic prompt works with any
model, also with the embedded one. What either retrieves is never learned.

    python rag_agent.py
    python rag_agent.py --model Qwen/Qwen3-0.6B
"""

from __future__ import annotations

import argparse
import tempfile
from typing import Any

from bm25 import BM25, MANUAL
from langchain.agents import create_agent
from langchain.agents.middleware import ModelRequest, dynamic_prompt
from langchain_core.messages import HumanMessage
from langchain_core.retrievers import BaseRetriever
from langchain_core.tools import create_retriever_tool
from langgraph.checkpoint.memory import InMemorySaver
from templora_memory import ParametricMemory
from templora_memory.errors import UnknownMemory
from templora_memory.models import TINY

from langchain_templora import ChatTempLora
from langchain_templora.middleware import ParametricMemoryMiddleware, thread_memory_id

THREAD = "bob-1"
SAID = (
    "Hi, I am Bob and I keep the light now.",
    "How do I light the lamp?",
    "My dog is called Finn.",
    "What do I do in a storm?",
    "When is the clockwork wound?",
    "And when is the boat painted?",
)


def make_agent(model: ChatTempLora, *, tool: bool, keep: int = 2) -> Any:
    """An agent that remembers its threads in weights; `tool` also offers the retriever."""
    retriever: BaseRetriever = BM25.of(MANUAL)

    @dynamic_prompt
    def facts(request: ModelRequest[Any]) -> str:
        asked = next(m for m in reversed(request.messages) if isinstance(m, HumanMessage))
        found = retriever.invoke(str(asked.text))
        return "You are Ada. Facts: " + " ".join(d.page_content for d in found)

    tools = [create_retriever_tool(retriever, "search_manual", "Search the manual.")]
    memory = ParametricMemoryMiddleware(
        model.memory, trigger=("messages", 2 * keep), keep=("messages", keep)
    )
    return create_agent(
        model,
        tools=tools if tool else [],
        middleware=[memory, facts],
        checkpointer=InMemorySaver(),
    )


def main() -> None:
    """Run the example."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=TINY, help="a name, a hub id, a folder or a .gguf file")
    parser.add_argument("--tool", action="store_true", help="offer the retriever as a tool too")
    arguments = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        ParametricMemory.from_pretrained(arguments.model, root=folder) as memory,
    ):
        model = ChatTempLora(model=arguments.model, memory=memory, max_tokens=48)
        agent = make_agent(model, tool=arguments.tool)
        config: Any = {"configurable": {"thread_id": THREAD}}
        for text in SAID:
            state = agent.invoke({"messages": [HumanMessage(text)]}, config)
            answer = state["messages"][-1]
            used = answer.usage_metadata["input_tokens"]
            print(f"\n{text}\n  {answer.text}\n  ({used} prompt tokens)")
        try:
            learned = memory[thread_memory_id(THREAD)].transcript().messages
        except UnknownMemory:
            learned = ()
        asked = [m.content for m in learned if m.role == "user"]
        print(f"\nlearned: {asked}")
        planted = [line for line in MANUAL if any(line in text for text in asked)]
        print(f"lines of the manual in what the user is known to have said: {len(planted)}")


if __name__ == "__main__":
    main()
