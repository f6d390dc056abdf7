"""The third area: what was learned, what it costs, how to go back, what was removed."""

from __future__ import annotations

from dataclasses import dataclass

import gradio as gr

from . import rendering
from .characters_tab import heading


@dataclass(slots=True, kw_only=True)
class MemoryTab:
    """The components of the third area that handlers read or change."""

    which: gr.Radio
    refresh: gr.Button
    tiles: gr.HTML
    plots: gr.HTML
    lessons: gr.HTML
    revisions: gr.HTML
    back: gr.Column
    revision: gr.Dropdown
    rollback: gr.Button
    question: gr.Textbox
    answer: gr.Textbox
    ask: gr.Button
    asked: gr.HTML
    forget_persona: gr.Button
    receipts: gr.HTML


def build() -> MemoryTab:
    """Lay the area out, within a tab."""
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
        rollback = gr.Button("Go back to this revision", min_width=180)
    heading(
        "Ask for yourself",
        "How likely is an answer with the memory, and without it?",
    )
    with gr.Row():
        question = gr.Textbox(label="Question", max_length=2000, min_width=220)
        answer = gr.Textbox(label="Right answer", max_length=2000, min_width=220)
        ask = gr.Button("Measure", min_width=110)
    asked = gr.HTML(elem_id="asked")
    heading("Receipts")
    receipts = gr.HTML(rendering.visit_log(()), elem_id="receipts")
    forget_persona = gr.Button(
        "Forget everything this person said", variant="stop", size="md", elem_id="forget"
    )
    return MemoryTab(
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
