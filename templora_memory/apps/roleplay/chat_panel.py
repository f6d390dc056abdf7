"""The middle of the page: the conversation, and what is written into it."""

from __future__ import annotations

from dataclasses import dataclass

import gradio as gr

from . import comparison, rendering
from .characters_panel import PreviewPanel, build_preview


@dataclass(slots=True, kw_only=True)
class ChatPanel:
    """The components of the middle that handlers read or change."""

    active: gr.Dropdown
    chats: gr.Dropdown
    keep: gr.Checkbox
    preview: PreviewPanel
    progress: gr.HTML
    stop_learning: gr.Button
    dismiss: gr.Button
    watch_box: gr.Accordion
    watch: gr.HTML
    chat: gr.Chatbot
    swipes: gr.Row
    swipe_left: gr.Button
    swipe_number: gr.HTML
    swipe_right: gr.Button
    say: gr.Textbox
    send: gr.Button
    stop: gr.Button
    go_on: gr.Button
    impersonate: gr.Button
    new_chat: gr.Button
    delete_chat: gr.Button
    status: gr.HTML
    compare: gr.Button
    with_history: gr.Checkbox
    compared: gr.HTML


def build() -> ChatPanel:
    """Lay the panel out, within a column."""
    with gr.Column(elem_id="talk"):  # as high as the screen: the box to write in is always there
        with gr.Row(elem_id="who"):
            active = gr.Dropdown([], label="Active character", min_width=140, scale=2)
            chats = gr.Dropdown([], label="Chat", min_width=140, scale=2)
            keep = gr.Checkbox(
                value=False, label="Keep on this machine", min_width=150, elem_id="keep", scale=1
            )
        preview = build_preview()
        with gr.Row(elem_id="learning"):
            progress = gr.HTML(visible=False, elem_id="progress")
            stop_learning = gr.Button(
                "Stop learning", size="sm", visible=False, min_width=110, scale=0
            )
            dismiss = gr.Button("Dismiss", size="sm", visible=False, min_width=90, scale=0)
        chat = gr.Chatbot(
            label="Conversation",
            show_label=False,  # it would lie on the first message
            elem_id="chat",
            height="auto",
            editable="all",
            buttons=["copy", "copy_all"],
            group_consecutive_messages=False,
            allow_tags=False,
            sanitize_html=True,
            latex_delimiters=[],
            feedback_options=None,
            allow_file_downloads=False,
            layout="bubble",
            placeholder=rendering.nobody(),
        )
        with gr.Row(visible=False, elem_id="swipes") as swipes:
            swipe_left = gr.Button("◀ Previous answer", size="sm", min_width=90, scale=0)
            swipe_number = gr.HTML(elem_id="swipe-number")
            swipe_right = gr.Button("Next answer ▶", size="sm", min_width=90, scale=0)
        with gr.Row(elem_id="write"):
            say = gr.Textbox(
                label="Your message",
                lines=1,
                max_lines=8,
                max_length=20_000,
                placeholder="Ask about the story",
                elem_id="say",
                scale=5,
                min_width=160,
            )
            send = gr.Button("Send", variant="primary", min_width=86, scale=0, interactive=False)
            stop = gr.Button("Stop", min_width=86, scale=0, interactive=False)
    with gr.Row(elem_id="below"):
        status = gr.HTML(rendering.status_line(None, None, None, 0), elem_id="status")
        go_on = gr.Button("Continue", size="sm", min_width=84, scale=0, interactive=False)
        impersonate = gr.Button("Impersonate", size="sm", min_width=100, scale=0, interactive=False)
        new_chat = gr.Button("New chat", size="sm", min_width=90, scale=0)
        delete_chat = gr.Button("Delete chat…", size="sm", min_width=110, scale=0)
    with gr.Accordion("Compare four ways", open=False, elem_id="comparing"):
        compared = gr.HTML(comparison.no_comparison(), elem_id="compared")
        with gr.Row():
            compare = gr.Button("Answer four ways", variant="primary", min_width=150)
            with_history = gr.Checkbox(
                value=False,
                label="With the conversation so far",
                info="Else right answers given before would help those without a memory.",
                min_width=220,
            )
    with gr.Accordion("Watch it learn", open=False, visible=False, elem_id="watching") as watch_box:
        watch = gr.HTML(elem_id="watch")
    return ChatPanel(
        active=active,
        chats=chats,
        keep=keep,
        preview=preview,
        progress=progress,
        stop_learning=stop_learning,
        dismiss=dismiss,
        watch_box=watch_box,
        watch=watch,
        chat=chat,
        swipes=swipes,
        swipe_left=swipe_left,
        swipe_number=swipe_number,
        swipe_right=swipe_right,
        say=say,
        send=send,
        stop=stop,
        go_on=go_on,
        impersonate=impersonate,
        new_chat=new_chat,
        delete_chat=delete_chat,
        status=status,
        compare=compare,
        with_history=with_history,
        compared=compared,
    )
