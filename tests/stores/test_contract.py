from templora_memory.stores import DirectoryStore
from templora_memory.testing.contracts import StoreContract


class TestDirectoryStore(StoreContract):
    def make_store(self, root):
        return DirectoryStore(root)
