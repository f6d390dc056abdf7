"""Ciphers: how the bytes of one memory lie on a disk or in a bucket, with a key and without one.

AES-256-GCM of the package `cryptography` authenticates what it encrypts together with
`associated_data`, which names the part and its position. So bytes that were changed, cut, put in
another order or taken from another memory do not decrypt. Knows nothing of memories; the keys are
in `encryption_key`.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from templora_memory.errors import InvalidSetting

_NONCE_BYTES, _TAG_BYTES = 12, 16
_CHUNK_BYTES = 1 << 22
"""Plain bytes that are encrypted at once: files are larger than what should be in RAM."""


class Cipher(Protocol):
    """Encrypts and decrypts the bytes of one memory.

    `associated_data` names what the bytes are; they decrypt only under the same name.
    """

    def encrypt(self, content: bytes, associated_data: str) -> bytes:
        """Return the bytes to write for `content`."""
        ...

    def decrypt(self, content: bytes, associated_data: str) -> bytes:
        """Return what was given to `encrypt`.

        Raises:
            ValueError: the bytes were changed, or are something else.
        """
        ...

    def encrypt_line(self, line: bytes, position: int) -> bytes:
        """Return the line to write for a journal line at `position`, however that is counted."""
        ...

    def decrypt_line(self, line: bytes, position: int) -> bytes:
        """Return what was given to `encrypt_line`; a line feed at the end does not matter.

        Raises:
            ValueError: the line was changed, or is something else.
        """
        ...

    def encrypt_chunks(self, chunks: Iterator[bytes], associated_data: str) -> Iterator[bytes]:
        """Yield the bytes to write for chunks as `decrypt_file` yields them."""
        ...

    def decrypt_file(self, path: Path, associated_data: str) -> Iterator[bytes]:
        """Yield the content of a file written from `encrypt_chunks`; all chunks but the last full.

        Raises:
            ValueError: the file was changed, or is something else; earlier chunks are good.
        """
        ...


class PlaintextCipher:
    """Leaves bytes as they are: the cipher of a store without a key."""

    def encrypt(self, content: bytes, associated_data: str) -> bytes:  # noqa: ARG002  # not bound
        """Return `content`."""
        return content

    def decrypt(self, content: bytes, associated_data: str) -> bytes:  # noqa: ARG002
        """Return `content`."""
        return content

    def encrypt_line(self, line: bytes, position: int) -> bytes:  # noqa: ARG002
        """Return `line`."""
        return line

    def decrypt_line(self, line: bytes, position: int) -> bytes:  # noqa: ARG002
        """Return `line`."""
        return line

    def encrypt_chunks(
        self,
        chunks: Iterator[bytes],
        associated_data: str,  # noqa: ARG002
    ) -> Iterator[bytes]:
        """Return `chunks`."""
        return chunks

    def decrypt_file(self, path: Path, associated_data: str) -> Iterator[bytes]:  # noqa: ARG002
        """Yield the content of a file."""
        return _read_chunks(path, _CHUNK_BYTES)


PLAINTEXT = PlaintextCipher()


class AesGcmCipher:
    """Encrypts with AES-256-GCM under one secret of 32 bytes.

    Encrypted bytes are a random nonce of 12 bytes, the ciphertext, and a tag of 16 bytes. A file
    is a sequence of chunks; each is bound to its number and to whether it is the last one, so that
    chunks cannot be swapped, repeated or cut off at the end.

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
        self._aead: Any = AESGCM(secret)

    def __repr__(self) -> str:
        return "AesGcmCipher()"  # never the secret: this lands in logs and tracebacks

    def encrypt(self, content: bytes, associated_data: str) -> bytes:
        """Return nonce, ciphertext and tag of `content`."""
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + bytes(self._aead.encrypt(nonce, content, associated_data.encode()))

    def decrypt(self, content: bytes, associated_data: str) -> bytes:
        """Return what was given to `encrypt`.

        Raises:
            ValueError: the bytes were changed, or were encrypted as something else.
        """
        from cryptography.exceptions import InvalidTag  # noqa: PLC0415  # an extra

        if len(content) < _NONCE_BYTES + _TAG_BYTES:
            raise ValueError("it is too short")
        nonce, ciphertext = content[:_NONCE_BYTES], content[_NONCE_BYTES:]
        try:
            return bytes(self._aead.decrypt(nonce, ciphertext, associated_data.encode()))
        except InvalidTag as error:
            raise ValueError("it was changed, or written with another key") from error

    def encrypt_line(self, line: bytes, position: int) -> bytes:
        """Return an encrypted journal line in base64, so that it holds no line feed inside."""
        return base64.b64encode(self.encrypt(line, f"line {position}")) + b"\n"

    def decrypt_line(self, line: bytes, position: int) -> bytes:
        """Return what was given to `encrypt_line`.

        Raises:
            ValueError: the line was changed, or stood at another position.
        """
        content = base64.b64decode(line.removesuffix(b"\n"), validate=True)
        return self.decrypt(content, f"line {position}")

    def encrypt_chunks(self, chunks: Iterator[bytes], associated_data: str) -> Iterator[bytes]:
        """Yield each chunk encrypted, bound to its number and to whether it is the last."""
        for number, (chunk, is_last) in enumerate(_mark_last(chunks)):
            yield self.encrypt(chunk, f"{associated_data} {number} {is_last}")

    def decrypt_file(self, path: Path, associated_data: str) -> Iterator[bytes]:
        """Yield the plain chunks of a file.

        Raises:
            ValueError: the file was changed, or is something else.
        """
        chunks = _read_chunks(path, _CHUNK_BYTES + _NONCE_BYTES + _TAG_BYTES)
        for number, (chunk, is_last) in enumerate(_mark_last(chunks)):
            yield self.decrypt(chunk, f"{associated_data} {number} {is_last}")


def _read_chunks(path: Path, size: int) -> Iterator[bytes]:
    """Yield the chunks of a file; an empty file has one."""
    with path.open("rb") as file:
        yield file.read(size)
        while chunk := file.read(size):
            yield chunk


def _mark_last(chunks: Iterator[bytes]) -> Iterator[tuple[bytes, bool]]:
    """Yield each chunk, and whether it is the last."""
    previous = next(chunks)
    for chunk in chunks:
        yield previous, False
        previous = chunk
    yield previous, True
