"""The second area: talk with a character, and see everything that the model is shown."""

from __future__ import annotations

from dataclasses import dataclass

import gradio as gr

from . import rendering

MODES = [
    ("Memory in weights", "weights"),
    ("Card in the prompt", "prompt"),
    ("Both", "both"),
    ("Neither", "neither"),
]


@dataclass(slots=True, kw_only=True)
class TalkTab:
    """The components of the second area that handlers read or change."""

    chat: gr.Chatbot
    say: gr.Textbox
    send: gr.Button
    stop: gr.Button
    status: gr.HTML
    prompt: gr.HTML
    mode: gr.Radio
    strength: gr.Slider
    temperature: gr.Slider
    length: gr.Slider
    new_chat: gr.Button
    persona_name: gr.Textbox
    persona_note: gr.Textbox
    persona_add: gr.Button
    use_lore: gr.Checkbox
    lorebook: gr.HTML
    use_notes: gr.Checkbox
    notes: gr.Textbox
    notes_file: gr.UploadButton


def build(reply_tokens: int, max_tokens: int) -> TalkTab:
    """Lay the area out, within a tab.

    Args:
        reply_tokens: length of a reply to begin with.
        max_tokens: the longest that can be chosen.
    """
    with gr.Row():
        with gr.Column(scale=3, min_width=320):
            chat = gr.Chatbot(
                label="Conversation",
                elem_id="chat",
                height=500,
                editable="all",
                buttons=["copy", "copy_all"],
                group_consecutive_messages=False,
                allow_tags=False,
                sanitize_html=True,
                latex_delimiters=[],
                feedback_options=None,
                allow_file_downloads=False,
                placeholder="Nobody is here yet. Meet a character in the first tab.",
            )
            status = gr.HTML(rendering.status_line(None, None, None, 0), elem_id="status")
            say = gr.Textbox(
                label="Your message",
                lines=1,
                max_lines=8,
                max_length=20_000,
                placeholder="Ask about something in the story",
                elem_id="say",
            )
            with gr.Row():
                send = gr.Button("Send", variant="primary", min_width=110)
                stop = gr.Button("Stop", min_width=90)
                new_chat = gr.Button("New chat", min_width=110)
        with gr.Column(scale=1, min_width=280):
            mode = gr.Radio(MODES, value="weights", label="Where the story is", elem_id="mode")
            strength = gr.Slider(
                0.0, 1.5, value=1.0, step=0.05, label="Strength of the memory",
                info="0 is exactly the base model.",
            )  # fmt: skip
            temperature = gr.Slider(
                0.0, 1.5, value=0.0, step=0.05, label="Temperature",
                info="0 always takes the likeliest word.",
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
            with gr.Accordion("Lorebook", open=False):
                use_lore = gr.Checkbox(value=True, label="Use it")
                lorebook = gr.HTML(rendering.lorebook(None))
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
    with gr.Accordion("What the model sees", open=False, elem_id="sees"):
        prompt = gr.HTML(rendering.prompt(None), elem_id="prompt")
    return TalkTab(
        chat=chat,
        say=say,
        send=send,
        stop=stop,
        status=status,
        prompt=prompt,
        mode=mode,
        strength=strength,
        temperature=temperature,
        length=length,
        new_chat=new_chat,
        persona_name=persona_name,
        persona_note=persona_note,
        persona_add=persona_add,
        use_lore=use_lore,
        lorebook=lorebook,
        use_notes=use_notes,
        notes=notes,
        notes_file=notes_file,
    )
