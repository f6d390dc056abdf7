"""Memory ids: what they may look like, whom they cover, how they become folder names.

``"ada"`` is a memory; ``"ada@bob"`` is what `ada` learned from the user `bob` alone.
"""

from __future__ import annotations

import hashlib
import unicodedata
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from templora_memory.errors import InvalidId

MAX_ID_CHARACTERS = 256
MAX_FOLDER_CHARACTERS = 200
_PLAIN = frozenset(b"abcdefghijklmnopqrstuvwxyz0123456789-_.@")
_DEVICES = frozenset(
    ["con", "prn", "aux", "nul"]
    + [f"{port}{digit}" for port in ("com", "lpt") for digit in range(10)]
)


@dataclass(frozen=True, slots=True)
class MemoryId:
    """A parsed memory id: `name`, and `user` for a memory of one name with one user."""

    name: str
    user: str | None = None

    def __str__(self) -> str:
        return self.name if self.user is None else f"{self.name}@{self.user}"

    @property
    def parent(self) -> MemoryId | None:
        """The memory that this one starts from: `ada` for `ada@bob`."""
        return None if self.user is None else MemoryId(self.name)

    def covers(self, other: MemoryId) -> bool:
        """Return whether forgetting this id forgets the other: itself, and all pairs of a name."""
        return self == other or (self.user is None and self.name == other.name)


def parse_id(text: str) -> MemoryId:
    """Parse ``name`` or ``name@user``; text is normalised to Unicode NFC.

    Raises:
        InvalidId: empty parts, more than one @, path separators, ``.`` or ``..``, control or
            invisible characters, space at the ends, more than 256 characters.
    """
    if not isinstance(text, str):
        raise InvalidId(f"A memory id is a string, not {type(text).__name__}.")
    text = unicodedata.normalize("NFC", text)
    if len(text) > MAX_ID_CHARACTERS:
        raise InvalidId(
            f"The memory id {text[:40]!r}... has {len(text)} characters, "
            f"the limit is {MAX_ID_CHARACTERS}."
        )
    name, mark, user = text.partition("@")
    for part in (name, user) if mark else (name,):
        if problem := _problem(part):
            raise InvalidId(
                f"The memory id {text!r} {problem}. Use letters, digits, spaces, '-', '_', '.', "
                "':' and one '@' between name and user."
            )
    return MemoryId(name, user if mark else None)


def _problem(part: str) -> str | None:
    if not part:
        return "has an empty part"
    if part != part.strip():
        return "begins or ends with white space"
    if part in {".", ".."} or "/" in part or "\\" in part:
        return "looks like a path"
    if "@" in part:
        return "has more than one '@'"
    if any(unicodedata.category(character).startswith("C") for character in part):
        return "has control, invisible or unassigned characters"
    return None


def folder_name(memory_id: MemoryId) -> str:
    """Return an injective folder name, also on file systems that fold case; at most 200 characters.

    Lower-case letters, digits, ``-_.@`` stand for themselves, every other byte is ``%xx``. A name
    that would be too long ends in ``~`` and its SHA-256 instead.
    """
    raw = str(memory_id).encode()
    encoded = "".join(chr(byte) if byte in _PLAIN else f"%{byte:02x}" for byte in raw)
    # no hidden folder, no trailing dot (Windows drops it), no device name (CON, NUL, ...)
    if encoded[0] == "." or encoded.split(".", 1)[0] in _DEVICES:
        encoded = f"%{raw[0]:02x}" + encoded[1:]
    if encoded[-1] == ".":
        encoded = encoded[:-1] + "%2e"
    if len(encoded) > MAX_FOLDER_CHARACTERS:
        encoded = f"{encoded[:100]}~{hashlib.sha256(raw).hexdigest()}"
    return encoded


def id_of_folder(name: str) -> MemoryId | None:
    """Return the id of a `folder_name`; None if there is none, or only its hash is left."""
    try:
        memory_id = parse_id(unquote_to_bytes(name).decode())
    except (UnicodeDecodeError, InvalidId):
        return None
    return memory_id if folder_name(memory_id) == name else None
