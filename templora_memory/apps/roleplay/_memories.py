"""What happens in the third area: look, go back, ask, forget a person."""

from __future__ import annotations

from typing import Any

import gradio as gr

from . import _show
from ._guard import guarded
from ._page import MEMORY, Page, Updates
from ._studio import Refused, Studio
from ._view import View


class MemoryHandlers:
    """Handlers of the third area."""

    def __init__(self, studio: Studio, page: Page, view: View) -> None:
        self._studio = studio
        self._page = page
        self._view = view

    def wire(self) -> None:
        p, m = self._page, self._page.m
        private: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
        looked = [*p.who, m.which]
        gr.on(
            [m.refresh.click, m.which.input],
            guarded(self.look),
            looked,
            self._view.remembering,
            **private,
        )
        p.tabs.select(guarded(self.enter), looked, self._view.remembering, **private)
        m.rollback.click(
            guarded(self.rollback), [*looked, m.revision], self._view.remembering, **private
        )
        m.ask.click(guarded(self.ask), [*p.who, m.question, m.answer], m.asked, **private)
        m.forget_persona.click(
            guarded(self.forget_persona), p.who, self._view.everything, **private
        )

    def look(
        self, token: str, actor_id: str | None, persona_key: str | None, which: str
    ) -> Updates:
        visitor, actor, persona = self._view.find(token, actor_id, persona_key)
        return self._view.memory(visitor, actor, persona, which)

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
            return {self._page.m.receipts: gr.skip()}
        return self.look(token, actor_id, persona_key, which)

    def rollback(
        self, token: str, actor_id: str, persona_key: str, which: str, revision: str | None
    ) -> Updates:
        visitor, _, persona = self._view.find(token, actor_id, persona_key)
        actor = self._studio.actor(visitor, actor_id)
        if not revision:
            raise Refused("Choose a revision first.")
        memory_id = actor.pair(persona) if which == "pair" else actor.id
        self._studio.rollback(visitor, actor, memory_id, revision)
        gr.Info("The memory is at the older revision again; newer ones are deleted.")
        return self._view.memory(visitor, actor, persona, which)

    def ask(self, token: str, actor_id: str, persona_key: str, question: str, answer: str) -> str:
        visitor, _, persona = self._view.find(token, actor_id, persona_key)
        actor = self._studio.actor(visitor, actor_id)
        if not (question or "").strip() or not (answer or "").strip():
            raise Refused("Type a question and the answer to measure.")
        return _show.asked(self._studio.ask(actor, persona, question.strip(), answer.strip()))

    def forget_persona(self, token: str, actor_id: str | None, persona_key: str | None) -> Updates:
        visitor, actor, persona = self._view.find(token, actor_id, persona_key)
        receipt = self._studio.forget_persona(visitor, persona)
        gr.Info(
            f"{len(receipt.files)} files of {persona.name} removed, with "
            f"{receipt.bytes / 1e6:.2f} MB. What the characters were born with stays."
        )
        return self._view.whole(visitor, actor, persona)
