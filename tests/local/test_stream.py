"""Callers: streams that are closed, dropped, interleaved."""

from __future__ import annotations

import threading

import pytest

from templora_memory.errors import Closed
from tests.local.generate_requests import ask


def test_closing_stops_soon_from_any_thread_and_twice(make_backend):
    backend = make_backend()
    stream = backend.stream(ask(max_tokens=200))
    next(iter(stream))
    closer = threading.Thread(target=stream.close)
    closer.start()
    closer.join()
    stream.close()
    done = stream.completion
    assert done.finish_reason == "cancelled"
    assert done.completion_tokens < 200


def test_a_caller_who_goes_away_stops_the_model(make_backend):
    backend = make_backend()
    stream = backend.stream(ask(max_tokens=200))
    channel = stream._channel
    del stream
    assert channel.closed.is_set()
    assert backend.stream(ask()).completion.finish_reason == "length"


def test_two_interleaved_streams_equal_their_solo_runs(make_backend, learn, tmp_path):
    """L3: a generator that keeps a context variable set would answer with the other's adapter."""
    backend = make_backend()
    first, _ = learn(backend, tmp_path / "a", "red red red")
    second, _ = learn(backend, tmp_path / "b", "blue blue blue")
    requests = [ask(adapter=first, max_tokens=20), ask(adapter=second, max_tokens=20)]
    alone = [backend.stream(request).completion.text for request in requests]
    streams = [backend.stream(request) for request in requests]
    readers = [iter(stream) for stream in streams]
    for _ in range(3):
        for reader in readers:
            next(reader)
    assert [stream.completion.text for stream in streams] == alone
    assert alone[0] != alone[1]


def test_closing_the_backend_ends_open_streams_with_an_error(make_backend):
    backend = make_backend()
    stream = backend.stream(ask(max_tokens=240))
    next(iter(stream))
    backend.close()
    with pytest.raises(Closed):
        stream.completion  # noqa: B018
    with pytest.raises(Closed):
        backend.stream(ask())
