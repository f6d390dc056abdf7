"""A small server that behaves as vLLM 0.33 does where this project touches it.

Behind it stands the fake backend. What it is exact about: status codes, names and paths, what an
unload forgets and what it keeps, and that keys and values are cached by name and path.
"""

import json
import shutil
import threading
from collections import OrderedDict
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from templora_memory import Message, Sampling
from templora_memory.ports import Adapter, GenerateRequest
from templora_memory.testing import FakeBackend

BASE = "fake"


class FakeVllm:
    """The state of the server.

    `loaded` are names and paths; `weights` what lies in its memory, most recently used last;
    `blocks` cached keys and values: which content they were computed with.
    """

    def __init__(self, folder, *, max_cpu_loras=4):
        self._folder = folder
        self._most = max_cpu_loras
        self._lock = threading.Lock()
        self.backend = FakeBackend()
        self.backend.open()
        self.loaded, self.weights, self.blocks = {}, OrderedDict(), {}
        self.calls, self.asked = [], []
        self.hold = threading.Event()
        self.hold.set()
        self.failing = False
        self.length = 1024
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def do_GET(self):
                cards = [{"id": BASE, "max_model_len": server.length}]
                cards += [{"id": name, "max_model_len": None} for name in server.loaded]
                self._say(200, json.dumps({"object": "list", "data": cards}))

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                if self.path == "/v1/chat/completions":
                    server.chat(self, body)
                else:
                    with server._lock:
                        server.calls.append((self.path, body))
                        self._say(*getattr(server, self.path.removeprefix("/v1/"))(body))

            def _say(self, status, text):
                data = text.encode()
                self.send_response(status)
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._http.server_port}"

    def stop(self):
        self.hold.set()
        self._http.shutdown()
        self._thread.join(10)
        self._http.server_close()

    def load_lora_adapter(self, body):
        name, path = body.get("lora_name"), body.get("lora_path")
        if not name or not path:
            return 400, "Both 'lora_name' and 'lora_path' must be provided."
        if name == BASE or (name in self.loaded and not body.get("load_inplace")):
            return 400, f"The lora adapter '{name}' has already been loaded."
        if not Path(path).is_dir():
            return 404, "No adapter found."
        if self.failing:
            return 500, "out of memory"
        self.loaded[name] = path
        self._keep(name)
        return 200, f"Success: LoRA adapter '{name}' added successfully."

    def _keep(self, name):
        """Copy the weights into memory; what was used longest ago gives way."""
        if name not in self.weights:
            self.weights[name] = self._folder / f"{len(self.calls)}-{name}"
            shutil.copytree(self.loaded[name], self.weights[name])
        self.weights.move_to_end(name)
        while len(self.weights) > self._most:
            _, gone = self.weights.popitem(last=False)
            shutil.rmtree(gone)

    def unload_lora_adapter(self, body):
        name = body.get("lora_name")
        if name not in self.loaded:
            return 404, f"The lora adapter '{name}' cannot be found."
        del self.loaded[name]
        return 200, f"Success: LoRA adapter '{name}' removed successfully."

    def chat(self, handler, body):
        adapter = None
        with self._lock:
            self.asked.append(body)
            name = body["model"]
            if name != BASE:
                if name not in self.loaded:
                    error = {"message": f"The model `{name}` does not exist."}
                    handler._say(404, json.dumps({"error": error}))
                    return
                self._keep(name)
                key = (name, self.loaded[name])
                first = self.blocks.setdefault(
                    key, (self.weights[name] / "adapter.json").read_text()
                )
                folder = self._folder / f"blocks-{len(self.asked)}"
                folder.mkdir()
                (folder / "adapter.json").write_text(first)
                adapter = Adapter(folder=folder, version=name)
        request = GenerateRequest(
            messages=tuple(Message(m["role"], m["content"]) for m in body["messages"]),
            adapter=adapter,
            strength=1.0,
            sampling=Sampling(
                temperature=body["temperature"],
                seed=body.get("seed"),
                stop=tuple(body.get("stop", ())),
                logprobs=body["top_logprobs"] if body.get("logprobs") else None,
            ),
            max_tokens=body["max_tokens"],
        )
        self._answer(handler, self.backend.stream(request))

    def _answer(self, handler, stream):
        handler.send_response(200)
        handler.send_header("content-type", "text/event-stream")
        handler.send_header("connection", "close")
        handler.end_headers()
        handler.close_connection = True
        try:
            told = 0
            for piece in stream:
                choice = {"index": 0, "delta": {"content": piece}}
                if len(stream.logprobs) > told:
                    new, told = stream.logprobs[told:], len(stream.logprobs)
                    choice["logprobs"] = {"content": [asdict(token) for token in new]}
                self._event(handler, {"choices": [choice]})
                self.hold.wait(30)
                if self.failing:
                    self._event(handler, {"error": {"message": "the engine died"}})
                    return
            done = stream.completion
            reason = {"index": 0, "delta": {}, "finish_reason": done.finish_reason}
            self._event(handler, {"choices": [reason]})
            usage = {
                "prompt_tokens": done.prompt_tokens, "completion_tokens": done.completion_tokens
            }  # fmt: skip
            self._event(handler, {"choices": [], "usage": usage})
            handler.wfile.write(b"data: [DONE]\n\n")
        except OSError:
            pass  # the client has gone

    def _event(self, handler, body):
        handler.wfile.write(f"data: {json.dumps(body)}\n\n".encode())


@pytest.fixture
def vllm(tmp_path):
    (tmp_path / "server").mkdir()
    server = FakeVllm(tmp_path / "server")
    yield server
    server.stop()
