"""Revisions and journals on their way: from this machine to a bucket, back, and inside of one.

What is sealed is closed and opened on this machine, and lies on its disk as it lies in the bucket;
a plain copy comes to be only where the caller wants one. What is not sealed is handed on as it is.
Knows nothing of manifests.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from templora_memory.domain.manifest import FileRecord, Revision
from templora_memory.fs.files import write_file
from templora_memory.stores.bucket.journal import close_lines, open_lines, segment_key, segments
from templora_memory.stores.bucket.location import Place
from templora_memory.stores.bucket.s3 import Bucket
from templora_memory.stores.encryption import BARE
from templora_memory.stores.integrity import spoiled


class Transfers:
    """What moves the files of one bucket.

    Args:
        bucket: where they lie.
        work: makes an empty folder of this machine for sealed files; it is gone afterwards.
    """

    def __init__(self, bucket: Bucket, work: Callable[[], AbstractContextManager[Path]]) -> None:
        self._bucket = bucket
        self._work = work

    # --- revisions -----------------------------------------------------------------------------

    def upload(self, folder: Path, revision: Revision, target: Place) -> None:
        """Write the plain files in `folder` to `target`, which nobody else uses."""
        if target.seal is BARE:
            for record in revision.files:
                self._bucket.upload(f"{target.path}/{record.path}", folder / record.path)
            return
        with self._work() as work:
            for record in revision.files:
                what = _what(revision, record)
                pieces = target.seal.close_pieces(BARE.open_file(folder / record.path, what), what)
                self._send(pieces, work / record.path, f"{target.path}/{record.path}")

    def _send(self, pieces: Iterator[bytes], beside: Path, key: str) -> None:
        """Write sealed pieces as an object, by way of the file `beside`."""
        write_file(beside, pieces)  # the upload may have to begin again
        self._bucket.upload(key, beside)
        beside.unlink()

    def download(
        self, origin: Place, revision: Revision, folder: Path, memory_id: str
    ) -> str | None:
        """Plain copies of files in the existing `folder`; the first key that is missing.

        Raises:
            StoreDamaged: a file does not open. Checksums are not compared.
        """
        if origin.seal is BARE:
            for record in revision.files:
                key = f"{origin.path}/{record.path}"
                if not self._bucket.download(key, folder / record.path):
                    return key
            return None
        with self._work() as work:
            for record in revision.files:
                key, sealed = f"{origin.path}/{record.path}", work / record.path
                if not self._bucket.download(key, sealed):
                    return key
                try:
                    pieces = origin.seal.open_file(sealed, _what(revision, record))
                    write_file(folder / record.path, pieces)
                except ValueError as error:
                    where = f"{key} in {self._bucket.url}"
                    raise spoiled(where, str(error), memory_id) from error
                sealed.unlink()
        return None

    def copy(self, origin: Place, target: Place, revision: Revision, memory_id: str) -> bool:
        """Copy the files of a revision of `memory_id`; False if one is missing.

        Raises:
            StoreDamaged: a file does not open.
        """
        keys = {one: f"{origin.path}/{one.path}" for one in revision.files}
        if origin.seal is BARE:
            return all(
                self._bucket.copy(key, f"{target.path}/{record.path}")
                for record, key in keys.items()
            )
        with self._work() as work:
            for record, key in keys.items():
                what, sealed = _what(revision, record), work / f"{record.path}.origin"
                if not self._bucket.download(key, sealed):
                    return False
                pieces = target.seal.close_pieces(origin.seal.open_file(sealed, what), what)
                try:
                    self._send(pieces, work / record.path, f"{target.path}/{record.path}")
                except ValueError as error:
                    where = f"{key} in {self._bucket.url}"
                    raise spoiled(where, str(error), memory_id) from error
                sealed.unlink()
        return True

    # --- journals ------------------------------------------------------------------------------

    def copy_journal(self, origin: Place, target: Place) -> None:
        if origin.seal is BARE:
            number = 0
            while self._bucket.copy(
                segment_key(origin.path, number), segment_key(target.path, number)
            ):
                number += 1
            return
        self.write_journal(self.read_journal(origin), target)

    def read_journal(self, origin: Place) -> list[bytes]:
        """The lines of a journal.

        Raises:
            StoreDamaged: one does not open.
        """
        lines: list[bytes] = []
        number = 0
        while found := self._bucket.get(key := segment_key(origin.path, number)):
            lines += open_lines(origin.seal, found.body, len(lines), key)
            number += 1
        return lines

    def write_journal(self, lines: list[bytes], target: Place) -> None:
        for number, body in enumerate(segments(close_lines(target.seal, lines, 0))):
            self._bucket.put(segment_key(target.path, number), body, replacing=None)


def _what(revision: Revision, record: FileRecord) -> str:
    """What a sealed file is bound to."""
    return f"{revision.name}/{record.path}"
