"""The texts of the page as HTML. Every text from outside goes through `escape`."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from html import escape

from templora_memory import Document, Message, Probe, Revision, Status
from templora_memory.importers import ChatLog, LoreEntry, Uses, without_pictures

from .charts import Series, chart
from .faces import face
from .learning_rendering import curve, estimate, learned_from, meter
from .markup import clock, many, styled, table
from .state import Actor, Chat, Persona, PromptPart, PromptRecord, VisitEvent
from .style import LOGO

_EXCERPT = 1200
_TITLE = 60
_KINDS = {"user": "You said", "assistant": "The character said", "tool": "Tool"}
_TAG = re.compile(r"<(?=[a-zA-Z/!])")


def safe_markdown(text: str) -> str:
    """A chat message as safe Markdown: emphasis stays, images and tags do not."""
    return _TAG.sub("&lt;", without_pictures(text))


def page_header(model: str, grace: float) -> str:
    """The top of the page."""
    return styled(
        f'<header class="head">{LOGO}<h1>Characters that live in weights</h1><div class="chips">'
        f'<span class="chip">model <b>{escape(model)}</b></span>'
        '<span class="chip">on this machine, offline</span>'
        f'<span class="chip">gone <b>{grace:.0f} s</b> after you close the tab, unless kept</span>'
        "</div></header>"
    )


def nobody() -> str:
    """What stands in the chat while there is nobody to talk with; Markdown."""
    return (
        "### Nobody is here yet\n\nMeet somebody, or bring your own character. It is trained into "
        "a small adapter of its own while you talk, and then answers with nothing of its story in "
        "the prompt."
    )


def no_words(actor: Actor) -> str:
    """What stands in a chat in which nobody spoke yet; Markdown."""
    return f"Say something to {safe_markdown(actor.label)}: this chat is empty."


# --- preview -------------------------------------------------------------------------------------


def preview(
    actor: Actor, learned: Sequence[Document], chosen: Uses, tokens: int, seconds: float
) -> str:
    """Return the preview of a character: texts to absorb, texts for the prompt, texts ignored.

    Args:
        actor: who is previewed.
        learned: what will be learned, of so many `tokens`.
        chosen: what each part of the card is for.
        tokens: of the text to learn.
        seconds: that learning will take.
    """
    card = actor.character
    bio = "\n\n".join(item.text for item in learned)
    cut = "" if len(bio) <= _EXCERPT else f" … and {len(bio) - _EXCERPT:,} more characters"
    columns = (
        ("Into the weights", (*chosen.learned, f"together {tokens:,} tokens of text")),
        ("Stays in the prompt", (*chosen.prompt, "the newest turns of your chat")),
        ("Ignored", chosen.ignored or ("nothing",)),
    )
    return styled(
        face(actor, f"{card.source_format} · {tokens:,} tokens of text to absorb")
        + '<div class="three">'
        + "".join(
            f"<section><h3>{title}</h3><ul>"
            + "".join(f"<li>{escape(text)}</li>" for text in texts)
            + "</ul></section>"
            for title, texts in columns
        )
        + "</div>"
        + f'<div class="excerpt" dir="auto" tabindex="0" role="region" aria-label="Text to absorb">'
        f"{escape(bio[:_EXCERPT])}{cut}</div>"
        + estimate(seconds)
        + '<p class="quiet">What you absorb becomes part of this character alone: whatever it says '
        "about itself, and whatever it was told to do. Read it first.</p>"
    )


def chat_preview(log: ChatLog, actor: Actor | None, persona: Persona) -> str:
    """Return the preview of a chat."""
    sample = "\n".join(
        f"{'You' if m.role == 'user' else log.character_name or 'Character'}: {m.content}"
        for m in log.messages[:6]
    )
    whose = (
        f"It becomes the history of <b>{escape(actor.label)}</b> with "
        f"<b>{escape(persona.name)}</b>. "
        "All but the newest exchange is learned."
        if actor
        else "Absorb or choose a character first: a chat needs somebody who remembers it."
    )
    warnings = "".join(f'<p class="warn">{escape(text)}</p>' for text in log.warnings)
    return styled(
        f"<h3>{escape(log.source_format)}, {len(log.messages)} messages</h3>"
        f"<p>{whose} It is a chat of its own; your other chats stay.</p>{warnings}"
        f'<div class="excerpt" dir="auto" tabindex="0" role="region" aria-label="First messages">'
        f"{escape(sample[:_EXCERPT])}</div>"
    )


# --- characters ----------------------------------------------------------------------------------


def character_list(
    every: Iterable[Actor], chosen: str | None, states: dict[str, str], lines: dict[str, str]
) -> str:
    """The visitor's characters: face, name, state, and the last line of the open chat."""
    rows = "".join(
        f'<li><button type="button" data-actor="{escape(actor.id)}"'
        f"{' aria-current=true' if actor.id == chosen else ''}>"
        + face(actor, lines.get(actor.id, ""), states.get(actor.id, ""))
        + "</button></li>"
        for actor in every
    )
    if not rows:
        return styled('<p class="empty">No characters yet.</p>')
    return styled(f'<ul class="list">{rows}</ul>')


