"""Event handlers of the second area: send, retry, undo, edit, another greeting, personas, notes."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import gradio as gr

from templora_memory import Message
from templora_memory.errors import UnknownMemory
from templora_memory.importers import Character, ChatLog, greetings, load, one_line, plain

from . import rendering
from .character_reply import CharacterReply, ReplyControls, greet
from .components import PageComponents, Updates
from .error_toasts import with_error_toasts
from .page_view import PageView
from .state import Actor, Chat, Persona, Visitor
from .studio import ActionRefused, Studio

_EVERY = 0.06  # seconds between two pictures of a growing reply
_RETRY_TEMPERATURE = 0.8  # temperature of another try where the usual one is 0
_NOTES = 200_000


class ChatHandlers:
    """Handlers of the second area."""

    def __init__(self, studio: Studio, page: PageComponents, view: PageView) -> None:
        self._studio = studio
        self._page = page
        self._view = view

    def wire(self) -> None:
        """Connect the components of the second area with these handlers."""
        p, t = self._page, self._page.talk_tab
        private: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
        options = [t.mode, t.strength, t.temperature, t.length, t.use_lore, t.use_notes]
        shown = [t.say, *self._view.chat_components]
        inputs = [*p.selection, *options]
        answering = [
            gr.on(
                [t.say.submit, t.send.click],
                with_error_toasts(self.send),
                [*inputs, t.say],
                shown,
                concurrency_limit=16,
                **private,
            ),
            t.chat.retry(
                with_error_toasts(self.retry), inputs, shown, concurrency_limit=16, **private
            ),
            t.chat.edit(
                with_error_toasts(self.edit), inputs, shown, concurrency_limit=16, **private
            ),
        ]
        t.stop.click(
            with_error_toasts(self.stopped),
            p.selection,
            self._view.chat_components,
            cancels=answering,
            **private,
        )
        t.chat.undo(with_error_toasts(self.undo), p.selection, shown, **private)
        t.chat.option_select(
            with_error_toasts(self.greeting), p.selection, self._view.chat_components, **private
        )
        gr.on(
            [t.new_chat.click, t.chat.clear],
            with_error_toasts(self.new_chat),
            p.selection,
            self._view.chat_components,
            **private,
        )
        t.persona_add.click(
            with_error_toasts(self.play),
            [*p.selection, t.persona_name, t.persona_note],
            [t.persona_name, t.persona_note, *self._view.all_components],
            **private,
        )
        t.notes.blur(with_error_toasts(self.notes), [*p.selection, t.notes], None, **private)
        t.notes_file.upload(
            with_error_toasts(self.notes_file), [*p.selection, t.notes_file], t.notes, **private
        )

    def _scene(
        self, token: str, actor_id: str | None, persona_key: str | None
    ) -> tuple[Visitor, Actor, Persona, Chat]:
        visitor, _, persona = self._view.find(token, actor_id, persona_key)
        actor = self._studio.actor(visitor, actor_id)
        return visitor, actor, persona, actor.chat(persona)

    # --- answering -----------------------------------------------------------------------------

    def send(self, token: str, actor_id: str, persona_key: str, *inputs: Any) -> Iterator[Updates]:
        """Add a message to the conversation, and stream the reply."""
        *options, text = inputs
        visitor, actor, persona, chat = self._scene(token, actor_id, persona_key)
        question = (text or "").strip()
        if not question:
            raise ActionRefused("Type a message first.")
        with _ChatTurn(chat):
            greet(actor, chat, persona)
            chat.messages.append(Message("user", question))
            yield {self._page.talk_tab.say: "", **self._growing(actor, chat, persona, "")}
            yield from self._answer(visitor, actor, persona, chat, _options(options))

    def retry(
        self, data: gr.RetryData, token: str, actor_id: str, persona_key: str, *inputs: Any
    ) -> Iterator[Updates]:
        """Answer the newest message again."""
        visitor, actor, persona, chat = self._scene(token, actor_id, persona_key)
        with _ChatTurn(chat):
            _cut(chat, _last_user(chat, _message_index(data.index)) + 1)
            yield self._growing(actor, chat, persona, "")
            yield from self._answer(visitor, actor, persona, chat, _options(inputs), vary=True)

    def edit(
        self, data: gr.EditData, token: str, actor_id: str, persona_key: str, *inputs: Any
    ) -> Iterator[Updates]:
        """Change a message; after one of the user, answer it again."""
        visitor, actor, persona, chat = self._scene(token, actor_id, persona_key)
        index = _message_index(data.index)
        text = plain(_flat(data.value))
        if not 0 <= index < len(chat.messages) or not text:
            raise ActionRefused("An edited message needs some text.")
        with _ChatTurn(chat):
            learned = self._learned(actor, persona, chat)
            role = chat.messages[index].role
            if index < learned:
                gr.Info(
                    "This part was already learned. The memory falls back to an earlier revision "
                    "and learns the edited text when it needs the room."
                )
            if role != "user":
                chat.messages[index] = Message(role, text)
                self._studio.save(visitor, actor)
                yield self._view.chat_updates(actor, persona)
                return
            _cut(chat, index)
            chat.messages.append(Message("user", text))
            yield self._growing(actor, chat, persona, "")
            yield from self._answer(visitor, actor, persona, chat, _options(inputs))

    def _learned(self, actor: Actor, persona: Persona, chat: Chat) -> int:
        """Return how many messages of the conversation live in weights."""
        try:
            return self._studio.memory[actor.pair(persona)].covered(chat.messages).messages
        except UnknownMemory:
            return 0

    def _growing(self, actor: Actor, chat: Chat, persona: Persona, text: str) -> Updates:
        rows = self._view.chat_messages(actor, chat, persona)
        rows.append(rendering.chat_message(Message("assistant", text or "…")))
        return {self._page.talk_tab.chat: rows}

    def _answer(
        self,
        visitor: Visitor,
        actor: Actor,
        persona: Persona,
        chat: Chat,
        options: ReplyControls,
        *,
        vary: bool = False,
    ) -> Iterator[Updates]:
        """Stream a reply; what was said by then stays if it is stopped."""
        if vary and options.temperature == 0:
            options = options.with_temperature(_RETRY_TEMPERATURE)
        answer = CharacterReply(
            self._studio.memory, actor, chat, persona, options, seed=secrets.randbelow(2**31)
        )
        text, last = "", 0.0
        try:
            for piece in answer:
                text += piece
                now = time.monotonic()
                if now - last >= _EVERY:
                    last = now
                    yield self._growing(actor, chat, persona, text)
        except UnknownMemory:
            if not actor.gone:
                raise
        finally:
            self._settle(chat, text, answer)
        if actor.gone:
            self._studio.sweep()
            raise ActionRefused("This character was deleted while it spoke.")
        self._studio.save(visitor, actor)
        again = {} if text.strip() else {self._page.talk_tab.say: self._take_back(chat)}
        yield {**again, **self._view.chat_updates(actor, persona)}

    @staticmethod
    def _settle(chat: Chat, text: str, answer: CharacterReply) -> None:
        if text.strip():
            chat.messages.append(Message("assistant", text.strip()))
        if (prompt := answer.prompt) is not None and text.strip():
            chat.prompt = prompt
            chat.costs.append(prompt.cost)

    @staticmethod
    def _take_back(chat: Chat) -> str:
        """The model said nothing: the question goes back to where it was typed."""
        gr.Info("The model said nothing to that. Put it in other words, or raise the temperature.")
        return chat.messages.pop().content

    def stopped(self, *selection: Any) -> Updates:
        """Show the conversation as it is after a reply was stopped."""
        _, actor, persona, chat = self._scene(*selection)
        with chat.busy:  # until the reply has let go
            return self._view.chat_updates(actor, persona)

    # --- the conversation ----------------------------------------------------------------------

    def undo(self, data: gr.UndoData, token: str, actor_id: str, persona_key: str) -> Updates:
        """Take the newest exchange back; its message can be typed anew."""
        visitor, actor, persona, chat = self._scene(token, actor_id, persona_key)
        with _ChatTurn(chat):
            index = _last_user(chat, _message_index(data.index))
            text = chat.messages[index].content
            _cut(chat, index)
        self._studio.save(visitor, actor)
        return {self._page.talk_tab.say: text, **self._view.chat_updates(actor, persona)}

    def greeting(self, data: gr.SelectData, token: str, actor_id: str, persona_key: str) -> Updates:
        """Begin a new conversation with another greeting."""
        visitor, actor, persona, chat = self._scene(token, actor_id, persona_key)
        offered = greetings(actor.character, user=persona.called)
        with _ChatTurn(chat):
            number = int(data.value) if str(data.value).isdecimal() else -1
            if len(chat.messages) == 1 and 0 <= number < len(offered):
                chat.messages[0] = Message("assistant", offered[number])
        self._studio.save(visitor, actor)
        return self._view.chat_updates(actor, persona)

    def new_chat(self, *selection: Any) -> Updates:
        """Forget the conversation, and begin again."""
        visitor, actor, persona, chat = self._scene(*selection)
        with _ChatTurn(chat):
            self._studio.new_chat(visitor, actor, persona)
        greet(actor, actor.chat(persona), persona)
        return self._view.chat_updates(actor, persona)

    def play(
        self, token: str, actor_id: str | None, persona_key: str | None, name: str, note: str
    ) -> Updates:
        """Go on as another person."""
        visitor, actor, _ = self._view.find(token, actor_id, persona_key)
        persona = self._studio.persona(
            visitor, one_line(name or "", 60), " ".join((note or "").split())
        )
        if actor is not None:
            greet(actor, actor.chat(persona), persona)
            self._studio.save(visitor, actor)
        t = self._page.talk_tab
        gr.Info(f"You are {persona.name} now. What you say is remembered apart from the others.")
        return {
            t.persona_name: "",
            t.persona_note: "",
            **self._view.all_updates(visitor, actor, persona),
        }

    # --- notes ---------------------------------------------------------------------------------

    def notes(self, token: str, actor_id: str | None, persona_key: str | None, text: str) -> None:
        """Take over the character's notes as they were typed."""
        visitor, actor, _ = self._view.find(token, actor_id, persona_key)
        if actor is not None:
            actor.notes = plain((text or "")[:_NOTES])
            self._studio.save(visitor, actor)

    def notes_file(
        self, token: str, actor_id: str | None, persona_key: str | None, path: str | None
    ) -> str:
        """Add the text of a file to the character's notes; the file is removed."""
        source = Path(path or "")
        try:
            visitor, actor, _, _ = self._scene(token, actor_id, persona_key)
            upload = load(source, filename=source.name)
        finally:
            source.unlink(missing_ok=True)
            with suppress(OSError):
                source.parent.rmdir()
        if isinstance(upload, ChatLog):
            raise ActionRefused("This is a chat. Add it in the first area instead.")
        text = (
            upload.description
            if isinstance(upload, Character)
            else "\n\n".join(entry.content for entry in upload.lore if entry.enabled)
        )
        actor.notes = f"{actor.notes}\n\n{text}".strip()[:_NOTES]
        self._studio.save(visitor, actor)
        return actor.notes


