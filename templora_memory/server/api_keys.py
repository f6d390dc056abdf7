"""API keys: which key owns which namespace. Only digests of keys are ever stored."""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from collections.abc import Iterable, Mapping
from pathlib import Path

from templora_memory.errors import InvalidSetting
from templora_memory.fs.files import replace_file

NAMESPACE = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_LEAST = 16


class Keys:
    """The keys of a server, each owning one namespace; several keys may own the same.

    Args:
        digests: namespace by `key_digest`.

    Raises:
        InvalidSetting: no keys at all, an unusable namespace or digest.
    """

    def __init__(self, digests: Mapping[str, str]) -> None:
        if not digests:
            raise InvalidSetting("There is no API key: make one with `templora key NAMESPACE`.")
        for digest, namespace in digests.items():
            check_namespace(namespace)
            if not _DIGEST.fullmatch(digest):
                raise InvalidSetting(
                    f"A key of namespace {namespace!r} is not a SHA-256 in hexadecimal: "
                    "make keys with `templora key NAMESPACE`."
                )
        self._digests = dict(digests)

    def __repr__(self) -> str:
        return f"Keys({len(self._digests)} keys, {len(self.namespaces)} namespaces)"

    @property
    def namespaces(self) -> tuple[str, ...]:
        return tuple(sorted(set(self._digests.values())))

    def namespace(self, key: str) -> str | None:
        """Whose key this is; None: nobody's.

        What is looked up is a digest, so the time it takes tells nothing about the keys there are.
        """
        return self._digests.get(key_digest(key))

    @classmethod
    def of(cls, keys: Mapping[str, str]) -> Keys:
        """Keys from plain text: namespace by key.

        Raises:
            InvalidSetting: a key under 16 characters, or an unusable namespace.
        """
        for key, namespace in keys.items():
            if len(key) < _LEAST or not key.isascii() or not key.isprintable() or " " in key:
                raise InvalidSetting(
                    f"The key of namespace {namespace!r} is unusable: at least {_LEAST} visible "
                    "ASCII characters without a space are needed."
                )
        return cls({key_digest(key): namespace for key, namespace in keys.items()})

    @classmethod
    def load(cls, path: Path) -> Keys:
        """Keys from a file that `add_key` wrote.

        Raises:
            InvalidSetting: no such file, or it is not one.
        """
        digests: dict[str, str] = {}
        for namespace, found in _read(path).items():
            for digest in found:
                if digests.setdefault(digest, namespace) != namespace:
                    raise InvalidSetting(
                        f"{path} gives one key to {digests[digest]!r} and to {namespace!r}."
                    )
        return cls(digests)


def key_digest(key: str) -> str:
    """What is stored of a key. A key is 32 random bytes, so a plain digest is enough."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def check_namespace(namespace: str) -> str:
    """The namespace, if it is one.

    Raises:
        InvalidSetting: it is not.
    """
    if not NAMESPACE.fullmatch(namespace):
        raise InvalidSetting(
            f"The namespace {namespace!r} is unusable: use 1 to 64 of a-z, 0-9, '-' and '_', "
            "beginning with a letter or digit."
        )
    return namespace


def add_key(path: Path, namespace: str) -> str:
    """Make a key for a namespace and note its digest in a file; returns the key, once.

    Raises:
        InvalidSetting: an unusable namespace, or the file is not a file of keys.
        StoreWriteFailed: it cannot be written.
    """
    check_namespace(namespace)
    known = _read(path) if path.exists() else {}
    key = f"templora-{secrets.token_urlsafe(32)}"
    known[namespace] = [*known.get(namespace, ()), key_digest(key)]
    replace_file(path, (json.dumps(known, indent=2, sort_keys=True) + "\n").encode())
    return key


def _read(path: Path) -> dict[str, list[str]]:
    try:
        found = json.loads(path.read_bytes(), object_pairs_hook=_once)
    except OSError as error:
        raise InvalidSetting(f"The keys in {path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise InvalidSetting(f"{path} is not a file of keys: {error}.") from error
    if not isinstance(found, dict) or not all(map(_is_list, found.values())):
        raise InvalidSetting(
            f"{path} is not a file of keys: it must map each namespace to a list of digests."
        )
    return found


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """An object of JSON; a name that stands there twice may be a damaged one: whose keys are it?"""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a namespace stands there twice: join its digests in one list")
    return found


def _is_list(value: object) -> bool:
    items: Iterable[object] = value if isinstance(value, list) else (None,)
    return all(isinstance(item, str) for item in items)
