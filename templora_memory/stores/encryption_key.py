"""Keys of encrypted stores: where the application's key is from, and the key of each memory.

The application's key decrypts only the small ``key.json`` of each memory; the random key in there
decrypts everything beside it. So a forget that has removed this one file has made the rest
unreadable, also what a file system, a snapshot or a backup of the rest still holds.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from pathlib import Path

from templora_memory.errors import InvalidSetting, StoreDamaged
from templora_memory.stores.encryption import AesGcmCipher

KEY_FILE = "key.json"
KEY_VARIABLE, KEY_FILE_VARIABLE = "TEMPLORA_ENCRYPTION_KEY", "TEMPLORA_ENCRYPTION_KEY_FILE"
_MAKE_KEY = "python -c 'import secrets; print(secrets.token_hex(32))'"
_KEY_BYTES = 32
_FORMAT = 1
_WRAPPED_KEY = "key of a memory"  # associated data


class Key:
    """The key of a store: 32 secret random bytes that decrypt the keys of all its memories.

    Whoever has it and the files reads everything; without it nobody does, its owner neither.

    Raises:
        InvalidSetting: not 32 bytes, or the extra is not installed.
    """

    def __init__(self, secret: bytes) -> None:
        if len(secret) != _KEY_BYTES:
            raise InvalidSetting(
                f"A key for memories has {_KEY_BYTES} bytes, not {len(secret)}: "
                f"make one with {_MAKE_KEY}."
            )
        self._cipher = AesGcmCipher(secret)
        self.fingerprint = hashlib.sha256(b"templora key\n" + secret).hexdigest()[:16]
        """Tells keys apart and tells nothing about them."""

    def __repr__(self) -> str:
        return f"Key({self.fingerprint})"

    def __reduce__(self) -> tuple[type[Key], tuple[bytes]]:
        return Key, (self._cipher.secret,)  # to the replicas of a server

    @classmethod
    def parse(cls, text: str, *, source: str = "The key") -> Key:
        """Return the key of 64 hexadecimal digits; `source` names where they are from, for errors.

        Raises:
            InvalidSetting: the text is something else. The message does not repeat it.
        """
        digits = text.strip()
        try:
            secret = bytes.fromhex(digits)
        except ValueError:
            secret = b""
        if len(digits) != 2 * _KEY_BYTES or len(secret) != _KEY_BYTES:
            raise InvalidSetting(
                f"{source} does not hold a key for memories: {2 * _KEY_BYTES} hexadecimal digits "
                f"are needed, and it has {len(digits)} characters. Make one with {_MAKE_KEY}."
            )
        return cls(secret)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Key:
        """Return the key in a file of 64 hexadecimal digits.

        Raises:
            InvalidSetting: the file cannot be read, or holds something else.
        """
        try:
            text = Path(path).read_text(encoding="ascii")
        except OSError as error:
            raise InvalidSetting(
                f"The key file {str(path)!r} cannot be read: {error.strerror}. "
                f"Make one with {_MAKE_KEY} > {path}."
            ) from error
        except UnicodeDecodeError:
            text = ""
        return cls.parse(text, source=f"The key file {str(path)!r}")

    @classmethod
    def from_environment(cls) -> Key | None:
        """Return the key in ``TEMPLORA_ENCRYPTION_KEY``; None if it is not set.

        ``TEMPLORA_ENCRYPTION_KEY_FILE`` names a file instead.

        Raises:
            InvalidSetting: both are set, or there is no key in the one that is.
        """
        text, path = os.environ.get(KEY_VARIABLE), os.environ.get(KEY_FILE_VARIABLE)
        if text and path:
            raise InvalidSetting(f"Both {KEY_VARIABLE} and {KEY_FILE_VARIABLE} are set: unset one.")
        if text:
            return cls.parse(text, source=KEY_VARIABLE)
        return cls.load(path) if path else None

    # --- the keys of memories ------------------------------------------------------------------

    def make_cipher(self) -> tuple[AesGcmCipher, bytes]:
        """Return the cipher of a new memory, and the content of its ``key.json``."""
        secret = os.urandom(_KEY_BYTES)
        body = {
            "format": _FORMAT,
            "cipher": "AES-256-GCM",
            "master": self.fingerprint,
            "key": base64.b64encode(self._cipher.encrypt(secret, _WRAPPED_KEY)).decode(),
        }
        return AesGcmCipher(secret), json.dumps(body, indent=1).encode()

    def open_cipher(self, content: bytes, location: str) -> AesGcmCipher:
        """Return the cipher of the memory at `location`, from the content of its ``key.json``.

        Raises:
            InvalidSetting: the memory was made with another key.
            StoreDamaged: the content is not what was written.
        """
        try:
            body = json.loads(content)
            fingerprint = str(body["master"])
            wrapped = base64.b64decode(body["key"], validate=True)
            is_known = body["format"] == _FORMAT
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise _unusable(location, "damaged") from error
        if not is_known:
            raise StoreDamaged(
                f"{location}/{KEY_FILE} has format {body['format']!r}, this version knows "
                f"{_FORMAT}."
            )
        if fingerprint != self.fingerprint:
            raise InvalidSetting(
                f"{location} is encrypted with the key {fingerprint!r:.20}, and the one given is "
                f"{self.fingerprint!r}: give the other one. Nothing was changed."
            )
        try:
            return AesGcmCipher(self._cipher.decrypt(wrapped, _WRAPPED_KEY))
        except ValueError as error:
            raise _unusable(location, "damaged") from error


# --- errors ------------------------------------------------------------------------------------


def encrypted(location: str) -> InvalidSetting:
    """Return the error for a memory at `location` that needs a key where none was given."""
    return InvalidSetting(
        f"{location} is encrypted: give the key ({KEY_FILE_VARIABLE}, --encryption-key). "
        "Nothing was changed."
    )


def not_encrypted(location: str) -> InvalidSetting:
    """Return the error for a memory at `location` that has no key where one was given."""
    return InvalidSetting(
        f"{location} is not encrypted, and a key was given: leave out the key, or export the "
        "memory without it and import it into a place of its own with the key."
    )


def key_missing(location: str) -> StoreDamaged:
    """Return the error for an encrypted memory at `location` whose ``key.json`` is missing."""
    return _unusable(location, "missing")


def _unusable(location: str, reason: str) -> StoreDamaged:
    return StoreDamaged(
        f"{location}/{KEY_FILE} is {reason}, and what lies beside it cannot be read without it. "
        "Restore it from a backup."
    )
