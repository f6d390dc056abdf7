"""The left of the page: whom one talks with, and how others come here."""

from __future__ import annotations

from dataclasses import dataclass

import gradio as gr

from . import bundled_characters, rendering
from .chat_search import search_results
from .faces import gallery_card
from .markup import quiet, styled

_CHOOSE = """
element.addEventListener('click', (event) => {{
  const button = event.target.closest('[data-{0}]');
  if (button) trigger('select', {{value: button.dataset.{0}}});
}});
"""


@dataclass(slots=True, kw_only=True)
class CharactersPanel:
    """The components of the left that handlers read or change."""

    mine: gr.HTML
    wanted: gr.Textbox
    found: gr.HTML
    meet_box: gr.Accordion
    meet: dict[str, gr.Button]
    file: gr.File
    paste_name: gr.Textbox
    paste_bio: gr.Textbox
    paste: gr.Button


@dataclass(slots=True, kw_only=True)
class PreviewPanel:
    """What is known of somebody before anything is learned."""

    box: gr.Column
    preview: gr.HTML
    examples: gr.Checkbox
    lore: gr.Checkbox
    absorb: gr.Button
    cancel: gr.Button


def heading(text: str, more: str = "") -> gr.HTML:
    """A heading of a section, with a quiet sentence."""
    below = f'<p class="quiet">{more}</p>' if more else ""
    return gr.HTML(f'<div class="t"><h2>{text}</h2>{below}</div>')


def build() -> CharactersPanel:
    """Lay the panel out, within a column."""
    heading("Characters")
    mine = gr.HTML(
        rendering.character_list((), None, {}, {}),
        elem_id="mine",
        js_on_load=_CHOOSE.format("actor"),
    )
    with gr.Accordion("Search chats", open=False, elem_id="search"):
        wanted = gr.Textbox(label="Words to find", max_length=200)
        found = gr.HTML(search_results((), ""), elem_id="found", js_on_load=_CHOOSE.format("chat"))
    with gr.Accordion("Meet somebody", open=True, elem_id="meet") as meet_box:
        meet = _gallery()
    with gr.Accordion("Bring your own", open=False, elem_id="bring"):
        gr.HTML(styled(quiet("A card, a text, a PDF, a chat, or a memory that was exported.")))
        file = gr.File(label="File", height=150, elem_id="upload")
        paste_name = gr.Textbox(label="Name", max_length=120, placeholder="Ada Finch")
        paste_bio = gr.Textbox(
            label="Bio",
            lines=3,
            max_lines=12,
            max_length=200_000,
            placeholder="Ada Finch lives on the roof. She keeps bees. Her rival is the wind.",
        )
        paste = gr.Button("Preview this bio", size="md")
    return CharactersPanel(
        mine=mine,
        wanted=wanted,
        found=found,
        meet_box=meet_box,
        meet=meet,
        file=file,
        paste_name=paste_name,
        paste_bio=paste_bio,
        paste=paste,
    )


def _gallery() -> dict[str, gr.Button]:
    meet = {}
    for name in bundled_characters.names():
        actor = bundled_characters.actor(name)
        with gr.Column(min_width=160, elem_classes="meet"):
            gr.HTML(gallery_card(actor))
            meet[name] = gr.Button(f"Meet {actor.label.split()[0]}", size="sm")
    return meet


def build_preview() -> PreviewPanel:
    """Lay out what is shown above the chat before somebody is learned."""
    with gr.Column(visible=False, elem_id="preview") as box:
        heading("Before anything is learned")
        preview = gr.HTML()
        with gr.Row():
            examples = gr.Checkbox(value=True, label="Absorb example dialogues", min_width=200)
            lore = gr.Checkbox(value=False, label="Absorb the lorebook too", min_width=200)
        with gr.Row():
            absorb = gr.Button("Absorb into weights", variant="primary", min_width=160)
            cancel = gr.Button("Not now", min_width=120)
    return PreviewPanel(
        box=box, preview=preview, examples=examples, lore=lore, absorb=absorb, cancel=cancel
    )
