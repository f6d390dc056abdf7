"""The names under which a vLLM server knows adapters.

Every content has a name and a path of its own and is never loaded again in place: vLLM caches
keys and values by name and path, so another content under a known name would be answered with
those of the old one. A name is a digest: no memory id leaves this machine.
"""

from __future__ import annotations

import hashlib
import json
import logging
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from templora_memory.backends.vllm.client import Client, HttpError
from templora_memory.errors import InvalidSetting, ModelError, UnknownRevision
from templora_memory.ports import Adapter

_log = logging.getLogger("templora_memory.vllm")
_BAD_REQUEST, _MISSING = 400, 404
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_REMEMBERED = 1000
SUFFIXES = frozenset({".json", ".safetensors"})


def adapter_name(version: str) -> str:
    """Return the name that vLLM is given for the adapter with this version."""
    return f"templora-{hashlib.sha256(version.encode('utf-8', 'surrogatepass')).hexdigest()[:40]}"


class AdapterRegistry:
    """The adapters that this process has registered with a server.

    Args:
        client: the server.
        keep: most names registered at once; those used longest ago are unloaded.
        max_rank: as the server's ``--max-lora-rank``.
        max_bytes: largest adapter.
        path: the folder as the server sees it.
    """

    def __init__(
        self,
        client: Client,
        *,
        keep: int,
        max_rank: int,
        max_bytes: int,
        path: Callable[[Path], str],
    ) -> None:
        self._client = client
        self._keep = keep
        self._max_rank = max_rank
        self._max_bytes = max_bytes
        self._path = path
        self._lock = threading.Lock()
        self._known: OrderedDict[str, str] = OrderedDict()  # name to version, newest use last
        self._used: Counter[str] = Counter()
        self._loading: dict[str, threading.Lock] = {}
        self._left: OrderedDict[str, str] = OrderedDict()  # unloaded, but not forgotten; as above
        self.pending: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Registered names, the one used longest ago first."""
        with self._lock:
            return tuple(self._known)

    @contextmanager
    def use(self, adapter: Adapter) -> Iterator[str]:
        """Hold an adapter's name for a ``with`` block; it is registered by then.

        Raises:
            UnknownRevision: its folder is gone.
            InvalidSetting: its rank or its size is over the limit.
            ModelError: the server refuses it.
        """
        name = adapter_name(adapter.version)
        with self._lock:
            self._used[name] += 1
            loading = self._loading.setdefault(name, threading.Lock())
        try:
            with loading:
                if not self._touch(name):
                    self._register(name, adapter)
            yield name
        finally:
            with self._lock:
                self._used[name] -= 1
                if not self._used[name]:
                    del self._used[name]
                    self._loading.pop(name, None)
            self._evict()

    def _touch(self, name: str) -> bool:
        with self._lock:
            if name in self._known:
                self._known.move_to_end(name)
                return True
            return False

    def lost(self, name: str) -> None:
        """Drop a name that the server does not know any more: unloaded by another, or restarted."""
        with self._lock:
            self._known.pop(name, None)

    def _register(self, name: str, adapter: Adapter) -> None:
        self._check(adapter.folder)
        body = {"lora_name": name, "lora_path": self._path(adapter.folder)}
        try:
            self._client.call("POST", "/v1/load_lora_adapter", body)
        except HttpError as error:
            if error.status == _MISSING and not adapter.folder.is_dir():
                raise UnknownRevision(f"{adapter.folder} is gone.") from error
            # the name says what the content is: somebody else's registration will do
            if error.status != _BAD_REQUEST or name not in self.served():
                raise ModelError(
                    f"vLLM at {self._client.url} does not load the adapter in "
                    f"{body['lora_path']!r}: {error}. It needs --enable-lora, "
                    "VLLM_ALLOW_RUNTIME_LORA_UPDATING=1, --max-lora-rank of at least the "
                    "adapter's, and to see the folder under this path."
                ) from error
        with self._lock:
            self._known[name] = adapter.version
            self._left.pop(name, None)

    def served(self) -> dict[str, int | None]:
        """Return the names of all models and adapters of the server, with the length of a model."""
        listed = json.loads(self._client.call("GET", "/v1/models"))
        return {str(model["id"]): model.get("max_model_len") for model in listed["data"]}

    def _check(self, folder: Path) -> None:
        """Look before the server does: only what it may parse, no larger than it is meant to be."""
        try:
            files = {path.name: path.lstat().st_size for path in folder.iterdir()}
            unknown = [name for name in files if Path(name).suffix not in SUFFIXES]
            if unknown or any(path.is_symlink() for path in folder.iterdir()):
                raise InvalidSetting(
                    f"{folder} holds {(unknown or ['a link'])[0]!r}: only JSON and safetensors are "
                    "handed to a server."
                )
            if (size := sum(files.values())) > self._max_bytes:
                raise InvalidSetting(
                    f"{folder} has {size:,} bytes, the limit is {self._max_bytes:,} (max_bytes)."
                )
            if CONFIG in files:
                self._check_rank(folder)
        except FileNotFoundError as error:
            raise UnknownRevision(f"{folder} is gone.") from error

    def _check_rank(self, folder: Path) -> None:
        try:
            rank = int(json.loads((folder / CONFIG).read_bytes())["r"])
        except (ValueError, KeyError, TypeError) as error:
            raise InvalidSetting(f"{folder / CONFIG} names no rank: {error}.") from error
        if rank > self._max_rank:
            raise InvalidSetting(
                f"The adapter in {folder} has rank {rank}, the limit is {self._max_rank}: start "
                f"vLLM with --max-lora-rank {rank} or more and give max_rank, or learn with a "
                "smaller learning.r."
            )

    # --- letting go ----------------------------------------------------------------------------

    def _evict(self) -> None:
        while True:
            with self._lock:
                idle = [name for name in self._known if not self._used[name]]
                if len(self._known) <= self._keep or not idle:
                    return
                self._left[idle[0]] = self._known.pop(idle[0])
                if len(self._left) > _REMEMBERED:
                    self._left.popitem(last=False)
            self._unload(idle[0])

    def release(self, prefix: str) -> tuple[str, ...]:
        """Unload everything whose version begins with `prefix`.

        vLLM then forgets the name at once, but keeps weights and cached keys and values until it
        needs their place: `pending` lists these names. Returned are those of this prefix, also of
        revisions that were unloaded before, each behind the server's address.
        """
        with self._lock:
            gone = [name for name, version in self._known.items() if version.startswith(prefix)]
            left = [name for name, version in self._left.items() if version.startswith(prefix)]
            for name in gone:
                del self._known[name]
            for name in left:
                del self._left[name]
            self.pending = (*self.pending, *left, *gone)[-_REMEMBERED:]
        for name in gone:
            self._unload(name)
        return tuple(f"{self._client.url}/{name}" for name in (*left, *gone))

    def close(self) -> None:
        """Unload everything that was registered here."""
        for name in self.names:
            self.lost(name)
            self._unload(name)

    def _unload(self, name: str) -> None:
        try:
            self._client.call("POST", "/v1/unload_lora_adapter", {"lora_name": name})
        except HttpError as error:
            if error.status != _MISSING:  # another client has unloaded it already
                _log.warning("vLLM does not unload %s: %s", name, error)
        except ModelError as error:
            _log.warning("%s", error)
