"""Memories over HTTP: OpenAI's chat interface, and the verbs of a memory.

Needs the extra ``serve`` (fastapi, uvicorn). Start it with ``templora serve``, or run
`create_app` under any ASGI server.
"""

from templora_memory.server.api_keys import Keys, add_key
from templora_memory.server.app import create_app
from templora_memory.server.metrics import Observer, observers
from templora_memory.server.run import serve
from templora_memory.server.settings import ServerSettings

__all__ = ["Keys", "Observer", "ServerSettings", "add_key", "create_app", "observers", "serve"]
