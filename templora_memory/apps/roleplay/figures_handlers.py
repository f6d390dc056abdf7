"""Event handlers of everything measured: look, ask."""

from __future__ import annotations

from typing import Any

import gradio as gr

from . import rendering
from .components import PageComponents, Updates
from .error_toasts import with_error_toasts
from .page_view import PageView
from .studio import ActionRefused, Studio


class FiguresHandlers:
    """Handlers of the figures."""

    def __init__(self, studio: Studio, page: PageComponents, view: PageView) -> None:
        self._studio = studio
        self._page = page
        self._view = view

    def wire(self) -> None:
        """Connect the components with these handlers."""
        p, f = self._page, self._page.figures
        private: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
        gr.on(
            [f.refresh.click, f.which.input],
            with_error_toasts(self.look),
            [*p.selection, f.which],
            self._view.figures_components,
            **private,
        )
        f.ask.click(
            with_error_toasts(self.ask), [*p.selection, f.question, f.answer], f.asked, **private
        )

    def look(
        self, token: str, actor_id: str | None, persona_key: str | None, which: str
    ) -> Updates:
        """Return fresh figures of the chosen memory."""
        visitor, actor, persona = self._view.find(token, actor_id, persona_key)
        return self._view.figures_updates(visitor, actor, persona, which)

    def ask(self, token: str, actor_id: str, persona_key: str, question: str, answer: str) -> str:
        """Measure how likely an answer is, with the memory and without."""
        visitor, _, persona = self._view.find(token, actor_id, persona_key)
        actor = self._studio.actor(visitor, actor_id)
        if not (question or "").strip() or not (answer or "").strip():
            raise ActionRefused("Type a question and the answer to measure.")
        return rendering.probe_result(
            self._studio.ask(actor, persona, question.strip(), answer.strip())
        )
