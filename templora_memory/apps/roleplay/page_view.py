"""The page as a visitor sees it: state becomes updates of components here, and nowhere else."""

from __future__ import annotations

from typing import Any

import gradio as gr

from templora_memory.errors import UnknownMemory
from templora_memory.importers import greetings

from . import rendering
from .components import PageComponents, Updates
from .state import Actor, Chat, Persona, Visitor
from .studio import Studio


class PageView:
    """Turns the state of a visitor into updates of the page; every handler ends with it."""

    def __init__(self, studio: Studio, page: PageComponents) -> None:
        self._studio = studio
        self._page = page

    def find(
        self, token: str, actor_id: str | None, persona_key: str | None
    ) -> tuple[Visitor, Actor | None, Persona]:
        """Return the visitor, their character if one is chosen, and their persona.

        Raises:
            Expired: no such visitor.
        """
        visitor = self._studio.visitors.get(token)
        actor = visitor.actors.get(actor_id or "")
        return visitor, actor if actor and not actor.gone else None, visitor.persona(persona_key)

    @property
    def all_components(self) -> list[Any]:
        """The components that `all_updates` changes."""
        p = self._page
        parts = [
            p.active,
            p.persona,
            p.characters_tab.mine,
            p.characters_tab.actions.panel,
            p.characters_tab.actions.keep,
            p.characters_tab.actions.confirm,
            p.characters_tab.actions.files,
        ]
        return [
            *parts,
            p.talk_tab.notes,
            p.talk_tab.lorebook,
            *self.chat_components,
            *self.memory_components,
        ]

    @property
    def chat_components(self) -> list[Any]:
        """The components that `chat_updates` changes."""
        t = self._page.talk_tab
        return [t.chat, t.status, t.prompt]

    @property
    def memory_components(self) -> list[Any]:
        """The components that `memory_updates` changes."""
        m = self._page.memory_tab
        return [m.tiles, m.plots, m.lessons, m.revisions, m.back, m.revision, m.receipts]

    def all_updates(self, visitor: Visitor, actor: Actor | None, persona: Persona) -> Updates:
        """Return the updates of everything that depends on who is chosen."""
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
            p.characters_tab.mine: rendering.character_list(
                actors, actor.id if actor else None, sizes
            ),
            p.characters_tab.actions.panel: gr.update(visible=actor is not None),
            p.characters_tab.actions.keep: actor.saved if actor else False,
            p.characters_tab.actions.confirm: gr.update(visible=False),
            p.characters_tab.actions.files: gr.update(visible=False, value=None),
            p.talk_tab.notes: actor.notes if actor else "",
            p.talk_tab.lorebook: rendering.lorebook(actor),
            **self.chat_updates(actor, persona),
            **self.memory_updates(visitor, actor, persona, "actor"),
        }

    def _size(self, actor: Actor) -> int:
        try:
            return self._studio.memory[actor.id].status().bytes
        except UnknownMemory:
            return 0

    def chat_updates(self, actor: Actor | None, persona: Persona) -> Updates:
        """Return updates of the conversation, its status line and the newest prompt."""
        t = self._page.talk_tab
        chat = actor.chat(persona) if actor else None
        return {
            t.chat: self.chat_messages(actor, chat, persona),
            t.status: self.status(actor, chat, persona),
            t.prompt: rendering.prompt(chat.prompt if chat else None),
        }

    def chat_messages(self, actor: Actor | None, chat: Chat | None, persona: Persona) -> list[Any]:
        """Return the conversation as Gradio's chatbot takes it."""
        offered = greetings(actor.character, user=persona.called) if actor else ()
        return rendering.chat_messages(actor, chat, offered)

    def status(self, actor: Actor | None, chat: Chat | None, persona: Persona) -> str:
        """Return the line under the conversation, as HTML."""
        jobs = 0
        if actor is not None:
            try:
                jobs = self._studio.memory[actor.pair(persona)].status().jobs
            except UnknownMemory:
                jobs = 0  # nobody talked yet
        return rendering.status_line(actor, chat, chat.prompt if chat else None, jobs)

    def memory_updates(
        self, visitor: Visitor, actor: Actor | None, persona: Persona, which: str
    ) -> Updates:
        """Return updates of figures, plots, revisions and the log."""
        m = self._page.memory_tab
        receipts = rendering.visit_log(visitor.events)
        if actor is None:
            empty: Updates = {m.tiles: rendering.no_character(), m.receipts: receipts}
            empty |= {m.plots: "", m.lessons: "", m.revisions: ""}
            return {**empty, m.back: gr.update(visible=False), m.revision: gr.update(choices=[])}
        memory_id = actor.pair(persona) if which == "pair" else actor.id
        memory, chat = self._studio.memory[memory_id], actor.chat(persona)
        try:
            status, history = memory.status(), memory.revisions()
        except UnknownMemory:
            status, history = None, ()
        names = [(f"{row.name[:12]} · {row.tokens:,} tokens", row.name) for row in history]
        return {
            m.tiles: rendering.figure_tiles(status, actor, chat, memory.service.policy.health_kl),
            m.plots: rendering.plots(actor, chat),
            m.lessons: rendering.absorb_log(actor),
            m.revisions: rendering.revisions(history, status.head_name if status else None),
            m.back: gr.update(visible=len(history) > 1),
            m.revision: gr.update(choices=names, value=names[0][1] if names else None),
            m.receipts: receipts,
        }
