"""Keys and values of an ended answer, taken over by the next one of the same revision."""

from __future__ import annotations

from dataclasses import replace

import pytest

from templora_memory import Message, Sampling
from templora_memory.backends.local import LocalBackend
from templora_memory.ports import GenerateRequest

ASKED = (Message("user", "Who is Pim, and where does he live?"),)


@pytest.fixture
def fed():
    """How many tokens each forward pass was given."""

    def watch(backend):
        counts = []
        backend.loaded.base.model.get_decoder().register_forward_pre_hook(
            lambda _, __, inputs: counts.append(inputs["input_ids"].shape[1]), with_kwargs=True
        )
        return counts

    return watch


def request(adapter, messages=ASKED, **changes):
    asked = GenerateRequest(
        messages=messages, adapter=adapter, strength=1.0, sampling=Sampling(ignore_end=True),
        max_tokens=8,
    )  # fmt: skip
    return replace(asked, **changes)


def next_turn(backend, adapter):
    said = backend.stream(request(adapter)).completion.text
    return (*ASKED, Message("assistant", said), Message("user", "And why?"))


@pytest.fixture
def adapter(make_backend, learn, tmp_path):
    return learn(make_backend(), tmp_path / "a")[0]


def test_the_next_turn_feeds_only_what_is_new(make_backend, adapter, fed):
    backend = make_backend()
    history = next_turn(backend, adapter)
    counts = fed(backend)
    backend.stream(request(adapter, history)).completion  # noqa: B018
    assert counts[0] < backend.count(history) - backend.count(ASKED)
    assert counts[0] + backend.count(ASKED) >= len(" And why?")


def test_the_answer_is_the_one_without_reuse(make_backend, adapter):
    backend = make_backend()
    history = next_turn(backend, adapter)
    reused = backend.stream(request(adapter, history)).completion
    backend._prefixes.clear()
    assert backend.stream(request(adapter, history)).completion == reused


def test_the_same_question_again_feeds_one_token(make_backend, adapter, fed):
    backend = make_backend()
    first = backend.stream(request(adapter)).completion
    counts = fed(backend)
    assert backend.stream(request(adapter)).completion == first
    assert counts[0] == 1


def test_another_strength_or_revision_takes_nothing_over(
    make_backend, adapter, learn, tmp_path, fed
):
    backend = make_backend()
    other = learn(backend, tmp_path / "b", "Something else entirely.")[0]
    backend.stream(request(adapter)).completion  # noqa: B018
    counts = fed(backend)
    for changed in (request(adapter, strength=0.5), request(other)):
        counts.clear()
        backend.stream(changed).completion  # noqa: B018
        assert counts[0] == backend.count(ASKED)


def test_requests_without_a_memory_share_nothing(make_backend, adapter, fed):
    """What somebody else asked must not show in how long an answer takes."""
    backend = make_backend()
    counts = fed(backend)
    for _ in range(2):
        counts.clear()
        backend.stream(request(None)).completion  # noqa: B018
        assert counts[0] == backend.count(ASKED)
        counts.clear()
        backend.stream(request(adapter, strength=0.0)).completion  # noqa: B018
        assert counts[0] == backend.count(ASKED)
    assert not backend._prefixes


def test_a_released_memory_leaves_nothing_behind(make_backend, adapter):
    backend = make_backend()
    backend.stream(request(adapter)).completion  # noqa: B018
    assert backend._prefixes
    backend.release("m/")
    assert not backend._prefixes


def test_an_answer_under_way_at_a_release_is_not_kept(make_backend, adapter):
    backend = make_backend()
    stream = backend.stream(request(adapter, max_tokens=60))
    next(iter(stream))
    backend.release("m/")
    stream.completion  # noqa: B018
    assert not backend._prefixes


def test_the_least_recently_used_leave_first(make_backend, adapter):
    backend = make_backend()
    sizes = []
    for strength in (0.5, 0.75, 1.0):
        backend.stream(request(adapter, strength=strength)).completion  # noqa: B018
        sizes.append(sum(kept.bytes for kept in backend._prefixes.values()))
    backend._prefixes._max_size = sizes[1]
    backend.stream(request(adapter, strength=0.75)).completion  # noqa: B018
    assert [key.rsplit("*")[-1] for key in backend._prefixes] == ["1.0", "0.75"]


def test_reuse_can_be_switched_off(make_model, make_tokenizer, adapter):
    model, tokenizer = make_model(), make_tokenizer()
    backend = LocalBackend.of(model, tokenizer, prefix_bytes=0)
    backend.open()
    backend.stream(request(adapter)).completion  # noqa: B018
    assert not backend._prefixes
    backend.close()
