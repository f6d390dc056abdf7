from templora_memory.testing import FakeBackend
from templora_memory.testing.contracts import BackendContract


class TestFakeBackend(BackendContract):
    def make_backend(self):
        return FakeBackend()
