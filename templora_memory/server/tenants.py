"""One service for each namespace, over one base model.

A namespace is a folder with a store of its own: a key does not filter what it may see, it holds
another store. Without keys there is one namespace, the root itself, as the command line uses it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from secrets import token_hex

from templora_memory.domain.manifest import ModelIdentity
from templora_memory.domain.messages import Message
from templora_memory.domain.results import ForgetReceipt, LearnStats
from templora_memory.domain.settings import ModelLimits, Policy, Sampling
from templora_memory.errors import UnknownMemory
from templora_memory.fs.files import make_folder
from templora_memory.fs.staging import clear, temporary
from templora_memory.ports import (
    Adapter,
    Backend,
    GenerateRequest,
    LearningControl,
    LearnRequest,
    ScoreRequest,
    Store,
    TextSession,
    TokenStream,
)
from templora_memory.server.api_keys import check_namespace
from templora_memory.server.job_registry import JobBook
from templora_memory.service.parametric_memory import ParametricMemory
from templora_memory.stores import DirectoryStore, Key, ObjectStore

NAMESPACES, JOBS, TRANSFER, COPIES = ".namespaces", ".jobs", ".transfer", ".copies"


def namespace_root(root: Path, namespace: str | None) -> Path:
    """The folder of a namespace; None: the root itself."""
    return root if namespace is None else root / NAMESPACES / check_namespace(namespace)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenant:
    """What one namespace has: its service, its jobs, its folder for files on their way."""

    namespace: str | None
    service: ParametricMemory
    jobs: JobBook
    transfer: Path

    @property
    def key(self) -> str:
        """What limits count by."""
        return self.namespace or ""

    def forget(self, memory_id: str | None, user: str | None) -> ForgetReceipt:
        """Forget, with every note about it; see `ParametricMemory.forget`."""
        receipt = self.service.forget(memory_id, user=user)
        self.jobs.drop(receipt.ids)
        self.clear_transfer()
        return receipt

    @contextmanager
    def on_its_way(self) -> Iterator[Path]:
        """Where a file may stand that is sent or received; gone afterwards.

        If this process is killed, the next start and the next forget remove it.
        """
        folder = self.transfer / token_hex(16)
        with temporary(folder):
            make_folder(folder)
            yield folder / "memory"

    def clear_transfer(self) -> None:
        """Remove files that killed servers left on their way."""
        for entry in sorted(self.transfer.glob("*")):
            clear(entry)

    def exists(self, memory_id: str) -> bool:
        with suppress(UnknownMemory):
            self.service.head(memory_id)
            return True
        return False


class Tenants:
    """All namespaces of a server.

    Args:
        backend: the base model that they share.
        root: folder of all memories.
        policy: how to learn; None: the defaults.
        namespaces: those that have keys; None: no keys, one namespace that is the root.
        jobs: absorbs that may wait or run at once in one namespace.
        objects: bucket and prefix (`ObjectStore`) that hold the memories; then `root` has only
            copies and notes of this machine. None: the memories are in `root`.
        encryption: what the memories are encrypted with; None: they are not.
    """

    def __init__(
        self,
        backend: Backend,
        root: Path,
        *,
        policy: Policy | None = None,
        namespaces: Sequence[str] | None = None,
        jobs: int = 64,
        objects: str | None = None,
        encryption: Key | None = None,
    ) -> None:
        self._backend = backend
        self._objects = objects
        self._encryption = encryption
        self.root = root
        names: Sequence[str | None] = (None,) if namespaces is None else namespaces
        self._tenants = {name: self._make(name, policy, jobs) for name in names}
        self._opened = False

    def _make(self, namespace: str | None, policy: Policy | None, jobs: int) -> Tenant:
        root = namespace_root(self.root, namespace)
        shared = SharedBackend(self._backend, namespace or "")
        service = ParametricMemory(shared, self._store(root, namespace), policy)
        return Tenant(
            namespace=namespace,
            service=service,
            jobs=JobBook(root / JOBS, service, most=jobs),
            transfer=root / TRANSFER,
        )

    def _store(self, root: Path, namespace: str | None) -> Store:
        if self._objects is None:
            return DirectoryStore(root, key=self._encryption)
        below = "" if namespace is None else f"/{NAMESPACES}/{namespace}"
        url = self._objects.rstrip("/") + below
        return ObjectStore(url, cache=root / COPIES, key=self._encryption)

    def __repr__(self) -> str:
        return f"Tenants({self._backend!r}, {len(self._tenants)} namespaces)"

    def __getitem__(self, namespace: str | None) -> Tenant:
        return self._tenants[namespace]

    def all(self) -> tuple[Tenant, ...]:
        return tuple(self._tenants.values())

    @property
    def base(self) -> ModelIdentity:
        """Which base model this is; it must be open."""
        return self._backend.identity

    def open(self) -> int:
        """Load the model, open every store, take up interrupted jobs; returns how many.

        Calling it again does nothing.

        Raises:
            ModelError, StoreError, InvalidSetting: with what to do.
        """
        if self._opened:
            return 0
        resumed = 0
        for tenant in self.all():
            make_folder(namespace_root(self.root, tenant.namespace))
            tenant.service.load()
            make_folder(tenant.transfer)
            tenant.clear_transfer()
            resumed += tenant.jobs.resume()
        self._opened = True
        return resumed

    def close(self) -> None:
        """Stop learning between two steps and give the model back; jobs go on at the next start."""
        for tenant in self.all():
            tenant.jobs.close()
        for tenant in self.all():
            tenant.service.close(cancel=True)
            tenant.jobs.closed()
        self._backend.close()


class SharedBackend:
    """One base model for several services; who made it opens and closes it.

    Adapters are known to it under versions that begin with the namespace, so nothing that is
    cached for one namespace is ever found by another, not even for equal files.
    """

    def __init__(self, backend: Backend, namespace: str) -> None:
        self._backend = backend
        self._prefix = f"{namespace}/"

    def __repr__(self) -> str:
        return repr(self._backend)

    def open(self) -> None:
        self._backend.open()

    def close(self) -> None:
        """Nothing: the others go on."""

    @property
    def identity(self) -> ModelIdentity:
        return self._backend.identity

    @property
    def limits(self) -> ModelLimits:
        return self._backend.limits

    def release(self, prefix: str) -> tuple[str, ...]:
        return self._backend.release(self._prefix + prefix)

    def _named(self, adapter: Adapter | None) -> Adapter | None:
        return adapter and replace(adapter, version=self._prefix + adapter.version)

    def learn(
        self,
        request: LearnRequest,
        *,
        into: Path,
        control: LearningControl,
    ) -> LearnStats:
        named = replace(request, start=self._named(request.start))
        return self._backend.learn(named, into=into, control=control)

    def stream(self, request: GenerateRequest) -> TokenStream:
        return self._backend.stream(replace(request, adapter=self._named(request.adapter)))

    def open_text(self, prompt: str, *, window: int) -> TextSession:
        return _SharedText(self._backend.open_text(prompt, window=window), self._named)

    def count(self, messages: Sequence[Message]) -> int:
        return self._backend.count(messages)

    def split(self, text: str, tokens: int) -> tuple[str, ...]:
        return self._backend.split(text, tokens)

    def score(self, requests: Sequence[ScoreRequest]) -> tuple[tuple[float, ...], ...]:
        return self._backend.score([replace(r, adapter=self._named(r.adapter)) for r in requests])


class _SharedText:
    def __init__(
        self, session: TextSession, named: Callable[[Adapter | None], Adapter | None]
    ) -> None:
        self._session = session
        self._named = named

    def generate(
        self,
        *,
        adapter: Adapter | None,
        strength: float,
        sampling: Sampling,
        max_tokens: int,
        reuse: bool,
    ) -> TokenStream:
        return self._session.generate(
            adapter=self._named(adapter),
            strength=strength,
            sampling=sampling,
            max_tokens=max_tokens,
            reuse=reuse,
        )

    def close(self) -> None:
        self._session.close()
