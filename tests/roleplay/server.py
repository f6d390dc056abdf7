"""A server for the browser tests: the page over the fake backend, which learns slowly on demand."""

import argparse
import os
import sys
import time
from pathlib import Path

parser = argparse.ArgumentParser()
parser.add_argument("root", type=Path)
parser.add_argument("--port", type=int, required=True)
parser.add_argument("--grace", type=float, default=60.0)
parser.add_argument("--learn", type=float, default=0.0, help="seconds for each chunk")
parser.add_argument("--model", default="", help="a real model instead of the fake one")
parser.add_argument("--recipe", default="auto", help="of the real model")
parser.add_argument("--steps", type=int, default=32, help="to learn a bio with the real model")
given = parser.parse_args()

uploads = given.root / "uploads"
uploads.mkdir(parents=True, exist_ok=True)
os.environ["GRADIO_TEMP_DIR"] = str(uploads)
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["GRADIO_HEARTBEAT_INTERVAL"] = "0.25"
sys.path.insert(0, str(Path(__file__).parents[2]))

from templora_memory import ParametricMemory, Policy  # noqa: E402
from templora_memory.apps.roleplay import build_app, launch_options  # noqa: E402
from templora_memory.stores import DirectoryStore  # noqa: E402
from templora_memory.testing import FakeBackend  # noqa: E402


def make() -> ParametricMemory:
    memories = given.root / "memories"
    if given.model:
        steps = {"document_steps": given.steps}
        quick = Policy().changed(recipe=given.recipe, learning=steps)
        return ParametricMemory.from_pretrained(given.model, root=memories, policy=quick)
    backend = FakeBackend(context=400, on_learn=lambda: time.sleep(given.learn))
    policy = Policy(window=240, reply_tokens=60, chunk=24)
    return ParametricMemory(backend, DirectoryStore(memories), policy)


with make() as memory:
    app = build_app(memory, home=given.root / "page", grace=given.grace)
    app.launch(
        server_name="127.0.0.1",
        server_port=given.port,
        prevent_thread_lock=True,
        **launch_options(),
    )
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    try:
        sys.stdin.read()  # until the test closes it
    finally:
        app.close()
        app.studio.close()
