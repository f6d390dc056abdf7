"""The right of the page: what is in the prompt and what in weights; settings; and all figures."""

from __future__ import annotations

from dataclasses import dataclass

import gradio as gr

from . import lorebook_panel, rendering
from .characters_panel import heading
from .comparison import MODE_NAMES
from .lorebook_panel import LorebookPanel

_MODES = [(name, mode) for mode, name in MODE_NAMES.items()]


@dataclass(slots=True, kw_only=True)
class CharacterActions:
    """The buttons and fields that change, copy or delete the active character."""

    panel: gr.Accordion
    snapshot: gr.Button
    fork: gr.Button
    export: gr.Button
    files: gr.File
    label: gr.Textbox
    rename: gr.Button
    delete: gr.Button


@dataclass(slots=True, kw_only=True)
class MemoryPanel:
    """The components of the right that handlers read or change."""

    now: gr.HTML
    mode: gr.Radio
    strength: gr.Slider
    temperature: gr.Slider
    repetition: gr.Slider
    length: gr.Slider
    persona: gr.Dropdown
    persona_name: gr.Textbox
    persona_note: gr.Textbox
    persona_add: gr.Button
    lorebook: LorebookPanel
    use_notes: gr.Checkbox
    notes: gr.Textbox
    notes_file: gr.UploadButton
    actions: CharacterActions


@dataclass(slots=True, kw_only=True)
class FiguresPanel:
    """Everything measured, below the rest of the page, that handlers read or change."""

    prompt: gr.HTML
    which: gr.Radio
    refresh: gr.Button
    tiles: gr.HTML
    plots: gr.HTML
    lessons: gr.HTML
    revisions: gr.HTML
    back: gr.Row
    revision: gr.Dropdown
    rollback: gr.Button
    question: gr.Textbox
    answer: gr.Textbox
    ask: gr.Button
    asked: gr.HTML
    forget_persona: gr.Button
    receipts: gr.HTML


def build(reply_tokens: int, max_tokens: int) -> MemoryPanel:
    """Lay the panel out, within a column.

    Args:
        reply_tokens: length of a reply to begin with.
        max_tokens: the longest that can be chosen.
    """
    heading("Memory")
    now = gr.HTML(rendering.memory_now(None, None, 0), elem_id="now")
    mode = gr.Radio(_MODES, value="weights", label="Where the story is", elem_id="mode")
    strength = gr.Slider(
        0.0, 1.5, value=1.0, step=0.05, label="Strength of the memory",
        info="0 is exactly the base model.",
    )  # fmt: skip
    persona = gr.Dropdown([], label="You play", min_width=140)
    with gr.Accordion("This character", open=False, visible=False, elem_id="manage") as panel:
        actions = _build_actions(panel)
    with gr.Accordion("Settings", open=False, elem_id="settings"):
        temperature = gr.Slider(
            0.0, 1.5, value=0.0, step=0.05, label="Temperature",
            info="0 always takes the likeliest word.",
        )  # fmt: skip
        repetition = gr.Slider(
            1.0, 1.5, value=1.0, step=0.05, label="Repetition penalty",
            info="Over 1 where a model says the same over and over; names suffer from it, too.",
        )  # fmt: skip
        length = gr.Slider(
            8, max_tokens, value=reply_tokens, step=1, label="Longest reply, in tokens"
        )
    with gr.Accordion("Play somebody else", open=False):
        persona_name = gr.Textbox(label="Your name", max_length=60)
        persona_note = gr.Textbox(
            label="Who you are", max_length=500, placeholder="A tired sailor."
        )
        persona_add = gr.Button("Play this person")
    lorebook = lorebook_panel.build()
    with gr.Accordion("Notes for the prompt", open=False):
        use_notes = gr.Checkbox(value=True, label="Look things up in my notes")
        notes = gr.Textbox(
            label="Notes",
            info="Fitting paragraphs join the prompt of a turn. Never learned.",
            lines=4,
            max_lines=12,
            max_length=200_000,
        )
        notes_file = gr.UploadButton("Add a text or PDF file", size="sm")
    return MemoryPanel(
        now=now,
        mode=mode,
        strength=strength,
        temperature=temperature,
        repetition=repetition,
        length=length,
        persona=persona,
        persona_name=persona_name,
        persona_note=persona_note,
        persona_add=persona_add,
        lorebook=lorebook,
        use_notes=use_notes,
        notes=notes,
        notes_file=notes_file,
        actions=actions,
    )


def _build_actions(panel: gr.Accordion) -> CharacterActions:
    """Lay out the buttons for the active character."""
    with gr.Row():
        snapshot = gr.Button("Snapshot", size="sm", min_width=90)
        fork = gr.Button("Fork with chat", size="sm", min_width=110)
    with gr.Row():
        label = gr.Textbox(label="New name", max_length=120, min_width=120, scale=2)
        rename = gr.Button("Rename", size="sm", min_width=80)
    export = gr.Button("Prepare download", size="sm", min_width=130)
    files = gr.File(
        label="Downloads (copies; deleting a character does not reach them)",
        interactive=False,
        visible=False,
    )
    delete = gr.Button("Delete…", variant="stop", size="sm", min_width=110)
    return CharacterActions(
        panel=panel,
        snapshot=snapshot,
        fork=fork,
        export=export,
        files=files,
        label=label,
        rename=rename,
        delete=delete,
    )


def build_figures() -> FiguresPanel:
    """Lay out what is measured, below the rest of the page."""
    with gr.Accordion("What the model sees", open=False, elem_id="sees"):
        prompt = gr.HTML(rendering.prompt(None), elem_id="prompt")
    with gr.Accordion("What was learned, and what it costs", open=False, elem_id="figures"):
        with gr.Row():
            which = gr.Radio(
                [("What the character knows", "actor"), ("What it learned from you alone", "pair")],
                value="actor",
                label="Which memory",
                scale=4,
                min_width=260,
            )
            refresh = gr.Button("Refresh", min_width=110)
        tiles = gr.HTML(rendering.no_character(), elem_id="tiles")
        plots = gr.HTML(elem_id="plots")
        lessons = gr.HTML()
        heading("Revisions")
        revisions = gr.HTML()
        with gr.Row(visible=False) as back:
            revision = gr.Dropdown([], label="Go back to", scale=3, min_width=220)
            rollback = gr.Button("Go back to this revision…", min_width=180)
        heading("Ask for yourself", "How likely is an answer with the memory, and without it?")
        with gr.Row():
            question = gr.Textbox(label="Question", max_length=2000, min_width=220)
            answer = gr.Textbox(label="Right answer", max_length=2000, min_width=220)
            ask = gr.Button("Measure", min_width=110)
        asked = gr.HTML(elem_id="asked")
    with gr.Accordion("Receipts of this visit", open=False, elem_id="log"):
        receipts = gr.HTML(rendering.visit_log(()), elem_id="receipts")
        forget_persona = gr.Button(
            "Forget everything this person said…", variant="stop", size="md", elem_id="forget"
        )
    return FiguresPanel(
        prompt=prompt,
        which=which,
        refresh=refresh,
        tiles=tiles,
        plots=plots,
        lessons=lessons,
        revisions=revisions,
        back=back,
        revision=revision,
        rollback=rollback,
        question=question,
        answer=answer,
        ask=ask,
        asked=asked,
        forget_persona=forget_persona,
        receipts=receipts,
    )
