"""All components of the page as one value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import gradio as gr

from .characters_panel import CharactersPanel, PreviewPanel
from .chat_panel import ChatPanel
from .deletion_panel import DeletionPanel
from .memory_panel import FiguresPanel, MemoryPanel

Updates: TypeAlias = dict[Any, Any]
"""The return value of a handler: components, and what becomes of them."""


@dataclass(slots=True, kw_only=True)
class PageComponents:
    """Every component that a handler reads or changes.

    `chosen` and `played` hold the ids of the active character and persona. Handlers read these and
    not the drop-down lists: Gradio refuses a value that is no choice any more before any handler is
    asked, and paints "Error" over everything that the handler might have changed.
    """

    token: gr.State
    chosen: gr.State
    played: gr.State
    pending: gr.State
    seen: gr.State
    browser: gr.BrowserState
    timer: gr.Timer
    characters: CharactersPanel
    talk: ChatPanel
    memory: MemoryPanel
    figures: FiguresPanel
    deletion: DeletionPanel

    @property
    def preview(self) -> PreviewPanel:
        """What is known of somebody before anything is learned."""
        return self.talk.preview

    @property
    def selection(self) -> list[Any]:
        """The inputs of almost every handler: the visit, the character, the persona."""
        return [self.token, self.chosen, self.played]
