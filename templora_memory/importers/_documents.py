"""Characters written as documents: text, Markdown, YAML, PDF."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import PurePath
from typing import Any

from templora_memory.importers._cards import character, is_card
from templora_memory.importers._text import decode, one_line, plain
from templora_memory.importers._values import Character, FileRefused, Limits

_HEADING = re.compile(r"^#{1,3}[ \t]+(.{1,200})$", re.MULTILINE)
_FRONT = re.compile(r"\A---[ \t]*\n(.*?)\n---[ \t]*(?:\n|\Z)", re.DOTALL)
_NAME_LINE = re.compile(r"^name[ \t]*:[ \t]*(.{1,200})$", re.MULTILINE | re.IGNORECASE)
_FIELD = re.compile(
    r"^(name|bot|char_name|context|greeting|char_persona)[ \t]*:", re.MULTILINE | re.IGNORECASE
)
_GUESSED = "The encoding was guessed; check that special characters are right."


def stem(filename: str) -> str:
    """A file's name as a name for a person."""
    return one_line(PurePath(filename.replace("\\", "/")).stem.replace("_", " "))


def looks_like_yaml(text: str) -> bool:
    """Whether a text has the fields of a YAML character at its left margin."""
    found = {hit[1].lower() for hit in _FIELD.finditer(text[:20_000])}
    return bool(found & {"name", "bot", "char_name"}) and bool(
        found & {"context", "greeting", "char_persona"}
    )


def read_text(data: bytes, filename: str, limits: Limits) -> Character:
    """A bio as text or Markdown; its name is a front matter's, the first heading's, the file's.

    Raises:
        FileRefused: `too_large`, `unsupported_type`, `empty`.
    """
    if len(data) > limits.text:
        raise FileRefused(
            "too_large",
            f"This text has {len(data) / 1e6:.1f} MB, the limit is {limits.text / 1e6:.0f} MB.",
        )
    text, guessed = decode(data)
    if looks_like_yaml(text):
        return read_yaml(text, filename, limits)
    name = ""
    if front := _FRONT.match(text.replace("\r\n", "\n")):
        hit = _NAME_LINE.search(front[1])
        name = one_line(hit[1].strip("\"' ")) if hit else ""
        text = text.replace("\r\n", "\n")[front.end() :]
    if heading := _HEADING.search(text[:2000]):
        name = name or one_line(heading[1].strip("*_ #"))
    body = plain(text)
    if not body:
        raise FileRefused("empty", "This file has no text: there is nothing to absorb.")
    kind = "Markdown" if filename.lower().endswith((".md", ".markdown")) else "text"
    return Character(
        name=name or stem(filename) or "Nameless",
        description=body,
        source_format=kind,
        warnings=(_GUESSED,) if guessed else (),
    )


def read_yaml(text: str, filename: str, limits: Limits) -> Character:
    """A character of text-generation-webui as YAML. Every scalar is text; aliases are refused.

    Raises:
        FileRefused: `needs_extra`, `too_large`, `bad_file`, and what a card is refused for.
    """
    try:
        import yaml  # noqa: PLC0415  # an extra
    except ImportError as error:
        raise FileRefused(
            "needs_extra", "Reading YAML needs PyYAML: pip install 'templora-memory[importers]'."
        ) from error
    if len(text) > limits.yaml:
        raise FileRefused(
            "too_large", f"This YAML has over {limits.yaml / 1e6:.1f} MB: save it as JSON or text."
        )
    loader = getattr(yaml, "CBaseLoader", yaml.BaseLoader)
    try:
        depth = 0
        for event in yaml.parse(text, Loader=loader):
            if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
                raise FileRefused("bad_file", "This YAML has anchors or aliases: write it without.")
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            if depth > limits.depth:
                raise FileRefused("bad_file", "This YAML is nested too deeply for a character.")
        value: Any = yaml.load(text, Loader=loader)  # noqa: S506  # makes only text
    except (yaml.YAMLError, RecursionError) as error:
        raise FileRefused("bad_file", "This YAML is damaged: check its indentation.") from error
    if not is_card(value):
        raise FileRefused("not_a_card", "This YAML has no name with a context or a greeting.")
    return character(value, source="YAML", filename=stem(filename))


def read_pdf(data: bytes, filename: str, limits: Limits) -> Character:
    """The text of a PDF as a bio, read in a process of its own with bounded time and memory.

    Raises:
        FileRefused: `needs_extra`, `bad_file`, `pdf_no_text`, `too_large`.
    """
    order = json.dumps({"pages": limits.pages, "text": limits.text, "seconds": limits.pdf_seconds})
    command = [sys.executable, "-m", "templora_memory.importers._pdf", order]
    try:
        done = subprocess.run(  # noqa: S603  # our own module
            command, input=data, capture_output=True, timeout=limits.pdf_seconds + 5, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise FileRefused(
            "bad_file", "This PDF takes too long to read: save it as text."
        ) from error
    answer = json.loads(done.stdout) if done.returncode == 0 and done.stdout else {}
    if answer.get("error") == "needs_extra":
        raise FileRefused(
            "needs_extra", "Reading PDF needs pypdf: pip install 'templora-memory[importers]'."
        )
    if "text" not in answer:
        raise FileRefused(
            "bad_file", "This PDF is damaged, encrypted or too costly to read: save it as text."
        )
    body = plain(str(answer["text"]))
    if not body:
        raise FileRefused("pdf_no_text", "This PDF has no text, only pictures: paste the bio.")
    cut = (f"Only the first {limits.pages} pages were read.",) if answer.get("cut") else ()
    return Character(
        name=stem(filename) or "Nameless", description=body, source_format="PDF", warnings=cut
    )
