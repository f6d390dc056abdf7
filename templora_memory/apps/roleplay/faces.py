"""Faces of characters and personas: portraits from their cards, emblems of ours, letters."""

from __future__ import annotations

import base64
import io
from html import escape

from .markup import styled
from .state import Actor, Persona
from .style import emblem

_THUMB = 160  # pixels


def picture_address(portrait: bytes | None) -> str:
    """A small picture as a data address; empty if there is none or it does not decode."""
    if portrait is None:
        return ""
    from PIL import Image  # noqa: PLC0415  # comes with Gradio

    try:
        with Image.open(io.BytesIO(portrait), formats=("PNG",)) as image:
            image.thumbnail((_THUMB, _THUMB * 2))
            small = image.convert("RGB")
        target = io.BytesIO()
        small.save(target, "JPEG", quality=85)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return ""  # a broken picture does not spoil a character
    return "data:image/jpeg;base64," + base64.b64encode(target.getvalue()).decode()


def _emblem_of(actor: Actor) -> str:
    return emblem(
        actor.art, actor.accent, _first_letter(actor.label), sum(actor.character.name.encode())
    )


def _first_letter(name: str) -> str:
    return escape(next((c for c in name if c.isalnum()), "?").upper())


def _address(svg: str) -> str:
    """A picture that we drew as a data address."""
    svg = svg.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()


def avatars(actor: Actor | None, persona: Persona) -> list[dict[str, str] | None]:
    """The pictures beside the messages of the user and of the character, as Gradio takes them."""
    if actor is None:
        return [None, None]
    drawn = emblem("", "", _first_letter(persona.name), sum(persona.name.encode()))
    addresses = (_address(drawn), actor.image or _address(_emblem_of(actor)))
    return [{"path": address, "url": address} for address in addresses]


def face(actor: Actor, note: str, state: str = "") -> str:
    """Emblem or portrait, name, a line about it, and its state."""
    shown = f'<img src="{actor.image}" alt="">' if actor.image else _emblem_of(actor)
    return (
        f'<span class="face">{shown}<span><b class="name" dir="auto">{escape(actor.label)}</b>'
        + (f'<span class="line" dir="auto">{escape(note)}</span>' if note else "")
        + (f'<span class="state">{escape(state)}</span>' if state else "")
        + "</span></span>"
    )


def gallery_card(actor: Actor) -> str:
    """Return the card of a bundled character in the gallery."""
    return styled(face(actor, actor.tagline))
