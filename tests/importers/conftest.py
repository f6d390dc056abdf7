"""Files as other programs write them, and as an attacker does; all made here."""

import base64
import io
import json
import struct
import zipfile
import zlib

import pytest

SIGNATURE = b"\x89PNG\r\n\x1a\n"
DATA = {
    "name": "Marta Quill",
    "description": "{{char}} keeps the inn. <BOT> pours ale for {{user}}.",
    "personality": "Dry and kind.",
    "scenario": "An evening at the inn.",
    "first_mes": "Sit down, {{user}}.",
    "mes_example": "<START>\n{{user}}: Hello!\n{{char}}: Wipe your boots.\nThen sit.\n<START>\n"
    "Marta Quill: What will it be?",
    "creator_notes": "Best with ale.",
    "system_prompt": "Speak plainly.",
    "post_history_instructions": "{{original}} Stay in character.",
    "alternate_greetings": ["The door is open.", "You again?"],
    "tags": ["inn", "ale"],
    "creator": "nobody",
    "character_version": "1.2",
    "extensions": {"depth_prompt": {"depth": 4}},
    "character_book": {
        "extensions": {},
        "entries": [
            {
                "keys": ["cellar"],
                "content": "@@depth 4\nThe cellar is flooded.",
                "extensions": {},
                "enabled": True,
                "insertion_order": 2,
            },
            {
                "keys": ["Tom"],
                "content": "Tom is the cook.",
                "enabled": False,
                "insertion_order": 1,
            },
        ],
    },
}


def make_chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def make_png(*texts, width=2, height=2, pixels=None, extra=()):
    """A picture; texts are (keyword, bytes) written after the pixels, as SillyTavern does."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = zlib.compress(b"".join(b"\0" + b"\x40\x80\x60" * 2 for _ in range(2)))
    parts = [make_chunk(b"IHDR", header), make_chunk(b"IDAT", pixels or rows)]
    parts += [make_chunk(b"tEXt", word + b"\0" + body) for word, body in texts]
    parts += [make_chunk(kind, body) for kind, body in extra]
    return SIGNATURE + b"".join(parts) + make_chunk(b"IEND", b"")


def make_card(version=2, **changes):
    data = {**DATA, **changes}
    if version == 1:
        names = ("name", "description", "personality", "scenario", "first_mes", "mes_example")
        return {name: data[name] for name in names}
    return {"spec": f"chara_card_v{version}", "spec_version": f"{version}.0", "data": data}


def pack(card):
    return base64.b64encode(json.dumps(card).encode())


def make_zip(members, *, compression=zipfile.ZIP_DEFLATED):
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", compression) as archive:
        for name, body in members:
            archive.writestr(name, body)
    return target.getvalue()


class Files:
    """The builders above, for tests."""

    card = staticmethod(make_card)
    png = staticmethod(make_png)
    chunk = staticmethod(make_chunk)
    zip = staticmethod(make_zip)
    pack = staticmethod(pack)

    @staticmethod
    def card_png(card=None, keyword=b"chara", **options):
        return make_png((keyword, pack(card or make_card())), **options)

    @staticmethod
    def json(card=None):
        return json.dumps(card or make_card()).encode()

    @staticmethod
    def chat(rows, header=None):
        head = header or {"user_name": "Ben", "character_name": "Marta", "chat_metadata": {}}
        return "\n".join(json.dumps(row) for row in (head, *rows)).encode()


@pytest.fixture(scope="session")
def files():
    return Files
