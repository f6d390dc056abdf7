"""The journal: every text of a memory, as a tree of messages and a list of documents.

One JSON object a line, each with a checksum. A message names its parent, so an edited or retried
conversation is a branch, and the text of any revision can be read back for a rebuild. This module
knows the lines and their meaning; the store knows files, locks and fsync.
"""

from __future__ import annotations

import hashlib
import json
import math
import secrets
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from templora_memory.domain.lru import LruCache
from templora_memory.domain.messages import Document, Item, Message, author_of, characters, extend
from templora_memory.errors import InvalidText, StoreDamaged

_KINDS = {
    "message": {"parent", "digest", "role", "content", "name"},
    "document": {"parent", "digest", "text", "title", "continues"},
    "withdraw": {"digest"},
    "tip": {"digest"},
    "learned": {"parent", "digest", "documents"},
    "pin": {"digest", "pinned"},
    "sealed": {"epoch"},
}
_ID_BYTES = 8
_LISTED = 1_000_000  # digests in lists of learned documents that are kept as a whole
_OPTIONAL = {
    "message": {"id", "time"},
    "document": {"author", "character", "recall_only", "id", "time"},
}
MIN_OVERLAP = 2
"""Messages in a row that a window shares with the conversation which it is a part of."""
_MAX_RUNS = 64  # places that are followed at once: bounds what a repetitive journal costs
_MAX_GAP = 64  # messages that may lie between two shared ones, where some were deleted


def encode_line(body: dict[str, Any]) -> bytes:
    """One line of the journal, checksum first."""
    return (json.dumps({"sum": _checksum(body), **body}, ensure_ascii=False) + "\n").encode()


def decode_line(line: bytes) -> dict[str, Any]:
    """Return the body of a line.

    Raises:
        ValueError: not JSON, unknown kind, or the checksum does not agree.
    """
    try:
        body = json.loads(line)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(body, dict):
        raise ValueError("not an object")  # noqa: TRY004  # what is wrong is the file
    if body.pop("sum", None) != _checksum(body):
        raise ValueError("the checksum does not agree")
    kind = str(body.get("kind"))
    if set(body) - {"kind"} - _OPTIONAL.get(kind, set()) != _KINDS.get(kind):
        raise ValueError("unknown kind of line")
    return body


