"""The colours and fonts of Gradio's own components."""

from __future__ import annotations

import gradio as gr

_INK = gr.themes.Color(
    name="ink",
    c50="#eef6f4",
    c100="#d6e9e5",
    c200="#aed3cb",
    c300="#7fb6ab",
    c400="#4e9285",
    c500="#2b7467",
    c600="#1d5c53",
    c700="#174a43",
    c800="#123a35",
    c900="#0d2a27",
    c950="#081c1a",
)
_SANS = ("ui-sans-serif", "system-ui", "Segoe UI", "Noto Sans", "Noto Sans CJK SC", "sans-serif")


def theme() -> gr.themes.Base:
    """Paper and ink, from fonts that are there; nothing is fetched."""
    return gr.themes.Base(
        primary_hue=_INK,
        secondary_hue=_INK,
        neutral_hue=gr.themes.colors.stone,
        radius_size=gr.themes.sizes.radius_lg,
        font=_SANS,
        font_mono=("ui-monospace", "Menlo", "Consolas", "monospace"),
    ).set(
        body_background_fill="#f6f2ea",
        body_background_fill_dark="#171513",
        body_text_color="#2a2622",
        body_text_color_dark="#ece7df",
        body_text_color_subdued="#5d554c",
        body_text_color_subdued_dark="#b5aca0",
        block_background_fill="#fffdf9",
        block_background_fill_dark="#211e1b",
        block_border_color="#e2dacd",
        block_border_color_dark="#3a352f",
        block_label_background_fill="#fffdf9",
        block_label_background_fill_dark="#211e1b",
        block_label_text_color="#4c453d",
        block_label_text_color_dark="#cfc6ba",
        block_title_text_color="#3b352f",
        block_title_text_color_dark="#ddd5ca",
        block_info_text_color="#5d554c",
        block_info_text_color_dark="#b5aca0",
        block_shadow="none",
        input_border_width="1px",
        input_background_fill="#ffffff",
        input_background_fill_dark="#2a2622",
        input_border_color="#8f867b",
        input_border_color_dark="#7d746a",
        input_placeholder_color="#6b635a",
        input_placeholder_color_dark="#a49b90",
        button_primary_background_fill="#1d5c53",
        button_primary_background_fill_hover="#174a43",
        button_primary_background_fill_dark="#2b7467",
        button_primary_text_color="#ffffff",
        button_primary_text_color_dark="#ffffff",
        button_secondary_background_fill="#ece5d9",
        button_secondary_background_fill_hover="#e0d7c8",
        button_secondary_background_fill_dark="#35302b",
        button_secondary_text_color="#2a2622",
        button_secondary_text_color_dark="#ece7df",
        button_cancel_background_fill="#9c2f21",
        button_cancel_background_fill_hover="#7e2419",
        button_cancel_background_fill_dark="#9c2f21",
        button_cancel_text_color="#ffffff",
        button_cancel_text_color_dark="#ffffff",
    )
