"""One service for each namespace, over one base model.

A namespace is a folder with a store of its own: a key does not filter what it may see, it holds
another store. Without keys there is one namespace, the root itself, as the command line uses it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex

from templora_memory.domain.manifest import ModelIdentity
from templora_memory.domain.results import ForgetReceipt
from templora_memory.domain.settings import Policy
from templora_memory.errors import UnknownMemory
from templora_memory.fs.files import make_folder
from templora_memory.fs.staging import clear, temporary
from templora_memory.ports import Backend, Store
from templora_memory.server.api_keys import check_namespace
from templora_memory.server.job_registry import JobEntry, JobRegistry
from templora_memory.server.namespaced_backend import NamespacedBackend
from templora_memory.service.parametric_memory import ParametricMemory
from templora_memory.stores import DirectoryStore, Key, ObjectStore
from templora_memory.tool_calls import knows_tools

NAMESPACES_FOLDER = ".namespaces"
_JOBS_FOLDER, _TRANSFER_FOLDER, _CACHE_FOLDER = ".jobs", ".transfer", ".copies"


def namespace_root(root: Path, namespace: str | None) -> Path:
    """Return the folder of a namespace; None: the root itself.

    Raises:
        InvalidSetting: an unusable namespace.
    """
    return root if namespace is None else root / NAMESPACES_FOLDER / check_namespace(namespace)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenant:
    """One namespace: its service, its jobs, its folder for files in transfer."""

    namespace: str | None
    service: ParametricMemory
    jobs: JobRegistry
    transfer_folder: Path

    @property
    def key(self) -> str:
        """The key by which `RequestLimiter` counts this tenant's requests."""
        return self.namespace or ""

    def forget(self, memory_id: str) -> ForgetReceipt:
        """Forget a memory and its jobs; see `Memory.forget`."""
        return self._forgotten(self.service[memory_id].forget())

    def forget_user(self, user: str) -> ForgetReceipt:
        """Forget a user's memories and their jobs; see `ParametricMemory.forget`."""
        return self._forgotten(self.service.forget(user=user))

    def _forgotten(self, receipt: ForgetReceipt) -> ForgetReceipt:
        self.jobs.drop(receipt.ids)
        self.clear_transfers()
        return receipt

    def remove(
        self, memory_id: str, ids: Sequence[str], ask: Sequence[tuple[str, str]]
    ) -> JobEntry:
        """Start to remove texts; see `JobRegistry.remove`."""
        self.clear_transfers()  # what a killed server left may hold them
        return self.jobs.remove(memory_id, ids, ask)

    def correct(
        self, memory_id: str, text_id: str, text: str, ask: Sequence[tuple[str, str]]
    ) -> JobEntry:
        """Start to correct a text; see `JobRegistry.correct`."""
        self.clear_transfers()
        return self.jobs.correct(memory_id, text_id, text, ask)

    @contextmanager
    def transfer_file(self) -> Iterator[Path]:
        """Yield a path for a file that is sent or received; the file is removed afterwards.

        If this process is killed, the next start and the next forget remove it.
        """
        folder = self.transfer_folder / token_hex(16)
        with temporary(folder):
            make_folder(folder)
            yield folder / "memory"

    def clear_transfers(self) -> None:
        """Remove files that killed servers left in transfer."""
        for entry in sorted(self.transfer_folder.glob("*")):
            clear(entry)

    def exists(self, memory_id: str) -> bool:
        """Return True if there is a memory with this id."""
        with suppress(UnknownMemory):
            self.service[memory_id].head()
            return True
        return False


class Tenants:
    """All namespaces of a server, by name.

    Args:
        backend: the base model that they share.
        root: folder of all memories.
        policy: how to learn; None: the defaults.
        namespaces: those that have keys; None: no keys, one namespace that is the root.
        max_jobs: absorbs that may wait or run at once in one namespace.
        objects: bucket and prefix (`ObjectStore`) that hold the memories; then `root` has only
            copies and job records of this machine. None: the memories are in `root`.
        encryption: key that the memories are encrypted with; None: they are not encrypted.
    """

    def __init__(
        self,
        backend: Backend,
        root: Path,
        *,
        policy: Policy | None = None,
        namespaces: Sequence[str] | None = None,
        max_jobs: int = 64,
        objects: str | None = None,
        encryption: Key | None = None,
    ) -> None:
        self._backend = backend
        self._objects = objects
        self._encryption = encryption
        self.root = root
        names: Sequence[str | None] = (None,) if namespaces is None else namespaces
        self._tenants = {name: self._make_tenant(name, policy, max_jobs) for name in names}
        self._is_open = False
        self.template_has_tools = False
        """Whether the chat template of the base model knows tools; from `open` on."""

    def _make_tenant(self, namespace: str | None, policy: Policy | None, max_jobs: int) -> Tenant:
        root = namespace_root(self.root, namespace)
        backend = NamespacedBackend(self._backend, namespace or "")
        service = ParametricMemory(backend, self._make_store(root, namespace), policy)
        return Tenant(
            namespace=namespace,
            service=service,
            jobs=JobRegistry(root / _JOBS_FOLDER, service, max_jobs=max_jobs),
            transfer_folder=root / _TRANSFER_FOLDER,
        )

    def _make_store(self, root: Path, namespace: str | None) -> Store:
        if self._objects is None:
            return DirectoryStore(root, key=self._encryption)
        subfolder = "" if namespace is None else f"/{NAMESPACES_FOLDER}/{namespace}"
        url = self._objects.rstrip("/") + subfolder
        return ObjectStore(url, cache=root / _CACHE_FOLDER, key=self._encryption)

    def __repr__(self) -> str:
        return f"Tenants({self._backend!r}, {len(self._tenants)} namespaces)"

    def __getitem__(self, namespace: str | None) -> Tenant:
        return self._tenants[namespace]

    def all(self) -> tuple[Tenant, ...]:
        """Return every tenant."""
        return tuple(self._tenants.values())

    @property
    def base(self) -> ModelIdentity:
        """Identity of the base model; the backend must be open."""
        return self._backend.identity

    def open(self) -> int:
        """Load the model, open every store, resume interrupted jobs; return how many.

        Calling it again does nothing.

        Raises:
            ModelError, StoreError, InvalidSetting: with what to do.
        """
        if self._is_open:
            return 0
        resumed = 0
        for tenant in self.all():
            make_folder(namespace_root(self.root, tenant.namespace))
            tenant.service.load()
            make_folder(tenant.transfer_folder)
            tenant.clear_transfers()
            resumed += tenant.jobs.resume()
        self.template_has_tools = knows_tools(self._backend)
        self._is_open = True
        return resumed

    def close(self) -> None:
        """Stop learning between two steps and close the model; jobs go on at the next start."""
        # registries first: the jobs that the services cancel next must keep their records, unlike
        # those that a client cancels
        for tenant in self.all():
            tenant.jobs.close()
        for tenant in self.all():
            tenant.service.close(cancel=True)
            tenant.jobs.release_locks()
        self._backend.close()
