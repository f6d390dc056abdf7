"""LangChain's own unit suite."""

from __future__ import annotations

import pytest
from langchain_tests.unit_tests import ChatModelUnitTests
from templora_memory import ParametricMemory
from templora_memory.stores import DirectoryStore
from templora_memory.testing import FakeBackend

from langchain_templora import ChatTempLora


class TestChatTempLora(ChatModelUnitTests):
    @pytest.fixture(autouse=True)
    def _root(self, tmp_path_factory):
        type(self)._service = ParametricMemory(
            FakeBackend(), DirectoryStore(tmp_path_factory.mktemp("memories"))
        )

    @property
    def chat_model_class(self):
        return ChatTempLora

    @property
    def chat_model_params(self):
        return {"model": "fake", "memory": self._service, "memory_id": "ada"}
