"""For tests of applications, backends and stores.

`FakeBackend` stands in for a model. The contract test classes for your own backend or store are in
`templora_memory.testing.contracts`, which needs pytest.
"""

from templora_memory.testing._fake import ADAPTER, GARBAGE, POISON, FakeBackend

__all__ = ["ADAPTER", "GARBAGE", "POISON", "FakeBackend"]
