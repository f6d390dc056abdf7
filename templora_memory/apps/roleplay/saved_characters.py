"""The home folder: records of kept characters, prepared downloads, the lock of the one server."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import secrets
import shutil
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from templora_memory import AbsorbReport, Message
from templora_memory.errors import InputError
from templora_memory.importers import load_character, to_png

from .faces import picture_address
from .state import AbsorbRecord, Actor, CharacterFact, Chat, FactProbe, Persona, PromptCost, Visitor

_log = logging.getLogger(__name__)


class HomeInUse(InputError):
    """Another server uses this folder."""


class SavedCharacters:
    """Files of one server. A record is a card (PNG) and a JSON file beside it."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self._records = home / "kept"
        self._downloads = home / "downloads"
        self._lock: int | None = None

    def lock(self) -> None:
        """Make the folders, private to this user, and refuse a second server on them.

        Raises:
            HomeInUse: there is one.
        """
        for folder in (self.home, self._records, self._downloads):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            import fcntl  # noqa: PLC0415  # not on Windows; there a second server is not noticed
        except ImportError:
            return
        handle = os.open(self.home / "server.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(handle)
            raise HomeInUse(
                f"Another server uses {self.home}: stop it, or choose another folder with --root."
            ) from error
        self._lock = handle
        shutil.rmtree(self._downloads)
        self._downloads.mkdir(mode=0o700)

    def secret(self) -> str:
        """Return the key that encrypts the visit's token in browsers.

        It stays with the home, so that kept characters are found again after a restart.
        """
        path = self.home / "secret"
        if not path.exists():
            _replace(path, secrets.token_hex(16).encode())
        return path.read_text()

    def unlock(self) -> None:
        """Let another server use the folder."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    # --- records -------------------------------------------------------------------------------

    def save(self, visitor: Visitor, actor: Actor) -> None:
        """Write a character; a crash leaves the old record or the new one."""
        _replace(self._card(actor.id), to_png(actor.character))
        row = {
            "token": visitor.token,
            "personas": [asdict(persona) for persona in visitor.personas],
            "label": actor.label,
            "tagline": actor.tagline,
            "art": actor.art,
            "accent": actor.accent,
            "portrait": bool(actor.image),
            "notes": actor.notes,
            "created": actor.created,
            "facts": [asdict(fact) for fact in actor.facts],
            "probes": [asdict(row) for row in actor.probes],
            "absorbs": [asdict(record) for record in actor.absorbs],
            "chats": {
                key: [_chat_row(chat) for chat in chats if chat.messages]
                for key, chats in actor.chats.items()
            },
        }
        _replace(self._record(actor.id), json.dumps(row).encode())

    def remove(self, actor: Actor) -> None:
        """Delete the record of a character; nothing happens where there is none."""
        self._record(actor.id).unlink(missing_ok=True)
        self._card(actor.id).unlink(missing_ok=True)

    def load(self, memories: Iterable[str]) -> list[Visitor]:
        """Return the visitors who kept something whose memory is still there.

        Damaged records are left alone and reported in the log.
        """
        visitors: dict[str, Visitor] = {}
        known = set(memories)
        for path in sorted(self._records.glob("*.json")):
            if path.stem not in known:
                continue
            try:
                row = json.loads(path.read_bytes())
                actor = self._actor(path.stem, row)
            except (OSError, ValueError, KeyError, TypeError) as error:
                _log.warning("The kept character %s cannot be read: %s", path, error)
                continue
            visitor = visitors.setdefault(row["token"], Visitor(token=row["token"]))
            visitor.personas = [Persona(**persona) for persona in row["personas"]]
            visitor.actors[actor.id] = actor
        return list(visitors.values())

    def _actor(self, actor_id: str, row: dict[str, Any]) -> Actor:
        character = load_character(self._card(actor_id))
        if not row.get("portrait", False):  # the picture that carries the card says nothing
            character = replace(character, portrait=None)
        return Actor(
            id=actor_id,
            label=row["label"],
            character=character,
            image=picture_address(character.portrait),
            facts=tuple(CharacterFact(**fact) for fact in row["facts"]),
            tagline=row["tagline"],
            art=row["art"],
            accent=row["accent"],
            saved=True,
            notes=row["notes"],
            created=row["created"],
            chats={
                key: [_chat(chat) for chat in (chats if isinstance(chats, list) else [chats])]
                for key, chats in row["chats"].items()  # one chat, not a list, in older records
            },
            absorbs=[
                AbsorbRecord(
                    source=record["source"],
                    time=record["time"],
                    report=AbsorbReport(**record["report"]),
                    perplexities=tuple(record["perplexities"]),
                    text_tokens=record.get("text_tokens", 0),
                )
                for record in row["absorbs"]
            ],
            probes=tuple(
                FactProbe(**{**probe, "fact": CharacterFact(**probe["fact"])})
                for probe in row["probes"]
            ),
        )

    def _record(self, actor_id: str) -> Path:
        return self._records / f"{actor_id}.json"

    def _card(self, actor_id: str) -> Path:
        return self._records / f"{actor_id}.png"

    # --- downloads -----------------------------------------------------------------------------

    def _folder(self, visitor: Visitor) -> Path:
        return self._downloads / hashlib.sha256(visitor.token.encode()).hexdigest()[:32]

    def download_folder(self, visitor: Visitor, actor: Actor) -> Path:
        """Return an empty folder for the files of one export."""
        folder = self._folder(visitor) / actor.id
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, mode=0o700)
        return folder

    def clear_downloads(self, visitor: Visitor, actor: Actor | None = None) -> int:
        """Remove prepared downloads of one character, or of all; return how many files."""
        folder = self._folder(visitor) / actor.id if actor else self._folder(visitor)
        count = sum(path.is_file() for path in folder.rglob("*"))
        shutil.rmtree(folder, ignore_errors=True)
        return count


def _chat_row(chat: Chat) -> dict[str, Any]:
    return {
        "key": chat.key,
        "created": chat.created,
        "messages": [[m.role, m.content] for m in chat.messages],
        "costs": [[cost.sent, cost.full] for cost in chat.costs],
        "swipes": chat.swipes,
        "swipe": chat.swipe,
    }


def _chat(row: dict[str, Any]) -> Chat:
    chat = Chat(
        messages=[Message(role, content) for role, content in row["messages"]],
        costs=[PromptCost(sent=sent, full=full) for sent, full in row["costs"]],
        swipes=list(row.get("swipes", ())),
        swipe=int(row.get("swipe", 0)),
    )
    chat.key = row.get("key", chat.key)
    chat.created = row.get("created", chat.created)
    return chat


def _replace(path: Path, data: bytes) -> None:
    fresh = path.with_suffix(f"{path.suffix}.new")
    handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    fresh.replace(path)
