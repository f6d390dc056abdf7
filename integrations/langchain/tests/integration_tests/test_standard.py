"""LangChain's own integration suite, on the embedded model and on a fake that follows schemas."""

from __future__ import annotations

import pytest
from langchain_tests.integration_tests import ChatModelIntegrationTests

from langchain_templora import ChatTempLora

pytestmark = pytest.mark.filterwarnings(
    "ignore::langchain_core._api.beta_decorator.LangChainBetaWarning"
)
CAPABLE = "the model has to choose a tool and its arguments by itself"


class TestOnTheEmbeddedModel(ChatModelIntegrationTests):
    @pytest.fixture(autouse=True)
    def _tiny(self, tiny):
        type(self)._service = tiny

    @property
    def chat_model_class(self):
        return ChatTempLora

    @property
    def chat_model_params(self):
        return {
            "model": "templora/tiny",
            "memory": self._service,
            "memory_id": "standard",
            "max_tokens": 160,
        }

    @pytest.mark.xfail(reason=CAPABLE)
    def test_tool_calling(self, model):
        super().test_tool_calling(model)

    @pytest.mark.xfail(reason=CAPABLE)
    async def test_tool_calling_async(self, model):
        await super().test_tool_calling_async(model)

    @pytest.mark.xfail(reason=CAPABLE)
    def test_agent_loop(self, model):
        super().test_agent_loop(model)

    @pytest.mark.xfail(reason=CAPABLE)
    def test_unicode_tool_call_integration(self, model):
        super().test_unicode_tool_call_integration(model)


class TestOnTheFakeBackend(ChatModelIntegrationTests):
    @pytest.fixture(autouse=True)
    def _fake(self, make_box):
        type(self)._service = make_box(window=1000, reply_tokens=200, chunk=64).service

    @property
    def chat_model_class(self):
        return ChatTempLora

    @property
    def chat_model_params(self):
        return {"model": "fake", "memory": self._service, "memory_id": "standard"}

    @pytest.mark.xfail(reason=CAPABLE, strict=True)
    def test_tool_calling(self, model):
        super().test_tool_calling(model)

    @pytest.mark.xfail(reason=CAPABLE, strict=True)
    async def test_tool_calling_async(self, model):
        await super().test_tool_calling_async(model)

    @pytest.mark.xfail(reason=CAPABLE, strict=True)
    def test_agent_loop(self, model):
        super().test_agent_loop(model)

    @pytest.mark.xfail(reason=CAPABLE, strict=True)
    def test_unicode_tool_call_integration(self, model):
        super().test_unicode_tool_call_integration(model)
