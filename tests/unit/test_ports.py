"""The ports are public: every name can be imported, and is on the page about them."""

import re
from pathlib import Path

from templora_memory import ports

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "ports.md"


def test_every_name_of_the_ports_is_documented():
    words = set(re.findall(r"\w+", PAGE.read_text(encoding="utf-8")))
    assert set(ports.__all__) <= words
    assert all(hasattr(ports, name) for name in ports.__all__)


def test_every_class_defined_in_the_ports_is_exported():
    own = {
        name
        for name, value in vars(ports).items()
        if isinstance(value, type) and value.__module__ == ports.__name__
    }
    assert own <= set(ports.__all__)
