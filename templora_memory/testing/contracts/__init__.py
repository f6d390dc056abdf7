"""Contract tests that every backend and every store must pass. Needs pytest.

Subclass, and say how to make yours; pytest runs the inherited tests::

    from templora_memory.testing.contracts import BackendContract, StoreContract

    class TestMyStore(StoreContract):
        def make_store(self, root):
            return MyStore(root)

    class TestMyBackend(BackendContract):
        def make_backend(self):
            return MyBackend("some-small-model")

The tests ask nothing of what a model says, so a tiny one with random weights will do.
"""

from templora_memory.testing.contracts.backend import BackendContract
from templora_memory.testing.contracts.store import StoreContract

__all__ = ["BackendContract", "StoreContract"]
