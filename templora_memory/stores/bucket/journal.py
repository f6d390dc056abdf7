"""A journal as objects: full segments that never change, and one that is still growing.

::

    <place>/journal/00000000.jsonl     full: at least `SEGMENT` bytes, never written again
    <place>/journal/00000001.jsonl     the last: rewritten with every line, by compare-and-swap

A segment that is full is left alone by everybody who has seen it, and who has not seen it loses
the swap: so lines have one order for all writers, and a write costs at most one segment, however
long the journal is. Full segments are kept in a folder of this machine, the last one in memory,
both as they lie in the bucket: with a key, each line is sealed and bound to its number.
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
from templora_memory.stores.encryption import Seal

SEGMENT = 1 << 18


def segment_key(place: str, number: int) -> str:
    return f"{place}/journal/{number:08d}.jsonl"


def segments(lines: bytes) -> list[bytes]:
    """Whole lines, cut into segments: all but the last are full."""
    found, begin = [], 0
    while begin < len(lines):
        end = lines.find(b"\n", begin + SEGMENT - 1) + 1 or len(lines)
        found.append(lines[begin:end])
        begin = end
    return found


def close_lines(seal: Seal, lines: Sequence[bytes], first: int) -> bytes:
    """What to write for lines of a journal, of which the first has the number `first`."""
    return b"".join(seal.close_line(line, first + n) for n, line in enumerate(lines))


def open_lines(seal: Seal, body: bytes, first: int, key: str) -> list[bytes]:
    """The lines of a segment, of which the first has the number `first`.

    Raises:
        StoreDamaged: one does not open.
    """
    found: list[bytes] = []
    at = 0
    for line in body.splitlines(keepends=True):
        try:
            found.append(seal.open_line(line, first + len(found)))
        except ValueError as error:
            raise _damaged(key, at, error) from error
        at += len(line)
    return found


def _damaged(key: str, at: int, error: Exception) -> StoreDamaged:
    return StoreDamaged(
        f"{key} is damaged at byte {at}: {error}. Restore it from a backup; the lines before it "
        "are good."
    )


class SegmentedJournal:
    """The index of one journal, kept up to date by reading what was added.

    Args:
        bucket: where it lies.
        place: the folder of its memory there.
        cache: folder of this machine for full segments; made when it is needed.
        first: digest of the empty conversation.
        seal: how its lines lie there.
    """

    def __init__(self, bucket: Bucket, place: str, cache: Path, first: str, seal: Seal) -> None:
        self.journal = Journal(first, self._body)
        self.lock = threading.RLock()
        self.place = place
        self._bucket = bucket
        self._seal = seal
        self._cache = cache
        self._lines: list[tuple[int, int]] = []  # segment and offset of each
        self._number = 0
        self._last = b""
        self._etag: str | None = None

    def refresh(self) -> Journal:
        """Read new lines."""
        with self.lock:
            while True:
                key = segment_key(self.place, self._number)
                found = self._bucket.get(key, unless=self._etag)
                if found is None and self._etag is not None:
                    raise UnknownMemory(f"The memory of {key} was forgotten meanwhile.")
                if found is not None and found.etag != self._etag:
                    self._take(key, found.body)
                    self._etag = found.etag
                if len(self._last) < SEGMENT:
                    return self.journal
                self._make_cache()
                replace_file(self._cached(self._number), self._last)
                self._number, self._last, self._etag = self._number + 1, b"", None

    def _take(self, key: str, body: bytes) -> None:
        known = len(self._last)
        if body[:known] != self._last or body[-1:] != b"\n":
            raise StoreDamaged(f"{key} is damaged: restore it from a backup.")
        for line in body[known:].split(b"\n")[:-1]:
            position = len(self._lines)
            try:
                self.journal.add(decode_line(self._seal.open_line(line, position)), position)
            except (ValueError, TypeError, KeyError, StoreDamaged) as error:
                raise _damaged(key, known, error) from error
            self._lines.append((self._number, known))
            known += len(line) + 1
            self._last = body[:known]

    def _make_cache(self) -> None:
        make_folder(self._cache.parent)  # each for its owner only
        make_folder(self._cache)

    def _cached(self, number: int) -> Path:
        return self._cache / f"journal-{number:08d}.jsonl"

    def _body(self, position: int) -> dict[str, Any]:
        with self.lock:
            number, offset = self._lines[position]
            last = self._last if number == self._number else None
        try:
            line = _line(last, offset) if last else self._from_cache(number, offset)
            return decode_line(self._seal.open_line(line, position))
        except (ValueError, TypeError) as error:
            raise StoreDamaged(
                f"{self._cached(number)} is damaged at byte {offset}: {error}. It is a copy: "
                "remove it and call again."
            ) from error

    def _from_cache(self, number: int, offset: int) -> bytes:
        path = self._cached(number)
        if not path.is_file():  # removed under us: it is a copy
            key = segment_key(self.place, number)
            found = self._bucket.get(key)
            if found is None:
                raise UnknownMemory(f"The memory of {key} was forgotten meanwhile.")
            self._make_cache()
            replace_file(path, found.body)
        with path.open("rb") as file:
            file.seek(offset)
            return file.readline()

    def append(self, lines: Sequence[dict[str, Any]]) -> str | None:
        """Write lines behind what `refresh` has read; returns the key, or None if there are none.

        Raises:
            Lost: somebody else has appended meanwhile.
        """
        if not lines:
            return None
        with self.lock:
            key = segment_key(self.place, self._number)
            written = [encode_line(line) for line in lines]
            body = self._last + close_lines(self._seal, written, len(self._lines))
            etag = self._bucket.put(key, body, replacing=self._etag)
            self._take(key, body)
            self._etag = etag
            return key


def _line(body: bytes, offset: int) -> bytes:
    return body[offset : body.index(b"\n", offset)]
