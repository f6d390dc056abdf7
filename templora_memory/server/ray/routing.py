"""Routing keys of requests, so that all requests of one memory reach one replica.

A memory is routed by a key made from its id, and a job's id begins with that key, so a request for
a job need not name the memory. Knows nothing of Ray.
"""

from __future__ import annotations

import hashlib
import json
import re
from urllib.parse import parse_qs

from templora_memory.domain.ids import parse_id
from templora_memory.errors import InvalidId

_JOB_PATH = re.compile(r"/v1/jobs/job-([0-9a-f]{4})[0-9a-f]{20}(/|$)")
_MEMORY_PATH = re.compile(r"/v1/memories/([^/]+)(/|$)")
_QUERY_FIELDS = {"/v1/memories/import": "memory_id", "/v1/jobs": "memory"}
_CREATE_PATH = "/v1/memories"
_ANSWER_PATHS = frozenset({"/v1/chat/completions", "/v1/completions", "/v1/responses"})
_KEY_LENGTH = 4


def routing_key(memory_id: str) -> str:
    """Return the routing key of a memory: four hexadecimal digits of a hash of its id."""
    return hashlib.sha256(memory_id.encode("utf-8", "surrogatepass")).hexdigest()[:_KEY_LENGTH]


def request_routing_key(path: str, query: str, body: bytes, base: str) -> str | None:
    """Return the routing key of the memory that a request names; None: any replica will do.

    Args:
        path: decoded path.
        query: the part behind the question mark.
        body: the whole body.
        base: the name by which clients call the base model.
    """
    if match := _JOB_PATH.match(path):
        return match[1]
    name = _memory_name(path, parse_qs(query), body, base)
    if name is None:
        return None
    try:
        return routing_key(str(parse_id(name)))
    except InvalidId:
        return None  # whichever replica gets it refuses it


def _memory_name(path: str, query: dict[str, list[str]], body: bytes, base: str) -> str | None:
    if field := _QUERY_FIELDS.get(path):
        return next(iter(query.get(field, ())), None)
    if match := _MEMORY_PATH.match(path):
        return match[1]
    if path == _CREATE_PATH:
        return _memory_name_in_body(body, base, "id")
    return _memory_name_in_body(body, base, "memory") if path in _ANSWER_PATHS else None


def _memory_name_in_body(body: bytes, base: str, field: str) -> str | None:
    try:
        fields = json.loads(body)
        name = fields.get(field) or fields.get("model")
    except (ValueError, AttributeError, RecursionError):
        return None  # no object: whichever replica gets it refuses it
    if not isinstance(name, str):
        return None
    if name != fields.get("model"):
        return name
    return name.removeprefix(f"{base}:") if name.startswith(f"{base}:") else None
