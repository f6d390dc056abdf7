"""Contract tests: what every backend and every store must do. Needs pytest.

Subclass, and say how to make yours; pytest runs the inherited tests::

    from templora_memory.testing.contracts import BackendContract, StoreContract

    class TestMyStore(StoreContract):
        def make_store(self, root):
            return MyStore(root)

    class TestMyBackend(BackendContract):
        def make_backend(self):
            return MyBackend("some-small-model")

The tests ask nothing of what a model says, so a tiny one with random weights will do.
"""

from __future__ import annotations

import math
import secrets
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import ClassVar

import pytest

from templora_memory.domain.manifest import Manifest, ModelIdentity, Revision, new_manifest
from templora_memory.domain.messages import Document, Item, Message
from templora_memory.domain.results import AbsorbProgress, LearnStats
from templora_memory.domain.settings import ResolvedLearning, Sampling
from templora_memory.errors import (
    Cancelled,
    Closed,
    Conflict,
    InvalidText,
    LearningFailed,
    PromptTooLong,
    StoreDamaged,
    StoreError,
    UnknownMemory,
    UnknownRevision,
)
from templora_memory.ports import (
    Adapter,
    Backend,
    Completion,
    GenerateRequest,
    LearningControl,
    LearnRequest,
    ScoreRequest,
    Store,
)

QUESTION = Message("user", "Where does Ada keep her bees?")
ANSWER = Message("assistant", "Ada keeps her bees on the roof of the old observatory.")
BIO = Document("Ada keeps bees. Her hives stand on the roof, and she gives the honey away.")
LONG = " ".join(f"The bell rang {number} times that night." for number in range(12))


def _files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


