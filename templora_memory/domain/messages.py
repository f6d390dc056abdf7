"""Messages and documents, and the hash chain that names what a memory has absorbed.

Knows nothing of tokens, models or files.

A history is named by a chain: ``h_0`` is a start value of the memory, ``h_i = H(h_{i-1}, item_i)``.
Two histories with the same digest are the same history; a longer one continues a shorter one
exactly when the shorter digest stands in the longer one's chain. System messages are outside the
chain: they are sent with every prompt and often change every turn (retrieved text, date).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias, get_args

from templora_memory.errors import InvalidText

Role: TypeAlias = Literal["system", "user", "assistant", "call", "tool"]
ROLES: tuple[Role, ...] = get_args(Role)
LEARNED_ROLES: frozenset[Role] = frozenset({"user", "assistant"})
MAX_CHARACTERS = 10_000_000
PASSAGE_CHARACTERS = 32_768


def _check_text(text: object, what: str) -> None:
    if not isinstance(text, str):
        raise InvalidText(f"{what} must be a string, not {type(text).__name__}.")
    if len(text) > MAX_CHARACTERS:
        raise InvalidText(
            f"{what} has {len(text):,} characters, the limit is {MAX_CHARACTERS:,}: split it."
        )
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidText(
            f"{what} is not valid Unicode at character {error.start}: "
            "decode the file with its real encoding."
        ) from error


@dataclass(frozen=True, slots=True, repr=False)
class Message:
    """One message of a conversation.

    `content` may be empty (an assistant message that only calls a tool); such a message counts in
    the chain but teaches nothing. Only user and assistant messages are ever trained on. A "call" is
    what the assistant says to a tool: shown as the assistant's, never trained on.

    Raises:
        InvalidText: unknown role, content that is not Unicode text or over 10 million characters.
    """

    role: Role
    content: str
    name: str | None = None

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise InvalidText(f"Unknown role {self.role!r}: use one of {', '.join(ROLES)}.")
        _check_text(self.content, f"The content of a {self.role} message")
        if self.name is not None:
            _check_text(self.name, "The name of a message")

    def __repr__(self) -> str:
        return f"Message({self.role}, {len(self.content)} characters)"


@dataclass(frozen=True, slots=True, repr=False)
class Document:
    """A text to learn as it is: a bio, a scene, a chapter.

    `continues` says that the text directly goes on from the document before it; its end is then
    the context in which this one is learned.

    `author` says who the text comes from: kept with the text, counted by `Policy.author_limit`. It
    is no part of what names the text, so the same text of two authors is learned once.

    `character` is the name of whom the text is about, if the memory is to speak as them: it is then
    learned in their voice ("She keeps bees" as "I keep bees", English only), so that they answer
    for themselves. It is no part of what names the text either.

    `recall_only` keeps the text for recall: it is searched and shown in prompts
    (`Policy.recall_tokens`), and never learned. Absorbing the same text without it learns it.

    Raises:
        InvalidText: empty, not Unicode text, or over 10 million characters; a blank character.
    """

    text: str
    title: str | None = None
    continues: bool = False
    author: str | None = None
    character: str | None = None
    recall_only: bool = False

    def __post_init__(self) -> None:
        _check_text(self.text, "A document")
        if not self.text.strip():
            raise InvalidText("A document is empty: there is nothing to learn.")
        if self.title is not None:
            _check_text(self.title, "The title of a document")
        if self.author is not None:
            _check_text(self.author, "The author of a document")
        if self.character is not None:
            _check_text(self.character, "The character of a document")
            if not self.character.strip():
                raise InvalidText("The character of a document has no name: leave it out.")

    def __repr__(self) -> str:
        return f"Document({len(self.text)} characters)"


Item: TypeAlias = Message | Document
MessageLike: TypeAlias = Message | Mapping[str, str]


def author_of(item: Item) -> str | None:
    """Who a text comes from: the author of a document, the name of a user's message."""
    if isinstance(item, Document):
        return item.author
    return item.name if item.role == "user" else None


