"""The runner of LlamaIndex's own tests: what it puts in place, and when it complains."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

RUNNER = Path(__file__).parents[1] / "tools" / "run_upstream_tests.py"
PROGRAM = """
import json
import run_upstream_tests as runner
runner._replace()
from llama_index.core.agent.workflow import base_agent, multi_agent_workflow
from llama_index.core.chat_engine import SimpleChatEngine
from llama_index.core.llms import MockLLM
from llama_index.core.memory import ChatMemoryBuffer, Memory
made = {}
for name, make in {
    "agent": base_agent.ChatMemoryBuffer.from_defaults,
    "workflow": multi_agent_workflow.ChatMemoryBuffer.from_defaults,
    "engine": lambda: SimpleChatEngine.from_defaults(llm=MockLLM()),
    "memory": Memory.from_defaults,
}.items():
    before = len(runner._made)
    make()
    made[name] = runner._made[before:]
print(json.dumps(made))
"""


def runner():
    spec = importlib.util.spec_from_file_location("run_upstream_tests", RUNNER)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_our_classes_stand_wherever_a_stock_one_did():
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(RUNNER.parent), *sys.path])}
    said = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM],
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    )
    assert json.loads(said.stdout.splitlines()[-1]) == {
        "agent": ["ParametricChatStore"],
        "workflow": ["ParametricChatStore"],
        "engine": ["TempLoraMemory"],
        "memory": ["TempLoraMemory"],
    }


def test_it_complains_of_lost_tests_and_of_files_without_our_objects():
    complaints = runner().complaints
    assert complaints("f", {"a": 0, "b": 0}, {"a": 3, "b": 4, "c": 5}) == []
    assert complaints("f", {}, {}) == []
    assert complaints("f", {"a": 0, "b": 0}, {"b": 1}) == ["passes with the stock classes only: a"]
    (line,) = complaints("f", {"a": 0}, {"a": 0})
    assert line == "made none of our objects, so it compared stock with stock: f"
