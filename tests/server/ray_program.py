"""Replicas over the fake backend: ray_program.py ROOT LEARNING. A line `replicas N` scales."""

import sys
import threading
import time
from functools import partial
from pathlib import Path

from templora_memory import Policy
from templora_memory.server import ServerSettings
from templora_memory.server.ray.local import APP, AppSpec, application, serve, serve_with_ray
from templora_memory.testing import FakeBackend


class Slow:
    """A stream with a pause before each word."""

    def __init__(self, stream):
        self._stream = stream

    def __iter__(self):
        for word in self._stream:
            time.sleep(0.5)
            yield word

    @property
    def completion(self):
        return self._stream.completion

    @property
    def logprobs(self):
        return self._stream.logprobs

    def close(self):
        self._stream.close()


class SlowBackend(FakeBackend):
    """Whoever is asked to speak slowly does."""

    def stream(self, request):
        stream = super().stream(request)
        return Slow(stream) if "slowly" in request.messages[-1].content else stream


def say(word):
    print(word, flush=True)  # noqa: T201  # the test reads it


def main(root, learning="0"):
    spec = AppSpec(
        backend=partial(SlowBackend, on_learn=partial(time.sleep, float(learning))),
        root=Path(root),
        policy=Policy(window=96, reply_tokens=24, chunk=16),
        settings=ServerSettings(grace_seconds=5.0),
    )

    def scale():
        for line in sys.stdin:
            count = int(line.split()[1])
            serve.run(application(spec, replicas=count), name=APP, route_prefix="/")
            say(f"replicas {count}")

    def on_started(url):
        say(url)
        threading.Thread(target=scale, daemon=True).start()

    serve_with_ray(spec, replicas=2, port=0, on_started=on_started)
    say("stopped")


if __name__ == "__main__":
    main(*sys.argv[1:])
