"""A drop-down list whose choices may have changed since the page showed them."""

from __future__ import annotations

import gradio as gr


class Chooser(gr.Dropdown):
    """A drop-down list that hands over what was chosen, also where it is no choice any more.

    Gradio would refuse it before any handler is asked, and paint "Error" over every component that
    the handler might have changed. What is deleted may be chosen on a page that does not know yet,
    so handlers look up everything that a chooser gives them.
    """

    is_template = True  # shown as a Dropdown

    def preprocess(self, payload: str | float | list[str | int | float] | None) -> str | None:
        """Return the chosen value as the page sent it; None if it is no text."""
        return payload if isinstance(payload, str) else None
