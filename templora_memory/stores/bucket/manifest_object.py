"""The object under the name of a memory in a bucket: where the rest lies and the manifest.

::

    {"place": "<encoded id>/<random>", "commits": {revision: folder}, "manifest": {...}}

With a key the manifest is sealed, in base64, and bound to what stands beside it. That stays
readable, so that cleaning up and forgetting need no key. A tombstone stands for a memory that is
being forgotten. Knows nothing of buckets.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from templora_memory.domain.manifest import Manifest
from templora_memory.stores.encryption import BARE, Seal

LARGEST_TOMBSTONE = 200
PLACE = re.compile(r"[0-9a-f]{32}")
"""The random part of a place."""
_COMMIT = re.compile(r"[0-9a-f]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """What can be read without a key."""

    place: str
    commits: Mapping[str, str]
    manifest: dict[str, Any] | str

    @property
    def sealed(self) -> bool:
        return isinstance(self.manifest, str)

    def open(self, seal: Seal) -> Manifest:
        """The manifest.

        Raises:
            ValueError, StoreDamaged: it is not what was written.
        """
        if not isinstance(self.manifest, str):
            return Manifest.from_json(self.manifest)
        content = base64.b64decode(self.manifest, validate=True)
        return Manifest.from_json(json.loads(seal.open(content, _what(self.place, self.commits))))


def _what(place: str, commits: Mapping[str, str]) -> str:
    """What a sealed manifest is bound to."""
    return "manifest " + json.dumps([place, dict(commits)], sort_keys=True)


def _plain(manifest: Manifest) -> bytes:
    return json.dumps(manifest.as_json(), ensure_ascii=False, indent=1).encode()


def encode(manifest: Manifest, place: str, commits: Mapping[str, str], seal: Seal) -> bytes:
    """What to write for a manifest whose revisions lie in these folders of `place`."""
    body: dict[str, Any] = {"place": place, "commits": dict(commits)}
    if seal is BARE:
        body["manifest"] = manifest.as_json()
    else:
        sealed = seal.close(_plain(manifest), _what(place, commits))
        body["manifest"] = base64.b64encode(sealed).decode()
    return json.dumps(body, ensure_ascii=False, indent=1).encode()


def decode(name: str, body: bytes) -> Envelope | None:
    """What `encode` wrote for the memory of this name; None: it is something else."""
    try:
        found = json.loads(body)
        place, commits, manifest = found["place"], found["commits"], found["manifest"]
        owner, _, token = place.partition("/")
        sound = (
            owner == name
            and PLACE.fullmatch(token)
            and all(_COMMIT.fullmatch(commit) for commit in commits.values())
            # sealed names are bound to the commits
            and (isinstance(manifest, str) or set(commits) == _names(manifest))
        )
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    return Envelope(place=place, commits=commits, manifest=manifest) if sound else None


def _names(manifest: Mapping[str, Any]) -> set[str]:
    return {revision["name"] for revision in manifest["revisions"]}


def tombstone(place: str) -> bytes:
    # short, so that a listing tells it from a manifest
    return json.dumps({"forgotten": place.rpartition("/")[2]}).encode()


def forgotten(name: str, body: bytes) -> str | None:
    """The place that a tombstone says is to be cleared; None: it is no tombstone."""
    if len(body) > LARGEST_TOMBSTONE:
        return None
    try:
        token = json.loads(body)["forgotten"]
    except (ValueError, TypeError, KeyError):
        return None
    return f"{name}/{token}" if PLACE.fullmatch(str(token)) else name
