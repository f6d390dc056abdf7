"""LlamaIndex memory in weights: chat engines and agents that never overflow.

`TempLoraMemory` and its `llm` are all that most applications need. Everything older than the window
is learned into a small LoRA of the session's own; retrieved text stays in the prompt.
"""

from llama_index.memory.templora._block import ParametricMemoryBlock
from llama_index.memory.templora._chat_store import ParametricChatStore
from llama_index.memory.templora._conversation import ConversationStatus
from llama_index.memory.templora._events import (
    ParametricAbsorbEndEvent,
    ParametricAbsorbStartEvent,
)
from llama_index.memory.templora._llm import TempLoraLLM
from llama_index.memory.templora._memory import TempLoraMemory
from llama_index.memory.templora._messages import message_to_text
from llama_index.memory.templora._prompts import (
    PARAMETRIC_CONTEXT_PROMPT,
    PARAMETRIC_REFINE_PROMPT,
)
from llama_index.memory.templora._version import __version__

__all__ = [
    "PARAMETRIC_CONTEXT_PROMPT",
    "PARAMETRIC_REFINE_PROMPT",
    "ConversationStatus",
    "ParametricAbsorbEndEvent",
    "ParametricAbsorbStartEvent",
    "ParametricChatStore",
    "ParametricMemoryBlock",
    "TempLoraLLM",
    "TempLoraMemory",
    "__version__",
    "message_to_text",
]