# --- chat ----------------------------------------------------------------------------------------


def prompt(shown: PromptRecord | None) -> str:
    """Exactly what the model was shown for its newest reply."""
    if shown is None:
        return styled(
            '<div class="empty">Say something: the whole prompt of each reply appears here.</div>'
        )
    where = (
        f"{shown.learned:,} tokens in weights, revision {escape(shown.revision[:12])}"
        if shown.revision
        else "no memory: the base model alone"
    )
    sections = []
    if shown.in_weights:
        sections.append(
            f'<section class="gone"><header><span>{shown.in_weights} older messages are in the '
            "weights</span><span>0 tokens</span></header></section>"
        )
    if shown.dropped:
        sections.append(
            f'<section class="gone"><header><span class="warn">{shown.dropped} older messages did '
            "not fit and are lost to this mode</span><span>0 tokens</span></header></section>"
        )
    sections += [_section(part) for part in shown.parts]
    saved = shown.full - shown.sent
    return styled(
        f"<p><b>{shown.sent:,} tokens</b> in the prompt; card and whole conversation would be "
        f"{shown.full:,}{f', {saved:,} more' if saved > 0 else ''}. {where}.</p>"
        f'<div class="prompt">{"".join(sections)}</div>'
    )


def _section(part: PromptPart) -> str:
    kind = part.kind if part.kind in _KINDS else "system"
    name = escape(_KINDS.get(part.kind, part.kind))
    return (
        f'<section class="{kind}"><header><span>{name}</span><span>{part.tokens} tokens</span>'
        f'</header><div dir="auto" tabindex="0" role="region" aria-label="{name}">'
        f"{escape(part.text)}</div></section>"
    )


def status_line(
    actor: Actor | None,
    chat: Chat | None,
    shown: PromptRecord | None,
    jobs: int,
    *,
    unlearned: bool = False,
) -> str:
    """One line under the chat."""
    if actor is None or chat is None:
        return styled('<p class="quiet">Choose a character, or meet one.</p>')
    parts = [many(len(chat.messages), "message")]
    if unlearned:
        parts.append("still learning: the card stands in the prompt")
    if shown is not None:
        parts += [f"{shown.sent:,} tokens in the prompt", f"{shown.in_weights} messages in weights"]
    if jobs:
        parts.append("learning what left the window")
    return styled(f'<p class="quiet" role="status">{" · ".join(parts)}</p>')


