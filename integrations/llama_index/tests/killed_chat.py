"""A chat that another process kills; run by test_restart.py with a folder and a number of turns."""

import os
import sys
import time
from pathlib import Path

from llama_index.core.chat_engine import SimpleChatEngine
from llama_index.core.storage.chat_store.sql import SQLAlchemyChatStore
from templora_memory import ParametricMemory, Policy
from templora_memory.stores import DirectoryStore
from templora_memory.testing import FakeBackend

from llama_index.memory.templora import TempLoraMemory


def open_memory(folder: Path, backend: FakeBackend) -> TempLoraMemory:
    policy = Policy(window=96, reply_tokens=24, chunk=16)
    service = ParametricMemory(backend, DirectoryStore(folder / "memories"), policy)
    store = SQLAlchemyChatStore("chat", f"sqlite+aiosqlite:///{folder}/chat.db")
    return TempLoraMemory.from_defaults(service, "ada", rag_token_reserve=0, chat_store=store)


def main() -> None:
    folder, turns, die_at = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    learned = 0

    def die() -> None:
        nonlocal learned
        learned += 1
        if learned == die_at:
            os.kill(os.getpid(), 9)  # in the middle of learning
        time.sleep(0.001)

    memory = open_memory(folder, FakeBackend(on_learn=die))
    chat = SimpleChatEngine.from_defaults(llm=memory.llm, memory=memory)
    begin = len(memory.get_all()) // 2
    for number in range(begin, begin + turns):
        chat.chat(f"Question {number} about bees at house {number}?")
        (folder / "saying").write_text(str(number + 1))
        (folder / "saying").replace(folder / "said")  # whole, whenever the process dies
    memory.wait_absorbed()
    memory.service.close()


if __name__ == "__main__":
    main()
