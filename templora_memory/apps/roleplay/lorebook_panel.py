"""The lorebook of the active character: what is in it, and a form to change it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from . import rendering
from .state import MAX_LORE_TEXT

NEW = "new"
"""The choice of an entry that is not there yet."""


@dataclass(slots=True, kw_only=True)
class LorebookPanel:
    """The components of the lorebook. `edited` is whose entry the form holds, and its number."""

    use: gr.Checkbox
    table: gr.HTML
    edited: gr.State
    entry: gr.Dropdown
    name: gr.Textbox
    keys: gr.Textbox
    text: gr.Textbox
    enabled: gr.Checkbox
    constant: gr.Checkbox
    save: gr.Button

    @property
    def fields(self) -> list[Any]:
        """The fields of the form."""
        return [self.name, self.keys, self.text, self.enabled, self.constant]

    @property
    def components(self) -> list[Any]:
        """What the handlers change."""
        return [self.table, self.edited, self.entry, *self.fields, self.save]


def build() -> LorebookPanel:
    """Lay the panel out, within a column."""
    with gr.Accordion("Lorebook", open=False, elem_id="lorebook"):
        use = gr.Checkbox(value=True, label="Use it")
        table = gr.HTML(rendering.lorebook(None))
        edited = gr.State(None)
        entry = gr.Dropdown([("New entry", NEW)], value=NEW, label="Entry", min_width=140)
        name = gr.Textbox(label="Title", max_length=120, info="For you; never in a prompt.")
        keys = gr.Textbox(
            label="Keys, one on each line",
            info="The text joins the prompt when one of them is mentioned.",
            lines=2,
            max_lines=6,
            max_length=4000,
        )
        text = gr.Textbox(label="Text", lines=3, max_lines=12, max_length=MAX_LORE_TEXT)
        with gr.Row():
            enabled = gr.Checkbox(value=True, label="Switched on", min_width=110)
            constant = gr.Checkbox(value=False, label="Always in the prompt", min_width=150)
        save = gr.Button("Save entry", size="sm", interactive=False)
    return LorebookPanel(
        use=use,
        table=table,
        edited=edited,
        entry=entry,
        name=name,
        keys=keys,
        text=text,
        enabled=enabled,
        constant=constant,
        save=save,
    )
