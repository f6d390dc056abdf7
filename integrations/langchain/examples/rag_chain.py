"""A character whose bio lives in weights, in a chain that puts retrieved text into the prompt.

python rag_chain.py
python rag_chain.py --model Qwen/Qwen3-0.6B --root memories
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from typing import Any

from bm25 import BM25, MANUAL
from langchain_core.documents import Document
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import Runnable, RunnablePassthrough
from templora_memory import ParametricMemory
from templora_memory.models import TINY

from langchain_templora import ChatTempLora

BIO = (
    "My name is Orla Fernwick. I am a lamp keeper and I live in Heron Cove. My pet is a lame goose "
    "called Button. I am afraid of thunder, and my favourite food is barley soup."
)
QUESTIONS = ("How do I light the lamp?", "What pet do you have?", "Where is the key of the horn?")
PROMPT = ChatPromptTemplate.from_messages(
    [("system", "Stay in character. Facts:\n{context}"), ("human", "{question}")]
)


def join(documents: Sequence[Document]) -> str:
    """Return the texts of the documents as one."""
    return "\n".join(document.page_content for document in documents)


def make_chain(model: ChatTempLora) -> Runnable[str, str]:
    """Question in, answer out; the retrieved text stands in the system message and stays there."""
    given: dict[str, Any] = {
        "context": BM25.of(MANUAL) | join,
        "question": RunnablePassthrough(),
    }
    return given | PROMPT | model | StrOutputParser()


def main() -> None:
    """Run the example."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=TINY, help="a name, a hub id, a folder or a .gguf file")
    parser.add_argument("--root", help="folder of the memories; default: a temporary one")
    given = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        ParametricMemory.from_pretrained(given.model, root=given.root or folder) as memory,
    ):
        memory["char:orla"].absorb(BIO)
        model = ChatTempLora(model=given.model, memory=memory, max_tokens=48)
        chain = make_chain(model)
        config: Any = {"configurable": {"memory_id": "char:orla"}}
        for question in QUESTIONS:
            print(f"\n{question}\n  ", end="")
            for piece in chain.stream(question, config):
                print(piece, end="", flush=True)
        kept = memory["char:orla"].transcript()
        texts = [*(d.text for d in kept.documents), *(m.content for m in kept.messages)]
        journalled = [line for line in MANUAL if any(line in text for text in texts)]
        print(f"\n\nlines of the manual in the journal: {len(journalled)}")


if __name__ == "__main__":
    main()
