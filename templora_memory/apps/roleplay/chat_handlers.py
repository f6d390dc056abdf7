"""Event handlers of the conversation.

Send, retry, continue, impersonate, swipe, undo, edit, compare, chats, personas.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import gradio as gr

from templora_memory import Message
from templora_memory.errors import UnknownMemory
from templora_memory.importers import Character, ChatLog, greetings, load, one_line, plain

from . import rendering
from .character_reply import (
    CharacterReply,
    ReplyControls,
    greet,
    impersonation,
    without_speaker,
)
from .comparison import ComparedAnswer, compare, comparison
from .components import PageComponents, Updates
from .error_toasts import show_error, with_error_toasts
from .page_view import PageView
from .state import Actor, Chat, Persona, Visitor
from .studio import ActionRefused, Studio
from .visitors import VisitExpired

_EVERY = 0.06  # seconds between two pictures of a growing reply
_RETRY_TEMPERATURE = 0.8  # temperature of another try where the usual one is 0
_NOTES = 200_000


class ChatHandlers:
    """Handlers of the conversation."""

    def __init__(self, studio: Studio, page: PageComponents, view: PageView) -> None:
        self._studio = studio
        self._page = page
        self._view = view

    def wire(self) -> None:
        """Connect the components of the conversation with these handlers."""
        p, t, m = self._page, self._page.talk, self._page.memory
        private: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
        options = [m.mode, m.strength, m.temperature, m.repetition, m.length]
        options += [m.lorebook.use, m.use_notes]
        shown = [t.say, *self._view.chat_components]
        inputs = [*p.selection, *options]
        chat = self._view.chat_components
        streaming: dict[str, Any] = {"concurrency_limit": 16, **private}
        answering = [
            gr.on([t.say.submit, t.send.click], self.send, [*inputs, t.say], shown, **streaming),
            t.chat.retry(self.retry, inputs, shown, **streaming),
            t.chat.edit(self.edit, inputs, shown, **streaming),
            t.go_on.click(self.go_on, inputs, shown, **streaming),
            t.impersonate.click(self.impersonate, [*inputs, t.say], shown, **streaming),
        ]
        t.stop.click(
            with_error_toasts(self.stopped), p.selection, chat, cancels=answering, **private
        )
        comparing = [*inputs, t.say, t.with_history]
        t.compare.click(
            with_error_toasts(self.compare), comparing, [t.compared, t.compare], **streaming
        )
        t.chat.undo(with_error_toasts(self.undo), p.selection, shown, **private)
        t.chat.option_select(with_error_toasts(self.greeting), p.selection, chat, **private)
        t.swipe_left.click(with_error_toasts(self.swipe_left), p.selection, chat, **private)
        t.swipe_right.click(with_error_toasts(self.swipe_right), p.selection, chat, **private)
        t.new_chat.click(with_error_toasts(self.new_chat), p.selection, chat, **private)
        t.chats.input(with_error_toasts(self.open_chat), [*p.selection, t.chats], chat, **private)
        m.persona_add.click(
            with_error_toasts(self.play),
            [*p.selection, m.persona_name, m.persona_note],
            [m.persona_name, m.persona_note, *self._view.all_components],
            **private,
        )
        m.notes.blur(with_error_toasts(self.notes), [*p.selection, m.notes], None, **private)
        m.notes_file.upload(
            with_error_toasts(self.notes_file), [*p.selection, m.notes_file], m.notes, **private
        )

    def _scene(
        self, token: str, actor_id: str | None, persona_key: str | None
    ) -> tuple[Visitor, Actor, Persona, Chat]:
        visitor, _, persona = self._view.find(token, actor_id, persona_key)
        actor = self._studio.actor(visitor, actor_id)
        task = visitor.learning.get(actor.id)
        if task is not None and task.stopping:
            raise ActionRefused(f"{actor.label} is stopping: wait until it is gone.")
        return visitor, actor, persona, actor.chat(persona)

    # --- answering -----------------------------------------------------------------------------

    def _streamed(
        self, steps: Generator[Updates, None, None], selection: tuple[Any, ...]
    ) -> Generator[Updates, None, None]:
        """Stream an answer; after an error the conversation is shown as it is."""
        try:
            yield from steps
        except Exception as error:  # noqa: BLE001  # shown, and logged if it is not known
            show_error(error)
            try:
                visitor, actor, persona = self._view.find(*selection)
            except VisitExpired:
                yield gr.skip()
            else:
                yield self._view.chat_updates(visitor, actor, persona)

    def send(self, token: str, actor_id: str, persona_key: str, *inputs: Any) -> Iterator[Updates]:
        """Add a message to the conversation, and stream the reply."""
        selection = (token, actor_id, persona_key)
        yield from self._streamed(self._send(selection, inputs), selection)

    def _send(
        self, selection: tuple[Any, ...], inputs: tuple[Any, ...]
    ) -> Generator[Updates, None, None]:
        *options, text = inputs
        visitor, actor, persona, chat = self._scene(*selection)
        question = (text or "").strip()
        if not question:
            raise ActionRefused("Type a message first.")
        with _ChatTurn(chat):
            greet(actor, chat, persona)
            _settle_swipe(chat)
            chat.messages.append(Message("user", question))
            yield {self._page.talk.say: "", **self._growing(actor, chat, persona, "")}
            yield from self._answer(visitor, actor, persona, chat, _options(options))

    def retry(
        self, data: gr.RetryData, token: str, actor_id: str, persona_key: str, *inputs: Any
    ) -> Iterator[Updates]:
        """Answer the newest message again; the answers before stay as swipes."""
        selection = (token, actor_id, persona_key)
        yield from self._streamed(self._retry(data.index, selection, inputs), selection)

    def _retry(
        self, index: int | Sequence[int], selection: tuple[Any, ...], inputs: tuple[Any, ...]
    ) -> Generator[Updates, None, None]:
        visitor, actor, persona, chat = self._scene(*selection)
        options = _options(inputs)
        with _ChatTurn(chat):
            end = _last_user(chat, _message_index(index)) + 1
            before = chat.messages[end : end + 1]
            _cut(chat, end)
            if before and not chat.swipes:
                chat.swipes = [before[0].content]
            if options.temperature == 0:
                options = options.with_temperature(_RETRY_TEMPERATURE)
                gr.Info(f"Another try, at temperature {_RETRY_TEMPERATURE}: at 0 it says the same.")
            yield self._growing(actor, chat, persona, "")
            yield from self._answer(visitor, actor, persona, chat, options)

    def edit(
        self, data: gr.EditData, token: str, actor_id: str, persona_key: str, *inputs: Any
    ) -> Iterator[Updates]:
        """Change a message where it stands; after the user's newest one, answer again."""
        selection = (token, actor_id, persona_key)
        index, text = _message_index(data.index), plain(_flat(data.value))
        yield from self._streamed(self._edit(index, text, selection, inputs), selection)

    def _edit(
        self, index: int, text: str, selection: tuple[Any, ...], inputs: tuple[Any, ...]
    ) -> Generator[Updates, None, None]:
        visitor, actor, persona, chat = self._scene(*selection)
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
            if role == "user" and index == _last_user(chat, len(chat.messages) - 1):
                _cut(chat, index)
                chat.swipes.clear()
                chat.messages.append(Message("user", text))
                yield self._growing(actor, chat, persona, "")
                yield from self._answer(visitor, actor, persona, chat, _options(inputs))
                return
            chat.messages[index] = Message(role, text)
            if index == len(chat.messages) - 1 and chat.swipes:
                chat.swipes[chat.swipe] = text
            self._studio.save(visitor, actor)
            yield self._view.chat_updates(visitor, actor, persona)

    def _learned(self, actor: Actor, persona: Persona, chat: Chat) -> int:
        """Return how many messages of the conversation live in weights."""
        try:
            return self._studio.memory[actor.pair(persona)].covered(chat.messages).messages
        except UnknownMemory:
            return 0

    def go_on(self, token: str, actor_id: str, persona_key: str, *inputs: Any) -> Iterator[Updates]:
        """Let the character go on with its newest answer, as if it had not ended there."""
        selection = (token, actor_id, persona_key)
        yield from self._streamed(self._go_on(selection, inputs), selection)

    def _go_on(
        self, selection: tuple[Any, ...], inputs: tuple[Any, ...]
    ) -> Generator[Updates, None, None]:
        visitor, actor, persona, chat = self._scene(*selection)
        with _ChatTurn(chat):
            if not chat.begun or chat.messages[-1].role != "assistant":
                raise ActionRefused("There is no answer to go on with yet: say something first.")
            yield self._busy()
            begun = chat.messages[-1].content
            steps = self._answer(visitor, actor, persona, chat, _options(inputs), begun=begun)
            yield from steps

    def impersonate(
        self, token: str, actor_id: str, persona_key: str, *inputs: Any
    ) -> Iterator[Updates]:
        """Write the user's next message into the box, where it can be changed before it is sent."""
        selection = (token, actor_id, persona_key)
        yield from self._streamed(self._impersonate(selection, inputs), selection)

    def _impersonate(
        self, selection: tuple[Any, ...], inputs: tuple[Any, ...]
    ) -> Generator[Updates, None, None]:
        *given, typed = inputs
        visitor, actor, persona, chat = self._scene(*selection)
        if (typed or "").strip():
            raise ActionRefused("There is something in the box already: send it or clear it first.")
        with _ChatTurn(chat):
            if not chat.messages or chat.messages[-1].role != "assistant":
                raise ActionRefused(f"It is not your turn yet: let {actor.label} speak first.")
            yield self._busy()
            written = CharacterReply(
                self._studio.memory, actor, chat, persona, _while_learning(visitor, actor, given),
                seed=secrets.randbelow(2**31), instruction=impersonation(actor, persona),
            )  # fmt: skip
            text, last = "", 0.0
            for piece in written:
                text += piece
                if time.monotonic() - last >= _EVERY:
                    last = time.monotonic()
                    yield {self._page.talk.say: text}
        if not text.strip():
            gr.Info("The model found nothing to say. Raise the temperature and try again.")
        yield {
            self._page.talk.say: without_speaker(text, persona),
            **self._view.chat_updates(visitor, actor, persona),
        }

    def _busy(self) -> Updates:
        """What can be pressed while a reply is written."""
        t = self._page.talk
        waiting = dict.fromkeys((t.send, t.go_on, t.impersonate), gr.update(interactive=False))
        return {**waiting, t.stop: gr.update(interactive=True)}

    def _growing(
        self, actor: Actor, chat: Chat, persona: Persona, text: str, begun: str = ""
    ) -> Updates:
        rows = self._view.chat_messages(actor, chat, persona)
        if begun:
            rows.pop()  # it grows where it stands
        rows.append(rendering.chat_message(Message("assistant", begun + text or "…")))
        return {self._page.talk.chat: gr.update(value=rows), **({} if text else self._busy())}

    def _answer(  # who says what to whom
        self,
        visitor: Visitor,
        actor: Actor,
        persona: Persona,
        chat: Chat,
        options: ReplyControls,
        *,
        begun: str = "",
    ) -> Generator[Updates, None, None]:
        """Stream a reply; what was said by then stays if it is stopped.

        With `begun`, it is the rest of the newest answer.
        """
        answer = CharacterReply(
            self._studio.memory,
            actor,
            chat,
            persona,
            _while_learning(visitor, actor, options),
            seed=secrets.randbelow(2**31),
        )
        text, last = "", 0.0
        try:
            for piece in answer:
                text += piece
                now = time.monotonic()
                if now - last >= _EVERY:
                    last = now
                    yield self._growing(actor, chat, persona, text, begun)
        except UnknownMemory:
            if not actor.gone:
                raise
        finally:
            if begun:
                self._settle_rest(chat, begun + text.rstrip(), answer)
            else:
                self._settle(chat, text, answer)
        if actor.gone:
            raise ActionRefused("This character was deleted while it spoke.")
        visitor.changed()
        self._studio.save(visitor, actor)
        again = {}
        if begun and not text.strip():
            gr.Info("It has nothing to add. Say something, or raise the temperature.")
        elif not text.strip():
            gr.Info(
                "The model said nothing to that. Put it in other words, or raise the temperature."
            )
            if chat.messages[-1].role == "user":  # it goes back to where it was typed
                again = {self._page.talk.say: chat.messages.pop().content}
        yield {**again, **self._view.chat_updates(visitor, actor, persona)}

    @staticmethod
    def _settle(chat: Chat, text: str, answer: CharacterReply) -> None:
        """Keep what was said, among the other answers to the same message."""
        said = text.strip()
        if not said and not chat.swipes:
            return
        if not said:
            said = chat.swipes[chat.swipe]
        elif said in chat.swipes:
            gr.Info("It said the same again. Raise the temperature for other answers.")
        else:
            chat.swipes.append(said)
        chat.swipe = chat.swipes.index(said)
        chat.messages.append(Message("assistant", said))
        if (prompt := answer.prompt) is not None:
            chat.prompt = prompt
            chat.costs.append(prompt.cost)

    @staticmethod
    def _settle_rest(chat: Chat, said: str, answer: CharacterReply) -> None:
        """Keep an answer that went on, in the place of what it was before."""
        chat.messages[-1] = Message("assistant", said)
        if chat.swipes:
            chat.swipes[chat.swipe] = said
        if (prompt := answer.prompt) is not None:
            chat.prompt = prompt
            chat.costs[-1:] = [prompt.cost]  # a turn counts its newest prompt

    # --- other answers -------------------------------------------------------------------------

    def swipe_left(self, *selection: Any) -> Updates:
        """Show the answer before, of those to the newest message."""
        return self._swipe(-1, selection)

    def swipe_right(self, *selection: Any) -> Updates:
        """Show the next answer, of those to the newest message."""
        return self._swipe(1, selection)

    def _swipe(self, by: int, selection: tuple[Any, ...]) -> Updates:
        visitor, actor, persona, chat = self._scene(*selection)
        with _ChatTurn(chat):
            if len(chat.swipes) > 1 and chat.messages[-1].role == "assistant":
                chat.swipe = (chat.swipe + by) % len(chat.swipes)
                chat.messages[-1] = Message("assistant", chat.swipes[chat.swipe])
        self._studio.save(visitor, actor)
        return self._view.chat_updates(visitor, actor, persona)

    def compare(
        self, token: str, actor_id: str, persona_key: str, *inputs: Any
    ) -> Iterator[Updates]:
        """Answer the typed message, or the newest one, in all four ways beside each other."""
        *options, typed, with_history = inputs
        visitor, actor, persona, chat = self._scene(token, actor_id, persona_key)
        question, earlier = self._compared(chat, (typed or "").strip(), with_history=with_history)
        if (task := visitor.learning.get(actor.id)) is not None and task.unlearned:
            raise ActionRefused(
                f"{actor.label} is still learning: there is no memory to compare yet."
            )
        t = self._page.talk
        messages = [*earlier, Message("user", question)]
        steps = compare(
            self._studio.memory,
            actor,
            persona,
            messages,
            _options(options),
            seed=secrets.randbelow(2**31),
        )
        last = 0.0
        answers: tuple[ComparedAnswer, ...] = ()
        try:
            for answers in steps:
                if time.monotonic() - last >= _EVERY:
                    last = time.monotonic()
                    shown = comparison(question, answers, len(earlier))
                    yield {t.compared: shown, t.compare: gr.update(interactive=False)}
            yield {t.compared: comparison(question, answers, len(earlier))}
        finally:
            yield {t.compare: gr.update(interactive=True)}

    @staticmethod
    def _compared(chat: Chat, typed: str, *, with_history: bool) -> tuple[str, list[Message]]:
        """Return the question to compare, and the messages before it that all four get."""
        if typed:
            return typed, list(chat.messages) if with_history else []
        if not chat.begun:
            raise ActionRefused("Type a message to compare, or say something first.")
        index = _last_user(chat, len(chat.messages) - 1)
        return chat.messages[index].content, chat.messages[:index] if with_history else []

    def stopped(self, token: str, actor_id: str | None, persona_key: str | None) -> Updates:
        """Show the conversation as it is after a reply was stopped."""
        visitor, actor, persona = self._view.find(token, actor_id, persona_key)
        if actor is not None:
            with actor.chat(persona).busy:  # until the reply has let go
                pass
        return self._view.chat_updates(visitor, actor, persona)

    # --- the conversation ----------------------------------------------------------------------

    def undo(self, data: gr.UndoData, token: str, actor_id: str, persona_key: str) -> Updates:
        """Take the newest exchange back; its message can be typed anew."""
        visitor, actor, persona, chat = self._scene(token, actor_id, persona_key)
        with _ChatTurn(chat):
            index = _last_user(chat, _message_index(data.index))
            text = chat.messages[index].content
            _cut(chat, index)
            chat.swipes.clear()
        self._studio.save(visitor, actor)
        return {
            self._page.talk.say: text,
            **self._view.chat_updates(visitor, actor, persona),
        }

    def greeting(self, data: gr.SelectData, token: str, actor_id: str, persona_key: str) -> Updates:
        """Begin a new conversation with another greeting."""
        visitor, actor, persona, chat = self._scene(token, actor_id, persona_key)
        offered = greetings(actor.character, user=persona.called)
        with _ChatTurn(chat):
            number = int(data.value) if str(data.value).isdecimal() else -1
            if len(chat.messages) == 1 and 0 <= number < len(offered):
                chat.messages[0] = Message("assistant", offered[number])
        self._studio.save(visitor, actor)
        return self._view.chat_updates(visitor, actor, persona)

    def new_chat(self, *selection: Any) -> Updates:
        """Open another conversation; the one before stays, with what was learned from it."""
        visitor, actor, persona, _ = self._scene(*selection)
        greet(actor, self._studio.new_chat(visitor, actor, persona), persona)
        return self._view.chat_updates(visitor, actor, persona)

    def open_chat(self, token: str, actor_id: str, persona_key: str, key: str | None) -> Updates:
        """Open an older conversation."""
        visitor, actor, persona, _ = self._scene(token, actor_id, persona_key)
        actor.open_chat(persona, key)
        self._studio.save(visitor, actor)
        return self._view.chat_updates(visitor, actor, persona)

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
        m = self._page.memory
        gr.Info(f"You are {persona.name} now. What you say is remembered apart from the others.")
        return {
            m.persona_name: "",
            m.persona_note: "",
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
            raise ActionRefused("This is a chat. Add it under “Bring your own” instead.")
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
    mode, strength, temperature, repetition, length, lore, notes = inputs
    return ReplyControls(
        mode=mode,
        strength=float(strength),
        temperature=float(temperature),
        repetition_penalty=float(repetition),
        max_tokens=int(length),
        lore=bool(lore),
        notes=bool(notes),
    )


def _while_learning(visitor: Visitor, actor: Actor, options: Any) -> ReplyControls:
    """Return the options; until a character is learned its card stands in for its memory."""
    controls = options if isinstance(options, ReplyControls) else _options(options)
    task = visitor.learning.get(actor.id)
    unlearned = task is not None and task.unlearned
    return controls.with_mode("prompt") if unlearned and controls.uses_memory else controls


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


def _settle_swipe(chat: Chat) -> None:
    """The answer that is shown is the one that counts, now that the talk goes on."""
    chat.swipes.clear()
    chat.swipe = 0


def _cut(chat: Chat, end: int) -> None:
    """Shorten a conversation to its first messages, and the record of costs with it."""
    turns = sum(message.role == "user" for message in chat.messages[:end])
    last = end and chat.messages[end - 1].role == "user"
    del chat.messages[end:]
    del chat.costs[turns - bool(last) :]
    chat.prompt = None
