"""Experimental: vLLM as the generator of a fleet, over HTTP; learning stays where it is."""

from templora_memory.backends.vllm.backend import VllmBackend

__all__ = ["VllmBackend"]
