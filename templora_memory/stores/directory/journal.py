"""A journal as one file: lines that are appended and never changed.

The last line may be torn, because a process was killed or the power failed while it was written.
It was never reported as written, so readers leave it out and the next write cuts it off.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from templora_memory.domain.journal import Journal, decode_line, encode_line
from templora_memory.errors import Conflict, StoreDamaged
from templora_memory.fs.files import append_file, replace_file
from templora_memory.stores.encryption import Cipher
from templora_memory.stores.journal_records import JournalRecord


class JournalFile:
    """The index of one journal file, kept up to date by reading what was added.

    With a key, each line is encrypted and bound to the byte it begins at.

    Args:
        path: the file; it need not exist yet.
        first: digest of the empty conversation.
        cipher: how its lines lie on the disk.
    """

    def __init__(self, path: Path, first: str, cipher: Cipher) -> None:
        self.path = path
        self._cipher = cipher
        self._lock = threading.Lock()
        self._inode: int | None = None
        self._clear(first)

    def _clear(self, first: str) -> None:
        self.journal = Journal(first, self._read_record)
        self.size = 0  # bytes of complete, checked lines

    def refresh(self) -> Journal:
        """Read new lines and return the journal; a torn last line is left out.

        Raises:
            StoreDamaged: a complete line is not what was written.
        """
        with self._lock:
            try:
                with self.path.open("rb") as file:
                    state = os.fstat(file.fileno())
                    # another file: the memory was made again, or a backup was put back
                    if state.st_ino != self._inode or state.st_size < self.size:
                        self._clear(self.journal.first)
                        self._inode = state.st_ino
                    if state.st_size == self.size:
                        return self.journal
                    file.seek(self.size)
                    added = file.read()
            except FileNotFoundError:
                return self.journal
            self._index_lines(added)
            return self.journal

    def _index_lines(self, added: bytes) -> None:
        for line in added.split(b"\n")[:-1]:  # what follows the last line feed is a torn write
            try:
                record = decode_line(self._cipher.decrypt_line(line, self.size))
                self.journal.add(record, self.size)
            except (ValueError, TypeError, KeyError, StoreDamaged) as error:
                raise _damaged(self.path, self.size, error) from error
            self.size += len(line) + 1

    def _read_record(self, position: int) -> dict[str, Any]:
        try:
            with self.path.open("rb") as file:
                file.seek(position)
                line = file.readline()
        except FileNotFoundError as error:
            raise Conflict(
                f"{self.path} is gone: texts were removed from the memory, or it was forgotten, "
                "while it was read. Try again."
            ) from error
        try:
            return decode_line(self._cipher.decrypt_line(line, position))
        except (ValueError, TypeError) as error:
            raise StoreDamaged(f"{self.path} is damaged at byte {position}: {error}.") from error

    def append(self, records: Sequence[JournalRecord]) -> None:
        """Write records behind what `refresh` has read; they are on the disk on return.

        The caller holds the lock of the memory, so nobody else appends between the two.

        Raises:
            StoreWriteFailed: nothing was written.
        """
        if records:
            end = self.size
            lines = [encode_line(record) for record in records]
            append_file(self.path, encrypt_lines(self._cipher, lines, end), end)
            self.refresh()


def encrypt_lines(cipher: Cipher, lines: Iterable[bytes], begin: int) -> bytes:
    """Return the bytes to write for lines of which the first begins at byte `begin`."""
    written: list[bytes] = []
    for line in lines:
        written.append(cipher.encrypt_line(line, begin))
        begin += len(written[-1])
    return b"".join(written)


def copy_journal(origin: Path, origin_cipher: Cipher, target: Path, target_cipher: Cipher) -> None:
    """Copy the complete lines of a journal file, if there is one.

    Raises:
        StoreDamaged: a line does not decrypt.
    """
    if not origin.exists():
        return
    begin, lines = 0, []
    for line in origin.read_bytes().split(b"\n")[:-1]:  # what follows the last is a torn write
        try:
            lines.append(origin_cipher.decrypt_line(line + b"\n", begin))
        except ValueError as error:
            raise _damaged(origin, begin, error) from error
        begin += len(line) + 1
    replace_file(target, encrypt_lines(target_cipher, lines, 0))


def _damaged(path: Path, position: int, error: Exception) -> StoreDamaged:
    return StoreDamaged(
        f"{path} is damaged at byte {position}: {error}. Restore the file from a backup; the "
        "lines before it are good."
    )
