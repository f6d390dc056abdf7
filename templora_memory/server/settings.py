"""What a server allows: one frozen value, checked once."""

from __future__ import annotations

import ipaddress
import math
from dataclasses import dataclass, fields

from templora_memory.errors import InvalidSetting

_MIB = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """Limits and manners of a server.

    Args:
        name: what clients call the base model; None: the backend's name for it.
        running: replies and probes computed at once, over all keys.
        waiting: further ones that may wait for their turn; beyond that a client gets 429.
        per_key: of those, most that one key may have at once (running and waiting together).
        queue_seconds: how long one may wait for its turn before it gets 429.
        jobs: absorbs that may wait or run at once for one key; beyond that a client gets 429.
        reply_seconds: time for a whole reply, an absorb before it included.
        body_seconds: longest pause between two pieces of a request's body.
        body_bytes: largest request body.
        import_bytes: largest file to import.
        grace_seconds: time that replies under way get when the server is told to stop.
        origins: web origins that may call from a browser; none by default.
    """

    name: str | None = None
    running: int = 16
    waiting: int = 64
    per_key: int = 32
    queue_seconds: float = 30.0
    jobs: int = 64
    reply_seconds: float = 300.0
    body_seconds: float = 15.0
    body_bytes: int = 8 * _MIB
    import_bytes: int = 1024 * _MIB
    grace_seconds: float = 10.0
    origins: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            least = 0 if item.name in {"waiting", "grace_seconds"} else 1
            if item.type == "int" and (type(value) is not int or value < least):
                raise InvalidSetting(
                    f"{item.name} is {value!r}: it must be a whole number of at least {least}."
                )
            if item.type == "float" and not _duration(value, zero=least == 0):
                raise InvalidSetting(f"{item.name} is {value!r}: it must be a number of seconds.")
        if self.name is not None and not self.name.strip():
            raise InvalidSetting("name is empty: give the base model a name, or leave it out.")
        if "*" in self.origins:
            raise InvalidSetting("origins has '*': name the web pages that may call, one by one.")


def _duration(value: object, *, zero: bool) -> bool:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and math.isfinite(value) and (value > 0 or (zero and value == 0))  # type: ignore[operator,arg-type]


def is_loopback(host: str) -> bool:
    """Whether a host to bind or to be called by reaches this machine only."""
    if host.lower().rstrip(".") == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
