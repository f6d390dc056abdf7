"""Limits of a server: one frozen value, checked when it is made."""

from __future__ import annotations

import ipaddress
import math
from dataclasses import dataclass, fields

from templora_memory.errors import InvalidSetting

_MIB = 1 << 20
_MAY_BE_ZERO = frozenset({"max_waiting", "grace_seconds"})


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """Limits of a server, and the name of its model.

    Args:
        name: the name by which clients call the base model; None: the backend's name for it.
        max_running: replies and probes computed at once, over all keys.
        max_waiting: further ones that may wait for their turn; beyond that a client gets 429.
        max_per_key: replies and probes of one key, running and waiting together.
        queue_seconds: longest wait for a turn; after it a client gets 429.
        max_jobs: absorbs of one key that may wait or run at once; beyond that it gets 429.
        reply_seconds: time for a whole reply, an absorb before it included.
        body_seconds: longest pause between two pieces of a request's body.
        max_body_bytes: largest request body.
        max_import_bytes: largest file to import.
        grace_seconds: time that replies under way get when the server is asked to stop.
        header_seconds: time for the headers of a request.
        origins: web origins that may call from a browser; none by default.
        strict: refuse requests with fields that would be ignored.

    Raises:
        InvalidSetting: a number that is out of range or not one, an empty name, the origin ``*``.
    """

    name: str | None = None
    max_running: int = 16
    max_waiting: int = 64
    max_per_key: int = 32
    queue_seconds: float = 30.0
    max_jobs: int = 64
    reply_seconds: float = 300.0
    body_seconds: float = 15.0
    max_body_bytes: int = 8 * _MIB
    max_import_bytes: int = 1024 * _MIB
    grace_seconds: float = 10.0
    header_seconds: float = 15.0
    origins: tuple[str, ...] = ()
    strict: bool = False

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            minimum = 0 if item.name in _MAY_BE_ZERO else 1
            if item.type == "int" and (type(value) is not int or value < minimum):
                raise InvalidSetting(
                    f"{item.name} is {value!r}: it must be a whole number of at least {minimum}."
                )
            if item.type == "float" and not _is_duration(value, may_be_zero=minimum == 0):
                raise InvalidSetting(f"{item.name} is {value!r}: it must be a number of seconds.")
        if self.name is not None and not self.name.strip():
            raise InvalidSetting("name is empty: give the base model a name, or leave it out.")
        if "*" in self.origins:
            raise InvalidSetting("origins has '*': name the web pages that may call, one by one.")


def _is_duration(value: object, *, may_be_zero: bool) -> bool:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and math.isfinite(value) and (value > 0 or (may_be_zero and value == 0))  # type: ignore[operator,arg-type]


def is_loopback(host: str) -> bool:
    """Return True if a host name or address reaches this machine only."""
    if host.lower().rstrip(".") == "localhost":
        return True
    try:
        bracketed = host.startswith("[") and host.endswith("]")
        return ipaddress.ip_address(host[1:-1] if bracketed else host).is_loopback
    except ValueError:
        return False
