"""A journal as objects: full segments that never change, and one that is still growing.

::

    <place>/journal/00000000.jsonl     full: at least `SEGMENT_BYTES`, never written again
    <place>/journal/00000001.jsonl     the last: rewritten with every line, by compare-and-swap

A segment that is full is left alone by every writer that has seen it, and a writer that has not
seen it loses the swap: so lines have one order for all writers, and a write costs at most one
segment, however long the journal is. Full segments are kept in a folder of this machine, the last
one in RAM, both as they lie in the bucket: with a key, each line is encrypted and bound to its
number.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from templora_memory.domain.journal import Journal, decode_line, encode_line
from templora_memory.errors import StoreDamaged, UnknownMemory
from templora_memory.fs.files import make_folder, replace_file
from templora_memory.stores.bucket.s3 import Bucket
from templora_memory.stores.encryption import Cipher
from templora_memory.stores.journal_records import JournalRecord

SEGMENT_BYTES = 1 << 18


def segment_key(location: str, number: int) -> str:
    """Return the key of a segment of the journal at a location."""
    return f"{location}/journal/{number:08d}.jsonl"


def split_segments(lines: bytes) -> list[bytes]:
    """Cut lines into segments of complete lines: all but the last are full."""
    segments, begin = [], 0
    while begin < len(lines):
        end = lines.find(b"\n", begin + SEGMENT_BYTES - 1) + 1 or len(lines)
        segments.append(lines[begin:end])
        begin = end
    return segments


def encrypt_lines(cipher: Cipher, lines: Sequence[bytes], first: int) -> bytes:
    """Return the bytes to write for lines of which the first has the number `first`."""
    return b"".join(cipher.encrypt_line(line, first + n) for n, line in enumerate(lines))


def decrypt_lines(cipher: Cipher, body: bytes, first: int, key: str) -> list[bytes]:
    """Return the lines of a segment, of which the first has the number `first`.

    Raises:
        StoreDamaged: a line does not decrypt.
    """
    lines: list[bytes] = []
    offset = 0
    for line in body.splitlines(keepends=True):
        try:
            lines.append(cipher.decrypt_line(line, first + len(lines)))
        except ValueError as error:
            raise _damaged(key, offset, error) from error
        offset += len(line)
    return lines


def _damaged(key: str, offset: int, error: Exception) -> StoreDamaged:
    return StoreDamaged(
        f"{key} is damaged at byte {offset}: {error}. Restore it from a backup; the lines before "
        "it are good."
    )


class SegmentedJournal:
    """The index of one journal, kept up to date by reading what was added.

    Args:
        bucket: where it lies.
        location: the folder of its memory there.
        cache: folder of this machine for full segments; made when it is needed.
        first: digest of the empty conversation.
        cipher: how its lines lie there.
    """

    def __init__(
        self, bucket: Bucket, location: str, cache: Path, first: str, cipher: Cipher
    ) -> None:
        self.journal = Journal(first, self._read_record)
        self.lock = threading.RLock()
        self.location = location
        self._bucket = bucket
        self._cipher = cipher
        self._cache = cache
        self._lines: list[tuple[int, int]] = []  # segment and offset of each
        self._last_number = 0
        self._last_body = b""
        self._last_etag: str | None = None

    def refresh(self) -> Journal:
        """Read new lines, and return the journal.

        Raises:
            StoreDamaged: a line is not what was written.
            UnknownMemory: the memory was forgotten meanwhile.
        """
        with self.lock:
            while True:
                key = segment_key(self.location, self._last_number)
                segment = self._bucket.get(key, unless=self._last_etag)
                if segment is None and self._last_etag is not None:
                    raise UnknownMemory(f"The memory of {key} was forgotten meanwhile.")
                if segment is not None and segment.etag != self._last_etag:
                    self._index_lines(key, segment.body)
                    self._last_etag = segment.etag
                if len(self._last_body) < SEGMENT_BYTES:
                    return self.journal
                # full, so it never changes again: to the disk with it, and on to the next
                self._make_cache()
                replace_file(self._cached(self._last_number), self._last_body)
                self._last_number, self._last_body, self._last_etag = (
                    self._last_number + 1,
                    b"",
                    None,
                )

    def _index_lines(self, key: str, body: bytes) -> None:
        offset = len(self._last_body)
        if body[:offset] != self._last_body or body[-1:] != b"\n":
            raise StoreDamaged(f"{key} is damaged: restore it from a backup.")
        for line in body[offset:].split(b"\n")[:-1]:
            position = len(self._lines)
            try:
                self.journal.add(decode_line(self._cipher.decrypt_line(line, position)), position)
            except (ValueError, TypeError, KeyError, StoreDamaged) as error:
                raise _damaged(key, offset, error) from error
            self._lines.append((self._last_number, offset))
            offset += len(line) + 1
            self._last_body = body[:offset]

    def _make_cache(self) -> None:
        make_folder(self._cache.parent)  # each for its owner only
        make_folder(self._cache)

    def _cached(self, number: int) -> Path:
        return self._cache / f"journal-{number:08d}.jsonl"

    def _read_record(self, position: int) -> dict[str, Any]:
        with self.lock:
            number, offset = self._lines[position]
            last_body = self._last_body if number == self._last_number else None
        try:
            line = _line(last_body, offset) if last_body else self._cached_line(number, offset)
            return decode_line(self._cipher.decrypt_line(line, position))
        except (ValueError, TypeError) as error:
            raise StoreDamaged(
                f"{self._cached(number)} is damaged at byte {offset}: {error}. It is a copy: "
                "remove it and call again."
            ) from error

    def _cached_line(self, number: int, offset: int) -> bytes:
        path = self._cached(number)
        if not path.is_file():  # removed under us: it is a copy
            key = segment_key(self.location, number)
            segment = self._bucket.get(key)
            if segment is None:
                raise UnknownMemory(f"The memory of {key} was forgotten meanwhile.")
            self._make_cache()
            replace_file(path, segment.body)
        with path.open("rb") as file:
            file.seek(offset)
            return file.readline()

    def append(self, records: Sequence[JournalRecord]) -> str | None:
        """Write records behind what `refresh` has read; return the key, or None if there are none.

        Raises:
            PreconditionFailed: another writer has appended meanwhile.
        """
        if not records:
            return None
        with self.lock:
            key = segment_key(self.location, self._last_number)
            lines = [encode_line(record) for record in records]
            body = self._last_body + encrypt_lines(self._cipher, lines, len(self._lines))
            etag = self._bucket.put(key, body, replacing=self._last_etag)
            self._index_lines(key, body)
            self._last_etag = etag
            return key


def _line(body: bytes, offset: int) -> bytes:
    return body[offset : body.index(b"\n", offset)]
