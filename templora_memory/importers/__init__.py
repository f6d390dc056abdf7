"""Characters, chats, worlds and translation memories of other programs, as frozen values.

Reads character cards of every dialect (PNG, WebP, JPEG, JSON, YAML, CHARX), texts and documents
(Markdown, PDF, DOCX, RTF, EPUB, HTML), chats of role-play programs, exports of chat assistants and
messengers, world files, and translation memories (TMX, XLIFF, PO, TBX, SDLTM, tab-separated lines).
Files come from strangers: the type is found from the content, sizes and depths are bounded, nothing
is unpacked to disk, fetched or executed, and what cannot be read is refused with `FileRefused`.
What is not used stands in `warnings`. Knows nothing of models or memories.
"""

from templora_memory.importers._chats import write_jsonl as chat_to_jsonl
from templora_memory.importers._encoding import decode
from templora_memory.importers._export import to_card, to_json, to_png
from templora_memory.importers._lore import matching_lore
from templora_memory.importers._read import load, load_character, load_chat
from templora_memory.importers._segments import is_segments, load_segments, turns
from templora_memory.importers._text import fill, one_line, plain, without_pictures
from templora_memory.importers._use import (
    NEUTRAL_USER,
    Uses,
    card_text,
    documents,
    greetings,
    instructions,
    spoken_name,
    uses,
    with_lore,
    with_lore_entry,
    world_character,
)
from templora_memory.importers._values import (
    Character,
    ChatLog,
    ExportedConversation,
    FileRefused,
    Limits,
    LoreEntry,
    Segment,
    Segments,
    World,
)

__all__ = [
    "NEUTRAL_USER",
    "Character",
    "ChatLog",
    "ExportedConversation",
    "FileRefused",
    "Limits",
    "LoreEntry",
    "Segment",
    "Segments",
    "Uses",
    "World",
    "card_text",
    "chat_to_jsonl",
    "decode",
    "documents",
    "fill",
    "greetings",
    "instructions",
    "is_segments",
    "load",
    "load_character",
    "load_chat",
    "load_segments",
    "matching_lore",
    "one_line",
    "plain",
    "spoken_name",
    "to_card",
    "to_json",
    "to_png",
    "turns",
    "uses",
    "with_lore",
    "with_lore_entry",
    "without_pictures",
    "world_character",
]
