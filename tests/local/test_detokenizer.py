"""Text from tokens as they come, and stop texts in it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tokenizers import Tokenizer
from tokenizers.decoders import Metaspace as MetaspaceDecoder
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Metaspace
from transformers import PreTrainedTokenizerFast

from templora_memory import Sampling
from templora_memory.backends.local.detokenizer import IncrementalDetokenizer
from templora_memory.backends.local.tokenizer import ChatTokenizer
from tests.local.generate_requests import ENDLESS, ask


@pytest.mark.parametrize("cut", [1, 2, 5])
def test_a_stop_text_ends_an_answer_even_across_tokens(make_backend, cut):
    backend = make_backend()
    whole = backend.stream(ask()).completion.text
    stop = whole[cut : cut + 2]
    stream = backend.stream(ask(sampling=replace(ENDLESS, stop=(stop,))))
    pieces = list(stream)
    assert "".join(pieces) == whole[: whole.index(stop)] == stream.completion.text
    assert stream.completion.finish_reason == "stop"


def test_pieces_join_to_the_text_and_never_hold_half_a_character(make_backend):
    backend = make_backend()
    sampling = Sampling(temperature=5.0, seed=4, ignore_end=True)
    stream = backend.stream(ask(sampling=sampling, max_tokens=100))
    pieces = list(stream)
    assert "".join(pieces) == stream.completion.text
    ids_text = backend.loaded.tokenizer
    decoder_input = "héllo wörld 你好 👋 end"
    from templora_memory.backends.local.detokenizer import IncrementalDetokenizer  # noqa: PLC0415

    decoder = IncrementalDetokenizer(ids_text, ())
    shown = [decoder.push(token) for token in ids_text.encode(decoder_input)]
    assert "\ufffd" not in "".join(shown)
    assert "".join(shown) + decoder.finish() == decoder_input


@pytest.fixture
def text(make_backend):
    return make_backend().loaded.tokenizer


def shown(text, messages):
    return text.decode(text.prompt(messages), special=True)


def test_a_stop_text_is_held_back_only_as_long_as_it_may_come(text):
    decoder = IncrementalDetokenizer(text, ("END",))
    shown = [decoder.push(token) for token in text.encode("xENyEND")]
    assert shown == ["x", "", "", "ENy", "", "", ""]
    assert decoder.stopped
    assert decoder.finish() == ""
    open_end = IncrementalDetokenizer(text, ("END",))
    assert "".join(open_end.push(token) for token in text.encode("xEN")) == "x"
    assert open_end.finish() == "EN"


def in_chunks(text, ids, size):
    """What is shown of a text that is generated in chunks."""
    shown, before, undecoded = "", ids[:1], 0
    for begin in range(1, len(ids), size):
        decoder = IncrementalDetokenizer(text, (), before=before, undecoded=undecoded)
        for token in ids[begin : begin + size]:
            shown += decoder.push(token)
        shown += decoder.finish(hold=True)
        before, undecoded = ids[: begin + size], decoder.held
    return shown


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_a_character_over_two_chunks_of_text_is_whole(text, size):
    content = "xhéllo 你好 👋👋 ok"
    assert in_chunks(text, text.encode(content), size) == content[1:]


def test_a_space_between_two_chunks_of_text_is_kept():
    words = ["?", "\u2581one", "\u2581two", "\u2581three"]
    raw = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, words[0]))
    raw.pre_tokenizer, raw.decoder = Metaspace(), MetaspaceDecoder()
    text = ChatTokenizer(PreTrainedTokenizerFast(tokenizer_object=raw, unk_token=words[0]))
    assert in_chunks(text, [1, 2, 3, 2], 1) == " two three two"


def test_text_that_is_no_character_is_not_held_for_ever(text):
    decoder = IncrementalDetokenizer(text, (), before=text.encode("a"))
    broken = text.encode("你")[1:] * 2
    assert "".join(decoder.push(token) for token in broken) == ""
    assert decoder.finish(hold=True) == "\ufffd" * 4
    assert decoder.held == 0
