import json
import math
import re
from types import SimpleNamespace

import pytest

from templora_memory import ParametricMemory, Policy
from templora_memory.errors import InvalidSetting, InvalidText, LearningFailed
from templora_memory.evaluation import ChunkScore, PerplexityReport, perplexity, total
from templora_memory.stores import DirectoryStore
from templora_memory.testing import FakeBackend

WINDOW, CHUNK, SPARE = 96, 16, 8


class Recorder(FakeBackend):
    """The fake backend, which also keeps what it was asked to score."""

    def __init__(self):
        super().__init__()
        self.scored = []

    def score(self, requests):
        self.scored += requests
        return super().score(requests)


@pytest.fixture
def bench(tmp_path):
    backend, store = Recorder(), DirectoryStore(tmp_path / "root")
    policy = Policy(window=WINDOW, reply_tokens=24, chunk=CHUNK)
    with ParametricMemory(backend, store, policy) as service:
        yield SimpleNamespace(service=service, backend=backend)


def words(count, *, every=1000):
    return " ".join(f"word{number % every}" for number in range(count))


def test_the_chunks_are_the_text_without_its_first_token(bench):
    report = perplexity(bench.service, words(100))
    assert [chunk.tokens for chunk in report.chunks] == [15, 16, 16, 16, 16, 16, 4]
    starts = [chunk.start for chunk in report.chunks]
    assert starts == [0, 15, 31, 47, 63, 79, 95]
    assert report.tokens == 99


def test_base_and_memory_are_scored_on_the_same_window(bench):
    perplexity(bench.service, words(200))
    first, *rest = bench.backend.scored
    assert (first.context, first.adapter) == ("", None)
    pairs = list(zip(rest[::2], rest[1::2], strict=True))
    assert len(pairs) == 12
    for base, memory in pairs:
        assert (base.context, base.target) == (memory.context, memory.target)
        assert base.adapter is None
        assert memory.adapter is not None


def test_the_context_is_the_text_directly_before_the_chunk_as_far_as_the_window_goes(bench):
    text = words(200)
    perplexity(bench.service, text)
    for request in bench.backend.scored:
        assert request.context + request.target in text
        room = WINDOW - CHUNK - SPARE
        before = len(text.split(request.target)[0].split())
        assert len(request.context.split()) == min(room, before)


def test_a_chunk_is_scored_before_it_is_learned(bench):
    # every word comes twice, further apart than the window is long
    report = perplexity(bench.service, words(200, every=100))
    first, second = report.chunks[:6], report.chunks[7:]
    assert all(chunk.memory_nll == chunk.base_nll for chunk in first)
    assert all(chunk.memory_nll < chunk.base_nll for chunk in second)
    assert report.memory_ppl < report.base_ppl


def test_passages_that_repeat_word_for_word_are_learned_each_time(bench):
    perplexity(bench.service, words(160, every=16))
    assert len(bench.backend.learned) == 10


def test_the_perplexity_is_the_exponential_of_the_mean_over_tokens(bench):
    report = perplexity(bench.service, words(100))
    nats = sum(chunk.base_nll * chunk.tokens for chunk in report.chunks)
    assert report.base_ppl == pytest.approx(math.exp(nats / report.tokens))


def test_only_the_beginning_is_used_if_so_many_tokens_are_asked_for(bench):
    assert perplexity(bench.service, words(100), tokens=40).tokens == 39


def test_progress_counts_chunks(bench):
    seen = []
    perplexity(bench.service, words(40), progress=lambda *now: seen.append(now))
    assert seen == [(0, 3), (1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize("text", [words(50), words(50) + " NaN! " + words(20)])
def test_nothing_is_left_of_the_memory_it_learned_into(bench, text):
    try:
        perplexity(bench.service, text)
    except LearningFailed:
        assert "NaN!" in text
    assert bench.service.list() == ()


def test_the_report_is_json_and_names_what_is_needed_to_repeat_it(bench):
    found = perplexity(bench.service, words(60)).as_dict()
    assert json.loads(json.dumps(found)) == found
    assert found["model"] == "fake"
    assert found["policy"]["chunk"] == CHUNK
    assert found["commit"] is None or re.fullmatch(r"[0-9a-f]{40}(-dirty)?", found["commit"])
    assert {"system", "processor", "cores", "python"} <= set(found["machine"])


@pytest.mark.parametrize(
    ("text", "tokens", "error"),
    [("", None, InvalidText), (" \n", None, InvalidText), ("a b", 0, InvalidSetting)],
)
def test_a_text_or_length_that_cannot_be_scored_is_refused(bench, text, tokens, error):
    with pytest.raises(error):
        perplexity(bench.service, text, tokens=tokens)


def test_a_single_token_is_refused(bench):
    with pytest.raises(InvalidText, match="single token"):
        perplexity(bench.service, "alone")


def test_a_chunk_as_large_as_the_window_is_refused(tmp_path):
    policy = Policy(window=96, reply_tokens=24, chunk=90)
    with (
        ParametricMemory(FakeBackend(), DirectoryStore(tmp_path), policy) as service,
        pytest.raises(InvalidSetting, match="no room"),
    ):
        perplexity(service, words(100))


def report_of(*seconds):
    chunks = [
        ChunkScore(start=10 * n, tokens=10, base_nll=2.0, memory_nll=1.0, seconds=took)
        for n, took in enumerate(seconds)
    ]
    return PerplexityReport(
        model="m", policy={}, chunks=tuple(chunks), version="0", commit=None, machine={}
    )


def test_the_ratio_compares_the_last_tenth_with_the_first():
    report = report_of(*[1.0] * 2, *[9.0] * 16, *[3.0] * 2)
    assert report.seconds_ratio_last_over_first_tenth == pytest.approx(3.0)
    assert report_of(1.0).seconds_ratio_last_over_first_tenth is None


def test_several_texts_are_added_up_token_by_token():
    found = total({"a": report_of(1.0, 2.0), "b": report_of(1.0)})
    assert found["tokens"] == 30
    assert found["base_ppl"] == pytest.approx(math.exp(2.0))
    assert [row["file"] for row in found["files"]] == ["a", "b"]
    assert len(found["chunks"]) == 3
    assert found["seconds_ratio_last_over_first_tenth"] == pytest.approx(2.0)
    with pytest.raises(InvalidText):
        total({})
