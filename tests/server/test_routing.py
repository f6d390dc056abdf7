"""The routing keys of requests."""

import json

import pytest

from templora_memory.server.job_registry import _new_id
from templora_memory.server.ray.routing import request_routing_key, routing_key

ADA = routing_key("ada")


@pytest.mark.parametrize(
    ("path", "query", "body"),
    [
        ("/v1/memories/ada", "", {}),
        ("/v1/memories/ada/absorb", "wait=3", {"text": "x"}),
        ("/v1/memories/import", "memory_id=ada", {}),
        ("/v1/memories", "", {"id": "ada"}),
        ("/v1/chat/completions", "", {"model": "a/base:ada"}),
        ("/v1/chat/completions", "", {"model": "a/base", "memory": "ada"}),
        ("/v1/jobs", "memory=ada", {}),
        (f"/v1/jobs/{_new_id('ada')}", "wait=3", {}),
        (f"/v1/jobs/{_new_id('ada')}/events", "", {}),
    ],
)
def test_every_request_about_a_memory_has_its_routing_key(path, query, body):
    assert request_routing_key(path, query, json.dumps(body).encode(), "a/base") == ADA


@pytest.mark.parametrize(
    ("path", "query", "body"),
    [
        ("/v1/models", "", b""),
        ("/v1/memories", "limit=3", b""),
        ("/v1/memories", "user=bob", b""),
        ("/v1/memories/import", "", b"PK"),
        ("/v1/memories/..", "", b""),
        ("/v1/jobs/job-1", "", b""),
        ("/v1/chat/completions", "", b'{"model": "a/base"}'),
        ("/v1/chat/completions", "", b'{"model": "other:ada"}'),
        ("/v1/chat/completions", "", b'{"model": 3}'),
        ("/v1/chat/completions", "", b"[" * 100_000),
        ("/v1/chat/completions", "", b"[]"),
        ("/v1/chat/completions", "", b"\xff"),
        ("/healthz", "", b""),
    ],
)
def test_others_go_anywhere(path, query, body):
    assert request_routing_key(path, query, body, "a/base") is None


def test_memories_spread():
    assert len({routing_key(f"memory {n}") for n in range(200)}) > 190
