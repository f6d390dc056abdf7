"""Revisions to commit, and a service like S3 on a port of this machine."""

import threading

import pytest

from templora_memory import Revision
from templora_memory.stores import decrypted_cache


@pytest.fixture(autouse=True)
def copies_elsewhere(tmp_path_factory, monkeypatch):
    """So that no test touches the plain copies of other programs: it may be one of a mutant."""
    monkeypatch.setattr(decrypted_cache, "SHARED", tmp_path_factory.mktemp("copies"))


@pytest.fixture
def copies(tmp_path, monkeypatch):
    """Where plain copies lie, for tests that look there."""
    place = tmp_path / "shared"
    place.mkdir()
    monkeypatch.setattr(decrypted_cache, "SHARED", place)
    return place


@pytest.fixture
def commit():
    """`commit(store, manifest, name, content)`: a revision of one file."""

    def commit_revision(store, manifest, name, content=b"weights", keep=4):
        revision = Revision(
            name=name,
            parent=None,
            dialogue=manifest.first,
            messages=0,
            documents=("d",),
            tokens=1,
            created=2.0,
            files=(),
        )
        with store.stage(manifest.id) as folder:
            (folder / "adapter_model.safetensors").write_bytes(content)
            return store.commit(manifest, revision, folder, keep=keep)

    return commit_revision


@pytest.fixture(scope="session")
def s3_address():
    """Where moto answers. One request at a time: its check and its write are two steps."""
    pytest.importorskip("boto3", reason="the extra objects is not installed")
    pytest.importorskip("moto", reason="moto is not installed")
    from moto.server import DomainDispatcherApplication, create_backend_app  # noqa: PLC0415
    from werkzeug.serving import make_server  # noqa: PLC0415

    app = DomainDispatcherApplication(create_backend_app)
    server = make_server("127.0.0.1", 0, app, threaded=False)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join(10)
    server.server_close()


@pytest.fixture
def s3_environment(s3_address, monkeypatch, tmp_path):
    """What boto3 reads; for child processes too."""
    values = {
        "AWS_ENDPOINT_URL": s3_address,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": str(tmp_path / "none"),
    }
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    return values


@pytest.fixture(scope="session")
def s3_client(s3_address):
    """Made once: that takes longer than most tests."""
    import boto3  # noqa: PLC0415  # an extra

    client = boto3.client(
        "s3",
        endpoint_url=s3_address,
        region_name="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",  # noqa: S106  # moto asks for one, whichever
    )
    yield client
    client.close()


@pytest.fixture
def s3(s3_environment, s3_client):  # noqa: ARG001  # for clients of stores
    """A client of the service."""
    return s3_client


@pytest.fixture
def bucket(s3):
    """The name of an empty bucket; what is left in it is removed afterwards."""
    s3.create_bucket(Bucket="memories")
    yield "memories"
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket="memories"):
        for one in page.get("Contents", ()):
            s3.delete_object(Bucket="memories", Key=one["Key"])
    s3.delete_bucket(Bucket="memories")