def characters(item: Item) -> int:
    """Return the length of an item's text in characters."""
    return len(item.text) if isinstance(item, Document) else len(item.content)


def as_message(value: MessageLike) -> Message:
    """Return a `Message` from a message or a mapping with `role`, `content` and optionally `name`.

    Raises:
        InvalidText: a missing or unknown key, or what `Message` refuses.
    """
    if isinstance(value, Message):
        return value
    if not isinstance(value, Mapping):
        raise InvalidText(f"A message must be a Message or a mapping, not {type(value).__name__}.")
    keys = set(value)
    if not {"role", "content"} <= keys or keys - {"role", "content", "name"}:
        names = sorted(map(str, keys))
        raise InvalidText(f"A message has the keys role, content and optionally name, not {names}.")
    return Message(value["role"], value["content"], value.get("name"))  # type: ignore[arg-type]


def as_messages(values: Iterable[MessageLike] | str) -> tuple[Message, ...]:
    """Messages from messages or mappings; a bare string or message is refused."""
    if isinstance(values, (str, Message, Mapping)) or not isinstance(values, Iterable):
        raise InvalidText(
            'A history is a list of messages: [Message("user", "...")], '
            f"not a bare {type(values).__name__}."
        )
    return tuple(as_message(value) for value in values)


def dialogue(messages: Iterable[Message]) -> tuple[Message, ...]:
    """Return the messages that belong to the chain: all but the system messages."""
    return tuple(message for message in messages if message.role != "system")


def start(salt: str) -> str:
    """Return the digest of an empty history; the salt keeps two memories incomparable."""
    return hashlib.sha256(f"templora-chain-1\n{salt}".encode()).hexdigest()


def extend(digest: str, item: Item) -> str:
    """Return the digest of a history (64 hex digits) after one more item."""
    parts: list[str | bool | None]
    if isinstance(item, Message):
        parts = ["message", item.role, item.name, item.content]
    else:
        parts = ["document", item.title, item.continues, item.text]
    body = json.dumps(parts, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(f"{digest}\n{body}".encode()).hexdigest()


def chain(first: str, items: Sequence[Item]) -> tuple[str, ...]:
    """Digests after 0, 1, ... len(items) items; the first is `first` itself."""
    digests = [first]
    for item in items:
        digests.append(extend(digests[-1], item))
    return tuple(digests)


_BREAKS = tuple(
    re.compile(pattern)
    for pattern in (
        r"\n\s*\n",
        r"\n",
        r"(?<=[.!?])\s|(?<=[。！？｡؟۔।॥։።။។])[”’」』）]*",  # noqa: RUF001
        r"\s|(?<=[、，；])",  # noqa: RUF001
    )
)


def passages(document: Document, size: int = PASSAGE_CHARACTERS) -> tuple[Document, ...]:
    """Cut a long document at paragraph, line, sentence or word ends.

    The pieces, joined, are the document. A piece has at most `size` characters, not counting a run
    of white space beside it, and is learned and committed on its own, so that a long book survives
    a crash in the middle.
    """
    text, cut, begin = document.text, [], 0
    while len(text) - begin > size:
        window = text[begin : begin + size]
        ends = (max((m.end() for m in p.finditer(window, size // 2)), default=0) for p in _BREAKS)
        begin_next = begin + next((end for end in ends if end), size)
        cut.append(text[begin:begin_next])
        begin = begin_next
    cut.append(text[begin:])
    pieces: list[str] = []
    for piece in cut:  # a piece of only white space joins its neighbour
        if pieces and not (piece.strip() and pieces[-1].strip()):
            pieces[-1] += piece
        else:
            pieces.append(piece)
    first = replace(document, text=pieces[0])
    return (first, *(replace(first, text=piece, continues=True) for piece in pieces[1:]))
