"""What floats over the page: the question before a deletion, and the way back after it."""

from __future__ import annotations

from dataclasses import dataclass

import gradio as gr


@dataclass(slots=True, kw_only=True)
class DeletionPanel:
    """The components around deletions that handlers read or change.

    `asked` holds what the question is about: a kind, and the key of a chat or a revision.
    """

    asked: gr.State
    confirm: gr.Column
    question: gr.HTML
    confirmed: gr.Button
    cancelled: gr.Button
    undo_box: gr.Row
    undo_text: gr.HTML
    undo: gr.Button
    finish: gr.Button
    result_box: gr.Column
    result: gr.HTML
    close_result: gr.Button


def build() -> DeletionPanel:
    """Lay the panel out; where it stands in the page does not matter."""
    asked = gr.State(("", ""))
    with gr.Column(visible=False, elem_id="confirm", elem_classes="danger") as confirm:
        question = gr.HTML()
        with gr.Row():
            confirmed = gr.Button("Yes, delete", variant="stop", min_width=110)
            cancelled = gr.Button("No, keep it", min_width=110)
    with gr.Row(visible=False, elem_id="undo") as undo_box:
        undo_text = gr.HTML()
        undo = gr.Button("Undo", variant="primary", size="sm", min_width=80, scale=0)
        finish = gr.Button("Remove now", size="sm", min_width=110, scale=0)
    with gr.Column(visible=False, elem_id="gone") as result_box:
        result = gr.HTML()
        close_result = gr.Button("Close the receipt", size="sm", min_width=120)
    return DeletionPanel(
        asked=asked,
        confirm=confirm,
        question=question,
        confirmed=confirmed,
        cancelled=cancelled,
        undo_box=undo_box,
        undo_text=undo_text,
        undo=undo,
        finish=finish,
        result_box=result_box,
        result=result,
        close_result=close_result,
    )
