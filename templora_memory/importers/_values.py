"""What the importers hand out, what they accept at most, and how they refuse. Pure values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from templora_memory.domain.messages import Message
from templora_memory.errors import InputError

_MIB = 1 << 20


class FileRefused(InputError):
    """A file that cannot be read as what was expected. Nothing of the file is quoted.

    `code` is stable and meant for programs: too_large, unsupported_type, not_a_card, not_a_chat,
    bad_base64, bad_encoding, bad_json, bad_xml, bad_file, encrypted_zip, no_card_json,
    too_many_entries, empty, pdf_no_text, which_language, which_user, needs_extra.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(code, message)

    @property
    def code(self) -> str:
        return str(self.args[0])

    def __str__(self) -> str:
        return str(self.args[1])


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The most a file may ask for; sizes in bytes, `pdf_seconds` of processor time.

    What is read counts, not what lies beside it: pictures of a CHARX are never unpacked. Exports
    and translation memories are read piece by piece, up to the limit of a file.

    Args:
        file: the whole file.
        text: a card's JSON after decoding, also inside a picture or a zip; a text; one message or
            segment; all text that is taken out of a document.
        yaml: a YAML character, which is slow to parse.
        chunks: chunks of a PNG that are neither pixels nor added pictures.
        entries: members of a zip.
        depth: nesting of JSON, YAML and XML.
        containers: lists and objects in one JSON text, or in one conversation of an export.
        portrait: pixels of a portrait; a larger one is left out.
        pages: pages read of a PDF.
        pdf_seconds: for reading a PDF, and any other document.
        messages: messages of a chat, of all its conversations together.
        segments: segments of a translation memory.
    """

    file: int = 100 * _MIB
    text: int = 4 * _MIB
    yaml: int = _MIB // 4
    chunks: int = 4096
    entries: int = 10_000
    depth: int = 64
    containers: int = 100_000
    portrait: int = 16_000_000
    pages: int = 200
    pdf_seconds: float = 10.0
    messages: int = 200_000
    segments: int = 100_000


SecondaryLogic: TypeAlias = Literal["any", "not_all", "not_any", "all"]
"""What the secondary keys of a lorebook entry ask of a text, in SillyTavern's words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoreEntry:
    """A lorebook entry: text that joins the prompt when one of its keys is mentioned.

    A key is mentioned where it stands in the text, also within a word. One that is written as
    ``/pattern/flags`` is a regular expression, which gets little time.

    Args:
        content: the text.
        keys: one of them has to be mentioned.
        secondary_keys: what `logic` is about; none: the keys decide alone.
        logic: which secondary keys have to be mentioned beside a key.
        name: for people.
        enabled: False: never used.
        constant: used whether or not it is mentioned.
        case_sensitive: of the keys.
        whole_words: a key within a word does not count.
        regex: at least one key is a regular expression.
        order: position in the prompt.
    """

    content: str
    keys: tuple[str, ...] = ()
    secondary_keys: tuple[str, ...] = ()
    logic: SecondaryLogic = "any"
    name: str = ""
    enabled: bool = True
    constant: bool = False
    case_sensitive: bool = False
    whole_words: bool = False
    regex: bool = False
    order: int = 0


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class World:
    """A lorebook of its own, for a character or a game: a world file.

    Args:
        name: for people to read.
        lore: its entries, disabled ones too.
        source_format: what was found, in words.
        warnings: what was left out or guessed, for people to read.
        raw: the parsed file.
    """

    name: str
    lore: tuple[LoreEntry, ...]
    source_format: str = "world"
    warnings: tuple[str, ...] = ()
    raw: Mapping[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"World({self.source_format}, {len(self.lore)} entries)"


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Character:
    """A character as its file tells it: plain text without markup, macros still unfilled.

    Args:
        name, nickname: for people to read; never used as a path or an id.
        description, personality, scenario: the bio.
        first_message, alternate_greetings: what the character may say first.
        example_dialogues: each a short conversation.
            What a third person says begins with that name, which is also the message's `name`;
            what nobody says (prose, a narrator) is a system message.
        system_prompt, post_history_instructions, depth_prompt: instructions that belong into the
            prompt.
        lore: lorebook entries, disabled ones too.
        creator_notes, creator, version, tags: about the file; never for a prompt or for learning.
        source_format: what was found, in words.
        portrait: a PNG with nothing but its picture, or None.
        warnings: what was left out or guessed, for people to read.
        raw: the parsed card, so that an export loses nothing; empty for other formats.
    """

    name: str
    nickname: str = ""
    description: str = ""
    personality: str = ""
    scenario: str = ""
    first_message: str = ""
    alternate_greetings: tuple[str, ...] = ()
    example_dialogues: tuple[tuple[Message, ...], ...] = ()
    system_prompt: str = ""
    post_history_instructions: str = ""
    depth_prompt: str = ""
    lore: tuple[LoreEntry, ...] = ()
    creator_notes: str = ""
    creator: str = ""
    version: str = ""
    tags: tuple[str, ...] = ()
    source_format: str = "text"
    portrait: bytes | None = None
    warnings: tuple[str, ...] = ()
    raw: Mapping[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"Character({self.source_format}, {len(self.description)} characters of bio)"


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class ExportedConversation:
    """One conversation of an export: its title and what was said.

    `started` is the day it began, as ISO 8601, "" where the file does not say.
    """

    messages: tuple[Message, ...]
    title: str = ""
    started: str = ""

    def __repr__(self) -> str:
        return f"ExportedConversation({len(self.messages)} messages)"


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class ChatLog:
    """A conversation from another program, or all of an export; hidden messages are left out.

    Of a group, the words of everybody but the user and the character begin with who says them,
    which is also the message's `name`. What a narrator says is a system message.

    Args:
        messages: what was said, of all conversations in the order of the file.
        user_name, character_name: whose words are the user's and the assistant's.
        conversations: the conversations of an export; of a single chat that one.
        speakers: everybody who says something, in the order of the file, where it names them.
        user_guessed: True if nobody said which of them the user is.
        skipped: lines and messages that could not be read.
        source_format: what was found, in words.
        warnings: what was left out or guessed, for people to read.
    """

    messages: tuple[Message, ...]
    user_name: str = ""
    character_name: str = ""
    conversations: tuple[ExportedConversation, ...] = ()
    speakers: tuple[str, ...] = ()
    user_guessed: bool = False
    skipped: int = 0
    source_format: str = "chat"
    warnings: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"ChatLog({self.source_format}, {len(self.messages)} messages)"


@dataclass(frozen=True, slots=True, repr=False)
class Segment:
    """A piece of text and its approved translation."""

    source: str
    target: str

    def __repr__(self) -> str:
        return f"Segment({len(self.source)} characters, {len(self.target)} translated)"


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Segments:
    """A translation memory, in the order of its file.

    `skipped` counts segments without a translation. Languages are as the file writes them, or as
    they were asked for; "" where nobody named them.
    """

    pairs: tuple[Segment, ...]
    source_language: str = ""
    target_language: str = ""
    skipped: int = 0
    source_format: str = "translation memory"
    warnings: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"Segments({self.source_format}, {len(self.pairs)} pairs)"
