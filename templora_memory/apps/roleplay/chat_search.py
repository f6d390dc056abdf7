"""Looking for words in all chats of a visitor; it knows neither Gradio nor models."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from html import escape

from templora_memory.domain.segmentation import fold

from .markup import many, quiet, styled
from .state import UNNAMED_PERSONA, Actor, Chat, Persona, Visitor

MAX_HITS = 20
_AROUND = 40  # letters before and after what was found


@dataclass(frozen=True, slots=True)
class ChatHit:
    """A chat that has all the words, and the message that has most of them."""

    actor: Actor
    persona: Persona
    chat: Chat
    text: str

    @property
    def key(self) -> str:
        """What opens this chat again."""
        return f"{self.actor.id} {self.persona.key} {self.chat.key}"


def search_chats(visitor: Visitor, wanted: str) -> tuple[ChatHit, ...]:
    """Return the chats in which every one of these words occurs, the newest first.

    A word is found within others too, so that this works for languages written without spaces.
    """
    asked = [word for item in wanted.split() if (word := fold(item))]
    if not asked:
        return ()
    hits = [
        ChatHit(actor, persona, chat, text)
        for actor, persona, chat in _chats(visitor)
        if (text := _found(actor, chat, asked)) is not None
    ]
    return tuple(sorted(hits, key=lambda hit: hit.chat.created, reverse=True))


def _chats(visitor: Visitor) -> Iterator[tuple[Actor, Persona, Chat]]:
    personas = {persona.key: persona for persona in visitor.personas}
    for actor in list(visitor.actors.values()):
        if actor.gone:
            continue
        for key, chats in list(actor.chats.items()):
            for chat in list(chats):
                if key in personas and chat.messages:
                    yield actor, personas[key], chat


def _found(actor: Actor, chat: Chat, asked: list[str]) -> str | None:
    """Return the message to show of a chat that has all the words; None if it has not."""
    folded = [fold(message.content) for message in chat.messages]
    every = " ".join([fold(actor.label), *folded])
    if not all(word in every for word in asked):
        return None
    best = max(range(len(folded)), key=lambda at: sum(word in folded[at] for word in asked))
    return _around(" ".join(chat.messages[best].content.split()), asked)


def _around(text: str, asked: list[str]) -> str:
    """Return a text cut to where the first of the words stands in it."""
    folded = fold(text)  # about as long as the text: this only says where to cut
    places = [at for word in asked if (at := folded.find(word)) >= 0]
    begin = max(0, min(places, default=0) - _AROUND)
    end = begin + 3 * _AROUND
    return f"{'…' if begin else ''}{text[begin:end].strip()}{'…' if end < len(text) else ''}"


def search_results(hits: tuple[ChatHit, ...], wanted: str) -> str:
    """Return the chats that were found, as HTML, each to be opened by a click."""
    if not wanted.strip():
        return styled(quiet("Words of any chat, with any character."))
    if not hits:
        return styled(f'<p role="status" class="quiet">No chat has “{escape(wanted)}”.</p>')
    rows = "".join(
        f'<li><button type="button" data-chat="{escape(hit.key)}"><span class="face"><span>'
        f'<b class="name" dir="auto">{escape(_title(hit))}</b>'
        f'<span class="line" dir="auto">{escape(hit.text)}</span></span></span></button></li>'
        for hit in hits[:MAX_HITS]
    )
    more = quiet(f"And {len(hits) - MAX_HITS} more.") if len(hits) > MAX_HITS else ""
    return styled(
        f'<p role="status" class="quiet">{many(len(hits), "chat")}</p>'
        f'<ul class="list">{rows}</ul>{more}'
    )


def _title(hit: ChatHit) -> str:
    played = "" if hit.persona.name == UNNAMED_PERSONA else f", as {hit.persona.name}"
    return f"{hit.actor.label}{played}"
