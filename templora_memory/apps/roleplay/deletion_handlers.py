"""Event handlers of everything that deletes: ask, delete, undo, remove for good."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import gradio as gr

from templora_memory.errors import UnknownMemory
from templora_memory.importers import one_line

from . import deletion_rendering
from .character_reply import greet
from .components import PageComponents, Updates
from .error_toasts import with_error_toasts
from .page_view import PageView
from .state import Actor, Chat, Persona, Visitor
from .studio import ActionRefused, Studio

Kind: TypeAlias = Literal["character", "chat", "persona", "rollback"]
Asked: TypeAlias = tuple[Kind, str]
"""What a question is about, and the key of a chat, or memory and revision."""
_FOCUS = (
    "() => setTimeout(() => document.querySelector('#confirm button:last-of-type')?.focus(), 150)"
)


class DeletionHandlers:
    """Handlers of deletions."""

    def __init__(self, studio: Studio, page: PageComponents, view: PageView) -> None:
        self._studio = studio
        self._page = page
        self._view = view

    def wire(self) -> None:
        """Connect the components with these handlers."""
        p, d = self._page, self._page.deletion
        private: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
        question = [d.asked, d.confirm, d.question]
        for trigger, handler, more in (
            (p.memory.actions.delete.click, self.ask_character, []),
            (p.talk.delete_chat.click, self.ask_chat, []),
            (p.talk.chat.clear, self.ask_chat, []),
            (p.figures.forget_persona.click, self.ask_persona, []),
            (p.figures.rollback.click, self.ask_rollback, [p.figures.which, p.figures.revision]),
        ):
            outputs = [*question, p.talk.chat] if handler == self.ask_chat else question
            trigger(with_error_toasts(handler), [*p.selection, *more], outputs, **private).then(
                None, js=_FOCUS
            )
        d.cancelled.click(lambda: gr.update(visible=False), None, d.confirm, **private)
        components = self._view.all_components
        d.confirmed.click(
            with_error_toasts(self.delete), [*p.selection, d.asked], components, **private
        )
        d.undo.click(with_error_toasts(self.undo), p.selection, components, **private)
        d.finish.click(with_error_toasts(self.finish), p.selection, components, **private)
        d.close_result.click(with_error_toasts(self.close), p.selection, d.result_box, **private)

    def _scene(
        self, token: str, actor_id: str | None, persona_key: str | None
    ) -> tuple[Visitor, Actor, Persona]:
        visitor, _, persona = self._view.find(token, actor_id, persona_key)
        return visitor, self._studio.actor(visitor, actor_id), persona

    def _ask(self, asked: Asked, question: str) -> Updates:
        d = self._page.deletion
        return {d.asked: asked, d.confirm: gr.update(visible=True), d.question: question}

    def _bytes(self, memory_id: str) -> int:
        try:
            return self._studio.memory[memory_id].status().bytes
        except UnknownMemory:
            return 0

    # --- asking --------------------------------------------------------------------------------

    def ask_character(self, *selection: Any) -> Updates:
        """Ask whether the active character is to be deleted."""
        visitor, actor, _ = self._scene(*selection)
        size, grace = self._bytes(actor.id), self._studio.grace
        question = deletion_rendering.character_question(actor, size, visitor.personas, grace)
        return self._ask(("character", actor.id), question)

    def ask_chat(self, *selection: Any) -> Updates:
        """Ask whether the open conversation is to be deleted; until then it is there as before."""
        visitor, actor, persona = self._scene(*selection)
        chat = actor.chat(persona)
        if not chat.begun:
            raise ActionRefused("Nothing was said in this chat yet: there is nothing to delete.")
        learned = self._in_weights(actor, persona, chat)
        grace = self._studio.grace
        question = deletion_rendering.chat_question(actor, persona, chat, learned, grace)
        shown = self._view.chat_updates(visitor, actor, persona)[self._page.talk.chat]
        return {**self._ask(("chat", chat.key), question), self._page.talk.chat: shown}

    def _in_weights(self, actor: Actor, persona: Persona, chat: Chat) -> int:
        try:
            return self._studio.memory[actor.pair(persona)].covered(chat.messages).messages
        except UnknownMemory:
            return 0

    def ask_persona(self, token: str, actor_id: str | None, persona_key: str | None) -> Updates:
        """Ask whether everything that a persona said is to be forgotten."""
        visitor, _, persona = self._view.find(token, actor_id, persona_key)
        actors = list(visitor.actors.values())
        if not any(chat.begun for actor in actors for chat in actor.chats.get(persona.key, [])):
            raise ActionRefused(f"{persona.name} said nothing yet: there is nothing to forget.")
        size = sum(self._bytes(actor.pair(persona)) for actor in actors)
        grace = self._studio.grace
        question = deletion_rendering.persona_question(persona, actors, size, grace)
        return self._ask(("persona", persona.key), question)

    def ask_rollback(
        self, token: str, actor_id: str, persona_key: str, which: str, revision: str | None
    ) -> Updates:
        """Ask whether a memory is to go back to an older revision."""
        _, actor, persona = self._scene(token, actor_id, persona_key)
        memory_id = actor.pair(persona) if which == "pair" else actor.id
        names = [row.name for row in self._studio.memory[memory_id].revisions()]
        if revision not in names:
            raise ActionRefused("Choose a revision first.")
        newer = len(names) - 1 - names.index(revision)
        if not newer:
            raise ActionRefused("This is the newest revision: there is nothing to go back to.")
        grace = self._studio.grace
        question = deletion_rendering.rollback_question(actor, newer, revision, grace)
        return self._ask(("rollback", f"{memory_id}/{revision}"), question)

    # --- deleting and undoing ------------------------------------------------------------------

    def delete(
        self, token: str, actor_id: str | None, persona_key: str | None, asked: Asked
    ) -> Updates:
        """Delete what was asked for; it can be undone for a while."""
        visitor, actor, persona = self._view.find(token, actor_id, persona_key)
        kind, key = asked
        visitor.deleted = None
        if kind == "character":
            self._delete_character(visitor, self._studio.actor(visitor, key))
        elif kind == "persona":
            gone = visitor.persona(key)
            self._refuse_while_busy(
                [c for a in visitor.actors.values() for c in a.chats.get(gone.key, [])]
            )
            self._studio.deletions.persona(visitor, gone)
        elif kind == "chat":
            owner = self._studio.actor(visitor, actor_id)
            chat = next((c for c in owner.chats.get(persona.key, []) if c.key == key), None)
            if chat is None:
                raise ActionRefused("This chat is deleted already.")
            self._refuse_while_busy([chat])
            self._studio.deletions.chat(visitor, owner, persona, chat)
        else:
            owner = self._studio.actor(visitor, actor_id)
            memory_id, _, revision = key.partition("/")
            self._studio.rollback(visitor, owner, memory_id, revision)
        return self._after(visitor, actor, persona)

    def _delete_character(self, visitor: Visitor, actor: Actor) -> None:
        """One that is still learning is stopped instead: there is nothing to bring back."""
        task = visitor.learning.get(actor.id)
        if task is not None:
            task.stop()
            visitor.changed()
            if task.fresh:
                return
        self._studio.deletions.character(visitor, actor)

    @staticmethod
    def _refuse_while_busy(chats: list[Chat]) -> None:
        if any(chat.busy.locked() for chat in chats):
            raise ActionRefused("The character is still answering: wait, or press Stop.")

    def _after(self, visitor: Visitor, actor: Actor | None, persona: Persona) -> Updates:
        if actor is None or actor.id not in visitor.actors:
            actor = next(reversed(visitor.actors.values()), None)
        if actor is not None:
            greet(actor, actor.chat(persona), persona)
        return self._view.all_updates(visitor, actor, persona)

    def undo(self, token: str, actor_id: str | None, persona_key: str | None) -> Updates:
        """Bring back what was deleted last."""
        visitor, actor, persona = self._view.find(token, actor_id, persona_key)
        before = set(visitor.actors)
        label = self._studio.deletions.undo(visitor)
        if label is None:
            gr.Info("It is too late: nothing is left to bring back.")
        else:
            gr.Info(f"{one_line(label)} is back.")
        back = next((a for key, a in visitor.actors.items() if key not in before), actor)
        return self._after(visitor, back, persona)

    def finish(self, token: str, actor_id: str | None, persona_key: str | None) -> Updates:
        """Remove for good what was deleted last, and show what was removed."""
        visitor, actor, persona = self._view.find(token, actor_id, persona_key)
        self._studio.deletions.finish(visitor)
        return self._after(visitor, actor, persona)

    def close(self, token: str, actor_id: str | None, persona_key: str | None) -> Any:
        """Take the receipt away; the log still has a line of it."""
        visitor, _, _ = self._view.find(token, actor_id, persona_key)
        visitor.deleted = None
        return gr.update(visible=False)