def memory_now(actor: Actor | None, chat: Chat | None, learned: int, state: str = "") -> str:
    """What is in the prompt and what is in weights, at a glance.

    Args:
        actor: who talks; None: nobody.
        chat: the open conversation.
        learned: tokens in the weights of this character and persona.
        state: of the character, if there is more to say than that.
    """
    if actor is None or chat is None:
        return styled('<p class="quiet">What is in the prompt, and what in weights.</p>')
    shown = chat.prompt
    sent = f"<b>{shown.sent:,}</b> tokens" if shown else "nothing was asked yet"
    kinds = [part.kind for part in shown.parts] if shown else []
    turns = sum(kind in _KINDS for kind in kinds)
    others = [escape(kind) for kind in kinds if kind not in _KINDS]
    in_prompt = ", ".join([*others, many(turns, "message")]) if shown else ""
    saved = shown.full - shown.sent if shown else 0
    lines = [
        ("In the prompt", sent, in_prompt),
        (
            "In weights",
            f"<b>{learned:,}</b> tokens",
            many(shown.in_weights, "message") + " of this chat" if shown else "",
        ),
    ]
    if saved > 0:
        lines.append(("Saved", f"<b>{saved:,}</b> tokens", "against card and whole chat"))
    body = "".join(
        f"<dt>{name}</dt><dd>{value}{f'<br><small>{more}</small>' if more else ''}</dd>"
        for name, value, more in lines
    )
    told = f'<p class="state">{escape(state)}</p>' if state else ""
    return styled(f'{told}<dl class="now">{body}</dl>')


def swipe_number(number: int, of: int) -> str:
    """Which of the kept answers to the newest message is shown."""
    return styled(f'<p class="quiet" role="status">Answer {number} of {of}</p>') if of > 1 else ""


def lore_title(entry: LoreEntry) -> str:
    """What an entry of a lorebook is called: its title, its keys, or its first words."""
    title = entry.name or ", ".join(entry.keys) or entry.content
    return title if len(title) <= _TITLE else f"{title[: _TITLE - 1].rstrip()}…"


def lorebook(actor: Actor | None) -> str:
    """Keys and texts of the lorebook."""
    entries = actor.character.lore if actor else ()
    if not entries:
        return styled('<p class="quiet">This character has no lorebook.</p>')
    cells = [
        [
            escape(lore_title(entry)),
            escape(entry.content[:300])
            + ("" if entry.enabled else " <small>(switched off)</small>")
            + (" <small>(always)</small>" if entry.constant else ""),
        ]
        for entry in entries[:100]
    ]
    caption = "Joins the prompt when a key is mentioned"
    return styled(table("Lorebook", caption, ("key", "text"), cells))


# --- memory --------------------------------------------------------------------------------------


def figure_tiles(status: Status | None, actor: Actor, chat: Chat, limit: float | None) -> str:
    """Figures at a glance."""
    saved = sum(max(0, cost.full - cost.sent) for cost in chat.costs)
    kl = next(
        (record.report.kl for record in reversed(actor.absorbs) if record.report.kl is not None),
        None,
    )
    health = "-" if kl is None else f"{kl:.2f}"
    allowed = f" of {limit:g} allowed" if limit is not None else ""
    values = [
        (f"{status.absorbed_tokens if status else 0:,}", "tokens in the weights"),
        (f"{(status.bytes if status else 0) / 1e6:.2f} MB", "on disk, adapters and text"),
        (f"{status.revisions if status else 0}", "revisions"),
        (f"{saved:,}", "prompt tokens saved in this chat"),
        (health, f"health: nats of change to other text{allowed}"),
    ]
    inner = "".join(
        f'<div class="tile"><b>{a}</b><span>{escape(b)}</span></div>' for a, b in values
    )
    error = (
        f'<p class="warn">The newest background absorb failed: {escape(status.last_error)}</p>'
        if status and status.last_error
        else ""
    )
    return styled(f'<div class="tiles">{inner}</div>{error}')


def plots(actor: Actor, chat: Chat) -> str:
    """Perplexity of the newest lesson, and prompt tokens of the chat."""
    values = actor.absorbs[-1].perplexities if actor.absorbs else ()
    saved = sum(cost.full - cost.sent for cost in chat.costs)
    caption = (
        f"Over {many(len(chat.costs), 'turn')} the prompts had "
        f"{sum(c.sent for c in chat.costs):,} tokens; "
        f"with card and whole history they would have had {sum(c.full for c in chat.costs):,}: "
        f"{abs(saved):,} {'saved' if saved >= 0 else 'more'}."
        if chat.costs
        else "Prompt tokens of each turn appear here once you talk."
    )
    cost = chart(
        "Prompt tokens per turn",
        [
            Series("memory in weights", [cost.sent for cost in chat.costs]),
            Series("card and whole history", [cost.full for cost in chat.costs]),
        ],
        x="turn",
        caption=caption,
    )
    return styled(f'<div class="charts">{curve(values)}{cost}</div>')


