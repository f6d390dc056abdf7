"""The first area: meet characters, read files, watch them learn, copy and delete them."""

from __future__ import annotations

from dataclasses import dataclass

import gradio as gr

from . import bundled_characters, rendering


@dataclass(slots=True, kw_only=True)
class CharacterActions:
    """The buttons and fields that change, copy or delete the active character."""

    panel: gr.Column
    snapshot: gr.Button
    fork: gr.Button
    export: gr.Button
    files: gr.File
    keep: gr.Checkbox
    label: gr.Textbox
    rename: gr.Button
    delete: gr.Button
    confirm: gr.Column
    question: gr.HTML
    delete_confirmed: gr.Button
    delete_cancelled: gr.Button
    deleted: gr.HTML


@dataclass(slots=True, kw_only=True)
class CharactersTab:
    """The components of the first area that handlers read or change."""

    meet: dict[str, gr.Button]
    file: gr.File
    paste_name: gr.Textbox
    paste_bio: gr.Textbox
    paste: gr.Button
    box: gr.Column
    preview: gr.HTML
    examples: gr.Checkbox
    lore: gr.Checkbox
    absorb: gr.Button
    cancel: gr.Button
    progress: gr.HTML
    probes: gr.HTML
    stop: gr.Button
    talk: gr.Button
    mine: gr.HTML
    actions: CharacterActions


def heading(text: str, more: str = "") -> gr.HTML:
    """A heading of a section, with a quiet sentence."""
    below = f'<p class="quiet">{more}</p>' if more else ""
    return gr.HTML(f'<div class="t"><h2>{text}</h2>{below}</div>')


def build() -> CharactersTab:
    """Lay the area out, within a tab."""
    heading("Meet somebody", "Six short lives of our own. None of them is known to the model.")
    meet = _gallery()
    heading(
        "Or bring your own",
        "Character cards (PNG, JSON, CHARX), text, Markdown, YAML, PDF, SillyTavern chats, and "
        "memories exported here. Files are read on this machine and deleted right away.",
    )
    with gr.Row():
        with gr.Column(min_width=280):
            file = gr.File(label="Character file", height=190, elem_id="upload")
        with gr.Column(min_width=280):
            paste_name = gr.Textbox(label="Name", max_length=120, placeholder="Ada Finch")
            paste_bio = gr.Textbox(
                label="Bio",
                lines=3,
                max_lines=12,
                max_length=200_000,
                placeholder="Ada Finch lives on the roof. She keeps bees. Her rival is the wind.",
            )
            paste = gr.Button("Preview this bio", size="md")
    with gr.Column(visible=False, elem_id="preview") as box:
        heading("Before anything is learned")
        preview = gr.HTML()
        with gr.Row():
            examples = gr.Checkbox(value=True, label="Absorb example dialogues", min_width=200)
            lore = gr.Checkbox(value=False, label="Absorb the lorebook too", min_width=200)
        with gr.Row():
            absorb = gr.Button("Absorb into weights", variant="primary", min_width=160)
            cancel = gr.Button("Not now", min_width=120)
    progress = gr.HTML(visible=False, elem_id="progress")
    stop = gr.Button("Stop learning", variant="stop", visible=False)
    probes = gr.HTML(visible=False, elem_id="probes")
    talk = gr.Button("Talk", variant="primary", visible=False, elem_id="talk-now")
    heading("Your characters")
    mine = gr.HTML(rendering.character_list((), None, {}), elem_id="mine")
    actions = _build_actions()
    return CharactersTab(
        meet=meet,
        file=file,
        paste_name=paste_name,
        paste_bio=paste_bio,
        paste=paste,
        box=box,
        preview=preview,
        examples=examples,
        lore=lore,
        absorb=absorb,
        cancel=cancel,
        progress=progress,
        probes=probes,
        stop=stop,
        talk=talk,
        mine=mine,
        actions=actions,
    )


def _gallery() -> dict[str, gr.Button]:
    meet = {}
    names = bundled_characters.names()
    for start in range(0, len(names), 3):
        with gr.Row(equal_height=True):
            for name in names[start : start + 3]:
                actor = bundled_characters.actor(name)
                with gr.Column(min_width=260, elem_classes="meet"):
                    gr.HTML(rendering.gallery_card(actor))
                    first = actor.label.split()[0]
                    meet[name] = gr.Button(f"Meet {first}", size="md")
    return meet


def _build_actions() -> CharacterActions:
    """Lay out the buttons for the active character."""
    with gr.Column(visible=False, elem_id="manage") as panel:
        with gr.Row():
            snapshot = gr.Button("Snapshot", min_width=120)
            fork = gr.Button("Fork with chat", min_width=120)
            export = gr.Button("Prepare download", min_width=140)
            delete = gr.Button("Delete…", variant="stop", min_width=120)
        with gr.Row():
            label = gr.Textbox(label="New name", max_length=120, min_width=200, scale=2)
            rename = gr.Button("Rename", min_width=110)
            keep = gr.Checkbox(
                value=False,
                label="Keep on this machine",
                info="Survives closing the tab and the server.",
                min_width=220,
                scale=2,
            )
        files = gr.File(
            label="Downloads (copies; deleting a character does not reach them)",
            interactive=False,
            visible=False,
        )
    with gr.Column(visible=False, elem_id="confirm", elem_classes="danger") as confirm:
        question = gr.HTML()
        with gr.Row():
            delete_confirmed = gr.Button("Yes, delete", variant="stop", min_width=120)
            delete_cancelled = gr.Button("No, keep it", min_width=120)
    deleted = gr.HTML(visible=False, elem_id="gone")
    return CharacterActions(
        panel=panel,
        snapshot=snapshot,
        fork=fork,
        export=export,
        files=files,
        keep=keep,
        label=label,
        rename=rename,
        delete=delete,
        confirm=confirm,
        question=question,
        delete_confirmed=delete_confirmed,
        delete_cancelled=delete_cancelled,
        deleted=deleted,
    )
