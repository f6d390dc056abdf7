"""What importing loads, and what is public."""

import subprocess
import sys
from pathlib import Path

import langchain

import langchain_templora


def test_importing_loads_neither_torch_nor_langchain():
    code = (
        "import sys, langchain_templora; "
        "print([m for m in ('torch', 'transformers', 'langchain', 'langgraph', 'llguidance') "
        "if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_public_names():
    assert langchain_templora.__all__ == [
        "ChatTempLora", "ContextOverflow", "TempLoraChatMessageHistory", "__version__",
    ]  # fmt: skip
    assert all(hasattr(langchain_templora, name) for name in langchain_templora.__all__)
    assert (Path(langchain_templora.__file__).parent / "py.typed").exists()


def test_the_folder_of_this_integration_does_not_shadow_langchain():
    assert "site-packages" in langchain.__file__