def _checksum(body: dict[str, Any]) -> str:
    text = json.dumps(body, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def message_line(parent: str, message: Message) -> dict[str, Any]:
    """Return the journal line of a message."""
    return {
        "kind": "message",
        "parent": parent,
        "digest": extend(parent, message),
        "role": message.role,
        "content": message.content,
        "name": message.name,
    }


def document_line(parent: str, document: Document) -> dict[str, Any]:
    """Return a document that continues another one is named after it, others after the start value.

    So the same text has one name wherever it stands alone, and a passage that comes twice in one
    text is not mistaken for its first appearance.
    """
    line: dict[str, Any] = {
        "kind": "document",
        "parent": parent,
        "digest": extend(parent, document),
        "text": document.text,
        "title": document.title,
        "continues": document.continues,
    }
    optional = {
        "author": document.author,
        "character": document.character,
        "recall_only": document.recall_only or None,
    }
    return line | {key: value for key, value in optional.items() if value is not None}


def stamped(line: dict[str, Any]) -> dict[str, Any]:
    """Return the line of a text as it is told now: with a name of its own, and the time.

    The name is random. Unlike the digest, it stays when a text before it is removed.
    """
    return line | {"id": secrets.token_hex(_ID_BYTES), "time": round(time.time(), 3)}


def pin_line(digest: str, *, pinned: bool) -> dict[str, Any]:
    """Return the journal line that pins a text, or takes the pin off."""
    return {"kind": "pin", "digest": digest, "pinned": pinned}


def sealed_line(epoch: int) -> dict[str, Any]:
    """Return the line after which nothing is written while the manifest is at this epoch.

    It stands between reading a journal and replacing it, in stores without locks.
    """
    return {"kind": "sealed", "epoch": epoch}


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalEntry:
    """One text of a journal, and what stands beside it.

    `id` names it as long as it is there; `time` is when it was told, in seconds since 1970, None
    where an older version wrote the line.
    """

    id: str
    digest: str
    item: Item
    time: float | None

    @property
    def text(self) -> str:
        """What the message or document says."""
        return self.item.content if isinstance(self.item, Message) else self.item.text


@dataclass(frozen=True, slots=True)
class _Run:
    """Messages of a history that stand in the journal in a row.

    `last` is the position of the last one in the history, `before` the digest before the first one,
    and `answered` whether an assistant's message is among them.
    """

    last: int
    length: int
    before: str
    answered: bool

    @property
    def counts(self) -> bool:
        return self.length >= MIN_OVERLAP and self.answered


def learned_line(
    parent: str, documents: Sequence[str], digest: str | None = None
) -> dict[str, Any]:
    """Return the journal line of the documents that follow the list `parent`, as one list."""
    return {
        "kind": "learned",
        "parent": parent,
        "digest": digest or name_list(parent, documents),
        "documents": list(documents),
    }


def name_list(parent: str, documents: Iterable[str]) -> str:
    """Return the name of the list that has these documents after those of the list `parent`.

    A chain, like that of messages: it does not matter in how many steps a list was made.
    """
    for document in documents:
        parent = hashlib.sha256(f"templora-list-1\n{parent}\n{document}".encode()).hexdigest()
    return parent


class Journal:
    """Index over journal lines: which digests there are, and where their text stands.

    Holds no text; `read` fetches a line's body by the position given to `add`. Built line by line,
    so a store can keep it and add only what is new.
    """

    def __init__(self, first: str, read: Callable[[int], dict[str, Any]]) -> None:
        self._first = first
        self._read = read
        self._messages: dict[str, tuple[str, int]] = {}
        self._places: dict[str, dict[str, str]] = {}  # of a message: digests before and after it
        self._documents: dict[str, tuple[str, int, int]] = {}  # parent, position, characters
        self._withdrawn: set[str] = set()
        self._recall_only: set[str] = set()
        self._taught: Counter[str] = Counter()
        self._tip = first
        self._ids: dict[str, str] = {}  # digests of texts by their names
        self._pinned: dict[str, None] = {}
        self.sealed: int | None = None  # the epoch of the newest seal
        # what was learned: the list of each name, as what it adds to another one
        self._lists: dict[str, tuple[str, tuple[str, ...]]] = {}
        self._whole_lists: LruCache[str, tuple[str, ...]] = LruCache(_LISTED, size_of=len)

    def __repr__(self) -> str:
        return f"Journal({len(self._messages)} messages, {len(self._documents)} documents)"

    def add(self, body: dict[str, Any], position: int) -> None:
        """Take in one line.

        Raises:
            ValueError: its digest is not that of its text (which also rules out circles), or what
                it refers to does not stand before it.
            StoreDamaged: its text is none.
        """
        digest = body.get("digest", "")
        match body["kind"]:
            case "message":
                if digest != extend(body["parent"], _message(body)):
                    raise ValueError("the digest does not belong to this message")
                if not self.knows(body["parent"]):
                    raise ValueError("the message before this one is missing")
                self._credit(_message(body), new=digest not in self._messages)
                self._messages[digest] = (body["parent"], position)
                self._places.setdefault(_key(_message(body)), {})[body["parent"]] = digest
                self._tip = digest
                self._ids[_id_of(body)] = digest
            case "document":
                self._add_document(digest, body, position)
                self._ids[_id_of(body)] = digest
            case "withdraw":
                self._withdrawn.add(digest)
            case "learned":
                self._add_list(digest, body["parent"], body["documents"])
            case "pin":
                self._add_pin(digest, pinned=body["pinned"])
            case "sealed":
                self.sealed = _epoch(body)
            case _:
                if not self.knows(digest):
                    raise ValueError("the newest conversation is missing")
                self._tip = digest

    def _add_document(self, digest: str, body: dict[str, Any], position: int) -> None:
        parent, document = body["parent"], _document(body)
        if digest != extend(parent, document):
            raise ValueError("the digest does not belong to this document")
        if parent != self._first and not (body["continues"] and parent in self._documents):
            raise ValueError("the document before this one is missing")
        self._credit(document, new=digest not in self._documents)
        self._documents.pop(digest, None)  # learned again after a withdrawal: now newest
        self._documents[digest] = (parent, position, len(document.text))
        self._withdrawn.discard(digest)
        if document.recall_only:
            self._recall_only.add(digest)
        else:
            self._recall_only.discard(digest)

    def _add_pin(self, digest: str, *, pinned: object) -> None:
        if not isinstance(pinned, bool):
            raise ValueError("a pin is neither set nor taken off")  # noqa: TRY004  # the file
        if not self.holds(digest):
            raise ValueError("the pinned text is missing")
        if pinned:
            self._pinned[digest] = None
        else:
            self._pinned.pop(digest, None)

    def _add_list(self, name: str, parent: str, documents: object) -> None:
        if not isinstance(documents, list) or not all(isinstance(d, str) for d in documents):
            raise ValueError("a list of documents holds something else")  # the file
        if name != name_list(parent, documents):
            raise ValueError("the digest does not belong to this list of documents")
        if not self.has_list(parent):
            raise ValueError("the list of documents before this one is missing")
        self._lists[name] = (parent, tuple(documents))
        before = () if parent == self._first else self._whole_lists.get(parent)
        if before is not None:
            self._whole_lists.put(name, before + tuple(documents))

    def has_list(self, name: str) -> bool:
        """Return whether the journal has a list of learned documents of this name."""
        return name == self._first or name in self._lists

    def learned(self, name: str) -> tuple[str, ...]:
        """Return a list of learned documents, in order.

        Raises:
            StoreDamaged: it is not in the journal.
        """
        if (whole := self._whole_lists.get(name)) is not None:
            return whole
        parts: list[tuple[str, ...]] = []
        rest = name
        while rest != self._first:
            if rest not in self._lists:
                raise StoreDamaged(f"The journal lacks the list of documents {rest[:12]}.")
            rest, part = self._lists[rest]
            parts.append(part)
        whole = tuple(digest for part in reversed(parts) for digest in part)
        return self._whole_lists.put(name, whole)

    def list_name(self, documents: tuple[str, ...]) -> str:
        """Return the name of a list of documents, which the journal need not have."""
        parent, rest = self.split_list(documents)
        return name_list(parent, rest)

    def split_list(self, documents: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
        """Return the longest list at hand that a list begins with, by name, and what follows it."""
        at_hand = [(name, self._whole_lists.get(name) or ()) for name in self._whole_lists]
        at_hand.sort(key=lambda item: len(item[1]), reverse=True)
        for name, whole in at_hand:
            if whole and whole == documents[: len(whole)]:
                return name, documents[len(whole) :]
        return self._first, documents

    @property
    def first(self) -> str:
        """The digest of the empty conversation."""
        return self._first

    @property
    def tip(self) -> str:
        """Digest of the newest conversation; the start value if there is none."""
        return self._tip

    @property
    def documents(self) -> tuple[str, ...]:
        """Digests of the documents to be kept, in order; withdrawn ones are left out."""
        every = tuple(self._documents)  # at once: another thread may be adding
        return tuple(digest for digest in every if digest not in self._withdrawn)

    @property
    def newest_document(self) -> str | None:
        """The last of `documents`, without going through all of them; None if there is none."""
        for digest in reversed(tuple(self._documents)):
            if digest not in self._withdrawn:
                return digest
        return None

    def keeps(self, digest: str) -> bool:
        """Return whether a document is among `documents`."""
        return digest in self._documents and digest not in self._withdrawn

    def is_recall_only(self, digest: str) -> bool:
        """Return whether a document is among `for_recall`."""
        return self.keeps(digest) and digest in self._recall_only

    @property
    def to_learn(self) -> tuple[str, ...]:
        """As `documents`, without those that are for recall only."""
        return tuple(digest for digest in self.documents if digest not in self._recall_only)

    @property
    def for_recall(self) -> tuple[str, ...]:
        """As `documents`, those alone that are for recall only."""
        return tuple(digest for digest in self.documents if digest in self._recall_only)

    def _credit(self, item: Item, *, new: bool) -> None:
        """Count a text, told for the first time, for whom it comes from."""
        if new and (author := author_of(item)) is not None:
            self._taught[author] += characters(item)

    def taught(self, author: str) -> int:
        """Return the characters of one author: their documents, and messages under their name.

        Also those that were withdrawn or left behind by an edit: they were told.
        """
        return self._taught[author]

    def knows(self, digest: str) -> bool:
        """Return whether the journal holds this digest."""
        return digest == self._first or digest in self._messages

    def holds(self, digest: str) -> bool:
        """Return whether the journal has a text of this digest: a message, or any document."""
        return digest in self._messages or digest in self._documents

    # --- texts one by one ----------------------------------------------------------------------

    @property
    def pinned(self) -> tuple[str, ...]:
        """Digests of the pinned texts, in the order in which they were pinned."""
        return tuple(self._pinned)

    def is_pinned(self, digest: str) -> bool:
        """Return whether a text is among `pinned`."""
        return digest in self._pinned

    def ids_like(self, name: str) -> tuple[str, ...]:
        """Return the ids that begin with `name`; one alone if it is an id as a whole."""
        known = tuple(self._ids)  # at once: another thread may be adding
        return (name,) if name in self._ids else tuple(i for i in known if i.startswith(name))

    def digest_of(self, text_id: str) -> str | None:
        """Return the digest of the text with this id; None if there is none."""
        return self._ids.get(text_id)

    def position(self, digest: str) -> int:
        """Return where a text stands: texts that were told later have larger positions."""
        return self._stands(digest)[1]

    def entry(self, digest: str) -> JournalEntry:
        """Return a text that the journal `holds`, with what stands beside it."""
        body = self._read(self.position(digest))
        return JournalEntry(
            id=_id_of(body), digest=digest, item=item_of(body), time=body.get("time")
        )

    def texts(self) -> tuple[str, ...]:
        """Digests of all texts, in the order they were told, also of those not in force."""
        return tuple(sorted((*self._messages, *self._documents), key=self.position))

    def lines(self) -> Iterator[dict[str, Any]]:
        """Yield the lines of all texts, each after the one that it names as its parent."""
        written: set[str] = set()
        for digest in self.texts():
            waiting = [digest]
            while (parent := self._parent(waiting[-1])) in self._documents and (
                parent not in written and parent not in waiting
            ):
                waiting.append(parent)  # told again after what continues it
            for one in reversed(waiting):
                if one not in written:
                    written.add(one)
                    yield self._read(self.position(one))

    def _parent(self, digest: str) -> str:
        return self._stands(digest)[0]

    def _stands(self, digest: str) -> tuple[str, int]:
        """Return what a text stands behind, and its position."""
        if digest in self._messages:
            return self._messages[digest]
        return self._documents[digest][:2]

    def same_message(self, digest: str) -> tuple[str, ...]:
        """Return the digests of all messages that say the same, wherever they stand."""
        key = _key(_message(self._read(self.position(digest))))
        return tuple(self._places.get(key, {}).values())

    @property
    def withdrawn(self) -> tuple[str, ...]:
        """Digests of the documents that are not to be learned again."""
        return tuple(digest for digest in self._documents if digest in self._withdrawn)

    def characters(self, digest: str) -> int:
        """Return a document's characters without reading it; 0 if there is none."""
        return self._documents.get(digest, (self._first, 0, 0))[2]

    def document(self, digest: str) -> Document:
        """Return the text of a document, also of a withdrawn one.

        Raises:
            StoreDamaged: it is not in the journal.
        """
        if digest not in self._documents:
            raise StoreDamaged(f"The journal lacks document {digest[:12]}.")
        return _document(self._read(self._documents[digest][1]))

    def document_before(self, digest: str) -> str | None:
        """Digest of the document that this one continues; None if it stands alone."""
        parent, _, _ = self._documents.get(digest, (self._first, 0, 0))
        return None if parent == self._first else parent

    def messages(
        self, digest: str, *, after: str | None = None, limit: int | None = None
    ) -> tuple[Message, ...]:
        """Return the dialogue that ends in `digest`, oldest first.

        Args:
            digest: end of the dialogue.
            after: leave out everything up to this digest.
            limit: only the newest so many messages.

        Raises:
            StoreDamaged: a message on the way is missing, or `after` is not on the way.
        """
        stop = after or self._first
        messages: list[Message] = []
        while digest != stop and (limit is None or len(messages) < limit):
            if digest not in self._messages:
                raise StoreDamaged(f"The journal lacks message {digest[:12]} of this conversation.")
            parent, position = self._messages[digest]
            messages.append(_message(self._read(position)))
            digest = parent
        return tuple(reversed(messages))

    def path(self, digest: str) -> tuple[str, ...]:
        """Return the digests of the dialogue that ends in `digest`, after 1, 2, ... messages.

        Raises:
            StoreDamaged: a message on the way is missing.
        """
        digests: list[str] = []
        while digest != self._first:
            if digest not in self._messages:
                raise StoreDamaged(f"The journal lacks message {digest[:12]} of this conversation.")
            digests.append(digest)
            digest = self._messages[digest][0]
        return tuple(reversed(digests))

    def omitted_before(self, messages: Sequence[Message]) -> str:
        """Return the digest of the dialogue that a history goes on from without showing it.

        A client whose window is full leaves out the oldest messages: what it sends is a part of a
        conversation in the journal and what is new, and some messages of the part may have been
        edited or deleted. The conversation is the one that has most of the messages in a row, at
        least `MIN_OVERLAP` with an assistant's among them. Of several, one that begins with them
        is taken, or else the newest. The start is returned where nothing is left out.
        """
        keys = [_key(message) for message in messages]
        runs = self._runs(messages, keys)
        tip = set(self.path(self._tip))

        def rank(end: str) -> tuple[int, bool, bool, int]:
            run = runs[end]
            return run.length, run.before == self._first, end in tip, self._messages[end][1]

        end = max((end for end, run in runs.items() if run.counts), key=rank, default=None)
        if end is None:
            return self._first
        path = self.path(end)
        place = len(path) - runs[end].length
        index = runs[end].last + 1 - runs[end].length
        # backwards from the run: each message before it is looked for a little before the next one
        for earlier in range(index - 1, -1, -1):
            digests = self._places.get(keys[earlier], {})
            for candidate in range(place - 1, max(-1, place - 1 - _MAX_GAP), -1):
                before = path[candidate - 1] if candidate else self._first
                if digests.get(before) == path[candidate]:
                    index, place = earlier, candidate
                    break
        # what is sent before the first shared message stands in the place of as many messages
        omitted = place - index
        return path[omitted - 1] if omitted > 0 else self._first

    def _runs(self, messages: Sequence[Message], keys: Sequence[str]) -> dict[str, _Run]:
        """Return every run of these messages, by the digest it ends in; the longest of each end."""
        every: dict[str, _Run] = {}
        under_way: dict[str, _Run] = {}
        for index, key in enumerate(keys):
            places = self._places.get(key, {})
            newest = list(places)[-_MAX_RUNS:]  # at once: another thread may be adding
            starts = [self._first, *newest] if self._first in places else newest
            continued: dict[str, _Run] = {}
            for parent in (*(parent for parent in under_way if parent in places), *starts):
                run = under_way.get(parent)
                continued[places[parent]] = _Run(
                    last=index,
                    length=run.length + 1 if run else 1,
                    before=run.before if run else parent,
                    answered=(run is not None and run.answered)
                    or messages[index].role == "assistant",
                )
            ends = sorted(continued, key=lambda end: continued[end].length)[-_MAX_RUNS:]
            under_way = {end: continued[end] for end in ends}
            for end, run in under_way.items():
                if end not in every or every[end].length < run.length:
                    every[end] = run
        return every

    def nearest(self, digest: str, among: Collection[str]) -> str:
        """Return the first digest in `among` on the way from `digest` back, or the start.

        Raises:
            StoreDamaged: a message on the way is missing.
        """
        while digest != self._first and digest not in among:
            if digest not in self._messages:
                raise StoreDamaged(f"The journal lacks message {digest[:12]} of this conversation.")
            digest = self._messages[digest][0]
        return digest

    def beginning(self, digest: str, count: int) -> str:
        """Return the digest of the first `count` messages of the dialogue that ends in `digest`.

        Raises:
            InvalidText: the dialogue is shorter.
        """
        length = self.length(digest)
        if count > length:
            raise InvalidText(
                f"The conversation in the journal has {length} messages, {count} were expected."
            )
        for _ in range(length - count):
            digest = self._messages[digest][0]
        return digest

    def length(self, digest: str) -> int:
        """Return the number of messages of the dialogue that ends in `digest`."""
        count = 0
        while digest in self._messages:
            digest = self._messages[digest][0]
            count += 1
        return count

    def missing(self, digests: Iterable[str]) -> int:
        """Return how many of the last digests of a chain are not in the journal yet."""
        count = 0
        for digest in reversed(list(digests)):
            if self.knows(digest):
                break
            count += 1
        return count


def _id_of(body: dict[str, Any]) -> str:
    """Return the id of a line's text; lines of older versions have none but their digest."""
    text_id = body.get("id", body["digest"])
    moment = body.get("time")
    if not isinstance(text_id, str) or not 0 < len(text_id) <= len(body["digest"]):
        raise ValueError("a text has no proper id")
    if moment is not None and (type(moment) not in {int, float} or not math.isfinite(moment)):
        raise ValueError("the time of a text is none")
    return text_id


def _epoch(body: dict[str, Any]) -> int:
    epoch = body["epoch"]
    if type(epoch) is not int or epoch < 0:
        raise ValueError("a seal has no epoch")
    return epoch


def _key(message: Message) -> str:
    """Return what names a message wherever it stands."""
    return extend("", message)


def item_of(body: dict[str, Any]) -> Item:
    """Return the message or document of a line.

    Raises:
        StoreDamaged: its text is none.
    """
    return _message(body) if body["kind"] == "message" else _document(body)


def _message(body: dict[str, Any]) -> Message:
    try:
        return Message(body["role"], body["content"], body["name"])
    except InvalidText as error:
        raise StoreDamaged(f"The journal holds a message that is none: {error}") from error


def _document(body: dict[str, Any]) -> Document:
    try:
        return Document(
            body["text"],
            body["title"],
            continues=bool(body["continues"]),
            author=body.get("author"),
            character=body.get("character"),
            recall_only=bool(body.get("recall_only")),
        )
    except InvalidText as error:
        raise StoreDamaged(f"The journal holds a document that is none: {error}") from error
