"""The role-play page, where Gradio is installed."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence

from templora_memory.errors import InvalidSetting


def find_demo() -> Callable[[Sequence[str]], int]:
    """Return the page's `run`, which takes arguments and returns an exit code.

    Raises:
        InvalidSetting: Gradio is missing.
    """
    if importlib.util.find_spec("gradio") is None:
        raise InvalidSetting("The web app needs Gradio: pip install 'templora-memory[app]'.")
    from templora_memory.apps.roleplay.serve import run  # an extra

    return run