class BackendContract(ABC):
    """Promises of `Backend` and the ports within it, see `templora_memory.ports`.

    Override `make_backend`; also the fixture `backend` where loading is slow and one model should
    serve a whole module. `learning` is what the tests train with.
    """

    learning: ClassVar[ResolvedLearning] = ResolvedLearning(
        r=2, lora_alpha=4.0, steps_per_chunk=1, context=8, learning_rate=1e-2
    )
    chunk: ClassVar[int] = 8

    @abstractmethod
    def make_backend(self) -> Backend:
        """A new backend that is not open."""

    @pytest.fixture
    def backend(self) -> Iterator[Backend]:
        """An open backend."""
        made = self.make_backend()
        made.open()
        yield made
        made.close()

    @pytest.fixture
    def learned(self, backend: Backend, tmp_path: Path) -> Adapter:
        """An adapter that has learned something."""
        self._learn(backend, tmp_path / "learned", BIO)
        return self._adapter(tmp_path / "learned")

    def _adapter(self, folder: Path) -> Adapter:
        return Adapter(folder=folder, version=f"contract/{secrets.token_hex(8)}")

    def _learn(
        self,
        backend: Backend,
        into: Path,
        *items: Item,
        before: Sequence[Item] = (),
        start: Adapter | None = None,
        progress: list[AbsorbProgress] | None = None,
    ) -> LearnStats:
        into.mkdir()
        seen: list[AbsorbProgress] = [] if progress is None else progress
        return backend.learn(
            self._request(*items, before=before, start=start),
            into=into,
            control=LearningControl(progress=seen.append),
        )

    def _request(
        self, *items: Item, before: Sequence[Item] = (), start: Adapter | None = None
    ) -> LearnRequest:
        return LearnRequest(
            items=items,
            before=tuple(before),
            start=start,
            chunk=self.chunk,
            recipe="continue",
            settings=self.learning,
        )

    def _ask(
        self,
        *messages: Message,
        adapter: Adapter | None = None,
        strength: float = 1.0,
        sampling: Sampling | None = None,
        most: int = 6,
    ) -> GenerateRequest:
        return GenerateRequest(
            messages=messages or (QUESTION,),
            adapter=adapter,
            strength=strength,
            sampling=sampling or Sampling(ignore_end=True),
            max_tokens=most,
        )

    def _complete(self, backend: Backend, request: GenerateRequest) -> Completion:
        return backend.stream(request).completion

    def _score(
        self, backend: Backend, adapter: Adapter | None = None, strength: float = 1.0
    ) -> tuple[float, ...]:
        request = ScoreRequest(
            context=(QUESTION,), target=ANSWER.content, adapter=adapter, strength=strength
        )
        return backend.score([request])[0]

    # --- life ----------------------------------------------------------------------------------

    def test_opening_twice_changes_nothing(self, backend: Backend) -> None:
        before = backend.identity
        backend.open()
        assert backend.identity == before

    def test_identity_is_the_same_for_two_of_the_same_model(self, backend: Backend) -> None:
        other = self.make_backend()
        other.open()
        try:
            assert other.identity == backend.identity
            assert all((other.identity.config, other.identity.tokenizer, other.identity.weights))
        finally:
            other.close()

    def test_the_model_has_room_for_a_window(self, backend: Backend) -> None:
        assert backend.limits.context > 0

    def test_a_closed_backend_says_so(self) -> None:
        backend = self.make_backend()
        backend.open()
        backend.close()
        backend.close()
        with pytest.raises(Closed):
            self._complete(backend, self._ask())

    # --- counting and cutting ------------------------------------------------------------------

    def test_count_grows_with_every_message(self, backend: Backend) -> None:
        talk = (QUESTION, ANSWER, QUESTION, ANSWER, QUESTION)
        counts = [backend.count(talk[:length]) for length in (1, 3, 5)]
        assert counts[0] > 0
        assert all(shorter < longer for shorter, longer in pairwise(counts))

    def test_count_is_what_a_reply_was_shown(self, backend: Backend) -> None:
        talk = (Message("system", "Be brief."), QUESTION, ANSWER, QUESTION)
        assert self._complete(backend, self._ask(*talk)).prompt_tokens == backend.count(talk)

    @pytest.mark.parametrize(
        "text", [LONG, "one", "  leading", "trailing\n\n", " \n ", "Füße, 日本語 and 🐝🐝.", ""]
    )
    @pytest.mark.parametrize("tokens", [1, 5])
    def test_split_pieces_join_to_the_text(self, backend: Backend, text: str, tokens: int) -> None:
        assert "".join(backend.split(text, tokens)) == text

    def test_split_pieces_are_smaller_for_fewer_tokens(self, backend: Backend) -> None:
        assert len(backend.split(LONG, 2)) > len(backend.split(LONG, 8)) > 1

    # --- answering -----------------------------------------------------------------------------

    def test_pieces_join_to_the_completion(self, backend: Backend) -> None:
        stream = backend.stream(self._ask())
        pieces = list(stream)
        assert "".join(pieces) == stream.completion.text

    def test_completion_waits_for_the_rest(self, backend: Backend) -> None:
        whole = self._complete(backend, self._ask())
        stream = backend.stream(self._ask())
        first = next(iter(stream))
        assert whole.text.startswith(first)
        assert stream.completion == whole

    def test_a_reply_ends_at_its_limit(self, backend: Backend) -> None:
        done = self._complete(backend, self._ask(most=3))
        assert (done.completion_tokens, done.finish_reason) == (3, "length")

    def test_greedy_answers_are_the_same_every_time(self, backend: Backend) -> None:
        assert self._complete(backend, self._ask()) == self._complete(backend, self._ask())

    def test_sampled_answers_with_one_seed_are_the_same(self, backend: Backend) -> None:
        sampling = Sampling(temperature=1.0, seed=7, ignore_end=True)
        one, two = (self._complete(backend, self._ask(sampling=sampling)) for _ in range(2))
        assert one == two

    def test_a_stop_text_ends_the_reply_and_is_no_part_of_it(self, backend: Backend) -> None:
        text = self._complete(backend, self._ask(most=8)).text
        # a later character whose first occurrence is not disturbed by incomplete ones
        usable = [c for c in text[1:] if c != "\ufffd" and text.index(c) > 0]
        if not usable:
            pytest.skip("this model wrote nothing to stop at")
        stop = usable[-1]
        sampling = Sampling(stop=(stop,), ignore_end=True)
        done = self._complete(backend, self._ask(most=8, sampling=sampling))
        assert (done.text, done.finish_reason) == (text[: text.index(stop)], "stop")

    def test_strength_zero_is_the_base_model(self, backend: Backend, learned: Adapter) -> None:
        assert self._complete(backend, self._ask(adapter=learned, strength=0.0)) == self._complete(
            backend, self._ask()
        )
        assert self._score(backend, learned, 0.0) == self._score(backend)

    def test_an_adapter_changes_what_the_model_expects(
        self, backend: Backend, learned: Adapter
    ) -> None:
        assert self._score(backend, learned) != self._score(backend)

    def test_two_streams_do_not_influence_each_other(
        self, backend: Backend, learned: Adapter
    ) -> None:
        alone = [self._complete(backend, self._ask(adapter=a)).text for a in (learned, None)]
        streams = [backend.stream(self._ask(adapter=a)) for a in (learned, None)]
        said = ["", ""]
        running = [iter(stream) for stream in streams]
        for _ in range(20):
            for index, pieces in enumerate(running):
                said[index] += next(pieces, "")
        assert said == alone

    def test_concurrent_streams_answer_as_if_alone(
        self, backend: Backend, learned: Adapter
    ) -> None:
        requests = [self._ask(adapter=a) for a in (learned, None)] * 3
        alone = [self._complete(backend, request).text for request in requests]
        found: dict[int, str] = {}

        def ask(index: int) -> None:
            found[index] = self._complete(backend, requests[index]).text

        threads = [threading.Thread(target=ask, args=(i,)) for i in range(len(requests))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [found.get(index) for index in range(len(requests))] == alone

    def test_a_closed_stream_ends(self, backend: Backend) -> None:
        stream = backend.stream(self._ask(most=8))
        pieces = iter(stream)
        first = next(pieces)
        stream.close()
        stream.close()
        said = first + "".join(pieces)
        done = stream.completion
        assert done.text.startswith(first)
        assert said == done.text
        assert done.finish_reason == ("length" if done.completion_tokens == 8 else "cancelled")  # noqa: PLR2004
        assert self._complete(backend, self._ask()).completion_tokens > 0

    def test_a_vanished_adapter_is_an_unknown_revision(
        self, backend: Backend, tmp_path: Path
    ) -> None:
        gone = self._adapter(tmp_path / "gone")
        with pytest.raises(UnknownRevision):
            self._complete(backend, self._ask(adapter=gone))

    def test_released_adapters_can_be_used_again(self, backend: Backend, learned: Adapter) -> None:
        before = self._score(backend, learned)
        backend.release("contract/")
        assert self._score(backend, learned) == before

    # --- text of unlimited length --------------------------------------------------------------

    @pytest.mark.parametrize("reuse", [True, False])
    def test_a_text_goes_on_beyond_its_window(self, backend: Backend, *, reuse: bool) -> None:
        def write() -> tuple[str, ...]:
            session = backend.open_text("Once upon a time", window=16)
            try:
                return tuple(
                    "".join(
                        session.generate(
                            adapter=None,
                            strength=1.0,
                            sampling=Sampling(ignore_end=True),
                            max_tokens=8,
                            reuse=reuse,
                        )
                    )
                    for _ in range(4)
                )
            finally:
                session.close()

        assert write() == write()

    def test_every_call_of_a_text_writes_its_tokens(
        self, backend: Backend, learned: Adapter
    ) -> None:
        session = backend.open_text("", window=16)
        try:
            for adapter in (None, learned, None):
                stream = session.generate(
                    adapter=adapter,
                    strength=1.0,
                    sampling=Sampling(ignore_end=True),
                    max_tokens=5,
                    reuse=True,
                )
                assert "".join(stream) == stream.completion.text
                assert stream.completion.completion_tokens == 5  # noqa: PLR2004
                assert stream.completion.finish_reason == "length"
        finally:
            session.close()

    # --- measuring -----------------------------------------------------------------------------

    def test_scores_are_log_probabilities(self, backend: Backend) -> None:
        scores = self._score(backend)
        assert scores
        assert all(math.isfinite(score) and score <= 0 for score in scores)

    def test_the_first_token_without_context_has_no_score(self, backend: Backend) -> None:
        request = ScoreRequest(context="", target=BIO.text, adapter=None)
        assert len(backend.score([request])[0]) == len(backend.split(BIO.text, 1)) - 1

    def test_scores_come_in_the_order_of_the_requests(
        self, backend: Backend, learned: Adapter
    ) -> None:
        requests = [
            ScoreRequest(context=context, target=target, adapter=adapter)
            for context in ((QUESTION,), "Long ago,")
            for target in (" a bell rang.", " nobody came to the old house on the hill.")
            for adapter in (None, learned)
        ]
        together = backend.score(requests)
        alone = [backend.score([request])[0] for request in requests]
        assert [len(scores) for scores in together] == [len(scores) for scores in alone]
        for one, other in zip(together, alone, strict=True):
            assert one == pytest.approx(other, abs=1e-3)

    def test_scoring_nothing_gives_nothing(self, backend: Backend) -> None:
        assert backend.score([]) == ()

    def test_an_empty_target_is_refused(self, backend: Backend) -> None:
        with pytest.raises(InvalidText):
            backend.score([ScoreRequest(context="Ada", target="", adapter=None)])

    def test_a_target_beyond_the_models_length_is_refused(self, backend: Backend) -> None:
        target = "bee " * (backend.limits.context + 1)
        with pytest.raises(PromptTooLong):
            backend.score([ScoreRequest(context="", target=target, adapter=None)])

    # --- learning ------------------------------------------------------------------------------

    def test_the_same_request_gives_the_same_bytes(self, backend: Backend, tmp_path: Path) -> None:
        for name in ("one", "two"):
            self._learn(backend, tmp_path / name, BIO, before=(Document("Before."),))
        assert _files(tmp_path / "one") == _files(tmp_path / "two")

    def test_only_json_and_safetensors_are_written(self, learned: Adapter) -> None:
        files = list(learned.folder.iterdir())
        assert files
        assert all(path.is_file() and path.suffix in {".json", ".safetensors"} for path in files)

    def test_learning_leaves_its_start_and_the_base_alone(
        self, backend: Backend, learned: Adapter, tmp_path: Path
    ) -> None:
        files = _files(learned.folder)
        scores = self._score(backend), self._score(backend, learned)
        self._learn(backend, tmp_path / "next", QUESTION, ANSWER, start=learned)
        assert _files(learned.folder) == files
        assert (self._score(backend), self._score(backend, learned)) == scores
        assert self._score(backend, self._adapter(tmp_path / "next")) != scores[1]

    def test_learning_goes_on_from_its_start(
        self, backend: Backend, learned: Adapter, tmp_path: Path
    ) -> None:
        self._learn(backend, tmp_path / "after", QUESTION, ANSWER, start=learned)
        self._learn(backend, tmp_path / "fresh", QUESTION, ANSWER)
        assert _files(tmp_path / "after") != _files(tmp_path / "fresh")

    def test_progress_counts_chunks_and_tokens(self, backend: Backend, tmp_path: Path) -> None:
        seen: list[AbsorbProgress] = []
        stats = self._learn(backend, tmp_path / "long", Document(LONG), progress=seen)
        assert len(stats.chunks) > 1
        assert [now.chunk for now in seen] == list(range(1, len(stats.chunks) + 1))
        assert {now.chunks for now in seen} == {len(stats.chunks)}
        assert [now.tokens for now in seen] == [
            sum(chunk.tokens for chunk in stats.chunks[: done + 1])
            for done in range(len(stats.chunks))
        ]
        assert all(chunk.tokens > 0 and math.isfinite(chunk.nll_before) for chunk in stats.chunks)

    def test_system_and_tool_text_is_not_trained_on(self, backend: Backend, tmp_path: Path) -> None:
        items = (QUESTION, Message("assistant", ""), Message("tool", LONG), ANSWER)
        trained = self._learn(backend, tmp_path / "tool", *items).tokens
        assert 0 < trained < len(backend.split(LONG, 1))

    def test_what_stood_before_is_not_trained_on(self, backend: Backend, tmp_path: Path) -> None:
        trained = self._learn(backend, tmp_path / "it", BIO, before=(Document(LONG),)).tokens
        assert 0 < trained < len(backend.split(LONG, 1))

    def test_nothing_to_train_on_is_an_error(self, backend: Backend, tmp_path: Path) -> None:
        with pytest.raises(LearningFailed):
            self._learn(backend, tmp_path / "none", Message("tool", "12 degrees"))

    def test_a_vanished_start_is_an_unknown_revision(
        self, backend: Backend, tmp_path: Path
    ) -> None:
        with pytest.raises(UnknownRevision):
            self._learn(backend, tmp_path / "x", BIO, start=self._adapter(tmp_path / "gone"))

    def test_learning_can_be_cancelled_after_a_chunk(
        self, backend: Backend, tmp_path: Path
    ) -> None:
        seen: list[AbsorbProgress] = []
        with pytest.raises(Cancelled):
            backend.learn(
                self._request(Document(LONG)),
                into=tmp_path,
                control=LearningControl(
                    progress=seen.append, cancelled=lambda: bool(seen), urgent=lambda: True
                ),
            )
        assert [now.chunk for now in seen] == [1]
        assert self._complete(backend, self._ask()).completion_tokens > 0


IDENTITY = ModelIdentity(name="m", revision=None, config="c", tokenizer="t", weights="w")
TALK = (QUESTION, ANSWER, Message("user", "Since when?"), Message("assistant", "Since spring."))


class StoreContract(ABC):
    """Promises of `Store`, see `templora_memory.ports`. Override `make_store`."""

    @abstractmethod
    def make_store(self, root: Path) -> Store:
        """A store that is not open; all made with the same `root` share their memories."""

    @pytest.fixture
    def store(self, tmp_path: Path) -> Store:
        """An open, empty store."""
        made = self.make_store(tmp_path / "root")
        made.open()
        return made

    @pytest.fixture
    def other(self, store: Store, tmp_path: Path) -> Store:
        """A second store over the same place, as another process would have it."""
        assert store.ids() == ()
        made = self.make_store(tmp_path / "root")
        made.open()
        return made

    def make(self, store: Store, memory_id: str = "ada") -> Manifest:
        """A new, empty memory."""
        manifest = new_manifest(memory_id, IDENTITY, created=1.0, ttl=None)
        store.create(manifest)
        return manifest

    def commit(
        self, store: Store, manifest: Manifest, content: bytes = b"A", *, keep: int = 4
    ) -> Manifest:
        """Commit a revision that has learned one document with this content."""
        text = Document(content.hex() or "-")
        revision = Revision(
            name=manifest.name_after(manifest.newest, (text,)),
            parent=manifest.head,
            dialogue=manifest.first,
            messages=0,
            documents=(*(manifest.newest.documents if manifest.newest else ()), content.hex()),
            tokens=1,
            created=2.0,
            files=(),
        )
        with store.stage(manifest.id) as folder:
            (folder / "adapter_model.safetensors").write_bytes(content)
            (folder / "adapter_config.json").write_bytes(b"{}")
            return store.commit(manifest, revision, folder, keep=keep)

    def damage(self, store: Store, memory_id: str, revision: Revision) -> None:
        """Change the stored weights of a revision, without changing their size.

        Override this where `Store.folder` gives a copy.
        """
        path = store.folder(memory_id, revision) / "adapter_model.safetensors"
        path.write_bytes(b"X" * path.stat().st_size)

    # --- memories ------------------------------------------------------------------------------

    def test_a_created_memory_is_read_back(self, store: Store, other: Store) -> None:
        manifest = self.make(store)
        assert store.manifest("ada") == other.manifest("ada") == manifest
        assert store.ids() == other.ids() == ("ada",)

    def test_ids_are_sorted(self, store: Store) -> None:
        for name in ("zoe", "ada@bob", "Ada", "ada"):
            self.make(store, name)
        assert store.ids() == tuple(sorted(("zoe", "ada@bob", "Ada", "ada")))

    def test_a_memory_is_created_once(self, store: Store, other: Store) -> None:
        first = self.make(store)
        with pytest.raises(Conflict, match="exists"):
            self.make(other)
        assert store.manifest("ada") == first

    def test_an_unknown_memory_has_no_manifest_and_nothing_else(
        self, store: Store, tmp_path: Path
    ) -> None:
        assert store.manifest("ada") is None
        for call in (
            lambda: store.journal("ada"),
            lambda: store.record("ada", TALK),
            lambda: store.record_documents("ada", [BIO]),
            lambda: store.withdraw_documents("ada", ["0"]),
            lambda: store.size("ada"),
            lambda: store.last_used("ada"),
            lambda: store.delete("ada"),
            lambda: store.export("ada", tmp_path / "ada.zip"),
            lambda: store.stage("ada").__enter__(),
            lambda: store.replace(new_manifest("ada", IDENTITY, created=1.0, ttl=None), epoch=0),
        ):
            with pytest.raises(UnknownMemory, match="ada"):
                call()
        assert store.ids() == ()

    # --- text ----------------------------------------------------------------------------------

    def test_recorded_dialogue_is_read_back(self, store: Store, other: Store) -> None:
        manifest = self.make(store)
        digest = store.record("ada", TALK)
        assert digest == manifest.chain(TALK)[-1]
        for journal in (store.journal("ada"), other.journal("ada")):
            assert journal.tip == digest
            assert journal.messages(digest) == TALK

    def test_recording_again_keeps_one_copy(self, store: Store) -> None:
        self.make(store)
        store.record("ada", TALK)
        size = store.size("ada")
        store.record("ada", TALK)
        assert store.size("ada") == size

    def test_a_dialogue_can_be_continued(self, store: Store) -> None:
        self.make(store)
        first = store.record("ada", TALK[:2])
        last = store.record("ada", TALK[2:], after=first)
        assert store.journal("ada").messages(last) == TALK

    def test_continuing_an_unknown_dialogue_is_refused(self, store: Store) -> None:
        self.make(store)
        with pytest.raises(StoreDamaged, match="no conversation"):
            store.record("ada", TALK, after="f" * 64)

    def test_an_edited_dialogue_is_a_branch_and_the_newest(self, store: Store) -> None:
        self.make(store)
        old = store.record("ada", TALK)
        edited = (*TALK[:2], Message("user", "Why?"))
        new = store.record("ada", edited)
        journal = store.journal("ada")
        assert (journal.tip, journal.messages(new), journal.messages(old)) == (new, edited, TALK)

    def test_a_shortened_dialogue_becomes_the_newest(self, store: Store, other: Store) -> None:
        self.make(store)
        store.record("ada", TALK)
        short = store.record("ada", TALK[:2])
        assert store.journal("ada").tip == other.journal("ada").tip == short

    def test_documents_keep_their_order_and_come_once(self, store: Store, other: Store) -> None:
        self.make(store)
        (bio,) = store.record_documents("ada", [BIO])
        both = store.record_documents("ada", [Document("Second.", title="two"), BIO])
        assert both[1] == bio
        assert other.journal("ada").documents == (bio, both[0])
        assert other.journal("ada").document(both[0]) == Document("Second.", title="two")

    def test_a_document_continues_the_newest_or_the_one_named(self, store: Store) -> None:
        self.make(store)
        first, second = store.record_documents("ada", [BIO, Document("Second.")])
        (newest,) = store.record_documents("ada", [Document("More.", continues=True)])
        (named,) = store.record_documents("ada", [Document("More.", continues=True)], after=first)
        journal = store.journal("ada")
        assert journal.document_before(newest) == second
        assert journal.document_before(named) == first
        assert journal.document_before(second) is None

    def test_withdrawn_documents_stay_readable_until_learned_again(self, store: Store) -> None:
        self.make(store)
        digests = store.record_documents("ada", [BIO, Document("Second.")])
        store.withdraw_documents("ada", digests[:1])
        assert store.journal("ada").documents == digests[1:]
        assert store.journal("ada").document(digests[0]) == BIO
        store.record_documents("ada", [BIO])
        assert store.journal("ada").documents == (digests[1], digests[0])

    def test_two_writers_lose_no_text(self, store: Store, other: Store) -> None:
        manifest = self.make(store)
        places = (store, other, store, other)
        talks = [[Message("user", f"{who} says {n}") for n in range(6)] for who in range(4)]

        def write(index: int) -> None:
            for length in range(1, 7):
                places[index].record("ada", talks[index][:length])

        threads = [threading.Thread(target=write, args=(index,)) for index in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for place in (store, other):
            for talk in talks:
                digest = manifest.chain(talk)[-1]
                assert place.journal("ada").messages(digest) == tuple(talk)

    # --- revisions -----------------------------------------------------------------------------

    def test_a_staged_folder_is_empty_and_gone_afterwards(self, store: Store) -> None:
        self.make(store)
        with store.stage("ada") as folder:
            assert list(folder.iterdir()) == []
            (folder / "adapter.json").write_bytes(b"secret")
        assert not folder.exists()

    def test_a_committed_revision_is_the_head_and_its_files_are_there(
        self, store: Store, other: Store
    ) -> None:
        made = self.commit(store, self.make(store), b"weights")
        assert store.manifest("ada") == other.manifest("ada") == made
        assert made.epoch == 1
        head = made.newest
        assert head is not None
        folder = other.folder("ada", head)
        assert {record.path: record.bytes for record in head.files} == {
            "adapter_config.json": 2,
            "adapter_model.safetensors": 7,
        }
        assert (folder / "adapter_model.safetensors").read_bytes() == b"weights"

    def test_retention_removes_old_revisions(self, store: Store) -> None:
        manifest = self.make(store)
        every = []
        for content in (b"A", b"B", b"C"):
            manifest = self.commit(store, manifest, content, keep=2)
            every.append(manifest.revisions[-1])
        assert manifest.revisions == tuple(every[1:])
        with pytest.raises(UnknownRevision, match="retired"):
            store.folder("ada", every[0])

    def test_the_second_of_two_commits_conflicts(self, store: Store, other: Store) -> None:
        manifest = self.make(store)
        made = self.commit(store, manifest, b"A")
        with pytest.raises(Conflict, match="another writer"):
            self.commit(other, manifest, b"B")
        assert store.manifest("ada") == made

    def test_a_name_in_use_is_refused_whatever_the_caller_knows_of(self, store: Store) -> None:
        """It would take the files of a revision away that the stored manifest names."""
        made = self.commit(store, self.make(store), b"A")
        with pytest.raises(StoreError, match="already"):
            self.commit(store, replace(made, revisions=(), head=None), b"A")
        head = made.newest
        assert head is not None
        assert (store.folder("ada", head) / "adapter_model.safetensors").read_bytes() == b"A"

    def test_only_json_and_safetensors_are_committed(self, store: Store) -> None:
        manifest = self.make(store)
        revision = Revision(
            name="0" * 64,
            parent=None,
            dialogue=manifest.first,
            messages=0,
            documents=(),
            tokens=1,
            created=2.0,
            files=(),
        )
        with store.stage("ada") as folder:
            (folder / "optimizer.pt").write_bytes(b"pickle")
            with pytest.raises(StoreError, match=r"optimizer\.pt"):
                store.commit(manifest, revision, folder, keep=4)
        assert store.manifest("ada") == manifest

    def test_replacing_drops_what_is_no_longer_named(self, store: Store) -> None:
        first = self.commit(store, self.make(store), b"A")
        second = self.commit(store, first, b"B")
        store.replace(second.rolled_back(first.revisions[0]), epoch=second.epoch)
        found = store.manifest("ada")
        assert found is not None
        assert (found.epoch, found.revisions) == (3, first.revisions)
        with pytest.raises(UnknownRevision):
            store.folder("ada", second.revisions[1])

    def test_replacing_an_outdated_manifest_conflicts(self, store: Store, other: Store) -> None:
        first = self.commit(store, self.make(store), b"A")
        second = self.commit(other, first, b"B")
        with pytest.raises(Conflict):
            store.replace(replace(first, epoch=9), epoch=first.epoch)
        assert store.manifest("ada") == second

    def test_a_changed_file_is_noticed(self, store: Store, other: Store) -> None:
        made = self.commit(store, self.make(store), b"weights")
        head = made.revisions[-1]
        self.damage(store, "ada", head)
        with pytest.raises(StoreDamaged, match="rebuild"):
            other.folder("ada", head)

    def test_size_and_last_use_follow_what_is_written(self, store: Store) -> None:
        self.make(store)
        size, used = store.size("ada"), store.last_used("ada")
        store.record("ada", TALK)
        assert store.size("ada") > size
        assert store.last_used("ada") >= used > 0

    # --- removing and moving -------------------------------------------------------------------

    def test_a_deleted_memory_is_gone(self, store: Store, other: Store) -> None:
        made = self.commit(store, self.make(store), b"weights")
        store.record("ada", TALK)
        assert other.journal("ada").messages(made.chain(TALK)[-1]) == TALK
        removed = store.delete("ada")
        assert sum(file.bytes for file in removed) > 0
        for place in (store, other):
            assert (place.manifest("ada"), place.ids()) == (None, ())
            with pytest.raises(UnknownMemory):
                place.journal("ada")
        self.make(other)
        assert other.journal("ada").messages(other.journal("ada").tip) == ()

    def test_a_commit_into_a_deleted_memory_fails(self, store: Store, other: Store) -> None:
        manifest = self.make(store)
        revision = self.commit(store, manifest).revisions[-1]
        with store.stage("ada") as folder:
            (folder / "a.json").write_bytes(b"{}")
            other.delete("ada")
            self.make(other)
            with pytest.raises(StoreError):
                store.commit(manifest, replace(revision, name="1" * 64), folder, keep=4)
        found = store.manifest("ada")
        assert found is not None
        assert found.revisions == ()

    def test_a_copy_has_revisions_and_text_of_its_own(self, store: Store) -> None:
        made = self.commit(store, self.make(store), b"weights")
        digest = store.record("ada", TALK)
        store.create(replace(made, id="eve", epoch=0), source="ada", journal=True)
        store.delete("ada")
        assert store.journal("eve").messages(digest) == TALK
        folder = store.folder("eve", made.revisions[-1])
        assert (folder / "adapter_model.safetensors").read_bytes() == b"weights"

    def test_a_copy_without_journal_has_no_text(self, store: Store) -> None:
        made = self.commit(store, self.make(store), b"weights")
        store.record("ada", TALK)
        store.create(replace(made, id="eve", epoch=0), source="ada")
        assert store.journal("eve").tip == made.first

    def test_an_exported_memory_comes_back(self, store: Store, tmp_path: Path) -> None:
        made = self.commit(store, self.make(store), b"weights")
        digest = store.record("ada", TALK)
        store.export("ada", tmp_path / "ada.zip")
        with pytest.raises(Conflict):
            store.import_(tmp_path / "ada.zip", None)
        assert store.import_(tmp_path / "ada.zip", "eve").id == "eve"
        store.delete("ada")
        assert store.import_(tmp_path / "ada.zip", None) == made
        for name in ("ada", "eve"):
            assert store.journal(name).messages(digest) == TALK
            folder = store.folder(name, made.revisions[-1])
            assert (folder / "adapter_model.safetensors").read_bytes() == b"weights"

    def test_what_was_not_exported_is_refused(self, store: Store, tmp_path: Path) -> None:
        (tmp_path / "no.zip").write_bytes(b"PK\x03\x04 not really")
        for name in ("no.zip", "missing.zip"):
            with pytest.raises(StoreDamaged, match=name):
                store.import_(tmp_path / name, "eve")
        assert store.ids() == ()

    def test_exporting_replaces_only_when_complete(self, store: Store, tmp_path: Path) -> None:
        made = self.commit(store, self.make(store), b"weights")
        target = tmp_path / "ada.zip"
        store.export("ada", target)
        whole = target.read_bytes()
        self.damage(store, "ada", made.revisions[-1])
        with pytest.raises(StoreDamaged):
            store.export("ada", target)
        assert target.read_bytes() == whole
        assert [entry.name for entry in tmp_path.iterdir() if "zip" in entry.name] == ["ada.zip"]
