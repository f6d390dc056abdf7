"""The page as a visitor sees it: state becomes updates of components here, and nowhere else."""

from __future__ import annotations

from typing import Any

import gradio as gr

from templora_memory import Status
from templora_memory.errors import UnknownMemory
from templora_memory.importers import greetings

from . import deletion_rendering, learning_rendering, rendering
from .comparison import no_comparison
from .components import PageComponents, Updates
from .faces import avatars
from .learning_estimate import duration
from .markup import file_size
from .state import Actor, Chat, Persona, Visitor
from .studio import Studio


class PageView:
    """Turns the state of a visitor into updates of the page; every handler ends with it."""

    def __init__(self, studio: Studio, page: PageComponents) -> None:
        self._studio = studio
        self._page = page

    def find(
        self, token: str, actor_id: str | None, persona_key: str | None
    ) -> tuple[Visitor, Actor | None, Persona]:
        """Return the visitor, their character if one is chosen, and their persona.

        Raises:
            VisitExpired: no such visitor.
        """
        visitor = self._studio.visitors.get(token)
        actor = visitor.actors.get(actor_id or "")
        return visitor, actor if actor and not actor.gone else None, visitor.persona(persona_key)

    @property
    def all_components(self) -> list[Any]:
        """The components that `all_updates` changes."""
        p = self._page
        return [
            p.chosen,
            p.played,
            p.talk.active,
            p.talk.keep,
            p.talk.compared,
            p.memory.persona,
            p.memory.actions.panel,
            p.memory.actions.files,
            p.memory.notes,
            p.deletion.confirm,
            *self.chat_components,
            *self.figures_components,
            *self.news_components,
        ]

    @property
    def chat_components(self) -> list[Any]:
        """The components that `chat_updates` changes."""
        t = self._page.talk
        return [
            t.chat,
            t.chats,
            t.delete_chat,
            t.new_chat,
            t.compare,
            t.send,
            t.stop,
            t.go_on,
            t.impersonate,
            t.swipes,
            t.swipe_number,
            t.status,
            self._page.figures.prompt,
            self._page.memory.now,
        ]

    @property
    def figures_components(self) -> list[Any]:
        """The components that `figures_updates` changes."""
        f = self._page.figures
        return [f.tiles, f.plots, f.lessons, f.revisions, f.back, f.revision, f.receipts]

    @property
    def news_components(self) -> list[Any]:
        """The components that `news_updates` changes."""
        t, d = self._page.talk, self._page.deletion
        learning = [t.progress, t.stop_learning, t.dismiss, t.watch_box, t.watch]
        deletions = [d.undo_box, d.undo_text, d.result_box, d.result]
        return [self._page.seen, self._page.characters.mine, *learning, *deletions]

    def all_updates(self, visitor: Visitor, actor: Actor | None, persona: Persona) -> Updates:
        """Return the updates of everything that depends on who is chosen."""
        p = self._page
        return {
            p.chosen: actor.id if actor else None,
            p.played: persona.key,
            p.talk.active: self.choices(visitor, actor),
            p.talk.keep: gr.update(
                value=actor.saved if actor else False, interactive=actor is not None
            ),
            p.talk.compared: no_comparison(),  # the one before was somebody else's
            p.memory.persona: gr.update(
                choices=[(item.name, item.key) for item in visitor.personas], value=persona.key
            ),
            p.memory.actions.panel: gr.update(visible=actor is not None),
            p.memory.actions.files: gr.update(visible=False, value=None),
            p.memory.notes: actor.notes if actor else "",
            p.deletion.confirm: gr.update(visible=False),
            **self.chat_updates(visitor, actor, persona),
            **self.figures_updates(visitor, actor, persona, "actor"),
            **self.news_updates(visitor, actor, persona),
        }

    def choices(self, visitor: Visitor, actor: Actor | None) -> Any:
        """Return the update of the chooser of characters."""
        actors = [item for item in visitor.actors.values() if not item.gone]
        return gr.update(
            choices=[(item.label, item.id) for item in actors], value=actor.id if actor else None
        )

    # --- what happens by itself ----------------------------------------------------------------

    def news_updates(self, visitor: Visitor, actor: Actor | None, persona: Persona) -> Updates:
        """Return updates of what changes without a click: states, learning, deletions."""
        p = self._page
        actors = [item for item in visitor.actors.values() if not item.gone]
        return {
            p.seen: visitor.version,
            p.characters.mine: rendering.character_list(
                actors,
                actor.id if actor else None,
                {item.id: self.state(visitor, item) for item in actors},
                {item.id: item.chat(persona).last_line for item in actors},
            ),
            **self._learning_updates(visitor),
            **self._deletion_updates(visitor),
        }

    def state(self, visitor: Visitor, actor: Actor) -> str:
        """Return what a character is doing, or how big and lasting it is."""
        task = visitor.learning.get(actor.id)
        if task is not None and task.stopping:
            return "stopping…"
        if task is not None:
            left = task.step.seconds_left if task.step else None
            return "learning…" if left is None else f"learning, {duration(left)} left"
        status = self._status(actor.id)
        size = f"{file_size(status.bytes if status else 0)} in weights"
        return f"{size} · {'kept' if actor.saved else 'temporary'}"

    def _learning_updates(self, visitor: Visitor) -> Updates:
        t = self._page.talk
        tasks, last = list(visitor.learning.values()), visitor.learned
        bars = "".join(learning_rendering.learning_bar(task) for task in tasks)
        watched = "".join(learning_rendering.details(task) for task in tasks)
        if not tasks and last is not None:
            bars = learning_rendering.learning_result(last)
            watched = learning_rendering.details(last)
        return {
            t.progress: gr.update(visible=bool(bars), value=bars),
            t.stop_learning: gr.update(
                visible=bool(tasks), interactive=any(not task.stopping for task in tasks)
            ),
            t.dismiss: gr.update(visible=bool(bars) and not tasks),
            t.watch_box: gr.update(
                visible=bool(watched), label="Watch it learn" if tasks else "How it learned"
            ),
            t.watch: watched,
        }

    def _deletion_updates(self, visitor: Visitor) -> Updates:
        d = self._page.deletion
        with visitor.lock:
            deletions = list(visitor.deletions)
        proof = visitor.deleted
        return {
            d.undo_box: gr.update(visible=bool(deletions)),
            d.undo_text: deletion_rendering.undo_bar(deletions),
            d.result_box: gr.update(visible=proof is not None),
            d.result: deletion_rendering.deletion_result(proof) if proof else "",
        }

    # --- the conversation ----------------------------------------------------------------------

    def chat_updates(self, visitor: Visitor, actor: Actor | None, persona: Persona) -> Updates:
        """Return updates of the conversation, of what can be done with it, and its prompt."""
        t = self._page.talk
        chat = actor.chat(persona) if actor else None
        task = visitor.learning.get(actor.id) if actor else None
        ready = actor is not None and not (task and task.stopping)
        begun = chat is not None and chat.begun
        spoken = bool(chat and chat.messages and chat.messages[-1].role == "assistant")
        swipes = len(chat.swipes) if chat else 0
        return {
            t.chat: gr.update(
                value=self.chat_messages(actor, chat, persona),
                placeholder=rendering.no_words(actor) if actor else rendering.nobody(),
                avatar_images=avatars(actor, persona),
            ),
            t.chats: self._chat_choices(actor, chat, persona),
            t.delete_chat: gr.update(interactive=begun),
            t.new_chat: gr.update(interactive=begun),
            t.compare: gr.update(interactive=ready),
            t.send: gr.update(interactive=ready),
            t.stop: gr.update(interactive=False),
            t.go_on: gr.update(interactive=ready and begun and spoken),
            t.impersonate: gr.update(interactive=ready and spoken),
            t.swipes: gr.update(visible=swipes > 1),
            t.swipe_number: rendering.swipe_number(chat.swipe + 1 if chat else 0, swipes),
            t.status: self.status(visitor, actor, chat, persona),
            self._page.figures.prompt: rendering.prompt(chat.prompt if chat else None),
            self._page.memory.now: self.memory_now(visitor, actor, chat, persona),
        }

    def _chat_choices(self, actor: Actor | None, chat: Chat | None, persona: Persona) -> Any:
        chats = actor.chats.get(persona.key, []) if actor else []
        choices = [(item.title or "New chat", item.key) for item in reversed(chats)]
        return gr.update(choices=choices, value=chat.key if chat else None)

    def chat_messages(self, actor: Actor | None, chat: Chat | None, persona: Persona) -> list[Any]:
        """Return the conversation as Gradio's chatbot takes it."""
        offered = greetings(actor.character, user=persona.called) if actor else ()
        return rendering.chat_messages(actor, chat, offered)

    def _status(self, memory_id: str) -> Status | None:
        try:
            return self._studio.memory[memory_id].status()
        except UnknownMemory:
            return None  # nothing was learned, or nobody talked yet

    def status(
        self, visitor: Visitor, actor: Actor | None, chat: Chat | None, persona: Persona
    ) -> str:
        """Return the line under the conversation, as HTML."""
        pair = self._status(actor.pair(persona)) if actor else None
        task = visitor.learning.get(actor.id) if actor else None
        return rendering.status_line(
            actor,
            chat,
            chat.prompt if chat else None,
            pair.jobs if pair else 0,
            unlearned=task is not None and task.unlearned,
        )

    def memory_now(
        self, visitor: Visitor, actor: Actor | None, chat: Chat | None, persona: Persona
    ) -> str:
        """Return what is in the prompt and what in weights, as HTML."""
        if actor is None:
            return rendering.memory_now(None, None, 0)
        status = self._status(actor.pair(persona)) or self._status(actor.id)
        task = visitor.learning.get(actor.id)
        state = (
            "Still learning: the card stands in the prompt until it is in the weights."
            if task is not None and task.unlearned
            else ""
        )
        return rendering.memory_now(actor, chat, status.absorbed_tokens if status else 0, state)

    # --- figures -------------------------------------------------------------------------------

    def figures_updates(
        self, visitor: Visitor, actor: Actor | None, persona: Persona, which: str
    ) -> Updates:
        """Return updates of figures, plots, revisions and the log."""
        f = self._page.figures
        receipts = rendering.visit_log(visitor.events)
        if actor is None:
            empty: Updates = {f.tiles: rendering.no_character(), f.receipts: receipts}
            empty |= {f.plots: "", f.lessons: "", f.revisions: ""}
            return {**empty, f.back: gr.update(visible=False), f.revision: gr.update(choices=[])}
        memory_id = actor.pair(persona) if which == "pair" else actor.id
        memory, chat = self._studio.memory[memory_id], actor.chat(persona)
        try:
            status, history = memory.status(), memory.revisions()
        except UnknownMemory:
            status, history = None, ()
        names = [(f"{row.name[:12]} · {row.tokens:,} tokens", row.name) for row in history]
        return {
            f.tiles: rendering.figure_tiles(status, actor, chat, memory.service.policy.health_kl),
            f.plots: rendering.plots(actor, chat),
            f.lessons: rendering.absorb_log(actor),
            f.revisions: rendering.revisions(history, status.head_name if status else None),
            f.back: gr.update(visible=len(history) > 1),
            f.revision: gr.update(choices=names, value=names[0][1] if names else None),
            f.receipts: receipts,
        }
