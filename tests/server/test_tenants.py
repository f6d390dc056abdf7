"""Tenants: every namespace has an encrypted store of its own."""

from templora_memory import Document, Policy
from templora_memory.server.tenants import Tenants
from templora_memory.stores import Key
from templora_memory.testing import FakeBackend

KEY = Key(b"k" * 32)


def test_every_namespace_is_encrypted_and_goes_on_after_a_restart(tmp_path):
    for start in range(2):
        tenants = Tenants(
            FakeBackend(),
            tmp_path,
            policy=Policy(window=96, chunk=16),
            namespaces=["alice", "bob"],
            encryption=KEY,
        )
        tenants.open()
        try:
            for tenant in tenants.all():
                assert len(tenant.service.list()) == start
                job = tenant.jobs.absorb("ada", [Document(f"Ada keeps zanzibar bees, {start}.")])
                assert job.job.wait().tokens
                assert len(tenant.service["ada"].transcript().documents) == start + 1
        finally:
            tenants.close()
    held = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert len(held) > 4
    assert not any(b"zanzibar" in content for content in held)
