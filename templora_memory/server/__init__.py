"""Memories over HTTP: OpenAI's chat interface, and the verbs of a memory.

Needs the extra ``serve`` (fastapi, uvicorn). Start it with ``templora serve``, or run
`create_app` under any ASGI server.
"""

from templora_memory.server.api_keys import ApiKeys, add_key
from templora_memory.server.app import create_app
from templora_memory.server.metrics import Observer, make_observers
from templora_memory.server.run import serve
from templora_memory.server.settings import ServerSettings

__all__ = [
    "ApiKeys",
    "Observer",
    "ServerSettings",
    "add_key",
    "create_app",
    "make_observers",
    "serve",
]
