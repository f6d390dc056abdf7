"""Contract tests of a backend."""

from __future__ import annotations

import math
import secrets
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import ClassVar

import pytest

from templora_memory.domain.messages import Document, Item, Message
from templora_memory.domain.results import AbsorbProgress, LearnStats
from templora_memory.domain.settings import ResolvedLearning, Sampling
from templora_memory.errors import (
    Cancelled,
    Closed,
    InvalidText,
    LearningFailed,
    PromptTooLong,
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
        """Return a new backend that is not open."""

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
        max_tokens: int = 6,
    ) -> GenerateRequest:
        return GenerateRequest(
            messages=messages or (QUESTION,),
            adapter=adapter,
            strength=strength,
            sampling=sampling or Sampling(ignore_end=True),
            max_tokens=max_tokens,
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
        """Opening twice changes nothing."""
        before = backend.identity
        backend.open()
        assert backend.identity == before

    def test_identity_is_the_same_for_two_of_the_same_model(self, backend: Backend) -> None:
        """Identity is the same for two of the same model."""
        other = self.make_backend()
        other.open()
        try:
            assert other.identity == backend.identity
            assert all((other.identity.config, other.identity.tokenizer, other.identity.weights))
        finally:
            other.close()

    def test_the_model_has_room_for_a_window(self, backend: Backend) -> None:
        """The model has room for a window."""
        assert backend.limits.max_length > 0

    def test_a_closed_backend_says_so(self) -> None:
        """A closed backend says so."""
        backend = self.make_backend()
        backend.open()
        backend.close()
        backend.close()
        with pytest.raises(Closed):
            self._complete(backend, self._ask())

    # --- counting and cutting ------------------------------------------------------------------

    def test_count_grows_with_every_message(self, backend: Backend) -> None:
        """Count grows with every message."""
        talk = (QUESTION, ANSWER, QUESTION, ANSWER, QUESTION)
        counts = [backend.count(talk[:length]) for length in (1, 3, 5)]
        assert counts[0] > 0
        assert all(shorter < longer for shorter, longer in pairwise(counts))

    def test_count_is_what_a_reply_was_shown(self, backend: Backend) -> None:
        """Count is what a reply was shown."""
        talk = (Message("system", "Be brief."), QUESTION, ANSWER, QUESTION)
        assert self._complete(backend, self._ask(*talk)).prompt_tokens == backend.count(talk)

    @pytest.mark.parametrize(
        "text", [LONG, "one", "  leading", "trailing\n\n", " \n ", "Füße, 日本語 and 🐝🐝.", ""]
    )
    @pytest.mark.parametrize("tokens", [1, 5])
    def test_split_pieces_join_to_the_text(self, backend: Backend, text: str, tokens: int) -> None:
        """Split pieces join to the text."""
        assert "".join(backend.split(text, tokens)) == text

    def test_split_pieces_are_smaller_for_fewer_tokens(self, backend: Backend) -> None:
        """Split pieces are smaller for fewer tokens."""
        assert len(backend.split(LONG, 2)) > len(backend.split(LONG, 8)) > 1

    # --- answering -----------------------------------------------------------------------------

    def test_pieces_join_to_the_completion(self, backend: Backend) -> None:
        """Pieces join to the completion."""
        stream = backend.stream(self._ask())
        pieces = list(stream)
        assert "".join(pieces) == stream.completion.text

    def test_completion_waits_for_the_rest(self, backend: Backend) -> None:
        """Completion waits for the rest."""
        whole = self._complete(backend, self._ask())
        stream = backend.stream(self._ask())
        first = next(iter(stream))
        assert whole.text.startswith(first)
        assert stream.completion == whole

    def test_a_reply_ends_at_its_limit(self, backend: Backend) -> None:
        """A reply ends at its limit."""
        done = self._complete(backend, self._ask(max_tokens=3))
        assert (done.completion_tokens, done.finish_reason) == (3, "length")

    def test_greedy_answers_are_the_same_every_time(self, backend: Backend) -> None:
        """Greedy answers are the same every time."""
        assert self._complete(backend, self._ask()) == self._complete(backend, self._ask())

    def test_sampled_answers_with_one_seed_are_the_same(self, backend: Backend) -> None:
        """Sampled answers with one seed are the same."""
        sampling = Sampling(temperature=1.0, seed=7, ignore_end=True)
        one, two = (self._complete(backend, self._ask(sampling=sampling)) for _ in range(2))
        assert one == two

    def test_log_probabilities_are_reported_where_they_are_asked_for(
        self, backend: Backend
    ) -> None:
        """Log-probabilities are reported where they are asked for, and change no token."""
        plain = self._complete(backend, self._ask(max_tokens=6))
        assert plain.logprobs == ()
        sampling = Sampling(logprobs=2, ignore_end=True)
        told = self._complete(backend, self._ask(max_tokens=6, sampling=sampling))
        assert told.text == plain.text
        assert len(told.logprobs) == told.completion_tokens
        for token in told.logprobs:
            best, second = token.top_logprobs
            assert 0 >= best.logprob >= second.logprob
            assert best.logprob >= token.logprob

    def test_a_stop_text_ends_the_reply_and_is_no_part_of_it(self, backend: Backend) -> None:
        """A stop text ends the reply and is no part of it."""
        text = self._complete(backend, self._ask(max_tokens=8)).text
        # a later character whose first occurrence is not disturbed by incomplete ones
        usable = [c for c in text[1:] if c != "\ufffd" and text.index(c) > 0]
        if not usable:
            pytest.skip("this model wrote nothing to stop at")
        stop = usable[-1]
        sampling = Sampling(stop=(stop,), ignore_end=True)
        done = self._complete(backend, self._ask(max_tokens=8, sampling=sampling))
        assert (done.text, done.finish_reason) == (text[: text.index(stop)], "stop")

    def test_strength_zero_is_the_base_model(self, backend: Backend, learned: Adapter) -> None:
        """Strength zero is the base model."""
        assert self._complete(backend, self._ask(adapter=learned, strength=0.0)) == self._complete(
            backend, self._ask()
        )
        assert self._score(backend, learned, 0.0) == self._score(backend)

    def test_an_adapter_changes_what_the_model_expects(
        self, backend: Backend, learned: Adapter
    ) -> None:
        """An adapter changes what the model expects."""
        assert self._score(backend, learned) != self._score(backend)

    def test_two_streams_do_not_influence_each_other(
        self, backend: Backend, learned: Adapter
    ) -> None:
        """Two streams do not influence each other."""
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
        """Concurrent streams answer as if alone."""
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
        """A closed stream ends."""
        stream = backend.stream(self._ask(max_tokens=8))
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
        """A vanished adapter is an unknown revision."""
        gone = self._adapter(tmp_path / "gone")
        with pytest.raises(UnknownRevision):
            self._complete(backend, self._ask(adapter=gone))

    def test_released_adapters_can_be_used_again(self, backend: Backend, learned: Adapter) -> None:
        """Released adapters can be used again."""
        before = self._score(backend, learned)
        backend.release("contract/")
        assert self._score(backend, learned) == before

    # --- text of unlimited length --------------------------------------------------------------

    @pytest.mark.parametrize("reuse", [True, False])
    def test_a_text_goes_on_beyond_its_window(self, backend: Backend, *, reuse: bool) -> None:
        """A text goes on beyond its window."""

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
        """Every call of a text writes its tokens."""
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
        """Scores are log probabilities."""
        scores = self._score(backend)
        assert scores
        assert all(math.isfinite(score) and score <= 0 for score in scores)

    def test_the_first_token_without_context_has_no_score(self, backend: Backend) -> None:
        """The first token without context has no score."""
        request = ScoreRequest(context="", target=BIO.text, adapter=None)
        assert len(backend.score([request])[0]) == len(backend.split(BIO.text, 1)) - 1

    def test_scores_come_in_the_order_of_the_requests(
        self, backend: Backend, learned: Adapter
    ) -> None:
        """Scores come in the order of the requests."""
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
        """Scoring nothing gives nothing."""
        assert backend.score([]) == ()

    def test_an_empty_target_is_refused(self, backend: Backend) -> None:
        """An empty target is refused."""
        with pytest.raises(InvalidText):
            backend.score([ScoreRequest(context="Ada", target="", adapter=None)])

    def test_a_target_beyond_the_models_length_is_refused(self, backend: Backend) -> None:
        """A target beyond the models length is refused."""
        target = "bee " * (backend.limits.max_length + 1)
        with pytest.raises(PromptTooLong):
            backend.score([ScoreRequest(context="", target=target, adapter=None)])

    # --- learning ------------------------------------------------------------------------------

    def test_the_same_request_gives_the_same_bytes(self, backend: Backend, tmp_path: Path) -> None:
        """The same request gives the same bytes."""
        for name in ("one", "two"):
            self._learn(backend, tmp_path / name, BIO, before=(Document("Before."),))
        assert _files(tmp_path / "one") == _files(tmp_path / "two")

    def test_only_json_and_safetensors_are_written(self, learned: Adapter) -> None:
        """Only json and safetensors are written."""
        files = list(learned.folder.iterdir())
        assert files
        assert all(path.is_file() and path.suffix in {".json", ".safetensors"} for path in files)

    def test_learning_leaves_its_start_and_the_base_alone(
        self, backend: Backend, learned: Adapter, tmp_path: Path
    ) -> None:
        """Learning leaves its start and the base alone."""
        files = _files(learned.folder)
        scores = self._score(backend), self._score(backend, learned)
        self._learn(backend, tmp_path / "next", QUESTION, ANSWER, start=learned)
        assert _files(learned.folder) == files
        assert (self._score(backend), self._score(backend, learned)) == scores
        assert self._score(backend, self._adapter(tmp_path / "next")) != scores[1]

    def test_learning_goes_on_from_its_start(
        self, backend: Backend, learned: Adapter, tmp_path: Path
    ) -> None:
        """Learning goes on from its start."""
        self._learn(backend, tmp_path / "after", QUESTION, ANSWER, start=learned)
        self._learn(backend, tmp_path / "fresh", QUESTION, ANSWER)
        assert _files(tmp_path / "after") != _files(tmp_path / "fresh")

    def test_progress_counts_chunks_and_tokens(self, backend: Backend, tmp_path: Path) -> None:
        """Progress counts chunks and tokens."""
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
        """System and tool text is not trained on."""
        items = (QUESTION, Message("assistant", ""), Message("tool", LONG), ANSWER)
        trained = self._learn(backend, tmp_path / "tool", *items).tokens
        assert 0 < trained < len(backend.split(LONG, 1))

    def test_what_stood_before_is_not_trained_on(self, backend: Backend, tmp_path: Path) -> None:
        """What stood before is not trained on."""
        trained = self._learn(backend, tmp_path / "it", BIO, before=(Document(LONG),)).tokens
        assert 0 < trained < len(backend.split(LONG, 1))

    def test_nothing_to_train_on_is_an_error(self, backend: Backend, tmp_path: Path) -> None:
        """Nothing to train on is an error."""
        with pytest.raises(LearningFailed):
            self._learn(backend, tmp_path / "none", Message("tool", "12 degrees"))

    def test_a_vanished_start_is_an_unknown_revision(
        self, backend: Backend, tmp_path: Path
    ) -> None:
        """A vanished start is an unknown revision."""
        with pytest.raises(UnknownRevision):
            self._learn(backend, tmp_path / "x", BIO, start=self._adapter(tmp_path / "gone"))

    def test_learning_can_be_cancelled_after_a_chunk(
        self, backend: Backend, tmp_path: Path
    ) -> None:
        """Learning can be cancelled after a chunk."""
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
