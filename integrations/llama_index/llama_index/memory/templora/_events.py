"""Events for LlamaIndex's instrumentation: when learning begins and ends."""

from __future__ import annotations

from llama_index.core.instrumentation.events import BaseEvent
from llama_index_instrumentation import get_dispatcher

DISPATCHER = get_dispatcher("templora_memory")


class ParametricAbsorbStartEvent(BaseEvent):
    """Messages were handed over to be learned."""

    session_id: str
    n_messages: int

    @classmethod
    def class_name(cls) -> str:
        """Return the name in serialised events."""
        return "ParametricAbsorbStartEvent"


class ParametricAbsorbEndEvent(BaseEvent):
    """They are learned, or it failed: then `error` says why, and they stay in the prompt."""

    session_id: str
    n_messages: int
    seconds: float
    error: str | None = None

    @classmethod
    def class_name(cls) -> str:
        """Return the name in serialised events."""
        return "ParametricAbsorbEndEvent"
