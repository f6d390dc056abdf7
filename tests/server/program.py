"""A server over the fake backend, as its own process: program.py ROOT PAUSE LEARNING [GRACE]."""

import sys
import time
from pathlib import Path

from templora_memory import Policy
from templora_memory.server import ServerSettings, serve
from templora_memory.testing import FakeBackend


class SlowStream:
    def __init__(self, stream, pause):
        self._stream, self._pause = stream, pause

    def __iter__(self):
        for word in self._stream:
            time.sleep(self._pause)
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
    def __init__(self, pause, learning):
        super().__init__(on_learn=lambda: time.sleep(learning))
        self._pause = pause

    def stream(self, request):
        return SlowStream(super().stream(request), self._pause)


def main(root, pause="0", learning="0", grace="10"):
    serve(
        SlowBackend(float(pause), float(learning)),
        Path(root),
        port=0,
        policy=Policy(window=96, reply_tokens=24, chunk=16),
        settings=ServerSettings(grace_seconds=float(grace)),
        on_started=lambda url: print(url, flush=True),  # noqa: T201  # the test reads it
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
