"""Run LlamaIndex's own tests against our classes, from a checkout of its repository.

    LLAMA_INDEX_REPO=~/llama_index python tools/run_upstream_tests.py [pytest arguments]

Each file runs twice: with the stock classes, and with ours in their place. What passes with theirs
must pass with ours; tests of features newer than the installed version fail both times. Exits with
1 if a test passes with the stock classes only, or if a file made none of our objects: then it
compared stock with stock. Needs pytest-asyncio.

The file is also the plugin that puts our classes in place (``-p run_upstream_tests``).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any

FILES = (
    "llama-index-core/tests/storage/chat_store/test_simple_chat_store.py",
    "llama-index-core/tests/memory/test_memory_base.py",
    "llama-index-core/tests/memory/test_memory_blocks_base.py",
    "llama-index-core/tests/memory/test_memory_custom_chat_store.py",
    "llama-index-core/tests/memory/test_memory_read_concurrency.py",
    "llama-index-core/tests/memory/test_memory_schema.py",
    "llama-index-core/tests/memory/test_chat_memory_buffer.py",
    "llama-index-core/tests/memory/blocks/test_vector.py",
    "llama-index-core/tests/chat_engine/test_simple.py",
    "llama-index-core/tests/chat_engine/test_context.py",
    "llama-index-core/tests/chat_engine/test_condense_plus_context.py",
    "llama-index-core/tests/chat_engine/test_streaming_history.py",
    "llama-index-core/tests/agent/workflow/test_single_agent_workflow.py",
    "llama-index-core/tests/agent/workflow/test_multi_agent_workflow.py",
    "llama-index-core/tests/agent/workflow/test_react_agent.py",
    "llama-index-core/tests/agent/workflow/test_code_act_agent.py",
    "llama-index-core/tests/agent/workflow/test_agent_with_structured_output.py",
    "llama-index-core/tests/agent/workflow/test_function_agent_reasoning_only.py",
    "llama-index-core/tests/agent/workflow/test_return_direct_e2e.py",
    "llama-index-core/tests/agent/workflow/test_thinking_delta.py",
)
USERS = (
    "llama_index.core.agent.workflow",
    "llama_index.core.chat_engine",
    "llama_index.core.memory",
    "llama_index.core.storage.chat_store",
)
"""Packages that keep a name of a stock class; loaded before the names are bound anew."""
OURS, PASSED = "TEMPLORA_UPSTREAM_OURS", "TEMPLORA_UPSTREAM_PASSED"


# --- the plugin ----------------------------------------------------------------------------------


def pytest_configure(config: Any) -> None:
    """Put our classes in the place of the stock ones before any test module is imported."""
    del config
    if os.environ.get(OURS):
        _replace()


def pytest_runtest_logreport(report: Any) -> None:
    """Note what passed, and how many of our objects there are by then."""
    if report.when == "call" and report.passed:
        with Path(os.environ[PASSED]).open("a", encoding="utf-8") as file:
            file.write(json.dumps([report.nodeid, len(_made)]) + "\n")


_made: list[str] = []
"""Class names of our objects, as they were made."""


def _replace() -> None:
    """Bind every name of a stock class in LlamaIndex to ours.

    Also those that another module imported before, such as the store of the buffer that agents make
    where they are given no memory.
    """
    for name in USERS:
        import_module(name)
    stock: Any = import_module("llama_index.core.memory.memory").Memory
    simple: Any = import_module("llama_index.core.storage.chat_store").SimpleChatStore
    memory, store = _classes(stock)
    ours = {stock: memory, simple: store}
    for name, module in list(sys.modules.items()):
        if name.startswith("llama_index.core"):
            for key, value in list(vars(module).items()):
                if isinstance(value, type) and value in ours:
                    setattr(module, key, ours[value])
    engines: Any = import_module("llama_index.core.chat_engine.simple")
    make = engines.SimpleChatEngine.from_defaults
    make.__func__.__defaults__ = tuple(
        memory if value is stock else value for value in make.__func__.__defaults__
    )


def _classes(stock: Any) -> tuple[Any, Any]:
    """Our memory and chat store with the constructors of the stock ones."""
    from templora_memory import ParametricMemory, Policy  # noqa: PLC0415
    from templora_memory.stores import DirectoryStore  # noqa: PLC0415
    from templora_memory.testing import FakeBackend  # noqa: PLC0415

    from llama_index.memory.templora import (  # noqa: PLC0415
        ParametricChatStore,
        ParametricMemoryBlock,
        TempLoraLLM,
        TempLoraMemory,
    )

    size = 200_000

    def service() -> ParametricMemory:
        root = tempfile.mkdtemp(prefix="templora-upstream-")
        policy = Policy(window=size, reply_tokens=64, chunk=64)
        return ParametricMemory(FakeBackend(context=size), DirectoryStore(root), policy).load()

    class OurMemory(TempLoraMemory):
        def __init__(self, **data: Any) -> None:
            made = service()
            block = ParametricMemoryBlock(
                made, accept_short_term_memory=False, absorb_mode="blocking"
            )
            blocks = [block, *data.pop("memory_blocks", ())]
            super().__init__(memory_blocks=blocks, **data)
            self._bind(block, TempLoraLLM(made), overhead=0)
            _made.append("TempLoraMemory")

        # no annotation: it would be a field
        from_defaults = classmethod(stock.from_defaults.__func__)  # type: ignore[var-annotated]

    class OurStore(ParametricChatStore):
        def __init__(self, memory: Any = None, **kwargs: Any) -> None:
            super().__init__(memory or service(), window_tokens=kwargs.get("window_tokens", 64))
            for key, rows in kwargs.get("store", {}).items():
                self.set_messages(key, rows)
            _made.append("ParametricChatStore")

        @classmethod
        def from_persist_path(cls, persist_path: Any = "", fs: Any = None, **_: Any) -> Any:
            return super().from_persist_path(persist_path, fs, memory=service())

    return OurMemory, OurStore


# --- the runner ----------------------------------------------------------------------------------


def run(repository: Path, file: str, arguments: list[str], *, ours: bool) -> dict[str, int]:
    """Run one test file in a process of its own.

    Returns:
        The tests that passed, each with the number of our objects made until its end.
    """
    with tempfile.NamedTemporaryFile("r", suffix=".json") as passed:
        environment = {**os.environ, PASSED: passed.name, "PYTHONPATH": str(Path(__file__).parent)}
        if ours:
            environment[OURS] = "1"
        command = [sys.executable, "-m", "pytest", "-q", "-p", "run_upstream_tests"]
        subprocess.run(  # noqa: S603  # our own interpreter and arguments
            [*command, "-p", "no:cacheprovider", *arguments, file],
            cwd=repository,
            env=environment,
            check=False,
        )
        return dict(json.loads(line) for line in passed.read().splitlines())


def complaints(file: str, stock: dict[str, int], ours: dict[str, int]) -> list[str]:
    """Return what is wrong with the results of a file; nothing if it may stay as it is."""
    lost = [
        f"passes with the stock classes only: {name}" for name in sorted(set(stock) - set(ours))
    ]
    if stock and not max(ours.values(), default=0):
        lost.append(f"made none of our objects, so it compared stock with stock: {file}")
    return lost


def main() -> int:
    """Run every file twice, and return the exit code."""
    where = os.environ.get("LLAMA_INDEX_REPO")
    if not where or not Path(where).is_dir():
        print("Set LLAMA_INDEX_REPO to a checkout of run-llama/llama_index.", file=sys.stderr)
        return 2
    repository = Path(where).resolve()
    files = [name for name in FILES if (repository / name).exists()]
    for name in sorted(set(FILES) - set(files)):
        print(f"not in this checkout: {name}")
    wrong: list[str] = []
    passed = [0, 0]
    for name in files:
        stock = run(repository, name, sys.argv[1:], ours=False)
        ours = run(repository, name, sys.argv[1:], ours=True)
        made = max(ours.values(), default=0)
        print(f"{name}: {len(stock)} pass with stock, {len(ours)} with {made} objects of ours")
        wrong += complaints(name, stock, ours)
        passed = [passed[0] + len(stock), passed[1] + len(ours)]
    print(f"{len(files)} files: {passed[0]} tests pass with stock classes, {passed[1]} with ours")
    for line in wrong:
        print(line)
    return 1 if wrong or not passed[0] else 0


if __name__ == "__main__":
    sys.exit(main())
