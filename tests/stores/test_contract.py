import secrets

import pytest

from templora_memory.stores import DirectoryStore, Key, ObjectStore
from templora_memory.testing.contracts import StoreContract


class TestDirectoryStore(StoreContract):
    def make_store(self, root):
        return DirectoryStore(root)


class TestEncryptedStore(StoreContract):
    def make_store(self, root):
        return DirectoryStore(root, key=Key(b"k" * 32))

    def damage(self, store, memory_id, revision):
        path = store.root / memory_id / "revisions" / revision.name / "adapter_model.safetensors"
        path.write_bytes(b"X" * path.stat().st_size)


@pytest.mark.enable_socket
class TestObjectStore(StoreContract):
    @pytest.fixture(autouse=True)
    def _service(self, s3, bucket):
        self._s3, self._bucket = s3, bucket

    def make_store(self, root, key=None):
        cache = root.parent / f"cache-{secrets.token_hex(4)}"  # as on another machine
        url = f"s3://{self._bucket}/{root.name}"
        return ObjectStore(url, cache=cache, client=self._s3, key=key)

    def damage(self, store, memory_id, revision):
        copy = store.folder(memory_id, revision) / "adapter_model.safetensors"
        size = copy.stat().st_size
        copy.unlink()
        for one in self._s3.list_objects_v2(Bucket=self._bucket)["Contents"]:
            if one["Key"].endswith("/adapter_model.safetensors"):
                self._s3.put_object(Bucket=self._bucket, Key=one["Key"], Body=b"X" * size)


class TestEncryptedObjectStore(TestObjectStore):
    def make_store(self, root):
        return super().make_store(root, Key(b"k" * 32))
