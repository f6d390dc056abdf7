"""Event handlers of the visitor's characters: choose, copy, rename, keep, download."""

from __future__ import annotations

from typing import Any

import gradio as gr

from templora_memory.importers import one_line

from .character_reply import greet
from .chat_search import search_chats, search_results
from .components import PageComponents, Updates
from .error_toasts import with_error_toasts
from .page_view import PageView
from .state import Actor, Persona, Visitor
from .studio import ActionRefused, Studio


class CharacterHandlers:
    """Handlers of whoever is there."""

    def __init__(self, studio: Studio, page: PageComponents, view: PageView) -> None:
        self._studio = studio
        self._page = page
        self._view = view

    def wire(self) -> None:
        """Connect the components with these handlers."""
        p, actions = self._page, self._page.memory.actions
        components = self._view.all_components
        private: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
        c, choose = p.characters, with_error_toasts(self.choose)
        c.wanted.change(  # its event `input` comes with the value before the last letter
            with_error_toasts(self.search),
            [*p.selection, c.wanted],
            c.found,
            trigger_mode="always_last",
            **private,
        )
        c.found.select(with_error_toasts(self.open_found), p.selection, components, **private)
        p.talk.active.input(choose, [p.token, p.talk.active, p.played], components, **private)
        p.memory.persona.input(choose, [p.token, p.chosen, p.memory.persona], components, **private)
        p.characters.mine.select(with_error_toasts(self.pick), p.selection, components, **private)
        actions.snapshot.click(with_error_toasts(self.snapshot), p.selection, components, **private)
        actions.fork.click(with_error_toasts(self.fork), p.selection, components, **private)
        actions.export.click(with_error_toasts(self.export), p.selection, actions.files, **private)
        actions.rename.click(
            with_error_toasts(self.rename),
            [*p.selection, actions.label],
            [actions.label, *components],
            **private,
        )
        p.talk.keep.input(
            with_error_toasts(self.keep), [*p.selection, p.talk.keep], components, **private
        )

    def choose(self, token: str, actor_id: str | None, persona_key: str | None) -> Updates:
        """Show another character or persona."""
        visitor, actor, persona = self._view.find(token, actor_id, persona_key)
        if actor is not None:
            greet(actor, actor.chat(persona), persona)
        return self._view.all_updates(visitor, actor, persona)

    def pick(
        self, data: gr.EventData, token: str, _actor_id: str | None, persona_key: str | None
    ) -> Updates:
        """Show the character that was clicked in the list."""
        return self.choose(token, _clicked(data), persona_key)

    def search(self, token: str, actor_id: str | None, persona_key: str | None, wanted: str) -> str:
        """Show the chats that have these words."""
        visitor, _, _ = self._view.find(token, actor_id, persona_key)
        return search_results(search_chats(visitor, wanted or ""), wanted or "")

    def open_found(
        self, data: gr.EventData, token: str, _actor_id: str | None, _persona_key: str | None
    ) -> Updates:
        """Open a chat that was found, with its character and its persona."""
        actor_id, persona_key, chat_key = [*_clicked(data).split(), "", "", ""][:3]
        visitor, actor, persona = self._view.find(token, actor_id, persona_key)
        if actor is None or persona.key != persona_key:
            raise ActionRefused("This chat is gone: search again.")
        actor.open_chat(persona, chat_key)
        return self._view.all_updates(visitor, actor, persona)

    def _chosen(
        self, token: str, actor_id: str | None, persona_key: str | None
    ) -> tuple[Visitor, Actor, Persona]:
        visitor, _, persona = self._view.find(token, actor_id, persona_key)
        return visitor, self._studio.actor(visitor, actor_id), persona

    def snapshot(self, *selection: Any) -> Updates:
        """Copy the active character without its chats."""
        visitor, actor, persona = self._chosen(*selection)
        copy = self._studio.copy(visitor, actor, chats=False)
        gr.Info(f"{copy.label} holds what {actor.label} knows now.")
        return self._view.all_updates(visitor, actor, persona)

    def fork(self, *selection: Any) -> Updates:
        """Copy the active character with its chats, and go on with the copy."""
        visitor, actor, persona = self._chosen(*selection)
        copy = self._studio.copy(visitor, actor, chats=True)
        gr.Info(f"{copy.label} goes on from here on its own.")
        return self._view.all_updates(visitor, copy, persona)

    def export(self, *selection: Any) -> Any:
        """Prepare the files of the active character for download."""
        visitor, actor, persona = self._chosen(*selection)
        paths = self._studio.export(visitor, actor, persona)
        return gr.update(visible=True, value=[str(path) for path in paths])

    def rename(self, token: str, actor_id: str, persona_key: str, label: str) -> Updates:
        """Give the active character another name."""
        visitor, actor, persona = self._chosen(token, actor_id, persona_key)
        self._studio.rename(visitor, actor, one_line(label or ""))
        return {
            self._page.memory.actions.label: "",
            **self._view.all_updates(visitor, actor, persona),
        }

    def keep(
        self,
        token: str,
        actor_id: str,
        persona_key: str,
        saved: bool,  # noqa: FBT001  # Gradio hands over positions
    ) -> Updates:
        """Make the active character outlive the visit, or stop that."""
        visitor, actor, persona = self._chosen(token, actor_id, persona_key)
        self._studio.keep(visitor, actor, saved=saved)
        gr.Info(
            f"{actor.label} stays on this machine until you delete it."
            if saved
            else f"{actor.label} is temporary again: it goes {self._studio.grace:.0f} s after you "
            "close the page."
        )
        return self._view.all_updates(visitor, actor, persona)


def _clicked(data: gr.EventData) -> str:
    """Return what a script of ours sent along with a click."""
    chosen = data._data or {}  # noqa: SLF001  # Gradio has no other way to what was triggered
    return str(chosen.get("value", ""))
