"""Characters, chats and translation memories of other programs, as frozen values.

Reads Character Card V1, V2 and V3 (PNG, JSON, CHARX), text, Markdown, YAML characters, PDF, chats
of SillyTavern and text-generation-webui, TMX and bilingual tab-separated lines. Files come from
strangers: the type is found from the first bytes, sizes and depths are bounded, nothing is
unpacked to disk, fetched or executed, and what cannot be read is refused with `FileRefused`. Knows
nothing of models or memories.
"""

from templora_memory.importers._chats import write_jsonl as chat_to_jsonl
from templora_memory.importers._export import to_card, to_json, to_png
from templora_memory.importers._read import load, load_character, load_chat
from templora_memory.importers._segments import load_segments, turns
from templora_memory.importers._text import fill, one_line, plain, without_pictures
from templora_memory.importers._use import (
    NEUTRAL_USER,
    card_text,
    documents,
    greetings,
    instructions,
    matching_lore,
    spoken_name,
)
from templora_memory.importers._values import (
    Character,
    ChatLog,
    FileRefused,
    Limits,
    LoreEntry,
    Segment,
    Segments,
)

__all__ = [
    "NEUTRAL_USER",
    "Character",
    "ChatLog",
    "FileRefused",
    "Limits",
    "LoreEntry",
    "Segment",
    "Segments",
    "card_text",
    "chat_to_jsonl",
    "documents",
    "fill",
    "greetings",
    "instructions",
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
    "without_pictures",
]
