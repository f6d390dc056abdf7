"""Event handlers of newcomers: meet, read a file, paste a bio, preview, absorb."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr

from templora_memory import Message
from templora_memory.importers import (
    Character,
    ChatLog,
    FileRefused,
    World,
    documents,
    load,
    one_line,
    uses,
    world_character,
)

from . import bundled_characters, rendering
from .character_reply import greet
from .components import PageComponents, Updates
from .error_toasts import show_error, with_error_toasts
from .page_view import PageView
from .state import Actor, Persona, Visitor
from .studio import ActionRefused, Studio

_EXPORTED = ".templora"
SCROLL_TO = (
    "() => setTimeout(() => document.getElementById('{0}')?.scrollIntoView("
    "{{block: 'nearest', behavior: matchMedia('(prefers-reduced-motion: reduce)').matches "
    "? 'auto' : 'smooth'}}), 120)"
)
"""Script that shows an element, by its id."""
_TO_THE_TALK = (
    "() => { document.getElementById('who')?.scrollIntoView({block: 'nearest'}); "
    "document.querySelector('#say textarea')?.focus({preventScroll: true}); }"
)


class PreviewHandlers:
    """Handlers of whoever is not there yet."""

    def __init__(self, studio: Studio, page: PageComponents, view: PageView) -> None:
        self._studio = studio
        self._page = page
        self._view = view

    def wire(self) -> None:
        """Connect the components with these handlers."""
        p, c, v = self._page, self._page.characters, self._page.preview
        private: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
        shown = [p.pending, v.box, v.preview, v.examples, v.lore, v.absorb]
        show = SCROLL_TO.format("preview")
        for name, button in c.meet.items():
            meet = with_error_toasts(self._meet(name))
            button.click(meet, p.selection, shown, **private).then(None, js=show)
        read = [*shown, c.file, *self._view.all_components]
        c.file.upload(self.read, [*p.selection, c.file], read, **private).then(
            lambda: None, None, c.file, **private
        ).then(None, js=show)
        pasted = [*p.selection, c.paste_name, c.paste_bio]
        c.paste.click(self.paste, pasted, shown, **private).then(None, js=show)
        preview_inputs = [*p.selection, p.pending, v.examples, v.lore]
        gr.on(
            [v.examples.input, v.lore.input],
            with_error_toasts(self.preview_again),
            preview_inputs,
            v.preview,
            **private,
        )
        v.cancel.click(self._nobody, None, shown, **private)
        v.absorb.click(
            with_error_toasts(self.absorb),
            preview_inputs,
            [v.box, c.meet_box, *self._view.all_components],
            **private,
        ).then(None, js=_TO_THE_TALK)

    def _nobody(self) -> Updates:
        """Take the preview away; nothing of it can be absorbed any more."""
        v, kept = self._page.preview, gr.skip()
        return {
            self._page.pending: "",
            v.box: gr.update(visible=False),
            v.preview: "",
            v.examples: kept,
            v.lore: kept,
            v.absorb: gr.update(interactive=False),
        }

    def _previewed(self, offer: Callable[[], Updates]) -> Updates:
        """Return the preview of what was sent; without the one before it, if it is refused."""
        try:
            return offer()
        except Exception as error:  # noqa: BLE001  # shown, and logged if it is not known
            show_error(error)
            return self._nobody()

    # --- preview -------------------------------------------------------------------------------

    def _meet(self, name: str) -> Any:
        def meet(token: str, actor_id: str | None, persona_key: str | None) -> Updates:
            visitor, actor, persona = self._view.find(token, actor_id, persona_key)
            return self._offer(visitor, actor, persona, bundled_characters.actor(name))

        return meet

    def paste(
        self, token: str, actor_id: str | None, persona_key: str | None, name: str, bio: str
    ) -> Updates:
        """Preview a character from a name and a bio that were typed."""

        def offer() -> Updates:
            visitor, actor, persona = self._view.find(token, actor_id, persona_key)
            upload = _as_character(load((bio or "").encode(errors="replace"), filename="bio.txt"))
            if isinstance(upload, ChatLog):
                return self._offer(visitor, actor, persona, upload)
            if upload.source_format == "text" and not one_line(name or ""):
                raise ActionRefused("Give the character a name first.")
            if one_line(name or ""):
                upload = replace(upload, name=one_line(name), raw={})
            return self._offer(visitor, actor, persona, bundled_characters.from_character(upload))

        return self._previewed(offer)

    def read(
        self, token: str, actor_id: str | None, persona_key: str | None, path: str | None
    ) -> Updates:
        """Preview an uploaded character or chat, or import a memory; the file is removed."""

        def offer() -> Updates:
            if not path:
                raise ActionRefused("The file did not arrive: try again.")
            source = Path(path)
            try:
                visitor, actor, persona = self._view.find(token, actor_id, persona_key)
                if source.name.endswith(_EXPORTED):
                    return self._import(visitor, persona, source)
                upload = _as_character(load(source, filename=source.name))
            finally:
                source.unlink(missing_ok=True)
                with suppress(OSError):
                    source.parent.rmdir()
            if isinstance(upload, ChatLog):
                return self._offer(visitor, actor, persona, upload)
            return self._offer(visitor, actor, persona, bundled_characters.from_character(upload))

        return self._previewed(offer)

    def _import(self, visitor: Visitor, persona: Persona, source: Path) -> Updates:
        name = one_line(source.stem.replace("_", " ")) or "Imported"
        imported = self._studio.import_memory(visitor, source, name)
        greet(imported, imported.chat(persona), persona)
        gr.Info(f"{imported.label} is back, with everything it had learned: talk with it.")
        return {**self._nobody(), **self._view.all_updates(visitor, imported, persona)}

    def _offer(
        self, visitor: Visitor, actor: Actor | None, persona: Persona, candidate: Actor | ChatLog
    ) -> Updates:
        v = self._page.preview
        is_actor = isinstance(candidate, Actor)
        if isinstance(candidate, Actor):
            shown = self._preview(candidate, examples=True, lore=False)
        else:
            shown = rendering.chat_preview(candidate, actor, persona)
        return {
            self._page.pending: visitor.offer(candidate),
            v.box: gr.update(visible=True),
            v.preview: shown,
            v.examples: gr.update(
                value=True,
                visible=isinstance(candidate, Actor)
                and bool(candidate.character.example_dialogues),
            ),
            v.lore: gr.update(
                value=False, visible=isinstance(candidate, Actor) and bool(candidate.character.lore)
            ),
            v.absorb: gr.update(
                value="Absorb into weights" if is_actor else "Use as history",
                interactive=is_actor or actor is not None,
            ),
        }

    def _preview(self, actor: Actor, *, examples: bool, lore: bool) -> str:
        learned = documents(actor.character, examples=examples, lore=lore)
        chosen = uses(actor.character, examples=examples, lore=lore)
        tokens = self._studio.text_tokens(learned)
        seconds = self._studio.learning_estimate.seconds(tokens)
        return rendering.preview(actor, learned, chosen, tokens, seconds)

    def preview_again(  # noqa: PLR0917  # Gradio hands over positions
        self,
        token: str,
        actor_id: str | None,
        persona_key: str | None,
        key: str,
        examples: bool,  # noqa: FBT001  # Gradio hands over positions
        lore: bool,  # noqa: FBT001
    ) -> str:
        """Return the preview with other choices."""
        visitor, actor, persona = self._view.find(token, actor_id, persona_key)
        candidate = self._pending(visitor, key)
        if isinstance(candidate, ChatLog):
            return rendering.chat_preview(candidate, actor, persona)
        return self._preview(candidate, examples=examples, lore=lore)

    @staticmethod
    def _pending(visitor: Visitor, key: str) -> Actor | ChatLog:
        candidate = visitor.pending.get(key)
        if candidate is None:
            raise ActionRefused("Choose a character or a file first: this preview is old.")
        return candidate

    # --- learning ------------------------------------------------------------------------------

    def absorb(  # noqa: PLR0917  # Gradio hands over positions
        self,
        token: str,
        actor_id: str | None,
        persona_key: str | None,
        key: str,
        examples: bool,  # noqa: FBT001  # Gradio hands over positions
        lore: bool,  # noqa: FBT001
    ) -> Updates:
        """Begin to learn what was previewed, and let the talk begin meanwhile."""
        visitor, chosen, persona = self._view.find(token, actor_id, persona_key)
        candidate = self._pending(visitor, key)
        if isinstance(candidate, ChatLog):
            if chosen is None:
                raise ActionRefused("Absorb or choose a character first, then add its chat.")
            self._studio.learn_chat(visitor, chosen, persona, _said(candidate))
            actor = chosen
        else:
            learned = documents(candidate.character, examples=examples, lore=lore)
            if not learned:
                raise FileRefused("empty", "There is nothing to absorb with these choices.")
            actor = self._studio.add(visitor, candidate)
            greet(actor, actor.chat(persona), persona)
            self._studio.learn(visitor, actor, learned, "its bio")
        with visitor.lock:
            visitor.pending.pop(key, None)
            visitor.learned = None
        return {
            self._page.preview.box: gr.update(visible=False),
            self._page.characters.meet_box: gr.update(open=False),
            **self._view.all_updates(visitor, actor, persona),
        }


def _said(log: ChatLog) -> list[Message]:
    """What somebody said; a narrator's words are nobody's turn."""
    return [message for message in log.messages if message.role in {"user", "assistant"}]


def _as_character(upload: Character | ChatLog | World) -> Character | ChatLog:
    """A world is a character whose text is its lore; whoever has it may be told it."""
    return world_character(upload) if isinstance(upload, World) else upload
