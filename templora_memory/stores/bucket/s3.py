"""A bucket of S3's kind: keys and bytes, with the conditional writes everything else rests on.

boto3 and not fsspec: fsspec has no write that compares, and its exclusive creation looks first and
writes afterwards. A refused condition is `PreconditionFailed`; everything else that goes wrong is
`StoreWriteFailed`. Knows nothing of memories.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from templora_memory.errors import InvalidSetting, StoreWriteFailed

_MAX_REMOVED_AT_ONCE = 1000  # S3's limit for one call
_CHUNK_BYTES = 1 << 20
_SCHEME = "s3"
_NOT_MODIFIED = 304
_MISSING = frozenset({_NOT_MODIFIED, 404})
_CONDITION_FAILED = frozenset({409, 412})
_NO_VERSIONS = frozenset({405, 501})  # the service does not know them


class PreconditionFailed(Exception):  # caught where the race is understood; callers never see it
    """A conditional write was refused: another writer has written this key first."""


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An object in a bucket: its bytes and its version."""

    body: bytes
    etag: str


@dataclass(frozen=True, slots=True)
class ObjectEntry:
    """An object in a listing. `age` is by the clock of the bucket, in seconds."""

    key: str
    size: int
    modified: float
    age: float


class Bucket:
    """The keys below a prefix of a bucket; they are given and listed without it.

    Args:
        url: ``s3://bucket/prefix``.
        endpoint: address of the service, where it is not AWS; None: as the environment says
            (``AWS_ENDPOINT_URL``).
        client: a boto3 client for S3 to use instead of one of its own.
    """

    def __init__(self, url: str, *, endpoint: str | None = None, client: Any = None) -> None:
        parts = urlsplit(url)
        if parts.scheme != _SCHEME or not parts.netloc or parts.query or parts.fragment:
            raise InvalidSetting(f"{url!r} is no place for objects: give s3://BUCKET/PREFIX.")
        self.url = url.rstrip("/")
        self._name = parts.netloc
        self._prefix = f"{prefix}/" if (prefix := parts.path.strip("/")) else ""
        self._endpoint = endpoint
        self._client = client

    def open(self) -> None:
        """Make the client; nothing is asked yet.

        Raises:
            InvalidSetting: the extra is not installed.
        """
        try:
            import boto3  # noqa: PLC0415  # an extra
            from botocore.config import Config  # noqa: PLC0415
        except ModuleNotFoundError as error:
            raise InvalidSetting(
                f"Storage in a bucket needs {error.name}: pip install 'templora-memory[objects]'."
            ) from error
        if self._client is None:
            config = Config(
                connect_timeout=10,
                read_timeout=60,
                retries={"mode": "standard", "max_attempts": 5},
            )
            self._client = boto3.session.Session().client(
                "s3", endpoint_url=self._endpoint, config=config
            )

    # --- reading -------------------------------------------------------------------------------

    def get(self, key: str, *, unless: str | None = None) -> StoredObject | None:
        """Return an object, without its body if its version is `unless`; None if there is none."""
        condition = {} if unless is None else {"IfNoneMatch": unless}
        stored: StoredObject | None = None
        with self._calling(key) as call:
            response = self._client.get_object(**self._at(key), **condition)
            stored = StoredObject(response["Body"].read(), response["ETag"])
        if call.status == _NOT_MODIFIED and unless is not None:
            return StoredObject(b"", unless)
        return stored

    def download(self, key: str, target: Path) -> bool:
        """Copy an object into a new file; return False if there is no such object."""
        done = False
        with self._calling(key):
            body = self._client.get_object(**self._at(key))["Body"]
            with target.open("xb") as file:
                for chunk in body.iter_chunks(_CHUNK_BYTES):
                    file.write(chunk)
            target.chmod(0o600)
            done = True
        return done  # noqa: RET504  # mypy does not know that the block may be left early

    def list(self, prefix: str, *, below: bool = True) -> Iterator[ObjectEntry]:
        """Yield objects whose keys begin with `prefix`; with `below` false, no folders deeper."""
        options: dict[str, Any] = {} if below else {"Delimiter": "/"}
        while True:
            page: dict[str, Any] = {}
            with self._calling(prefix):
                page = self._client.list_objects_v2(
                    Bucket=self._name, Prefix=self._prefix + prefix, **options
                )
            now = _date(page)
            for item in page.get("Contents", ()):
                modified = item["LastModified"].timestamp()
                key = item["Key"].removeprefix(self._prefix)
                yield ObjectEntry(key, item["Size"], modified, now - modified)
            if not page.get("IsTruncated"):
                return
            options["ContinuationToken"] = page["NextContinuationToken"]

    # --- writing -------------------------------------------------------------------------------

    def put(self, key: str, body: bytes, *, replacing: str | None) -> str:
        """Write an object in place of the version `replacing`, or None: as a new one.

        Returns its version. boto3 repeats a write whose answer was lost on the way. The second try
        is refused, and its own bytes are there: that is a success.

        Raises:
            PreconditionFailed: there is another version, or, with None, any.
        """
        condition = {"IfNoneMatch": "*"} if replacing is None else {"IfMatch": replacing}
        etag = ""
        with self._calling(key, allowed=_CONDITION_FAILED):
            etag = self._client.put_object(**self._at(key), Body=body, **condition)["ETag"]
        if etag:
            return str(etag)
        stored = self.get(key)
        if stored is None or stored.body != body:
            raise PreconditionFailed
        return stored.etag

    def upload(self, key: str, source: Path) -> None:
        """Write a file under a key that nobody else uses."""
        with source.open("rb") as file, self._writing(key):
            self._client.put_object(**self._at(key), Body=file)

    def copy(self, key: str, target: str) -> bool:
        """Copy an object to a key that nobody else uses; return False if there is none."""
        done = False
        with self._calling(key):
            self._client.copy_object(**self._at(target), CopySource=self._at(key))
            done = True
        return done  # noqa: RET504  # mypy does not know that the block may be left early

    def remove(self, keys: Iterable[str]) -> None:
        """Remove objects; those that are gone already do not matter."""
        remaining = list(keys)
        while remaining:
            batch = remaining[:_MAX_REMOVED_AT_ONCE]
            del remaining[:_MAX_REMOVED_AT_ONCE]
            names = [{"Key": self._prefix + key} for key in batch]
            with self._writing(batch[0]):
                response = self._client.delete_objects(
                    Bucket=self._name, Delete={"Objects": names, "Quiet": True}
                )
            self._check_removed(response)

    def erase(self, key: str) -> None:
        """Remove an object with all versions that the bucket keeps of it."""
        while versions := self._versions(key):
            with self._writing(key):
                response = self._client.delete_objects(
                    Bucket=self._name, Delete={"Objects": versions, "Quiet": True}
                )
            self._check_removed(response)
        if any(entry.key == key for entry in self.list(key)):  # the service lists no versions
            self.remove([key])

    def _versions(self, key: str) -> Sequence[dict[str, str]]:
        response: dict[str, Any] = {}
        name = self._prefix + key
        with self._calling(key, allowed=_NO_VERSIONS):
            response = self._client.list_object_versions(Bucket=self._name, Prefix=name)
        versions = (*response.get("Versions", ()), *response.get("DeleteMarkers", ()))
        return [
            {"Key": name, "VersionId": version["VersionId"]}
            for version in versions
            if version["Key"] == name
        ]

    def _check_removed(self, response: dict[str, Any]) -> None:
        if errors := response.get("Errors"):
            raise StoreWriteFailed(
                f"Could not remove {errors[0].get('Key')!r} from {self.url} "
                f"({errors[0].get('Code')}): check the permissions and call again."
            )

    def remove_version(self, key: str, etag: str) -> None:
        """Remove an object if it is still this version.

        A service that does not know the condition removes whatever is there.
        """
        with self._calling(key, allowed=_CONDITION_FAILED):
            self._client.delete_object(**self._at(key), IfMatch=etag)

    # --- errors --------------------------------------------------------------------------------

    def _at(self, key: str) -> dict[str, str]:
        return {"Bucket": self._name, "Key": self._prefix + key}

    @contextmanager
    def _writing(self, key: str) -> Iterator[None]:
        done = False
        with self._calling(key):
            yield
            done = True
        if not done:
            raise StoreWriteFailed(
                f"There is no bucket {self._name!r}: make it, or name another one."
            )

    @contextmanager
    def _calling(self, key: str, *, allowed: frozenset[int] = frozenset()) -> Iterator[_CallStatus]:
        """Run one call to the service, and turn its errors into `StoreWriteFailed`.

        The block is left quietly, with the status, if the object is missing or not modified, and
        with a status in `allowed`.
        """
        from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415  # an extra

        call = _CallStatus()
        try:
            yield call
        except ClientError as error:
            response = error.response
            call.status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            code = response.get("Error", {}).get("Code", "")
            if call.status not in _MISSING | allowed or code == "NoSuchBucket":
                raise self._failed(key, code or str(call.status)) from error
        except BotoCoreError as error:
            raise self._failed(key, str(error)) from error

    def _failed(self, key: str, reason: str) -> StoreWriteFailed:
        return StoreWriteFailed(
            f"Could not use {key or 'the folder'!r} in {self.url}: {reason}. Check bucket, "
            "credentials, permissions and network, and call again. Nothing was lost."
        )


@dataclass(slots=True)
class _CallStatus:
    status: int = 0


def _date(page: dict[str, Any]) -> float:
    """Return when a page was made, by the clock of the service: ours may be wrong."""
    date = page.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date")
    return parsedate_to_datetime(date).timestamp() if date else time.time()
