"""Event handlers of the first area: choose, preview, absorb, copy, delete."""

from __future__ import annotations

import time
from collections.abc import Iterator
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
from .components import TALK, PageComponents, Updates
from .error_toasts import with_error_toasts
from .page_view import PageView
from .state import Actor, Persona, Visitor
from .studio import ActionRefused, Studio

_EXPORTED = ".templora"
_EVERY = 0.4  # seconds between two pictures of the progress
_PATIENCE = 10.0


class CharacterHandlers:
    """Handlers of the first area."""

    def __init__(self, studio: Studio, page: PageComponents, view: PageView) -> None:
        self._studio = studio
        self._page = page
        self._view = view

    def wire(self) -> None:
        """Connect the components of the first area with these handlers."""
        p, c, actions = self._page, self._page.characters_tab, self._page.characters_tab.actions
        private: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
        shown = [
            p.pending,
            c.box,
            c.preview,
            c.examples,
            c.lore,
            c.absorb,
            actions.deleted,
            c.talk,
        ]
        shown += [c.progress, c.probes]
        for name, button in c.meet.items():
            button.click(with_error_toasts(self._meet(name)), p.selection, shown, **private).then(
                None, js=_SCROLL.format("preview")
            )
        read = [*shown, c.file, *self._view.all_components]
        c.file.upload(with_error_toasts(self.read), [*p.selection, c.file], read, **private).then(
            lambda: None, None, c.file, **private
        ).then(None, js=_SCROLL.format("preview"))
        c.paste.click(
            with_error_toasts(self.paste),
            [*p.selection, c.paste_name, c.paste_bio],
            shown,
            **private,
        )
        preview_inputs = [*p.selection, p.pending, c.examples, c.lore]
        gr.on(
            [c.examples.input, c.lore.input],
            with_error_toasts(self.preview_again),
            preview_inputs,
            c.preview,
            **private,
        )
        c.cancel.click(lambda: {c.box: gr.update(visible=False), p.pending: ""}, None,
                       [c.box, p.pending], **private)  # fmt: skip
        learning = [c.box, c.progress, c.probes, c.stop, c.talk, *self._view.all_components]
        learning_event = c.absorb.click(
            with_error_toasts(self.absorb), preview_inputs, learning, concurrency_limit=8, **private
        )
        learning_event.then(
            with_error_toasts(self.after_absorb),
            p.selection,
            [c.stop, *self._view.all_components],
            **private,
        )
        c.stop.click(
            with_error_toasts(self.stopped),
            p.selection,
            [c.progress, c.probes, c.stop, *self._view.all_components],
            cancels=[learning_event],
            **private,
        )
        c.talk.click(lambda: gr.Tabs(selected=TALK), None, p.tabs, **private).then(
            None, js="() => document.querySelector('#say textarea')?.focus()"
        )
        gr.on(
            [p.active.input, p.persona.input],
            with_error_toasts(self.choose),
            p.selection,
            self._view.all_components,
            **private,
        )
        self._wire_management(private)

    def _wire_management(self, private: dict[str, Any]) -> None:
        p, c, actions = self._page, self._page.characters_tab, self._page.characters_tab.actions
        components = self._view.all_components
        actions.snapshot.click(with_error_toasts(self.snapshot), p.selection, components, **private)
        actions.fork.click(with_error_toasts(self.fork), p.selection, components, **private)
        actions.export.click(with_error_toasts(self.export), p.selection, actions.files, **private)
        actions.rename.click(
            with_error_toasts(self.rename),
            [*p.selection, actions.label],
            [actions.label, *components],
            **private,
        )
        actions.keep.input(
            with_error_toasts(self.keep), [*p.selection, actions.keep], components, **private
        )
        actions.delete.click(
            with_error_toasts(self.ask),
            p.selection,
            [actions.confirm, actions.question, actions.deleted],
            **private,
        ).then(None, js=_SCROLL.format("confirm"))
        actions.delete_cancelled.click(
            lambda: gr.update(visible=False), None, actions.confirm, **private
        )
        actions.delete_confirmed.click(
            with_error_toasts(self.delete),
            p.selection,
            [actions.deleted, c.talk, c.progress, c.probes, *components],
            **private,
        ).then(None, js=_SCROLL.format("gone"))

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
        visitor, actor, persona = self._view.find(token, actor_id, persona_key)
        upload = _as_character(load((bio or "").encode(errors="replace"), filename="bio.txt"))
        if isinstance(upload, ChatLog):
            return self._offer(visitor, actor, persona, upload)
        if upload.source_format == "text" and not one_line(name or ""):
            raise ActionRefused("Give the character a name first.")
        if one_line(name or ""):
            upload = _renamed(upload, one_line(name))
        return self._offer(visitor, actor, persona, bundled_characters.from_character(upload))

    def read(
        self, token: str, actor_id: str | None, persona_key: str | None, path: str | None
    ) -> Updates:
        """Preview an uploaded character or chat, or import a memory; the file is removed."""
        if not path:
            raise ActionRefused("The file did not arrive: try again.")
        source = Path(path)
        try:
            visitor, actor, persona = self._view.find(token, actor_id, persona_key)
            if source.name.endswith(_EXPORTED):
                imported = self._studio.import_memory(
                    visitor, source, one_line(source.stem.replace("_", " ")) or "Imported"
                )
                gr.Info(f"{imported.label} is back, with everything it had learned.")
                return {
                    self._page.characters_tab.box: gr.update(visible=False),
                    **self._view.all_updates(visitor, imported, persona),
                }
            upload = _as_character(load(source, filename=source.name))
        finally:
            source.unlink(missing_ok=True)
            with suppress(OSError):
                source.parent.rmdir()
        candidate = (
            bundled_characters.from_character(upload) if isinstance(upload, Character) else upload
        )
        return self._offer(visitor, actor, persona, candidate)

    def _offer(
        self, visitor: Visitor, actor: Actor | None, persona: Persona, candidate: Actor | ChatLog
    ) -> Updates:
        c = self._page.characters_tab
        is_actor = isinstance(candidate, Actor)
        if isinstance(candidate, Actor):
            candidate.image = rendering.picture_address(candidate.character.portrait)
            shown = self._preview(candidate, examples=True, lore=False)
        else:
            shown = rendering.chat_preview(candidate, actor, persona)
        hidden = gr.update(visible=False)
        return {
            self._page.pending: visitor.offer(candidate),
            c.box: gr.update(visible=True),
            c.preview: shown,
            c.examples: gr.update(
                value=True,
                visible=isinstance(candidate, Actor)
                and bool(candidate.character.example_dialogues),
            ),
            c.lore: gr.update(
                value=False, visible=isinstance(candidate, Actor) and bool(candidate.character.lore)
            ),
            c.absorb: gr.update(
                value="Absorb into weights" if is_actor else "Use as history",
                interactive=is_actor or actor is not None,
            ),
            c.actions.deleted: hidden,
            c.talk: hidden,
            c.progress: hidden,
            c.probes: hidden,
        }

    def _preview(self, actor: Actor, *, examples: bool, lore: bool) -> str:
        split = self._studio.memory.backend.split

        def count(text: str) -> int:
            return len(split(text, 1))

        learned = documents(actor.character, examples=examples, lore=lore)
        chosen = uses(actor.character, examples=examples, lore=lore)
        return rendering.preview(actor, learned, chosen, count)

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
    ) -> Iterator[Updates]:
        """Learn what was previewed, and show how far it is."""
        visitor, chosen, persona = self._view.find(token, actor_id, persona_key)
        candidate = self._pending(visitor, key)
        with visitor.lock:
            visitor.pending.pop(key, None)
        if isinstance(candidate, ChatLog):
            if chosen is None:
                raise ActionRefused("Absorb or choose a character first, then add its chat.")
            yield from self._absorb_chat(visitor, chosen, persona, candidate)
            return
        learned = documents(candidate.character, examples=examples, lore=lore)
        if not learned:
            raise FileRefused("empty", "There is nothing to absorb with these choices.")
        actor = self._studio.add(visitor, candidate)
        visitor.learning.add(actor.id)
        try:
            yield from self._absorb(visitor, actor, persona, learned)
        finally:
            visitor.learning.discard(actor.id)

    def _absorb(
        self, visitor: Visitor, actor: Actor, persona: Persona, learned: Any
    ) -> Iterator[Updates]:
        c = self._page.characters_tab
        label = f"{actor.label} is learning itself"
        asking = rendering.progress(
            label, None, doing="The untouched model is asked a few facts first"
        )
        yield {
            c.box: gr.update(visible=False),
            c.progress: gr.update(visible=True, value=asking),
            c.stop: gr.update(visible=True),
            c.probes: gr.update(visible=False),
        }
        steps = self._first_probe(visitor, actor)
        for rows in steps:
            yield {c.probes: _table(rows, "now", "What the untouched model says")}
        yield from self._steps(self._studio.absorb(visitor, actor, learned, "its bio"), label)
        yield {
            c.progress: gr.update(
                value=rendering.progress(label, None, doing="Asking the facts again")
            )
        }
        for rows in self._studio.probe(actor):
            yield {c.probes: _table(rows, "with memory", _AFTER)}
        greet(actor, actor.chat(persona), persona)
        self._studio.save(visitor, actor)
        curve = rendering.curve(actor.absorbs[-1].perplexities)
        yield {
            c.progress: gr.update(value=rendering.absorb_result(actor) + curve),
            c.stop: gr.update(visible=False),
            c.talk: gr.update(visible=True, value=f"Talk with {actor.label}"[:60]),
            **self._view.all_updates(visitor, actor, persona),
        }

    def _first_probe(self, visitor: Visitor, actor: Actor) -> Iterator[Any]:
        """Stopped here, the character has learned nothing and goes."""
        try:
            yield from self._studio.base_probes(actor)
        except BaseException:
            self._studio.drop(visitor, actor)
            raise

    def _absorb_chat(
        self, visitor: Visitor, actor: Actor, persona: Persona, log: ChatLog
    ) -> Iterator[Updates]:
        c = self._page.characters_tab
        label = f"{actor.label} is learning a chat"
        yield {
            c.box: gr.update(visible=False),
            c.stop: gr.update(visible=True),
            c.probes: gr.update(visible=False),
            c.progress: gr.update(visible=True, value=rendering.progress(label, None)),
        }
        yield from self._steps(self._studio.absorb_chat(visitor, actor, persona, _said(log)), label)
        yield {
            c.progress: gr.update(value=rendering.absorb_result(actor) if actor.absorbs else ""),
            c.stop: gr.update(visible=False),
            c.talk: gr.update(visible=True, value=f"Talk with {actor.label}"[:60]),
            **self._view.all_updates(visitor, actor, persona),
        }

    def _steps(self, steps: Any, label: str) -> Iterator[Updates]:
        c, last = self._page.characters_tab, 0.0
        try:
            for step in steps:
                now = time.monotonic()
                if now - last >= _EVERY:
                    last = now
                    yield {c.progress: gr.update(value=rendering.progress(label, step))}
        finally:
            steps.close()

    def after_absorb(self, token: str, actor_id: str | None, persona_key: str | None) -> Updates:
        """After an absorb, however it ended: what is shown is what there is."""
        visitor, actor, persona = self._view.find(token, actor_id, persona_key)
        if actor is None:
            actor = next(reversed(visitor.actors.values()), None)
        return {
            self._page.characters_tab.stop: gr.update(visible=bool(visitor.learning)),
            **self._view.all_updates(visitor, actor, persona),
        }

    def stopped(self, token: str, actor_id: str | None, persona_key: str | None) -> Updates:
        """Wait until learning has let go, then show what is left."""
        visitor, _, _ = self._view.find(token, actor_id, persona_key)
        stopping = set(visitor.learning)
        until = time.monotonic() + _PATIENCE
        while visitor.learning and time.monotonic() < until:
            time.sleep(0.05)
        self._studio.settle(_PATIENCE)
        stays = stopping & set(visitor.actors)
        gr.Info(
            "Stopped. Nothing of it stays in the weights."
            if stopping and not stays
            else "Stopped. What was learned by then stays, and can be deleted."
        )
        c = self._page.characters_tab
        hidden = gr.update(visible=False)
        return {
            **self.after_absorb(token, actor_id, persona_key),
            c.progress: hidden,
            c.probes: hidden,
            c.stop: hidden,
        }

    # --- the visitor's characters --------------------------------------------------------------

    def choose(self, token: str, actor_id: str | None, persona_key: str | None) -> Updates:
        """Show another character or persona."""
        visitor, actor, persona = self._view.find(token, actor_id, persona_key)
        if actor is not None:
            greet(actor, actor.chat(persona), persona)
        return self._view.all_updates(visitor, actor, persona)

    def _chosen(
        self, token: str, actor_id: str | None, persona_key: str | None
    ) -> tuple[Visitor, Actor, Persona]:
        visitor, _, persona = self._view.find(token, actor_id, persona_key)
        return visitor, self._studio.actor(visitor, actor_id), persona

    def snapshot(self, *selection: Any) -> Updates:
        """Copy the active character without its chats."""
        visitor, actor, persona = self._chosen(*selection)
        copy = self._studio.copy(visitor, actor, chats=False)
        gr.Info(f"{copy.label} holds what {actor.label} knows now.")
        return self._view.all_updates(visitor, actor, persona)

    def fork(self, *selection: Any) -> Updates:
        """Copy the active character with its chats, and go on with the copy."""
        visitor, actor, persona = self._chosen(*selection)
        copy = self._studio.copy(visitor, actor, chats=True)
        gr.Info(f"{copy.label} goes on from here on its own.")
        return self._view.all_updates(visitor, copy, persona)

    def export(self, *selection: Any) -> Any:
        """Prepare the files of the active character for download."""
        visitor, actor, persona = self._chosen(*selection)
        paths = self._studio.export(visitor, actor, persona)
        return gr.update(visible=True, value=[str(path) for path in paths])

    def rename(self, token: str, actor_id: str, persona_key: str, label: str) -> Updates:
        """Give the active character another name."""
        visitor, actor, persona = self._chosen(token, actor_id, persona_key)
        self._studio.rename(visitor, actor, one_line(label or ""))
        return {
            self._page.characters_tab.actions.label: "",
            **self._view.all_updates(visitor, actor, persona),
        }

    def keep(
        self,
        token: str,
        actor_id: str,
        persona_key: str,
        saved: bool,  # noqa: FBT001  # Gradio hands over positions
    ) -> Updates:
        """Make the active character outlive the visit, or stop that."""
        visitor, actor, persona = self._chosen(token, actor_id, persona_key)
        self._studio.keep(visitor, actor, saved=saved)
        return self._view.all_updates(visitor, actor, persona)

    def ask(self, *selection: Any) -> Updates:
        """Ask whether the active character is to be deleted."""
        _, actor, _ = self._chosen(*selection)
        c = self._page.characters_tab
        return {
            c.actions.confirm: gr.update(visible=True),
            c.actions.question: rendering.deletion_question(actor),
            c.actions.deleted: gr.update(visible=False),
        }

    def delete(self, *selection: Any) -> Updates:
        """Delete the active character, and show what was removed."""
        visitor, actor, persona = self._chosen(*selection)
        result = self._studio.delete(visitor, actor)
        left = next(iter(visitor.actors.values()), None)
        c = self._page.characters_tab
        hidden = gr.update(visible=False)
        return {
            **self._view.all_updates(visitor, left, persona),
            c.actions.deleted: gr.update(visible=True, value=rendering.deletion_result(result)),
            c.talk: hidden,
            c.progress: hidden,
            c.probes: hidden,
        }


_AFTER = "Asked with nothing but the question in the prompt"
_SCROLL = (
    "() => setTimeout(() => document.getElementById('{0}')?.scrollIntoView("
    "{{block: 'nearest', behavior: matchMedia('(prefers-reduced-motion: reduce)').matches "
    "? 'auto' : 'smooth'}}), 120)"
)


def _table(rows: Any, now: str, caption: str) -> Any:
    return gr.update(visible=True, value=rendering.probes(rows, now=now, caption=caption))


def _said(log: ChatLog) -> list[Message]:
    """What somebody said; a narrator's words are nobody's turn."""
    return [message for message in log.messages if message.role in {"user", "assistant"}]


def _as_character(upload: Character | ChatLog | World) -> Character | ChatLog:
    """A world is a character whose text is its lore; whoever has it may be told it."""
    return world_character(upload) if isinstance(upload, World) else upload


def _renamed(character: Character, name: str) -> Character:
    return replace(character, name=name, raw={})
