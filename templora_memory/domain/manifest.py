"""The manifest of a memory: its revisions, and which of them a history continues.

Pure values; reading and writing files is the store's business. Every change makes a new manifest
with the next `epoch`, which is what a store compares and swaps.
"""

from __future__ import annotations

import hashlib
import json
import math
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from templora_memory.domain.messages import Item, Message, chain, start
from templora_memory.errors import BaseMismatch, StoreDamaged, UnknownRevision

FORMAT = 2
"""Document lists stand in the journal; the manifest names the list of each revision."""
EDITED_FORMAT = 3
"""As `FORMAT`, of a memory whose journal was replaced because texts were removed from it."""
FORMAT_WITH_LISTS = 1
"""Document lists stand in the manifest: of exported files, and of versions before format 2."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelIdentity:
    """The base model that an adapter belongs to. Name and revision inform; the hashes decide.

    `weights` is a hash over sampled weights, rounded to bfloat16, so that the same model in
    another folder or precision is recognised.
    """

    name: str
    revision: str | None
    config: str
    tokenizer: str
    weights: str

    def same_model(self, other: ModelIdentity) -> bool:
        """Return whether an adapter of one may be used on the other."""
        return (self.config, self.tokenizer, self.weights) == (
            other.config,
            other.tokenizer,
            other.weights,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRecord:
    """A file of a revision: path relative to its folder, size in bytes, SHA-256."""

    path: str
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Revision:
    """An immutable adapter and exactly what it has absorbed.

    Args:
        name: hash over everything it absorbed, in order; also the folder name.
        parent: revision it was trained from; None: from nothing.
        dialogue: chain digest of the absorbed part of the conversation.
        messages: how many messages that part has, system messages not counted.
        documents: digests of the absorbed documents, in order.
        tokens: tokens trained in, in total.
        created: seconds since 1970.
        files: what the folder holds.
    """

    name: str
    parent: str | None
    dialogue: str
    messages: int
    documents: tuple[str, ...]
    tokens: int
    created: float
    files: tuple[FileRecord, ...]

    @property
    def bytes(self) -> int:
        """Size of all its files."""
        return sum(file.bytes for file in self.files)


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """The start of a memory: another memory's revision, copied in."""

    id: str
    revision: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """Everything a store keeps about a memory besides text and weights.

    `build` counts rebuilds: what is learned again gets new names, because its weights differ.
    `edits` counts how often texts were removed or corrected: each time the journal is another one.
    `forks` are memories that were copied from this one or began from it, `exports` files that it
    was written to: what a forget does not reach.
    """

    id: str
    salt: str
    epoch: int
    base: ModelIdentity
    created: float
    revisions: tuple[Revision, ...] = ()
    head: str | None = None
    origin: Origin | None = None
    ttl: float | None = None
    build: int = 0
    edits: int = 0
    forks: tuple[str, ...] = ()
    exports: tuple[str, ...] = ()

    @property
    def first(self) -> str:
        """The digest of the empty history."""
        return start(self.salt)

    def same_memory(self, other: Manifest) -> bool:
        """Return whether both are of one memory, not of one made under its id after a forget."""
        return (self.salt, self.created) == (other.salt, other.created)

    def chain(self, messages: Sequence[Message]) -> tuple[str, ...]:
        """Digests of the dialogue after 0, 1, ... messages; system messages do not count."""
        return chain(self.first, [m for m in messages if m.role != "system"])

    def digest_after(self, known: str, messages: Sequence[Message]) -> str:
        """Return the digest of the dialogue that ends in `known`, after more messages."""
        return chain(known, messages)[-1]

    def find(self, name: str | None) -> Revision | None:
        """Return the revision of this name; None if there is none."""
        return next((r for r in self.revisions if r.name == name), None)

    def get(self, name: str) -> Revision:
        """Return the revision of this name, or unambiguous beginning of a name (8 letters or more).

        Raises:
            UnknownRevision: none or several; the message lists what there is.
        """
        short = 8
        hits = [r for r in self.revisions if r.name == name]
        if not hits and len(name) >= short:
            hits = [r for r in self.revisions if r.name.startswith(name)]
        if len(hits) != 1:
            known = ", ".join(r.name[:12] for r in self.revisions) or "none"
            raise UnknownRevision(
                f"Memory {self.id!r} has no revision {name!r}. It has: {known}. "
                "Older ones were retired by retention."
            )
        return hits[0]

    @property
    def newest(self) -> Revision | None:
        """The head: the revision committed last, or the one rolled back to."""
        return self.find(self.head)

    def covering(self, digests: Sequence[str], limit: int) -> Revision | None:
        """Return the revision that covers most of a history, at most its first `limit` messages.

        A revision qualifies only if it has absorbed exactly a beginning of this history. Among
        equals the one with more documents wins, then the newer one.
        """
        fitting = [
            (r.messages, len(r.documents), index)
            for index, r in enumerate(self.revisions)
            if r.messages <= min(limit, len(digests) - 1) and digests[r.messages] == r.dialogue
        ]
        return self.revisions[max(fitting)[2]] if fitting else None

    def name_after(self, parent: Revision | None, items: Sequence[Item]) -> str:
        """Return the name of the revision that has absorbed `items` after `parent`."""
        nothing = self.first if self.build == 0 else start(f"{self.salt}/{self.build}")
        return chain(parent.name if parent else nothing, items)[-1]

    def with_revision(self, revision: Revision, keep: int) -> Manifest:
        """Return the manifest after a commit, without what retention retires.

        Kept are the newest `keep` revisions and the newest one without any dialogue, to which an
        edited conversation falls back.
        """
        every = (*(r for r in self.revisions if r.name != revision.name), revision)
        roots = [r.name for r in every if r.messages == 0]
        kept_names = {r.name for r in every[-keep:]} | set(roots[-1:])
        return replace(
            self,
            epoch=self.epoch + 1,
            revisions=tuple(r for r in every if r.name in kept_names),
            head=revision.name,
        )

    def rolled_back(self, to: Revision) -> Manifest:
        """Return the manifest without the revisions newer than `to`."""
        return replace(
            self,
            epoch=self.epoch + 1,
            revisions=self.revisions[: self.revisions.index(to) + 1],
            head=to.name,
        )

    def copied_to(self, *, fork: str | None = None, export: str | None = None) -> Manifest:
        """Return the manifest that knows of one more copy."""
        forks = dict.fromkeys(self.forks + ((fork,) if fork else ()))
        exports = dict.fromkeys(self.exports + ((export,) if export else ()))
        return replace(self, epoch=self.epoch + 1, forks=tuple(forks), exports=tuple(exports))

    def rebuilt(self, base: ModelIdentity) -> Manifest:
        """Return the manifest to learn all of it again with, on `base`: no revisions, new names."""
        return replace(self, base=base, build=self.build + 1, revisions=(), head=None)

    def root_again(self, revision: Revision) -> Revision:
        """Return the newest revision of the origin, as what a rebuild begins with.

        Under a name of its own: the one it has there may be in use here until the commit.
        """
        name = start(f"{self.salt}/{self.build}/{revision.name}")
        return replace(as_root(revision, self.first), name=name)

    def check_base(self, model: ModelIdentity) -> None:
        """Refuse a base model that the memory was not learned on.

        Raises:
            BaseMismatch: names both and the way out.
        """
        if not self.base.same_model(model):
            raise BaseMismatch(
                f"Memory {self.id!r} was learned on {self.base.name!r}, but the model here is "
                f"{model.name!r} (other configuration, tokenizer or weights). Open it with its "
                "model, or learn it again on this one (rebuild)."
            )

    def as_json(self, list_name: Callable[[tuple[str, ...]], str] | None = None) -> dict[str, Any]:
        """Return the manifest as a JSON object, with its checksum.

        Args:
            list_name: returns the name under which the journal has a list of documents
                (`Journal.list_name`), so that the manifest stays small however long the list is;
                None: the lists themselves are written.
        """
        # each list apart: asdict copies what it finds, one text after the other
        rows = [
            {
                **asdict(replace(revision, documents=())),
                "documents": list_name(revision.documents) if list_name else revision.documents,
            }
            for revision in self.revisions
        ]
        edited = EDITED_FORMAT if self.edits else FORMAT
        body = {
            "format": edited if list_name else FORMAT_WITH_LISTS,
            **asdict(replace(self, revisions=())),
            "revisions": rows,
        }
        if not self.edits:  # so that versions before there were edits read it
            del body["edits"]
        return {"sum": _checksum(body), **body}

    @classmethod
    def from_json(
        cls,
        value: object,
        read_list: Callable[[Manifest, str], tuple[str, ...]] | None = None,
    ) -> Manifest:
        """Read what `as_json` wrote.

        Args:
            value: the JSON object.
            read_list: returns the list of documents of a name, given the manifest without its
                revisions; not called for empty lists. None: there is no journal, so only a manifest
                with lists can be read.

        Raises:
            StoreDamaged: missing or unknown fields, wrong types, a newer format, or it is not what
                was written.
        """
        try:
            body = dict(_mapping(value))
            checksum = body.pop("sum", None)  # a file of before there was one has none
            readable = (FORMAT_WITH_LISTS, *((FORMAT, EDITED_FORMAT) if read_list else ()))
            if (version := body.get("format")) not in readable:
                raise StoreDamaged(
                    f"The manifest has format {version!r}, this version reads "
                    f"{' and '.join(map(str, readable))} here: "
                    "use the version of templora-memory that wrote it."
                )
            if checksum is not None and checksum != _checksum(body):
                raise StoreDamaged("The manifest is not what was written: its checksum differs.")
            del body["format"]
            body = {"forks": (), "exports": (), "edits": 0, **body}
            _check_complete(body)
            manifest = cls(
                **{
                    **body,
                    "base": ModelIdentity(**body["base"]),
                    "forks": _strings(body["forks"]),
                    "exports": _strings(body["exports"]),
                    "origin": Origin(**body["origin"]) if body["origin"] else None,
                    "revisions": (),
                }
            )

            rows = [
                Revision(
                    **{
                        **row,
                        "documents": (),
                        "files": tuple(FileRecord(**file) for file in row["files"]),
                    }
                )
                for row in body["revisions"]
            ]
            _check_types(replace(manifest, revisions=tuple(rows)))
            manifest = replace(
                manifest,
                revisions=tuple(
                    replace(revision, documents=_documents(row, manifest, read_list))
                    for revision, row in zip(rows, body["revisions"], strict=True)
                ),
            )
        except (TypeError, KeyError, ValueError, AttributeError) as error:
            raise StoreDamaged(f"The manifest is not one: {error}.") from error
        return manifest


