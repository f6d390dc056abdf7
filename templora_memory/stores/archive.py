"""A memory as one file: an uncompressed zip of its manifest, journal and revisions.

Reading treats the file as hostile: only the names the manifest lists, only the sizes it states,
checksums before anything is used, no links, no paths, nothing that unpacks to more than it is.
"""

from __future__ import annotations

import glob
import json
import os
import secrets
import stat
import struct
import zipfile
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from templora_memory.domain.manifest import Manifest
from templora_memory.domain.results import RemovedFile
from templora_memory.errors import StoreDamaged
from templora_memory.fs.files import digest_file, make_folder, sync_file, sync_folder, writing
from templora_memory.fs.locks import hold

MANIFEST, JOURNAL, REVISIONS = "manifest.json", "journal.jsonl", "revisions"
MAX_MANIFEST = 64 << 20
MAX_FILES = 10_000
PARTIAL = ".partial"
_ENCRYPTED_FLAG = 1
SUFFIXES = frozenset({".json", ".safetensors"})


def write(folder: Path, manifest: Manifest, target: Path, journal: Path) -> None:
    """Write a memory to the file `target`, beside first, then renamed.

    Args:
        folder: where its revisions are.
        manifest: what it says.
        target: the file.
        journal: where its text is; there may be none.

    Raises:
        StoreWriteFailed: an older file at `target` is as it was.
    """
    fresh = target.with_name(f".{target.name}.{secrets.token_hex(4)}{PARTIAL}")
    clear_partials(target)
    with writing(target):
        try:
            with (
                hold(fresh, seconds=0),  # tells `clear_partials` that its writer is alive
                fresh.open("wb") as file,
                zipfile.ZipFile(file, "w") as archive,
            ):
                # ids and paths of this machine are nobody else's business
                exported = replace(manifest, forks=(), exports=(), edits=0)
                body = json.dumps(exported.as_json(), ensure_ascii=False, indent=1)
                archive.writestr(MANIFEST, body)
                if journal.exists():
                    archive.write(journal, JOURNAL)
                for revision in manifest.revisions:
                    for record in revision.files:
                        name = f"{REVISIONS}/{revision.name}/{record.path}"
                        archive.write(folder / name, name)
            sync_file(fresh)
            fresh.replace(target)
        except BaseException:
            fresh.unlink(missing_ok=True)
            raise
        sync_folder(target.parent)


def clear_partials(target: Path) -> tuple[RemovedFile, ...]:
    """Remove what killed exports to `target` left beside it, and return what was removed.

    What is being written now stays: its writer holds a lock on it.
    """
    removed = []
    for partial in sorted(target.parent.glob(f".{glob.escape(target.name)}.*{PARTIAL}")):
        # one that vanishes meanwhile, or is locked, belongs to a living writer
        with (
            suppress(TimeoutError),
            writing(partial, unless=TimeoutError),
            hold(partial, seconds=0),
        ):
            removed.append(RemovedFile(path=str(partial), bytes=partial.stat().st_size))
            partial.unlink()
    return tuple(removed)


def read(source: Path, folder: Path) -> Manifest:
    """Unpack a checked archive into the existing `folder`, and return its manifest.

    Raises:
        StoreDamaged: the file is not exactly what `write` makes.
    """
    try:
        with zipfile.ZipFile(source) as archive:
            return _unpack(archive, source, folder)
    except FileNotFoundError as error:
        raise StoreDamaged(f"There is no file {source}.") from error
    except (zipfile.BadZipFile, EOFError, NotImplementedError, ValueError, struct.error) as error:
        raise StoreDamaged(f"{source} is not an exported memory: {error}.") from error
    except OSError as error:
        if error.filename is not None and str(error.filename) != str(source):
            raise  # about a file that is written; a bad seek in the archive has no name
        raise StoreDamaged(f"Could not read {source}: {error.strerror}.") from error


