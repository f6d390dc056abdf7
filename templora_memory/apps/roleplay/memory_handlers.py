"""Event handlers of the third area: look, go back, ask, forget a person."""

from __future__ import annotations

from typing import Any

import gradio as gr

from . import rendering
from .components import MEMORY, PageComponents, Updates
from .error_toasts import with_error_toasts
from .page_view import PageView
from .studio import ActionRefused, Studio


class MemoryHandlers:
    """Handlers of the third area."""

    def __init__(self, studio: Studio, page: PageComponents, view: PageView) -> None:
        self._studio = studio
        self._page = page
        self._view = view

    def wire(self) -> None:
        """Connect the components of the third area with these handlers."""
        p, m = self._page, self._page.memory_tab
        private: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
        looked = [*p.selection, m.which]
        gr.on(
            [m.refresh.click, m.which.input],
            with_error_toasts(self.look),
            looked,
            self._view.memory_components,
            **private,
        )
        p.tabs.select(
            with_error_toasts(self.enter), looked, self._view.memory_components, **private
        )
        m.rollback.click(
            with_error_toasts(self.rollback),
            [*looked, m.revision],
            self._view.memory_components,
            **private,
        )
        m.ask.click(
            with_error_toasts(self.ask), [*p.selection, m.question, m.answer], m.asked, **private
        )
        m.forget_persona.click(
            with_error_toasts(self.forget_persona),
            p.selection,
            self._view.all_components,
            **private,
        )

    def look(
        self, token: str, actor_id: str | None, persona_key: str | None, which: str
    ) -> Updates:
        """Return fresh figures of the chosen memory."""
        visitor, actor, persona = self._view.find(token, actor_id, persona_key)
        return self._view.memory_updates(visitor, actor, persona, which)

    def enter(
        self,
        data: gr.SelectData,
        token: str,
        actor_id: str | None,
        persona_key: str | None,
        which: str,
    ) -> Updates:
        """Figures are fresh whenever their tab is opened."""
        if data.value != MEMORY.capitalize():
            return {self._page.memory_tab.receipts: gr.skip()}
        return self.look(token, actor_id, persona_key, which)

    def rollback(
        self, token: str, actor_id: str, persona_key: str, which: str, revision: str | None
    ) -> Updates:
        """Make an older revision the newest."""
        visitor, _, persona = self._view.find(token, actor_id, persona_key)
        actor = self._studio.actor(visitor, actor_id)
        if not revision:
            raise ActionRefused("Choose a revision first.")
        memory_id = actor.pair(persona) if which == "pair" else actor.id
        self._studio.rollback(visitor, actor, memory_id, revision)
        gr.Info("The memory is at the older revision again; newer ones are deleted.")
        return self._view.memory_updates(visitor, actor, persona, which)

    def ask(self, token: str, actor_id: str, persona_key: str, question: str, answer: str) -> str:
        """Measure how likely an answer is, with the memory and without."""
        visitor, _, persona = self._view.find(token, actor_id, persona_key)
        actor = self._studio.actor(visitor, actor_id)
        if not (question or "").strip() or not (answer or "").strip():
            raise ActionRefused("Type a question and the answer to measure.")
        return rendering.probe_result(
            self._studio.ask(actor, persona, question.strip(), answer.strip())
        )

    def forget_persona(self, token: str, actor_id: str | None, persona_key: str | None) -> Updates:
        """Remove what every character learned from this persona."""
        visitor, actor, persona = self._view.find(token, actor_id, persona_key)
        receipt = self._studio.forget_persona(visitor, persona)
        gr.Info(
            f"{len(receipt.files)} files of {persona.name} removed, with "
            f"{receipt.bytes / 1e6:.2f} MB. What the characters were born with stays."
        )
        return self._view.all_updates(visitor, actor, persona)
