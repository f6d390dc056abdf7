"""Event handlers of what changes by itself: learning, deletions that fall due, other tabs."""

from __future__ import annotations

from typing import Any

import gradio as gr

from .components import PageComponents, Updates
from .error_toasts import with_error_toasts
from .page_view import PageView
from .state import Visitor
from .studio import ActionRefused, Studio


class NewsHandlers:
    """Keeps an open page fresh: a look every second, which says nothing if nothing changed."""

    def __init__(self, studio: Studio, page: PageComponents, view: PageView) -> None:
        self._studio = studio
        self._page = page
        self._view = view

    def wire(self) -> None:
        """Connect the components with these handlers."""
        p, t = self._page, self._page.talk
        private: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
        p.timer.tick(
            with_error_toasts(self.look),
            [*p.selection, p.seen],
            self._view.all_components,
            concurrency_limit=None,
            **private,
        )
        t.stop_learning.click(
            with_error_toasts(self.stop_learning),
            p.selection,
            [*self._view.news_components, t.send],
            **private,
        )
        t.dismiss.click(
            with_error_toasts(self.dismiss), p.selection, self._view.news_components, **private
        )

    def look(self, token: str, actor_id: str | None, persona_key: str | None, seen: int) -> Any:
        """Return what changed since this page looked last; nobody acted by that."""
        visitor = self._studio.visitors.peek(token)
        if visitor is None:
            return gr.skip()
        restless = bool(visitor.learning or visitor.deletions)
        if visitor.version == seen and not restless:
            return gr.skip()
        self._announce(visitor)
        actor, persona = visitor.actors.get(actor_id or ""), visitor.persona(persona_key)
        if actor is None and (actor_id or visitor.actors):
            actor = next(reversed(visitor.actors.values()), None)  # the chosen one is gone
            return self._view.all_updates(visitor, actor, persona)
        news = self._view.news_updates(visitor, actor, persona)
        if visitor.version == seen:
            return news
        t, chat = self._page.talk, actor.chat(persona) if actor else None
        news[t.active] = self._view.choices(visitor, actor)
        news |= self._view.figures_updates(visitor, actor, persona, "actor")
        if chat is None or not chat.busy.locked():  # else whoever answers shows it
            updates = self._view.chat_updates(visitor, actor, persona)
            news |= {key: value for key, value in updates.items() if key is not t.chat}
        return news

    @staticmethod
    def _announce(visitor: Visitor) -> None:
        """Say once how an absorb ended."""
        with visitor.lock:
            task = visitor.learned
            if task is None or task.announced:
                return
            task.announced = True
        if task.succeeded:
            gr.Info(f"{task.actor.label} has learned {task.source}.")
        else:
            gr.Info(task.note)

    def stop_learning(self, token: str, actor_id: str | None, persona_key: str | None) -> Updates:
        """Ask the active character to stop learning, or whoever learns; returns at once."""
        visitor, actor, persona = self._view.find(token, actor_id, persona_key)
        tasks = dict(visitor.learning)
        chosen = [tasks[actor.id]] if actor and actor.id in tasks else list(tasks.values())
        if not chosen:
            raise ActionRefused("Nobody is learning any more.")
        for task in chosen:
            task.stop()
        return {
            **self._view.news_updates(visitor, actor, persona),
            self._page.talk.send: gr.update(
                interactive=actor is not None and actor not in [task.actor for task in chosen]
            ),
        }

    def dismiss(self, token: str, actor_id: str | None, persona_key: str | None) -> Updates:
        """Take the result of an absorb away."""
        visitor, actor, persona = self._view.find(token, actor_id, persona_key)
        visitor.learned = None
        return self._view.news_updates(visitor, actor, persona)
