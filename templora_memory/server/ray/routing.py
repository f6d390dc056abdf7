"""Which memory a request is about, so that all requests of one memory reach one replica.

A memory is routed by a number made from its id, and a job's id begins with that number: so who
asks for a job needs not say whose it is. Knows nothing of Ray.
"""

from __future__ import annotations

import hashlib
import json
import re
from urllib.parse import parse_qs

from templora_memory.domain.ids import parse_id
from templora_memory.errors import InvalidId

_JOB = re.compile(r"/v1/jobs/job-([0-9a-f]{4})[0-9a-f]{20}(/|$)")
_MEMORY = re.compile(r"/v1/memories/([^/]+)(/|$)")
_FIELDS = {"/v1/memories/import": "memory_id", "/v1/jobs": "memory"}
_BODIES = frozenset({"/v1/chat/completions", "/v1/memories"})
_NUMBER = 4


def number_of(memory_id: str) -> str:
    """The number of a memory: four hexadecimal digits."""
    return hashlib.sha256(memory_id.encode("utf-8", "surrogatepass")).hexdigest()[:_NUMBER]


def route(path: str, query: str, body: bytes, base: str) -> str | None:
    """The number of the memory that a request is about; None: any replica will do.

    Args:
        path: decoded path.
        query: the part behind the question mark.
        body: the whole body.
        base: what clients call the base model.
    """
    if found := _JOB.match(path):
        return found[1]
    named = _named(path, parse_qs(query), body, base)
    if named is None:
        return None
    try:
        return number_of(str(parse_id(named)))
    except InvalidId:
        return None  # whoever gets it refuses it


def _named(path: str, query: dict[str, list[str]], body: bytes, base: str) -> str | None:
    if field := _FIELDS.get(path):
        return next(iter(query.get(field, ())), None)
    if found := _MEMORY.match(path):
        return found[1]
    return _in_body(body, base) if path in _BODIES else None


def _in_body(body: bytes, base: str) -> str | None:
    try:
        asked = json.loads(body)
        name = asked.get("memory") or asked.get("id") or asked.get("model")
    except (ValueError, AttributeError, RecursionError):
        return None
    if not isinstance(name, str) or name != asked.get("model"):
        return name if isinstance(name, str) else None
    return name.removeprefix(f"{base}:") if name.startswith(f"{base}:") else None
