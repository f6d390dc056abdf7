"""Event handlers of the lorebook: look at an entry, change it, add one."""

from __future__ import annotations

from typing import Any

import gradio as gr

from . import rendering
from .components import PageComponents, Updates
from .error_toasts import with_error_toasts
from .lorebook_panel import NEW, LorebookPanel
from .page_view import PageView
from .state import Actor
from .studio import ActionRefused, Studio


class LorebookHandlers:
    """Handlers of the active character's lorebook."""

    def __init__(self, studio: Studio, page: PageComponents, view: PageView) -> None:
        self._studio = studio
        self._page = page
        self._view = view
        self._panel = page.memory.lorebook

    def wire(self) -> None:
        """Connect the components with these handlers."""
        p, panel = self._page, self._panel
        private: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
        # not with the rest of the page, which would empty a form that is half filled in
        p.chosen.change(
            with_error_toasts(self.show), p.selection, panel.components, queue=False, **private
        )
        panel.entry.input(
            with_error_toasts(self.choose), [*p.selection, panel.entry], panel.components, **private
        )
        panel.save.click(
            with_error_toasts(self.save),
            [*p.selection, panel.edited, *panel.fields],
            panel.components,
            **private,
        )

    def show(self, token: str, actor_id: str | None, persona_key: str | None) -> Updates:
        """Show the lorebook of whoever was chosen."""
        _, actor, _ = self._view.find(token, actor_id, persona_key)
        return _updates(self._panel, actor, None)

    def choose(
        self, token: str, actor_id: str | None, persona_key: str | None, entry: str | None
    ) -> Updates:
        """Put an entry into the form."""
        _, actor, _ = self._view.find(token, actor_id, persona_key)
        lore = actor.character.lore if actor else ()
        number = int(entry) if entry is not None and entry.isdecimal() else None
        known = number is not None and number < len(lore)
        return _updates(self._panel, actor, number if known else None)

    def save(  # noqa: PLR0917  # Gradio hands over positions
        self,
        token: str,
        actor_id: str | None,
        persona_key: str | None,
        edited: tuple[str, int | None] | None,
        name: str,
        keys: str,
        text: str,
        enabled: bool,  # noqa: FBT001  # Gradio hands over positions
        constant: bool,  # noqa: FBT001
    ) -> Updates:
        """Keep what the form holds, in the card of the character."""
        visitor, _, _ = self._view.find(token, actor_id, persona_key)
        actor = self._studio.actor(visitor, actor_id)
        whose, number = edited or (None, None)
        if whose != actor.id:
            raise ActionRefused("The form is of another character: choose the entry again.")
        number = self._studio.write_lore(
            visitor, actor, number, content=text or "", keys=(keys or "").splitlines(),
            name=name or "", enabled=bool(enabled), constant=bool(constant),
        )  # fmt: skip
        gr.Info("Saved. The card has it; what was absorbed before stays as it was learned.")
        return _updates(self._panel, actor, number)


def _updates(panel: LorebookPanel, actor: Actor | None, number: int | None) -> Updates:
    """Return the updates that show a lorebook, with one of its entries in the form, or none."""
    lore = actor.character.lore if actor else ()
    shown = lore[number] if number is not None else None
    choices = [(rendering.lore_title(entry), str(at)) for at, entry in enumerate(lore)]
    return {
        panel.table: rendering.lorebook(actor),
        panel.edited: (actor.id, number) if actor else None,
        panel.entry: gr.update(
            choices=[("New entry", NEW), *choices], value=NEW if shown is None else str(number)
        ),
        panel.name: shown.name if shown else "",
        panel.keys: "\n".join(shown.keys) if shown else "",
        panel.text: shown.content if shown else "",
        panel.enabled: shown.enabled if shown else True,
        panel.constant: shown.constant if shown else False,
        panel.save: gr.update(interactive=actor is not None),
    }
