"""API keys, each of which opens one namespace. Only digests of keys are ever stored."""

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
_MIN_KEY_LENGTH = 16


class ApiKeys:
    """The API keys of a server, each with one namespace; several keys may open the same.

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
        return f"ApiKeys({len(self._digests)} keys, {len(self.namespaces)} namespaces)"

    @property
    def namespaces(self) -> tuple[str, ...]:
        """All namespaces that have a key, sorted."""
        return tuple(sorted(set(self._digests.values())))

    def namespace(self, key: str) -> str | None:
        """Return the namespace that a key opens; None for an unknown key.

        The lookup is by digest, so the time it takes says nothing about the keys there are.
        """
        return self._digests.get(key_digest(key))

    @classmethod
    def of(cls, keys: Mapping[str, str]) -> ApiKeys:
        """Make the keys from plain text: namespace by key.

        Raises:
            InvalidSetting: a key under 16 characters, or an unusable namespace.
        """
        for key, namespace in keys.items():
            too_short = len(key) < _MIN_KEY_LENGTH
            if too_short or not key.isascii() or not key.isprintable() or " " in key:
                raise InvalidSetting(
                    f"The key of namespace {namespace!r} is unusable: at least {_MIN_KEY_LENGTH} "
                    "visible ASCII characters without a space are needed."
                )
        return cls({key_digest(key): namespace for key, namespace in keys.items()})

    @classmethod
    def load(cls, path: Path) -> ApiKeys:
        """Read the keys from a file that `add_key` wrote.

        Raises:
            InvalidSetting: the file is missing, or is not a file of keys.
        """
        namespaces: dict[str, str] = {}
        for namespace, digests in _read(path).items():
            for digest in digests:
                if namespaces.setdefault(digest, namespace) != namespace:
                    raise InvalidSetting(
                        f"{path} gives one key to {namespaces[digest]!r} and to {namespace!r}."
                    )
        return cls(namespaces)


def key_digest(key: str) -> str:
    """Return the SHA-256 of a key, which is all that is stored of it."""
    # a key is 32 random bytes and cannot be guessed, so neither salt nor a slow hash is needed
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def check_namespace(namespace: str) -> str:
    """Return a namespace as it is, if its name is allowed.

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
    """Make a key for a namespace, add its digest to a file, and return the key.

    Raises:
        InvalidSetting: an unusable namespace, or the file is not a file of keys.
        StoreWriteFailed: the file cannot be written.
    """
    check_namespace(namespace)
    digests = _read(path) if path.exists() else {}
    key = f"templora-{secrets.token_urlsafe(32)}"
    digests[namespace] = [*digests.get(namespace, ()), key_digest(key)]
    replace_file(path, (json.dumps(digests, indent=2, sort_keys=True) + "\n").encode())
    return key


def _read(path: Path) -> dict[str, list[str]]:
    """Read the digests by namespace."""
    try:
        body = json.loads(path.read_bytes(), object_pairs_hook=_without_duplicates)
    except OSError as error:
        raise InvalidSetting(f"The keys in {path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise InvalidSetting(f"{path} is not a file of keys: {error}.") from error
    if not isinstance(body, dict) or not all(map(_is_list_of_strings, body.values())):
        raise InvalidSetting(
            f"{path} is not a file of keys: it must map each namespace to a list of digests."
        )
    return body


def _without_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Make a JSON object of its pairs.

    Raises:
        ValueError: a name that occurs twice. A flipped bit can turn one namespace into another,
            and then nobody knows which of the two the keys belong to.
    """
    body = dict(pairs)
    if len(body) != len(pairs):
        raise ValueError("a namespace stands there twice: join its digests in one list")
    return body


def _is_list_of_strings(value: object) -> bool:
    items: Iterable[object] = value if isinstance(value, list) else (None,)
    return all(isinstance(item, str) for item in items)
