"""Role-play with characters that live in weights and can be discarded: a page in the browser.

python -m templora_memory.apps.roleplay
templora demo
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from templora_memory import ParametricMemory

    from .app import RolePlayBlocks


def build_app(
    memory: ParametricMemory,
    *,
    home: str | os.PathLike[str] | None = None,
    grace: float = 60.0,
    idle: float = 1800.0,
) -> RolePlayBlocks:
    """Return the page over a memory service, which stays the caller's to close.

    Serve it with `launch_options`: other options may keep texts in the browser or fetch things.
    Leaving the page's `studio` open keeps a thread that discards who is gone; `app.studio.close()`
    discards everybody's temporary characters.

    Args:
        memory: the service; loads its model now.
        home: folder for kept characters; None: nothing outlives the studio.
        grace: seconds between closing the last tab and discarding its characters.
        idle: seconds without any action after which an open tab counts as closed.
    """
    # Gradio reads it once, when it is imported; without it, it asks hosts elsewhere
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    from .app import build  # noqa: PLC0415  # Gradio loads here

    return build(memory, home=Path(home) if home is not None else None, grace=grace, idle=idle)


def launch_options() -> dict[str, Any]:
    """Return the launch options with which nothing is shared, measured or kept in the browser.

    For ``app.launch(**launch_options())``.
    """
    from .app import launch_options as options  # noqa: PLC0415  # Gradio loads here

    return options()
