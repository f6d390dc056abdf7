"""Run LlamaIndex's own tests against our classes, from a checkout of its repository.

    LLAMA_INDEX_REPO=~/llama_index python tools/run_upstream_tests.py [pytest arguments]

Each file runs twice: with the stock classes, and with ours in their place. What passes with theirs
must pass with ours; tests of features newer than the installed version fail both times. Exits with
1 if a test passes with the stock classes only. Needs pytest-asyncio.

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
    "llama-index-core/tests/memory/blocks/test_static.py",
    "llama-index-core/tests/memory/blocks/test_vector.py",
    "llama-index-core/tests/chat_engine/test_simple.py",
    "llama-index-core/tests/chat_engine/test_context.py",
    "llama-index-core/tests/chat_engine/test_condense_plus_context.py",
    "llama-index-core/tests/chat_engine/test_streaming_history.py",
    "llama-index-core/tests/agent/workflow/test_single_agent_workflow.py",
    "llama-index-core/tests/agent/workflow/test_multi_agent_workflow.py",
    "llama-index-core/tests/agent/workflow/test_react_agent.py",
)
OURS, PASSED = "TEMPLORA_UPSTREAM_OURS", "TEMPLORA_UPSTREAM_PASSED"


# --- the plugin ----------------------------------------------------------------------------------


def pytest_configure(config: Any) -> None:
    """Put our classes in the place of the stock ones before any test module is imported."""
    del config
    if os.environ.get(OURS):
        _replace()


def pytest_runtest_logreport(report: Any) -> None:
    """Note the tests that passed."""
    if report.when == "call" and report.passed:
        with Path(os.environ[PASSED]).open("a", encoding="utf-8") as file:
            file.write(json.dumps(report.nodeid) + "\n")


def _replace() -> None:
    engines = "llama_index.core.chat_engine"
    chats: list[Any] = [
        import_module(f"{engines}.{name}")
        for name in ("simple", "context", "condense_plus_context")
    ]
    package: Any = import_module("llama_index.core.memory")
    module: Any = import_module("llama_index.core.memory.memory")
    stores: Any = import_module("llama_index.core.storage.chat_store")
    stock = module.Memory
    memory, store = _classes(stock)
    for place in (module, package, *chats):
        place.Memory = memory
    make: Any = chats[0].SimpleChatEngine.from_defaults
    make.__func__.__defaults__ = tuple(
        memory if value is stock else value for value in make.__func__.__defaults__
    )
    stores.SimpleChatStore = store


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

        # no annotation: it would be a field
        from_defaults = classmethod(stock.from_defaults.__func__)  # type: ignore[var-annotated]

    class OurStore(ParametricChatStore):
        def __init__(self, memory: Any = None, **kwargs: Any) -> None:
            super().__init__(memory or service(), window_tokens=kwargs.get("window_tokens", 64))

        @classmethod
        def from_persist_path(cls, persist_path: Any = "", fs: Any = None, **_: Any) -> Any:
            return super().from_persist_path(persist_path, fs, memory=service())

    return OurMemory, OurStore


# --- the runner ----------------------------------------------------------------------------------


def run(repository: Path, files: list[str], arguments: list[str], *, ours: bool) -> set[str]:
    """Run one test file in a process of its own, and return the tests that passed."""
    with tempfile.NamedTemporaryFile("r", suffix=".json") as passed:
        environment = {**os.environ, PASSED: passed.name, "PYTHONPATH": str(Path(__file__).parent)}
        if ours:
            environment[OURS] = "1"
        command = [sys.executable, "-m", "pytest", "-q", "-p", "run_upstream_tests"]
        subprocess.run(  # noqa: S603  # our own interpreter and arguments
            [*command, "-p", "no:cacheprovider", *arguments, *files],
            cwd=repository,
            env=environment,
            check=False,
        )
        return {json.loads(line) for line in passed.read().splitlines()}


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
    stock = run(repository, files, sys.argv[1:], ours=False)
    ours = run(repository, files, sys.argv[1:], ours=True)
    lost = sorted(stock - ours)
    print(f"{len(files)} files: {len(stock)} tests pass with stock classes, {len(ours)} with ours")
    for name in lost:
        print(f"passes with the stock classes only: {name}")
    return 1 if lost or not stock else 0


if __name__ == "__main__":
    sys.exit(main())
