"""Find the web app: inside an installed wheel, or beside the package in a checkout."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from templora_memory.errors import InvalidSetting

_INSTALLED = "templora_memory._roleplay"
_CHECKOUT = "demos.roleplay"


def find_demo() -> Callable[[Sequence[str]], int]:
    """The app's `main`, which takes arguments and returns an exit code.

    Raises:
        InvalidSetting: Gradio is missing, or the app is not there.
    """
    if importlib.util.find_spec("gradio") is None:
        raise InvalidSetting("The web app needs Gradio: pip install 'templora-memory[app]'.")
    name = _INSTALLED
    if importlib.util.find_spec(name) is None:
        name, top = _CHECKOUT, Path(__file__).parents[2]
        if not (top / "demos" / "roleplay").is_dir():
            raise InvalidSetting("This installation has no web app: install the wheel again.")
        sys.path.append(str(top))
    main: Callable[[Sequence[str]], int] = importlib.import_module(f"{name}._serve").main
    return main
