"""All components of the page as one value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import gradio as gr

from .characters_tab import CharactersTab
from .memory_tab import MemoryTab
from .talk_tab import TalkTab

Updates: TypeAlias = dict[Any, Any]
"""The return value of a handler: components, and what becomes of them."""
CHARACTERS, TALK, MEMORY = "characters", "talk", "memory"


@dataclass(slots=True, kw_only=True)
class PageComponents:
    """Every component that a handler reads or changes."""

    token: gr.State
    pending: gr.State
    browser: gr.BrowserState
    active: gr.Dropdown
    persona: gr.Dropdown
    tabs: gr.Tabs
    characters_tab: CharactersTab
    talk_tab: TalkTab
    memory_tab: MemoryTab

    @property
    def selection(self) -> list[Any]:
        """The inputs of almost every handler: the visit, the character, the persona."""
        return [self.token, self.active, self.persona]