def _unpack(archive: zipfile.ZipFile, source: Path, folder: Path) -> Manifest:
    sizes = _sizes(archive, source)
    manifest = _manifest(archive, source, sizes[MANIFEST])
    expected = {name: sizes[name] for name in (MANIFEST, JOURNAL) if name in sizes}
    checksums = {}
    for revision in manifest.revisions:
        for record in revision.files:
            if Path(record.path).suffix not in SUFFIXES:
                raise StoreDamaged(f"{source} holds {record.path!r}: only JSON and safetensors.")
            name = f"{REVISIONS}/{revision.name}/{record.path}"
            expected[name], checksums[name] = record.bytes, record.sha256
    if expected != sizes:
        examples = sorted(set(expected.items()) ^ set(sizes.items()))[:3]
        raise StoreDamaged(f"{source}: files and manifest disagree, for example {examples}.")
    for revision in manifest.revisions:
        make_folder(folder / REVISIONS / revision.name)
    for name, size in expected.items():
        if name != MANIFEST:
            _extract(archive, name, size, folder / name)  # a name the manifest lists, so no path
        if name in checksums and digest_file(folder / name) != checksums[name]:
            raise StoreDamaged(f"{source}: the checksum of {name} does not agree.")
    for revision in manifest.revisions:
        with writing(folder / REVISIONS / revision.name):
            sync_folder(folder / REVISIONS / revision.name)
    return replace(manifest, forks=(), exports=())  # those of another machine mean nothing here


def _manifest(archive: zipfile.ZipFile, source: Path, size: int) -> Manifest:
    try:
        return Manifest.from_json(json.loads(_bytes(archive, MANIFEST, size)))
    except (ValueError, RecursionError) as error:
        raise StoreDamaged(f"{source}: the manifest is not JSON: {error}.") from error


def _sizes(archive: zipfile.ZipFile, source: Path) -> dict[str, int]:
    """Return the sizes in the archive by name, after checks that need no unpacking."""
    entries = archive.infolist()
    for info in entries:
        _check_entry(info, source)
    sizes = {info.filename: info.file_size for info in entries}
    if len(sizes) != len(entries) or len(sizes) > MAX_FILES:
        raise StoreDamaged(f"{source} holds names twice, or too many files.")
    if sum(sizes.values()) > source.stat().st_size:
        raise StoreDamaged(f"{source} claims to hold more than it is long.")
    if sizes.get(MANIFEST, MAX_MANIFEST + 1) > MAX_MANIFEST:
        raise StoreDamaged(f"{source} is not an exported memory: it has no usable {MANIFEST}.")
    return sizes


def _check_entry(info: zipfile.ZipInfo, source: Path) -> None:
    """Refuse everything but plain, uncompressed, unencrypted files."""
    kind = stat.S_IFMT(info.external_attr >> 16)
    if (
        info.compress_type != zipfile.ZIP_STORED
        or info.flag_bits & _ENCRYPTED_FLAG
        or kind not in {0, stat.S_IFREG}
    ):
        raise StoreDamaged(f"{source} holds {info.filename!r}, which is not a plain stored file.")


def _bytes(archive: zipfile.ZipFile, name: str, size: int) -> bytes:
    with archive.open(name) as file:
        content = file.read(size + 1)
    if len(content) != size:
        raise StoreDamaged(f"{name} is larger or smaller than the archive says.")
    return content


def _extract(archive: zipfile.ZipFile, name: str, size: int, target: Path) -> None:
    with archive.open(name) as packed, writing(target):
        # exclusive: an entry never writes over another one, or through a link
        handle = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "wb") as file:
            remaining = size
            while remaining:
                chunk = packed.read(min(remaining, 1 << 20))
                if not chunk:
                    raise StoreDamaged(f"{name} is shorter than the archive says.")
                file.write(chunk)
                remaining -= len(chunk)
            if packed.read(1):
                raise StoreDamaged(f"{name} is longer than the archive says.")
        sync_file(target)
