"""A bucket as a store sees it: conditional writes, and errors that are named."""

import pytest

from templora_memory.errors import (
    InvalidSetting,
    StoreWriteFailed,
)
from templora_memory.stores import ObjectStore
from templora_memory.stores.bucket.s3 import Bucket, PreconditionFailed

pytestmark = pytest.mark.enable_socket
URL = "s3://memories/some/where"


@pytest.mark.usefixtures("bucket")
def test_an_answer_that_is_lost_on_the_way_is_no_loss():
    place = Bucket(URL)
    place.open()
    etag = place.put("x", b"one", replacing=None)
    assert place.put("x", b"one", replacing=None) == etag  # tried again
    newer = place.put("x", b"two", replacing=etag)
    assert place.put("x", b"two", replacing=etag) == newer
    for replacing in (None, etag):
        with pytest.raises(PreconditionFailed):
            place.put("x", b"three", replacing=replacing)
    with pytest.raises(PreconditionFailed):
        place.put("missing", b"three", replacing=etag)


@pytest.mark.parametrize("url", ["memories", "http://x/y", "s3://", "s3://x?y=z"])
def test_what_is_no_place_is_refused(url, tmp_path):
    with pytest.raises(InvalidSetting, match="s3://BUCKET/PREFIX"):
        ObjectStore(url, cache=tmp_path)


@pytest.mark.usefixtures("s3_environment")
def test_a_missing_bucket_is_named(tmp_path):
    store = ObjectStore("s3://no-such-bucket/x", cache=tmp_path / "cache")
    with pytest.raises(StoreWriteFailed, match=r"no-such-bucket.*NoSuchBucket"):
        store.open()


@pytest.mark.usefixtures("s3_environment")
def test_a_service_that_does_not_answer_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(StoreWriteFailed, match="network"):
        ObjectStore(URL, cache=tmp_path / "cache").open()
