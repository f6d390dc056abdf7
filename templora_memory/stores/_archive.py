"""A memory as one file: a zip of its manifest, journal and revisions.

Reading treats the file as hostile: only the names the manifest lists, only the sizes it states,
checksums before anything is used, no links, no paths.
"""

from __future__ import annotations

import json
import os
import secrets
import zipfile
from pathlib import Path

from templora_memory._manifest import Manifest
from templora_memory.errors import StoreDamaged
from templora_memory.stores._files import digest_file, make_folder, sync_file, sync_folder, writing

MANIFEST, JOURNAL, REVISIONS = "manifest.json", "journal.jsonl", "revisions"
MAX_MANIFEST = 16 << 20
MAX_JOURNAL = 4 << 30
MAX_FILES = 10_000
SUFFIXES = frozenset({".json", ".safetensors"})


def write(folder: Path, manifest: Manifest, target: Path) -> None:
    """Write the memory in `folder` to the file `target`, beside first, then renamed."""
    fresh = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    with writing(target):
        try:
            handle = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "wb") as file, zipfile.ZipFile(file, "w") as archive:
                archive.write(folder / MANIFEST, MANIFEST)
                if (folder / JOURNAL).exists():
                    archive.write(folder / JOURNAL, JOURNAL, zipfile.ZIP_DEFLATED)
                for revision in manifest.revisions:
                    for record in revision.files:
                        inside = f"{REVISIONS}/{revision.name}/{record.path}"
                        archive.write(folder / inside, inside)
            sync_file(fresh)
            os.replace(fresh, target)
        except OSError:
            fresh.unlink(missing_ok=True)
            raise
        sync_folder(target.parent)


def read(source: Path, folder: Path) -> Manifest:
    """Unpack a checked archive into the existing `folder`; returns its manifest.

    Raises:
        StoreDamaged: whatever is not exactly what `write` makes.
    """
    try:
        with zipfile.ZipFile(source) as archive:
            return _unpack(archive, source, folder)
    except FileNotFoundError as error:
        raise StoreDamaged(f"There is no file {source}.") from error
    except (zipfile.BadZipFile, EOFError, NotImplementedError, UnicodeError) as error:
        raise StoreDamaged(f"{source} is not an exported memory: {error}.") from error
    except OSError as error:
        if error.filename is None or str(error.filename) != str(source):
            raise
        raise StoreDamaged(f"Could not read {source}: {error.strerror}.") from error


def _unpack(archive: zipfile.ZipFile, source: Path, folder: Path) -> Manifest:
    sizes = {info.filename: info.file_size for info in archive.infolist()}
    if len(sizes) != len(archive.infolist()) or len(sizes) > MAX_FILES:
        raise StoreDamaged(f"{source} holds names twice, or too many files.")
    if sizes.get(MANIFEST, MAX_MANIFEST + 1) > MAX_MANIFEST:
        raise StoreDamaged(f"{source} is not an exported memory: it has no usable {MANIFEST}.")
    try:
        manifest = Manifest.from_json(json.loads(_bytes(archive, MANIFEST, sizes[MANIFEST])))
    except (ValueError, RecursionError) as error:
        raise StoreDamaged(f"{source}: the manifest is not JSON: {error}.") from error
    expected = {MANIFEST: sizes[MANIFEST]}
    if JOURNAL in sizes:
        expected[JOURNAL] = min(sizes[JOURNAL], MAX_JOURNAL)
    for revision in manifest.revisions:
        make_folder(folder / REVISIONS / revision.name)
        for record in revision.files:
            expected[f"{REVISIONS}/{revision.name}/{record.path}"] = record.bytes
            if Path(record.path).suffix not in SUFFIXES:
                raise StoreDamaged(f"{source} holds {record.path!r}: only JSON and safetensors.")
    if expected != sizes:
        wrong = sorted(set(expected.items()) ^ set(sizes.items()))[:3]
        raise StoreDamaged(f"{source}: files and manifest disagree, for example {wrong}.")
    for name, size in expected.items():
        if name != MANIFEST:
            _extract(archive, name, size, folder / name)
    for revision in manifest.revisions:
        for record in revision.files:
            path = folder / REVISIONS / revision.name / record.path
            if digest_file(path) != record.sha256:
                raise StoreDamaged(f"{source}: the checksum of {record.path} does not agree.")
        sync_folder(folder / REVISIONS / revision.name)
    return manifest


def _bytes(archive: zipfile.ZipFile, name: str, size: int) -> bytes:
    with archive.open(name) as file:
        content = file.read(size + 1)
    if len(content) != size:
        raise StoreDamaged(f"{name} is larger or smaller than the archive says.")
    return content


def _extract(archive: zipfile.ZipFile, name: str, size: int, target: Path) -> None:
    with archive.open(name) as packed, writing(target):
        handle = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "wb") as file:
            left = size
            while left:
                piece = packed.read(min(left, 1 << 20))
                if not piece:
                    raise StoreDamaged(f"{name} is shorter than the archive says.")
                file.write(piece)
                left -= len(piece)
            if packed.read(1):
                raise StoreDamaged(f"{name} is longer than the archive says.")
        sync_file(target)
