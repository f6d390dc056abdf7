import asyncio
import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest
import uvicorn

from templora_memory import Policy
from templora_memory.server import ServerSettings, create_app
from templora_memory.testing import FakeBackend

HERE = Path(__file__).parent
POLICY = Policy(window=96, reply_tokens=24, chunk=16)


class Slow:
    """A stream of the fake, with a pause before each word until the test lets it go on."""

    def __init__(self, stream, backend):
        self._stream = stream
        self._backend = backend

    def __iter__(self):
        for word in self._stream:
            self._backend.words += 1
            self._backend.go_on.wait(self._backend.pause)
            yield word

    @property
    def completion(self):
        return self._stream.completion

    @property
    def logprobs(self):
        return self._stream.logprobs

    def close(self):
        self._backend.closed.set()
        self._stream.close()


class SlowBackend(FakeBackend):
    """A fake whose learning and answering take as long as the test wants."""

    def __init__(self, *, pause=0.0, learning=0.0, **options):
        super().__init__(on_learn=self._learn_slowly, **options)
        self.pause = pause
        self.learning = learning
        self.words = 0
        self.go_on = threading.Event()
        self.learns = threading.Event()
        self.closed = threading.Event()

    def _learn_slowly(self):
        self.learns.set()
        self.go_on.wait(self.learning)

    def stream(self, request):
        return Slow(super().stream(request), self)


@pytest.fixture
def slow():
    return SlowBackend


@pytest.fixture
def until():
    """`until(check)` waits until the check holds."""

    def wait(check):
        end = time.monotonic() + 30
        while not check():
            assert time.monotonic() < end
            time.sleep(0.01)

    return wait


class Server:
    """An application under uvicorn, in a thread of this process, on a free port."""

    def __init__(self, app):
        self.app = app
        self._server = uvicorn.Server(
            uvicorn.Config(app, host="127.0.0.1", port=0, log_config=None, lifespan="on")
        )
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        end = time.monotonic() + 30
        while not self._server.started:
            assert time.monotonic() < end, "the server did not start"
            time.sleep(0.01)
        (self.port,) = {s.getsockname()[1] for one in self._server.servers for s in one.sockets}
        self.url = f"http://127.0.0.1:{self.port}"

    def _run(self):
        asyncio.run(self._server.serve())

    def stop(self):
        self._server.should_exit = True
        self._thread.join(30)
        assert not self._thread.is_alive()


@pytest.fixture
def make_app(tmp_path):
    def make(backend=None, *, root="root", **options):
        options.setdefault("policy", POLICY)
        settings = options.pop("settings", {})
        return create_app(
            backend or FakeBackend(),
            tmp_path / root,
            settings=ServerSettings(**settings),
            **options,
        )

    return make


@pytest.fixture
def start(make_app):
    """`start(backend, keys=..., settings={...})`: a server on a port of this machine."""
    servers = []

    def run(backend=None, **options):
        servers.append(Server(make_app(backend, **options)))
        return servers[-1]

    yield run
    for server in servers:
        server.stop()


class Process:
    """`tests/server/program.py` in a process of its own, to be killed."""

    def __init__(self, root, *words, env=None):
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / "program.py"), str(root), *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, **(env or {})},
        )
        self.output = []
        for line in self._process.stdout:
            self.output.append(line)
            if found := re.search(r"http://127\.0\.0\.1:\d+", line):
                self.url = found[0]
                break
        else:
            raise AssertionError("".join(self.output))
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.client = httpx.Client(base_url=self.url, timeout=60)

    def _read(self):
        self.output.extend(self._process.stdout)

    def end(self, number):
        """Send a signal; returns the exit code once it has ended."""
        self._process.send_signal(number)
        code = self._process.wait(30)
        self.client.close()
        self._reader.join(5)
        self._process.stdout.close()
        return code

    @property
    def running(self):
        return self._process.poll() is None


@pytest.fixture
def spawn(tmp_path):
    processes = []

    def run(*words, **options):
        processes.append(Process(tmp_path / "root", *words, **options))
        return processes[-1]

    yield run
    for process in processes:
        if process.running:
            with contextlib.suppress(ProcessLookupError):
                process.end(signal.SIGKILL)
