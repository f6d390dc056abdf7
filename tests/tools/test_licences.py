"""The licences of what is installed."""

from email.message import Message

import pytest

from tools import licences


class Installed:
    def __init__(self, **fields):
        self.metadata = Message()
        self.version = "1"
        for name, value in fields.items():
            self.metadata[name.replace("_", "-")] = value


@pytest.fixture
def installed(monkeypatch):
    def run(**fields):
        monkeypatch.setattr(licences, "closure", lambda *_: {"one": Installed(**fields)})
        return licences.main([])

    return run


def test_what_the_core_needs_is_found_with_what_it_needs_itself():
    found = licences.closure("templora-memory", set())
    assert {"torch", "transformers", "safetensors", "jinja2", "markupsafe"} <= set(found)
    assert "gradio" not in found
    assert "fastapi" in licences.closure("templora-memory", {"serve"})


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"License_Expression": "MIT"}, 0),
        ({"Classifier": "License :: OSI Approved :: BSD License"}, 0),
        ({"License": "LGPLv3+"}, 0),
        ({"License": "AGPL-3.0"}, 1),
        ({"Classifier": "License :: OSI Approved :: GNU General Public License v3 (GPLv3)"}, 1),
        ({}, 1),
    ],
)
def test_licences_that_bind_or_are_missing_are_named(installed, capsys, fields, code):
    assert installed(**fields) == code
    assert ("To be looked at" in capsys.readouterr().err) == bool(code)
