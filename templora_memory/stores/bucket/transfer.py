"""Revisions and journals on their way: from this machine to a bucket, back, and inside of one.

What is encrypted is encrypted and decrypted on this machine, and lies on its disk as it lies in
the bucket; a plain copy is made only where the caller wants one. What is not encrypted is handed
on as it is. Knows nothing of manifests.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from templora_memory.domain.manifest import FileRecord, Revision
from templora_memory.fs.files import write_file
from templora_memory.stores.bucket.journal import (
    decrypt_lines,
    encrypt_lines,
    segment_key,
    split_segments,
)
from templora_memory.stores.bucket.location import Location
from templora_memory.stores.bucket.s3 import Bucket
from templora_memory.stores.encryption import PLAINTEXT
from templora_memory.stores.integrity import corrupted


class BucketTransfer:
    """Moves the files of one bucket.

    Args:
        bucket: where they lie.
        work: makes an empty folder of this machine for encrypted files; it is gone afterwards.
    """

    def __init__(self, bucket: Bucket, work: Callable[[], AbstractContextManager[Path]]) -> None:
        self._bucket = bucket
        self._work = work

    # --- revisions -----------------------------------------------------------------------------

    def upload(self, folder: Path, revision: Revision, target: Location) -> None:
        """Write the plain files in `folder` to `target`, which nobody else uses."""
        if target.cipher is PLAINTEXT:
            for record in revision.files:
                self._bucket.upload(f"{target.path}/{record.path}", folder / record.path)
            return
        with self._work() as work:
            for record in revision.files:
                associated_data = _associated_data(revision, record)
                chunks = PLAINTEXT.decrypt_file(folder / record.path, associated_data)
                encrypted = target.cipher.encrypt_chunks(chunks, associated_data)
                self._send(encrypted, work / record.path, f"{target.path}/{record.path}")

    def _send(self, chunks: Iterator[bytes], path: Path, key: str) -> None:
        """Write encrypted chunks as an object, by way of the file `path`."""
        write_file(path, chunks)  # the upload may have to begin again
        self._bucket.upload(key, path)
        path.unlink()

    def download(
        self, origin: Location, revision: Revision, folder: Path, memory_id: str
    ) -> str | None:
        """Write plain files into the existing `folder`; return the first key that is missing.

        Raises:
            StoreDamaged: a file does not decrypt. Checksums are not compared.
        """
        if origin.cipher is PLAINTEXT:
            for record in revision.files:
                key = f"{origin.path}/{record.path}"
                if not self._bucket.download(key, folder / record.path):
                    return key
            return None
        with self._work() as work:
            for record in revision.files:
                key, path = f"{origin.path}/{record.path}", work / record.path
                if not self._bucket.download(key, path):
                    return key
                try:
                    chunks = origin.cipher.decrypt_file(path, _associated_data(revision, record))
                    write_file(folder / record.path, chunks)
                except ValueError as error:
                    url = f"{key} in {self._bucket.url}"
                    raise corrupted(url, str(error), memory_id) from error
                path.unlink()
        return None

    def copy(self, origin: Location, target: Location, revision: Revision, memory_id: str) -> bool:
        """Copy the files of a revision of `memory_id`; return False if one is missing.

        Encrypted files pass through this machine: the two memories have keys of their own.

        Raises:
            StoreDamaged: a file does not decrypt.
        """
        keys = {record: f"{origin.path}/{record.path}" for record in revision.files}
        if origin.cipher is PLAINTEXT:
            return all(
                self._bucket.copy(key, f"{target.path}/{record.path}")
                for record, key in keys.items()
            )
        with self._work() as work:
            for record, key in keys.items():
                path = work / f"{record.path}.origin"
                if not self._bucket.download(key, path):
                    return False
                associated_data = _associated_data(revision, record)
                chunks = origin.cipher.decrypt_file(path, associated_data)
                encrypted = target.cipher.encrypt_chunks(chunks, associated_data)
                try:
                    self._send(encrypted, work / record.path, f"{target.path}/{record.path}")
                except ValueError as error:
                    url = f"{key} in {self._bucket.url}"
                    raise corrupted(url, str(error), memory_id) from error
                path.unlink()
        return True

    # --- journals ------------------------------------------------------------------------------

    def copy_journal(self, origin: Location, target: Location) -> None:
        """Copy a journal from one memory to another.

        Raises:
            StoreDamaged: a line does not decrypt.
        """
        if origin.cipher is PLAINTEXT:
            number = 0
            while self._bucket.copy(
                segment_key(origin.path, number), segment_key(target.path, number)
            ):
                number += 1
            return
        self.write_journal(self.read_journal(origin), target)

    def read_journal(self, origin: Location) -> list[bytes]:
        """Return the plain lines of a journal.

        Raises:
            StoreDamaged: a line does not decrypt.
        """
        lines: list[bytes] = []
        number = 0
        while segment := self._bucket.get(key := segment_key(origin.path, number)):
            lines += decrypt_lines(origin.cipher, segment.body, len(lines), key)
            number += 1
        return lines

    def write_journal(self, lines: list[bytes], target: Location) -> None:
        """Write plain lines as the journal of a new memory."""
        for number, body in enumerate(split_segments(encrypt_lines(target.cipher, lines, 0))):
            self._bucket.put(segment_key(target.path, number), body, replacing=None)


def _associated_data(revision: Revision, record: FileRecord) -> str:
    """Return what an encrypted file is bound to."""
    return f"{revision.name}/{record.path}"
