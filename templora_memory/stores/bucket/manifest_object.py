"""The object under the name of a memory in a bucket: the manifest, and where the rest lies.

::

    {"place": "<encoded id>/<random>", "commits": {revision: folder}, "manifest": {...}}

With a key the manifest is encrypted, in base64, and bound to the two fields beside it. Those stay
readable, so that cleaning up and forgetting need no key. A tombstone stands in its place while a
memory is being forgotten. Knows nothing of buckets.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from templora_memory.domain.manifest import Manifest
from templora_memory.stores.encryption import PLAINTEXT, Cipher

MAX_TOMBSTONE_BYTES = 200
"""Every tombstone is shorter than this and every manifest longer, so a listing tells them apart."""
LOCATION_TOKEN = re.compile(r"[0-9a-f]{32}")
"""The random part of a location."""
_COMMIT = re.compile(r"[0-9a-f]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """The content of a manifest object, as far as it can be read without a key.

    Args:
        location: the folder of everything else, in the field ``place``.
        commits: the folder of each revision, by the revision's name.
        manifest: plain JSON, or the encrypted manifest in base64.
    """

    location: str
    commits: Mapping[str, str]
    manifest: dict[str, Any] | str

    @property
    def is_encrypted(self) -> bool:
        """True if the manifest needs a key."""
        return isinstance(self.manifest, str)

    def open(
        self, cipher: Cipher, read_list: Callable[[Manifest, str], tuple[str, ...]]
    ) -> Manifest:
        """Return the manifest, with `read_list` as `Manifest.from_json` takes it.

        Raises:
            ValueError, StoreDamaged: it is not what was written.
        """
        if not isinstance(self.manifest, str):
            return Manifest.from_json(self.manifest, read_list)
        content = base64.b64decode(self.manifest, validate=True)
        associated_data = _associated_data(self.location, self.commits)
        return Manifest.from_json(json.loads(cipher.decrypt(content, associated_data)), read_list)


def _associated_data(location: str, commits: Mapping[str, str]) -> str:
    """Return what an encrypted manifest is bound to: without it, commits could be swapped."""
    return "manifest " + json.dumps([location, dict(commits)], sort_keys=True)


def encode(
    manifest: Manifest,
    location: str,
    commits: Mapping[str, str],
    cipher: Cipher,
    list_name: Callable[[tuple[str, ...]], str],
) -> bytes:
    """Return the object to write for a manifest whose revisions lie in folders of `location`.

    `list_name` as `Manifest.as_json` takes it.
    """
    body: dict[str, Any] = {"place": location, "commits": dict(commits)}
    if cipher is PLAINTEXT:
        body["manifest"] = manifest.as_json(list_name)
    else:
        content = json.dumps(manifest.as_json(list_name), ensure_ascii=False, indent=1).encode()
        encrypted = cipher.encrypt(content, _associated_data(location, commits))
        body["manifest"] = base64.b64encode(encrypted).decode()
    return json.dumps(body, ensure_ascii=False, indent=1).encode()


def decode(name: str, body: bytes) -> Envelope | None:
    """Return what `encode` wrote for the memory of this name; None: it is something else.

    Nothing in it is trusted as a path: it may point only below `name`, to names of our own kind.
    """
    try:
        fields = json.loads(body)
        location, commits, manifest = fields["place"], fields["commits"], fields["manifest"]
        owner, _, token = location.partition("/")
        is_valid = (
            owner == name
            and LOCATION_TOKEN.fullmatch(token)
            and all(_COMMIT.fullmatch(commit) for commit in commits.values())
            # an encrypted manifest is bound to the commits instead
            and (isinstance(manifest, str) or set(commits) == _revision_names(manifest))
        )
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    return Envelope(location=location, commits=commits, manifest=manifest) if is_valid else None


def _revision_names(manifest: Mapping[str, Any]) -> set[str]:
    return {revision["name"] for revision in manifest["revisions"]}


def encode_tombstone(location: str) -> bytes:
    """Return the object that says a memory is forgotten, and which location is to be cleared."""
    return json.dumps({"forgotten": location.rpartition("/")[2]}).encode()


def decode_tombstone(name: str, body: bytes) -> str | None:
    """Return the location that a tombstone says is to be cleared; None: it is no tombstone."""
    if len(body) > MAX_TOMBSTONE_BYTES:
        return None
    try:
        token = json.loads(body)["forgotten"]
    except (ValueError, TypeError, KeyError):
        return None
    return f"{name}/{token}" if LOCATION_TOKEN.fullmatch(str(token)) else name
