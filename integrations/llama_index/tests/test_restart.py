"""Killed in the middle of a conversation: nothing is lost, nothing is learned twice."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
from llama_index.core.storage.chat_store.base_db import MessageStatus
from templora_memory.testing import FakeBackend

SCRIPT = Path(__file__).with_name("killed_chat.py")


@pytest.fixture
def open_memory():
    spec = importlib.util.spec_from_file_location("killed_chat", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.open_memory


def chat(folder, turns, die_at):
    command = [sys.executable, str(SCRIPT), str(folder), str(turns), str(die_at)]
    return subprocess.run(command, capture_output=True, text=True, timeout=250, check=False)


@pytest.mark.slow
def test_a_killed_conversation_goes_on_whole(tmp_path, open_memory):
    for die_at in (2, 3):
        done = chat(tmp_path, 12, die_at)
        assert done.returncode == -9, done.stderr
    said = int((tmp_path / "said").read_text())
    backend = FakeBackend()
    memory = open_memory(tmp_path, backend)
    rows = memory.get_all()
    assert len(rows) >= 2 * said  # every finished turn is there
    journal = memory.service["ada"].transcript().messages
    shown = memory.get()  # also finds what is missing, and has it learned
    memory.wait_absorbed()
    gone = [row.content for row in memory.get_all(MessageStatus.ARCHIVED)]
    assert [m.content for m in memory.service["ada"].transcript().messages] == gone
    assert [m.content for m in journal] == gone[: len(journal)]
    revision = memory.service["ada"].head()
    (weights,) = (tmp_path / "memories").rglob(f"{revision.name}/adapter.json")
    import json  # noqa: PLC0415

    assert json.loads(weights.read_text()) == gone  # each once, in order
    assert {row.content for row in shown} | set(gone) == {row.content for row in rows}
    memory.service.close()
