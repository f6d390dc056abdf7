"""LangChain with a memory in weights: a local chat model, agent middleware, chat histories.

Importing this package loads neither torch nor `langchain`. The middleware is in
`langchain_templora.middleware` (needs ``langchain``), the chat history in
`langchain_templora.histories`, the classic memory in `langchain_templora.classic`, a LangGraph
store with full-text search in `langchain_templora.stores`.
"""

from langchain_templora._version import __version__
from langchain_templora.chat_models import ChatTempLora, ContextOverflow
from langchain_templora.histories import TempLoraChatMessageHistory

__all__ = ["ChatTempLora", "ContextOverflow", "TempLoraChatMessageHistory", "__version__"]
