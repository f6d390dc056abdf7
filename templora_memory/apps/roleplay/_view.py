"""What the page shows for a visitor: one place that turns state into components."""

from __future__ import annotations

from typing import Any

import gradio as gr

from templora_memory.errors import UnknownMemory
from templora_memory.importers import greetings

from . import _show
from ._page import Page, Updates
from ._state import Actor, Chat, Persona, Visitor
from ._studio import Studio


class View:
    """Says what the page shows for a visitor; every handler ends with it."""

    def __init__(self, studio: Studio, page: Page) -> None:
        self._studio = studio
        self._page = page

    def find(
        self, token: str, actor_id: str | None, persona_key: str | None
    ) -> tuple[Visitor, Actor | None, Persona]:
        """The visitor, his chosen character if there is one, his persona.

        Raises:
            Expired: no such visitor.
        """
        visitor = self._studio.visitors.get(token)
        actor = visitor.actors.get(actor_id or "")
        return visitor, actor if actor and not actor.gone else None, visitor.persona(persona_key)

    @property
    def everything(self) -> list[Any]:
        """The components that `whole` changes."""
        p = self._page
        parts = [p.active, p.persona, p.c.mine, p.c.manage, p.c.keep, p.c.confirm, p.c.files]
        return [*parts, p.t.notes, p.t.lorebook, *self.talking, *self.remembering]

    @property
    def talking(self) -> list[Any]:
        t = self._page.t
        return [t.chat, t.status, t.prompt]

    @property
    def remembering(self) -> list[Any]:
        m = self._page.m
        return [m.tiles, m.plots, m.lessons, m.revisions, m.back, m.revision, m.receipts]

    def whole(self, visitor: Visitor, actor: Actor | None, persona: Persona) -> Updates:
        """Everything that depends on who is chosen."""
        p = self._page
        actors = [item for item in visitor.actors.values() if not item.gone]
        sizes = {item.id: self._size(item) for item in actors}
        return {
            p.active: gr.update(
                choices=[(item.label, item.id) for item in actors],
                value=actor.id if actor else None,
            ),
            p.persona: gr.update(
                choices=[(item.name, item.key) for item in visitor.personas], value=persona.key
            ),
            p.c.mine: _show.actors(actors, actor.id if actor else None, sizes),
            p.c.manage: gr.update(visible=actor is not None),
            p.c.keep: actor.kept if actor else False,
            p.c.confirm: gr.update(visible=False),
            p.c.files: gr.update(visible=False, value=None),
            p.t.notes: actor.notes if actor else "",
            p.t.lorebook: _show.lorebook(actor),
            **self.talk(actor, persona),
            **self.memory(visitor, actor, persona, "actor"),
        }

    def _size(self, actor: Actor) -> int:
        try:
            return self._studio.memory.status(actor.id).bytes
        except UnknownMemory:
            return 0

    def talk(self, actor: Actor | None, persona: Persona) -> Updates:
        """The conversation, its status line, and the newest prompt."""
        t = self._page.t
        chat = actor.chat(persona) if actor else None
        return {
            t.chat: self.rows(actor, chat, persona),
            t.status: self.status(actor, chat, persona),
            t.prompt: _show.prompt(chat.shown if chat else None),
        }

    def rows(self, actor: Actor | None, chat: Chat | None, persona: Persona) -> list[Any]:
        offered = greetings(actor.character, user=persona.called) if actor else ()
        return _show.chatbot(actor, chat, offered)

    def status(self, actor: Actor | None, chat: Chat | None, persona: Persona) -> str:
        jobs = 0
        if actor is not None:
            try:
                jobs = self._studio.memory.status(actor.pair(persona)).jobs
            except UnknownMemory:
                jobs = 0  # nobody talked yet
        return _show.status_line(actor, chat, chat.shown if chat else None, jobs)

    def memory(
        self, visitor: Visitor, actor: Actor | None, persona: Persona, which: str
    ) -> Updates:
        """Figures, plots, revisions and receipts."""
        m = self._page.m
        receipts = _show.receipts(visitor.receipts)
        if actor is None:
            empty: Updates = {m.tiles: _show.nobody(), m.receipts: receipts}
            empty |= {m.plots: "", m.lessons: "", m.revisions: ""}
            return {**empty, m.back: gr.update(visible=False), m.revision: gr.update(choices=[])}
        memory_id = actor.pair(persona) if which == "pair" else actor.id
        service, chat = self._studio.memory, actor.chat(persona)
        try:
            status, history = service.status(memory_id), service.revisions(memory_id)
        except UnknownMemory:
            status, history = None, ()
        names = [(f"{row.name[:12]} · {row.tokens:,} tokens", row.name) for row in history]
        return {
            m.tiles: _show.tiles(status, actor, chat, service.policy.health_kl),
            m.plots: _show.plots(actor, chat),
            m.lessons: _show.lessons(actor),
            m.revisions: _show.revisions(history, status.head_name if status else None),
            m.back: gr.update(visible=len(history) > 1),
            m.revision: gr.update(choices=names, value=names[0][1] if names else None),
            m.receipts: receipts,
        }
