"""Memory for the chains of `langchain_classic`, which LangChain has deprecated. Thin."""

from __future__ import annotations

from typing import Any, Self

from langchain_classic.memory import ConversationBufferMemory
from templora_memory import ParametricMemory

from langchain_templora.histories import TempLoraChatMessageHistory


class ParametricConversationMemory(ConversationBufferMemory):
    """A buffer memory of which all but the window lives in weights.

    Chains do not forward a configuration to their model, so give the model its memory::

        ConversationChain(
            llm=model.with_memory("bob", revision="head"),
            memory=ParametricConversationMemory.of(service, "bob"),
        )
    """

    @classmethod
    def of(cls, memory: ParametricMemory, memory_id: str, **settings: Any) -> Self:
        """A memory of one conversation.

        Args:
            memory: the service.
            memory_id: which memory.
            settings: of `TempLoraChatMessageHistory` (trigger, keep, transcript, ...) and of
                `ConversationBufferMemory` (memory_key, human_prefix, return_messages, ...).
        """
        fields = {key: settings.pop(key) for key in list(settings) if key in cls.model_fields}
        history = TempLoraChatMessageHistory(memory, memory_id, **settings)
        return cls(chat_memory=history, **fields)
