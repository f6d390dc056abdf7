"""Zip archives from strangers: bounded, never unpacked to disk."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

from templora_memory.importers._values import FileRefused, Limits

SIGNATURE = b"PK\x03\x04"
_METHODS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}


@contextmanager
def opened(data: bytes, limits: Limits) -> Iterator[zipfile.ZipFile]:
    """An archive, perhaps behind something else; whatever is wrong with it is a refusal.

    Raises:
        FileRefused: `bad_file`, `too_many_entries`, and what the body raises.
    """
    # counted before zipfile builds an object for each
    if data.count(b"PK\x01\x02") > limits.entries:
        raise FileRefused("too_many_entries", f"This zip has over {limits.entries:,} members.")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            yield archive
    except FileRefused:
        raise
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, ValueError,
            OSError, RuntimeError) as error:  # fmt: skip
        raise FileRefused("bad_file", "This zip is damaged: export it again.") from error


def member(archive: zipfile.ZipFile, name: str | zipfile.ZipInfo, most: int) -> bytes:
    """An unpacked member, never more than `most` bytes of it in memory.

    Raises:
        FileRefused: `encrypted_zip`, `bad_file`, `too_large`.
    """
    info = archive.getinfo(name) if isinstance(name, str) else name
    if info.flag_bits & 1:
        raise FileRefused("encrypted_zip", "This zip is encrypted: export it without a password.")
    if info.compress_type not in _METHODS:
        raise FileRefused("bad_file", "This zip is compressed in a way that is not read here.")
    with archive.open(info) as stream:
        body = stream.read(most + 1)
    if len(body) > most:
        raise FileRefused("too_large", f"A part of this zip unpacks to over {most / 1e6:.0f} MB.")
    return body