class _ChatTurn:
    """One at a time in a conversation: its second tab has to wait."""

    def __init__(self, chat: Chat) -> None:
        self._busy = chat.busy

    def __enter__(self) -> None:
        if not self._busy.acquire(blocking=False):
            raise ActionRefused("The character is still answering: wait, or press Stop.")

    def __exit__(self, *_: object) -> None:
        self._busy.release()


def _message_index(index: int | Sequence[int]) -> int:
    """Return the number of a message; Gradio gives some events (row, column) instead."""
    return index if isinstance(index, int) else index[0]


def _options(inputs: Any) -> ReplyControls:
    mode, strength, temperature, length, lore, notes = inputs
    return ReplyControls(
        mode=mode,
        strength=float(strength),
        temperature=float(temperature),
        max_tokens=int(length),
        lore=bool(lore),
        notes=bool(notes),
    )


def _flat(value: Any) -> str:
    """The text of a message, in whichever of Gradio's shapes it comes."""
    if isinstance(value, list):
        return "\n".join(_flat(item) for item in value)
    if isinstance(value, dict):
        return _flat(value.get("text") or value.get("value") or "")
    return value if isinstance(value, str) else ""


def _last_user(chat: Chat, index: int) -> int:
    """The newest message of the user at or before a position."""
    for position in range(min(index, len(chat.messages) - 1), -1, -1):
        if chat.messages[position].role == "user":
            return position
    raise ActionRefused("There is nothing to go back to yet.")


def _cut(chat: Chat, end: int) -> None:
    """Shorten a conversation to its first messages, and the record of costs with it."""
    turns = sum(message.role == "user" for message in chat.messages[:end])
    last = end and chat.messages[end - 1].role == "user"
    del chat.messages[end:]
    del chat.costs[turns - bool(last) :]
    chat.prompt = None
