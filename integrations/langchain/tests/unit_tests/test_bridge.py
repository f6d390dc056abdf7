"""Streams of the core, read in an event loop."""

import pytest
from templora_memory import Message, ParametricMemory, Reply
from templora_memory.stores import DirectoryStore
from templora_memory.testing import FakeBackend

from langchain_templora._bridge import pieces

QUESTION = [Message("user", "Who are you?")]


@pytest.fixture
def memory(tmp_path):
    with ParametricMemory(FakeBackend(), DirectoryStore(tmp_path)) as service:
        yield service


async def test_pieces_come_before_the_reply_that_holds_them_all(memory):
    *parts, reply = [item async for item in pieces(lambda: memory.without_memory.stream(QUESTION))]
    assert isinstance(reply, Reply)
    assert "".join(parts) == reply.text


async def test_an_error_of_the_start_reaches_the_consumer():
    def start():
        raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        [item async for item in pieces(start)]
