"""Nothing that is imported or built looks up a name or opens a connection; telemetry is off.

Each part is imported in a process of its own in which every way out raises and is noted.
"""

import functools
import importlib.util
import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WATCH = """
import json, os, socket, sys
attempts, imported = [], []

def refuse(what):
    def call(*args, **_):
        attempts.append(f"{what} {args!r}"[:200])
        raise OSError("no network in this test")
    return call

def only_files(real, what):
    def connect(self, address, *rest):
        if self.family == socket.AF_UNIX:
            return real(self, address, *rest)
        return refuse(what)(address)
    return connect

for name in (
    "getaddrinfo", "gethostbyname", "gethostbyname_ex", "gethostbyaddr", "create_connection"
):
    setattr(socket, name, refuse(name))
socket.socket.connect = only_files(socket.socket.connect, "connect")
socket.socket.connect_ex = only_files(socket.socket.connect_ex, "connect_ex")
socket.socket.sendto = only_files(socket.socket.sendto, "sendto")
"""
TELL = """
import threading, time
end = time.monotonic() + 2
while time.monotonic() < end and any(
    t is not threading.current_thread() and not t.daemon for t in threading.enumerate()
):
    time.sleep(0.05)
print("@" + json.dumps({"attempts": attempts, "imported": imported, "environment": {
    name: os.environ.get(name) for name in (
        "GRADIO_ANALYTICS_ENABLED", "HF_HUB_DISABLE_TELEMETRY", "RAY_USAGE_STATS_ENABLED")
}}))
sys.stdout.flush()
os._exit(0)
"""
PARTS = {
    "all parts": (
        "torch",
        """
import importlib, importlib.util
for name in (
    "templora_memory", "templora_memory.testing", "templora_memory.backends.local",
    "templora_memory.evaluation", "templora_memory.importers", "templora_memory.cli",
    "templora_memory.server", "langchain_templora", "llama_index.memory.templora",
):
    if importlib.util.find_spec(name.partition(".")[0]) is not None:
        importlib.import_module(name)
        imported.append(name)
""",
    ),
    "the embedded model answers": (
        "torch",
        """
import tempfile
from templora_memory import Message, ParametricMemory
with ParametricMemory.from_pretrained(root=tempfile.mkdtemp()) as memory:
    memory["ada"].reply([Message("user", "Hi")], max_tokens=2)
imported.append("a reply")
""",
    ),
    "the page": (
        "gradio",
        """
import tempfile
from templora_memory import ParametricMemory
from templora_memory.apps.roleplay import build_app
build_app(ParametricMemory.from_pretrained(root=tempfile.mkdtemp()))
imported.append("the page")
""",
    ),
    "ray": ("ray", "import ray, ray.serve\nimported.append('ray')\n"),
}


@functools.cache
def watched(code):
    """What a process did that ran `code` with every way out closed."""
    clean = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("GRADIO_", "HF_", "RAY_", "TRANSFORMERS_"))
    }
    done = subprocess.run(
        [sys.executable, "-c", WATCH + code + TELL],
        cwd=ROOT,
        env={**clean, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("@")]
    assert lines, done.stderr[-2000:]
    return json.loads(lines[-1][1:])


def installed(module):
    """Whether a package is there, and new enough to be what the extra asks for."""
    if importlib.util.find_spec(module) is None:
        return False
    return module != "gradio" or int(metadata.version("gradio").partition(".")[0]) >= 6


def test_an_attempt_is_noticed():
    """So the others could fail."""
    found = watched(
        """
for way in (
    lambda: socket.create_connection(("example.org", 80)),
    lambda: socket.socket().connect(("1.1.1.1", 53)),
):
    try:
        way()
    except OSError:
        pass
"""
    )
    assert [attempt.split()[0] for attempt in found["attempts"]] == ["create_connection", "connect"]


@pytest.mark.parametrize("part", PARTS)
def test_no_name_is_looked_up(part, record_property):
    module, code = PARTS[part]
    if not installed(module):
        pytest.skip(f"{module} is not installed, or too old")
    found = watched(code)
    record_property(
        "trust",
        {
            "suite": "offline",
            "kind": "parts imported or run",
            "tried": len(found["imported"]),
            "found": len(found["attempts"]),
        },
    )
    assert found["attempts"] == []
    assert found["imported"]


@pytest.mark.skipif(not installed("gradio"), reason="gradio 6 is not installed")
def test_the_page_switches_telemetry_off():
    found = watched(PARTS["the page"][1])["environment"]
    assert found["GRADIO_ANALYTICS_ENABLED"] == "False"
