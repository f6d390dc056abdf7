"""Encryption at rest: how bytes lie on the disk, with a key and without one.

The application's key opens only the small ``key.json`` of each memory; the random key in there
opens everything beside it. So a forget that has removed this one file has made the rest unreadable,
also what a file system, a snapshot or a backup of the rest still holds.

AES-256-GCM of the package `cryptography`: what was changed, cut, or taken from another place does
not open. Knows nothing of memories.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from templora_memory.errors import InvalidSetting, StoreDamaged

KEY = "key.json"
VARIABLE, FILE_VARIABLE = "TEMPLORA_ENCRYPTION_KEY", "TEMPLORA_ENCRYPTION_KEY_FILE"
MAKE = "python -c 'import secrets; print(secrets.token_hex(32))'"
_BYTES, _NONCE, _TAG = 32, 12, 16
_PIECE = 1 << 22
_FORMAT = 1
_WRAPPED = "key of a memory"


class Key:
    """What opens the keys of all memories of a store: 32 secret random bytes.

    Whoever has it and the files reads everything; without it nobody does, its owner neither.

    Raises:
        InvalidSetting: not 32 bytes, or the extra is not installed.
    """

    def __init__(self, secret: bytes) -> None:
        if len(secret) != _BYTES:
            raise InvalidSetting(
                f"A key for memories has {_BYTES} bytes, not {len(secret)}: make one with {MAKE}."
            )
        self._seal = Sealed(secret)
        self.mark = hashlib.sha256(b"templora key\n" + secret).hexdigest()[:16]
        """Tells keys apart and tells nothing about them."""

    def __repr__(self) -> str:
        return f"Key({self.mark})"

    def __reduce__(self) -> tuple[type[Key], tuple[bytes]]:
        return Key, (self._seal.secret,)  # to the replicas of a server

    @classmethod
    def parse(cls, text: str, *, source: str = "The key") -> Key:
        """A key from 64 hexadecimal digits; `source` names where they are from, for errors.

        Raises:
            InvalidSetting: they are not that. The message does not repeat them.
        """
        digits = text.strip()
        try:
            secret = bytes.fromhex(digits)
        except ValueError:
            secret = b""
        if len(digits) != 2 * _BYTES or len(secret) != _BYTES:
            raise InvalidSetting(
                f"{source} does not hold a key for memories: {2 * _BYTES} hexadecimal digits are "
                f"needed, and it has {len(digits)} characters. Make one with {MAKE}."
            )
        return cls(secret)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Key:
        """A key from a file that holds its 64 hexadecimal digits.

        Raises:
            InvalidSetting: it cannot be read, or holds something else.
        """
        try:
            text = Path(path).read_text(encoding="ascii")
        except OSError as error:
            raise InvalidSetting(
                f"The key file {str(path)!r} cannot be read: {error.strerror}. "
                f"Make one with {MAKE} > {path}."
            ) from error
        except UnicodeDecodeError:
            text = ""
        return cls.parse(text, source=f"The key file {str(path)!r}")

    @classmethod
    def from_environment(cls) -> Key | None:
        """The key in ``TEMPLORA_ENCRYPTION_KEY``; None if it is not set.

        ``TEMPLORA_ENCRYPTION_KEY_FILE`` names a file instead.

        Raises:
            InvalidSetting: both are set, or what is there is no key.
        """
        text, path = os.environ.get(VARIABLE), os.environ.get(FILE_VARIABLE)
        if text and path:
            raise InvalidSetting(f"Both {VARIABLE} and {FILE_VARIABLE} are set: unset one.")
        if text:
            return cls.parse(text, source=VARIABLE)
        return cls.load(path) if path else None

    # --- the keys of memories ------------------------------------------------------------------

    def make_seal(self) -> tuple[Sealed, bytes]:
        """A new key for a memory, and the content of its ``key.json``."""
        secret = os.urandom(_BYTES)
        body = {
            "format": _FORMAT,
            "cipher": "AES-256-GCM",
            "master": self.mark,
            "key": base64.b64encode(self._seal.close(secret, _WRAPPED)).decode(),
        }
        return Sealed(secret), json.dumps(body, indent=1).encode()

    def open_seal(self, content: bytes, where: str) -> Sealed:
        """The key of the memory in the folder `where`, from the content of its ``key.json``.

        Raises:
            InvalidSetting: another key opens it.
            StoreDamaged: it is not what was written.
        """
        try:
            body = json.loads(content)
            mark, wrapped = str(body["master"]), base64.b64decode(body["key"], validate=True)
            known = body["format"] == _FORMAT
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise _unusable(where, "damaged") from error
        if not known:
            raise StoreDamaged(
                f"{where}/{KEY} has format {body['format']!r}, this version knows {_FORMAT}."
            )
        if mark != self.mark:
            raise InvalidSetting(
                f"{where} is encrypted with the key {mark!r:.20}, and the one given is "
                f"{self.mark!r}: give the other one. Nothing was changed."
            )
        try:
            return Sealed(self._seal.open(wrapped, _WRAPPED))
        except ValueError as error:
            raise _unusable(where, "damaged") from error


# --- what is not as the key of a store would have it -------------------------------------------


def encrypted(where: str) -> InvalidSetting:
    """No key was given for the memory in the folder `where`, and it needs one."""
    return InvalidSetting(
        f"{where} is encrypted: give the key ({FILE_VARIABLE}, --encryption-key). "
        "Nothing was changed."
    )


def not_encrypted(where: str) -> InvalidSetting:
    """A key was given for the memory in the folder `where`, and it has none."""
    return InvalidSetting(
        f"{where} is not encrypted, and a key was given: leave out the key, or export the "
        "memory without it and import it into a place of its own with the key."
    )


def key_missing(where: str) -> StoreDamaged:
    """The memory in the folder `where` is encrypted, and its ``key.json`` is not there."""
    return _unusable(where, "missing")


def _unusable(where: str, why: str) -> StoreDamaged:
    return StoreDamaged(
        f"{where}/{KEY} is {why}, and what lies beside it cannot be read without it. Restore it "
        "from a backup."
    )


# --- how bytes lie -----------------------------------------------------------------------------


class Seal(Protocol):
    """How the bytes of one memory lie on the disk or in a bucket.

    `what` says what they are; they open again only as that.
    """

    def close(self, content: bytes, what: str) -> bytes:
        """What to write for `content`."""
        ...

    def open(self, content: bytes, what: str) -> bytes:
        """What was given to `close`.

        Raises:
            ValueError: it was changed, or is something else.
        """
        ...

    def close_line(self, line: bytes, position: int) -> bytes:
        """What to write for a line of a journal; `position` is where it stands, however counted."""
        ...

    def open_line(self, line: bytes, position: int) -> bytes:
        """What was given to `close_line`; a line feed at the end does not matter.

        Raises:
            ValueError: it was changed, or is something else.
        """
        ...

    def close_pieces(self, pieces: Iterator[bytes], what: str) -> Iterator[bytes]:
        """What to write for pieces as `open_file` gives them."""
        ...

    def open_file(self, path: Path, what: str) -> Iterator[bytes]:
        """The content of a file that was written from `close_pieces`; all but the last are full.

        Raises:
            ValueError: it was changed, or is something else; earlier pieces are good.
        """
        ...


class Bare:
    """Bytes as they are."""

    def close(self, content: bytes, what: str) -> bytes:  # noqa: ARG002  # nothing to hold it to
        return content

    def open(self, content: bytes, what: str) -> bytes:  # noqa: ARG002
        return content

    def close_line(self, line: bytes, position: int) -> bytes:  # noqa: ARG002
        return line

    def open_line(self, line: bytes, position: int) -> bytes:  # noqa: ARG002
        return line

    def close_pieces(self, pieces: Iterator[bytes], what: str) -> Iterator[bytes]:  # noqa: ARG002
        return pieces

    def open_file(self, path: Path, what: str) -> Iterator[bytes]:  # noqa: ARG002
        return _pieces(path, _PIECE)


BARE = Bare()


class Sealed:
    """Bytes that only this key opens.

    Raises:
        InvalidSetting: the extra is not installed.
    """

    def __init__(self, secret: bytes) -> None:
        try:
            from cryptography.hazmat.primitives.ciphers.aead import (  # noqa: PLC0415  # an extra
                AESGCM,
            )
        except ModuleNotFoundError as error:
            raise InvalidSetting(
                f"Encryption needs {error.name}: pip install 'templora-memory[encryption]'."
            ) from error
        self.secret = secret
        self._cipher: Any = AESGCM(secret)

    def __repr__(self) -> str:
        return "Sealed()"

    def close(self, content: bytes, what: str) -> bytes:
        nonce = os.urandom(_NONCE)
        return nonce + bytes(self._cipher.encrypt(nonce, content, what.encode()))

    def open(self, content: bytes, what: str) -> bytes:
        from cryptography.exceptions import InvalidTag  # noqa: PLC0415  # an extra

        if len(content) < _NONCE + _TAG:
            raise ValueError("it is too short")
        try:
            opened = self._cipher.decrypt(content[:_NONCE], content[_NONCE:], what.encode())
        except InvalidTag as error:
            raise ValueError("it was changed, or written with another key") from error
        return bytes(opened)

    def close_line(self, line: bytes, position: int) -> bytes:
        return base64.b64encode(self.close(line, f"line {position}")) + b"\n"

    def open_line(self, line: bytes, position: int) -> bytes:
        sealed = base64.b64decode(line.removesuffix(b"\n"), validate=True)
        return self.open(sealed, f"line {position}")

    def close_pieces(self, pieces: Iterator[bytes], what: str) -> Iterator[bytes]:
        for number, (piece, last) in enumerate(_until_last(pieces)):
            yield self.close(piece, f"{what} {number} {last}")

    def open_file(self, path: Path, what: str) -> Iterator[bytes]:
        pieces = _pieces(path, _PIECE + _NONCE + _TAG)
        for number, (piece, last) in enumerate(_until_last(pieces)):
            yield self.open(piece, f"{what} {number} {last}")


def _pieces(path: Path, size: int) -> Iterator[bytes]:
    """The pieces of a file, at least one."""
    with path.open("rb") as file:
        yield file.read(size)
        while piece := file.read(size):
            yield piece


def _until_last(pieces: Iterator[bytes]) -> Iterator[tuple[bytes, bool]]:
    """Each piece, and whether it is the last."""
    held = next(pieces)
    for piece in pieces:
        yield held, False
        held = piece
    yield held, True