def absorb_log(actor: Actor) -> str:
    """Return the table of all absorbs, with the figures of each."""
    if not actor.absorbs:
        return styled('<p class="quiet">Nothing was absorbed yet.</p>')

    def number(value: float | None, form: str) -> str:
        return "-" if value is None else format(value, form)

    heads = ("time", "what", "tokens", "perplexity before#", "after#", "verbatim#", "KL#", "MB#")
    cells = [
        [
            clock(record.time),
            escape(record.source),
            escape(learned_from(record)),
            number(record.report.perplexity_before, ".2f"),
            number(record.report.perplexity_after, ".2f"),
            number(record.report.recalled, ".0%"),
            number(record.report.kl, ".3f"),
            f"{record.report.bytes / 1e6:.2f}",
        ]
        for record in actor.absorbs
    ]
    return styled(table("Absorbed", "What was absorbed when", heads, cells))


def revisions(history: Sequence[Revision], head_name: str | None) -> str:
    """The revisions on disk."""
    if not history:
        return styled('<p class="quiet">This memory has no revision yet.</p>')
    heads = ("revision", "made", "documents#", "messages#", "tokens#", "MB#")
    cells = [
        [
            f"<code>{row.name[:12]}</code>{' <b>newest</b>' if row.name == head_name else ''}",
            clock(row.created),
            f"{len(row.documents)}",
            f"{row.messages}",
            f"{row.tokens:,}",
            f"{row.bytes / 1e6:.2f}",
        ]
        for row in reversed(history)
    ]
    return styled(table("Revisions", "Revisions on disk, newest first", heads, cells))


def visit_log(rows: Sequence[VisitEvent]) -> str:
    """The visitor's log, newest first."""
    if not rows:
        return styled('<p class="quiet">Nothing happened yet.</p>')
    cells = [
        [clock(row.time), escape(row.event), escape(row.detail)] for row in reversed(rows[-50:])
    ]
    return styled(table("Receipts", "Receipts of this visit", ("time", "what", "detail"), cells))


def probe_result(probe: Probe) -> str:
    """A measured answer."""
    sums = (("base model", probe.without_memory), ("with the memory", probe.with_memory))
    cells = [[name, meter(total / probe.tokens), f"{total:.2f}"] for name, total in sums]
    heads = ("model", "per token#", "log-probability of the whole answer#")
    return styled(
        f'<p role="status">The memory makes each token of this answer '
        f"<b>{math.exp(probe.gain):.2f} times</b> as likely.</p>"
        + table("Measured", "Probability of the answer", heads, cells)
    )


def no_character() -> str:
    """Return what stands where a character has to be chosen first."""
    return styled(
        '<div class="empty"><p><b>No character chosen.</b></p><p>Meet one in the first tab; what '
        "it learned, and what that costs, is shown here.</p></div>"
    )


def chat_messages(
    actor: Actor | None, chat: Chat | None, offered: Sequence[str]
) -> list[dict[str, object]]:
    """The conversation as Gradio's chatbot takes it; other greetings as buttons while it is new."""
    rows = [chat_message(item) for item in chat.messages] if actor and chat else []
    if len(rows) == 1 and rows[0]["role"] == "assistant" and len(offered) > 1:
        rows[0]["options"] = [
            {"value": str(number), "label": f"Greeting {number + 1}"}
            for number in range(len(offered))
        ]
    return rows


def chat_message(item: Message) -> dict[str, object]:
    """Return a message as Gradio's chatbot takes it."""
    return {"role": item.role, "content": [{"type": "text", "text": safe_markdown(item.content)}]}