def new_manifest(
    memory_id: str,
    base: ModelIdentity,
    *,
    created: float,
    ttl: float | None,
    origin: Manifest | None = None,
) -> Manifest:
    """Return the manifest of a new memory, empty or starting from another one's head.

    It shares the salt of its origin, so that documents have the same names in both.
    """
    if origin is None or origin.newest is None:
        salt = secrets.token_hex(16)
        return Manifest(id=memory_id, salt=salt, epoch=0, base=base, created=created, ttl=ttl)
    root = as_root(origin.newest, origin.first)
    return Manifest(
        id=memory_id,
        salt=origin.salt,
        epoch=0,
        base=origin.base,
        created=created,
        revisions=(root,),
        head=root.name,
        origin=Origin(id=origin.id, revision=root.name),
        ttl=ttl,
    )


def as_root(revision: Revision, first: str) -> Revision:
    """Return a revision as the start of another memory: all it learned, but no conversation."""
    return replace(revision, parent=None, dialogue=first, messages=0)


def _mapping(value: object) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise TypeError(f"expected an object, found {type(value).__name__}")
    return value


def _checksum(body: Mapping[str, Any]) -> str:
    text = json.dumps(body, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _strings(value: object) -> tuple[str, ...]:
    if not isinstance(value, (list, tuple)) or not all(isinstance(one, str) for one in value):
        raise TypeError("a list of texts holds something else")
    return tuple(value)


def _documents(
    row: Mapping[str, Any],
    manifest: Manifest,
    read_list: Callable[[Manifest, str], tuple[str, ...]] | None,
) -> tuple[str, ...]:
    """Return the documents of a revision, given as a list or by the list's name."""
    given = row["documents"]
    if read_list is None or not isinstance(given, str):
        return _strings(given)
    if not _is_name(given):
        raise TypeError("a list of documents has no proper name")
    return () if given == manifest.first else read_list(manifest, given)


def _check_complete(body: Mapping[str, Any]) -> None:
    if missing := {item.name for item in fields(Manifest)} - set(body):
        raise ValueError(f"it lacks {sorted(missing)}")


def _check_types(manifest: Manifest) -> None:
    base = manifest.base
    texts: list[object] = [manifest.id, manifest.salt, base.name, base.config]
    texts += [base.tokenizer, base.weights]
    if manifest.origin is not None:
        texts += [manifest.origin.id, manifest.origin.revision]
    counts: list[object] = [manifest.epoch, manifest.build, manifest.edits]
    times: list[Any] = [manifest.created]
    times += [manifest.ttl] if manifest.ttl is not None else []
    texts += [text for text in (base.revision, manifest.head) if text is not None]
    for revision in manifest.revisions:
        texts += [revision.name, revision.dialogue]
        texts += [text for file in revision.files for text in (file.path, file.sha256)]
        counts += [revision.messages, revision.tokens, *(file.bytes for file in revision.files)]
        texts += [revision.parent] if revision.parent is not None else []
        times.append(revision.created)
    if not all(isinstance(text, str) for text in texts):
        raise TypeError("a text field holds something else")
    if not all(type(count) is int and count >= 0 for count in counts):
        raise TypeError("a count holds something else")
    if not all(type(moment) in {int, float} and math.isfinite(moment) for moment in times):
        raise TypeError("a time holds something else")
    _check_names(manifest)


def _check_names(manifest: Manifest) -> None:
    names = [revision.name for revision in manifest.revisions]
    if manifest.head is not None and manifest.head not in names:
        raise ValueError(f"the head {manifest.head!r} is not among the revisions")
    if len(set(names)) != len(names) or not all(map(_is_name, names)):
        raise ValueError("a revision has no proper name, or two have the same")
    for revision in manifest.revisions:
        paths = [file.path for file in revision.files]
        if len(set(paths)) != len(paths):
            raise ValueError("a revision names a file twice")
        if wrong := [path for path in paths if not _is_plain(path)]:
            raise ValueError(f"{wrong[0]!r} is not a plain file name")


def _is_plain(path: str) -> bool:
    """Return whether this is a visible file of the folder: no path, no control characters."""
    return path.isprintable() and path[:1] not in {"", "."} and not set(path) & set("/\\:")


def _is_name(name: object) -> bool:
    size = 64
    return isinstance(name, str) and len(name) == size and set(name) <= set("0123456789abcdef")
