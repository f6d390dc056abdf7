"""The texts of the page as HTML. Every text from outside goes through `escape`."""

from __future__ import annotations

import base64
import io
import math
import re
import time
from collections.abc import Callable, Iterable, Sequence
from html import escape

from templora_memory import Document, Message, Probe, Revision, Status
from templora_memory.domain.segmentation import fold
from templora_memory.importers import ChatLog, Uses, without_pictures

from .charts import Series, chart
from .state import Actor, Chat, FactProbe, Persona, PromptPart, PromptRecord, VisitEvent
from .studio import DeletionProof, LearningStep
from .style import LOGO, emblem

Count = Callable[[str], int]
_EXCERPT = 1200
_THUMB = 160
_KINDS = {"user": "You said", "assistant": "The character said", "tool": "Tool"}
_N, _AUTO = ' class="n"', ' dir="auto"'
_TAG = re.compile(r"<(?=[a-zA-Z/!])")


def safe_markdown(text: str) -> str:
    """A chat message as safe Markdown: emphasis stays, images and tags do not."""
    return _TAG.sub("&lt;", without_pictures(text))


def _styled(body: str) -> str:
    return f'<div class="t">{body}</div>'


def _table(name: str, caption: str, heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table that scrolls by itself; cells are HTML. A head that ends in # is for numbers."""
    numeric = [head.endswith("#") for head in heads]
    top = "".join(
        f'<th scope="col"{_N if right else ""}>{escape(head.rstrip("#"))}</th>'
        for head, right in zip(heads, numeric, strict=True)
    )
    body = "".join(
        "<tr>"
        + "".join(
            f"<td{_N if right else _AUTO}>{cell}</td>"
            for cell, right in zip(row, numeric, strict=True)
        )
        + "</tr>"
        for row in rows
    )
    return (
        f'<div class="table" tabindex="0" role="region" aria-label="{escape(name)}"><table>'
        f"<caption>{escape(caption)}</caption><thead><tr>{top}</tr></thead>"
        f"<tbody>{body}</tbody></table></div>"
    )


def page_header(model: str, grace: float) -> str:
    """The top of the page."""
    return _styled(
        f'<header class="head">{LOGO}<div><h1>Characters that live in weights</h1>'
        "<p>A character is trained into a small adapter of its own while you watch. It answers "
        "with nothing of its story in the prompt. Throw it away, and the model is bit for bit "
        'what it was.</p></div></header><div class="chips">'
        f'<span class="chip">model <b>{escape(model)}</b></span>'
        '<span class="chip">on this machine, offline</span>'
        f'<span class="chip">temporary: gone <b>{grace:.0f} s</b> after you close the tab</span>'
        "</div>"
    )


# --- faces ---------------------------------------------------------------------------------------


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


def face(actor: Actor, note: str) -> str:
    """Emblem or portrait, name, and a line about it."""
    letter = escape(next((c for c in actor.label if c.isalnum()), "?").upper())
    seed = sum(actor.character.name.encode())
    shown = (
        f'<img src="{actor.image}" alt="">'
        if actor.image
        else emblem(actor.art, actor.accent, letter, seed)
    )
    return (
        f'<div class="face">{shown}<div><h3 dir="auto">{escape(actor.label)}</h3>'
        f'<p dir="auto">{escape(note)}</p></div></div>'
    )


def gallery_card(actor: Actor) -> str:
    """Return the card of a bundled character in the gallery."""
    return _styled(face(actor, actor.tagline))


# --- preview -------------------------------------------------------------------------------------


def preview(actor: Actor, learned: Sequence[Document], chosen: Uses, count: Count) -> str:
    """Return the preview of a character: texts to absorb, texts for the prompt, texts ignored."""
    card = actor.character
    tokens = sum(count(item.text) for item in learned)
    bio = "\n\n".join(item.text for item in learned)
    cut = "" if len(bio) <= _EXCERPT else f" … and {len(bio) - _EXCERPT:,} more characters"
    columns = (
        ("Into the weights", (*chosen.learned, f"together {tokens:,} tokens")),
        ("Stays in the prompt", (*chosen.prompt, "the newest turns of your chat")),
        ("Ignored", chosen.ignored or ("nothing",)),
    )
    return _styled(
        face(actor, f"{card.source_format} · {tokens:,} tokens to absorb")
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
        + '<p class="quiet">What you absorb becomes part of this character alone: whatever it says '
        "about itself, and whatever it was told to do. Read it first.</p>"
    )


def _many(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


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
    return _styled(
        f"<h3>{escape(log.source_format)}, {len(log.messages)} messages</h3>"
        f"<p>{whose}</p>{warnings}"
        f'<div class="excerpt" dir="auto" tabindex="0" role="region" aria-label="First messages">'
        f"{escape(sample[:_EXCERPT])}</div>"
    )


# --- learning ------------------------------------------------------------------------------------


def progress(label: str, step: LearningStep | None, *, doing: str = "") -> str:
    """A bar with words, and the perplexity so far."""
    if step is None or not step.total:
        seconds = f" · {step.seconds:.0f} s" if step else ""
        text = doing or "The model reads the text and asks itself about it"
        return _styled(
            f'<h3>{escape(label)}</h3><div class="bar wait" role="progressbar" '
            f'aria-label="{escape(text)}"><i></i></div><p class="quiet">{escape(text)}{seconds}</p>'
        )
    share = 100 * step.done / step.total
    newest = f", perplexity {step.perplexities[-1]:.2f}" if step.perplexities else ""
    caption = f"Step {step.done} of {step.total}{newest} · {step.seconds:.0f} s"
    return _styled(
        f'<h3>{escape(label)}</h3><div class="bar" role="progressbar" aria-valuenow="{share:.0f}" '
        f'aria-valuemin="0" aria-valuemax="100" aria-label="Learning">'
        f'<i style="width:{share:.1f}%"></i></div><p class="quiet">{caption}</p>'
    ) + curve(step.perplexities)


def curve(values: Sequence[float]) -> str:
    """Perplexity per step."""
    finite = [value for value in values if math.isfinite(value)]
    caption = (
        f"Perplexity of the text fell from {finite[0]:.2f} to {finite[-1]:.2f} over "
        f"{_many(len(finite), 'measured step')}. "
        "Lower means the model finds its own story less surprising."
        if finite
        else "No step is measured yet."
    )
    return chart(
        "Perplexity while learning",
        [Series("perplexity", finite)],
        x="step",
        caption=caption,
        log=True,
    )


def probes(rows: Sequence[FactProbe], *, now: str, caption: str) -> str:
    """Facts before and after, as probabilities per token and in words."""
    if not rows:
        return ""
    spoken = any(row.fact.answer for row in rows)
    heads = ["question and right answer", "before#", f"{now}#"]
    heads += ["before, it said", "now it says"] if spoken else []
    cells = [
        [
            f"<b>{escape(row.fact.question)}</b><br><small>{escape(row.fact.sentence)}</small>",
            _meter(row.base),
            _meter(row.now),
            *([_reply(row.base_reply, row), _reply(row.now_reply, row)] if spoken else []),
        ]
        for row in rows
    ]
    return _styled(_table("Facts", caption, heads, cells))


def _meter(nats: float) -> str:
    share = f"{100 * math.exp(min(0.0, nats)):.0f}"
    bar = f'<span class="meter" aria-hidden="true"><i style="width:{share}%"></i></span>'
    return f"{bar}{share} %"


def _reply(reply: str, row: FactProbe) -> str:
    if not reply:
        return '<span class="quiet">-</span>'
    right = fold(row.fact.answer) in fold(reply)
    return f"<mark>✓ {escape(reply)}</mark>" if right else escape(reply)


def score(rows: Sequence[FactProbe]) -> str:
    """One sentence about the probes."""
    if not rows:
        return ""
    answerable = [row for row in rows if row.fact.answer]
    gain = sum(row.now - row.base for row in rows) / len(rows)
    factor = math.exp(gain)
    if not answerable:
        return f"On average each token of its story is now {factor:.1f} times as likely."
    right = sum(fold(row.fact.answer) in fold(row.now_reply) for row in answerable)
    before = sum(fold(row.fact.answer) in fold(row.base_reply) for row in answerable)
    return (
        f"{right} of {len(answerable)} facts right with nothing in the prompt, {before} before. "
        f"Each token of a right answer is {factor:.1f} times as likely."
    )


def absorb_result(actor: Actor) -> str:
    """The end of an absorb."""
    report = actor.absorbs[-1].report
    size = f"{report.bytes / 1e6:.1f} MB"
    recalled = f", {report.recalled:.0%} of it now verbatim" if report.recalled is not None else ""
    return _styled(
        f'<div class="done" role="status"><h3>{escape(actor.label)} is in the weights</h3>'
        f"<p>{report.tokens:,} tokens{recalled}, in an adapter of {size}. "
        f"{score(actor.probes)}</p>"
        + "".join(f'<p class="quiet">{escape(text)}</p>' for text in actor.character.warnings)
        + "</div>"
    )


# --- characters ----------------------------------------------------------------------------------


def character_list(every: Iterable[Actor], chosen: str | None, sizes: dict[str, int]) -> str:
    """The visitor's characters."""
    cards = "".join(
        f'<article class="{"on" if actor.id == chosen else ""}">'
        + face(
            actor,
            f"{sizes.get(actor.id, 0) / 1e6:.1f} MB · "
            f"{'kept on this machine' if actor.saved else 'temporary'}",
        )
        + "</article>"
        for actor in every
    )
    if not cards:
        return _styled(
            '<div class="empty"><p><b>No characters yet.</b></p><p>Meet one above, or bring your '
            "own card, text or chat.</p></div>"
        )
    return _styled(f'<div class="list">{cards}</div>')


def deletion_question(actor: Actor) -> str:
    """Asked once before a character is deleted."""
    return _styled(
        f"<h3>Delete {escape(actor.label)}?</h3><p>Its adapter, its bio, its chats and what every "
        "persona told it are removed from this machine. This cannot be undone.</p>"
    )


def deletion_result(result: DeletionProof) -> str:
    """The forget receipt, and the proof."""
    kinds: dict[str, list[int]] = {}
    for file in result.receipt.files:
        kinds.setdefault(file.path.rpartition("/")[2], []).append(file.bytes)
    cells = [
        [escape(name), f"{len(sizes)}", f"{sum(sizes):,}"] for name, sizes in sorted(kinds.items())
    ]
    proof = {
        None: "No facts were asked before, so there is nothing to compare.",
        True: "Every probed fact is again exactly as likely as for the base model: equal to the "
        "last bit.",
        False: "Some facts are not at their base level. Please report this.",
    }[result.equals_base]
    downloads = f" and {result.downloads} prepared downloads" if result.downloads else ""
    return _styled(
        f'<div class="done" role="status"><h3>{escape(result.label)} is gone</h3><p>'
        f"{_many(len(result.receipt.files), 'file')} with "
        f"{result.receipt.bytes / 1e6:.2f} MB removed"
        f"{downloads}. {proof}</p></div>"
        + _table("Receipt", "Receipt: every file of it", ("file", "count#", "bytes#"), cells)
    ) + _after(result.probes)


def _after(rows: Sequence[FactProbe]) -> str:
    if not rows:
        return ""
    caption = "The probe again: log-probability per token of each fact"
    heads = ("fact", "base model, before#", "after deletion#", "")
    cells = [
        [
            escape(row.fact.sentence),
            f"{row.base:.4f}",
            f"{row.now:.4f}",
            "equal" if row.base == row.now else "differs",
        ]
        for row in rows
    ]
    return _styled(_table("Probe", caption, heads, cells))


# --- chat ----------------------------------------------------------------------------------------


def prompt(shown: PromptRecord | None) -> str:
    """Exactly what the model was shown for its newest reply."""
    if shown is None:
        return _styled(
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
    return _styled(
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
    actor: Actor | None, chat: Chat | None, shown: PromptRecord | None, jobs: int
) -> str:
    """One line under the chat."""
    if actor is None or chat is None:
        return _styled(
            '<p class="quiet">Choose a character above, or meet one in the first tab.</p>'
        )
    parts = [f"{len(chat.messages)} messages"]
    if shown is not None:
        parts += [f"{shown.sent:,} tokens in the prompt", f"{shown.in_weights} messages in weights"]
    if jobs:
        parts.append("learning what left the window")
    return _styled(f'<p class="quiet" role="status">{" · ".join(parts)}</p>')


def lorebook(actor: Actor | None) -> str:
    """Keys and texts of the lorebook."""
    entries = actor.character.lore if actor else ()
    if not entries:
        return _styled('<p class="quiet">This character has no lorebook.</p>')
    cells = [
        [
            escape(entry.name or ", ".join(entry.keys) or "always"),
            escape(entry.content[:300])
            + ("" if entry.enabled and not entry.regex else " <small>(not used)</small>"),
        ]
        for entry in entries[:100]
    ]
    caption = "Joins the prompt when a key is mentioned"
    return _styled(_table("Lorebook", caption, ("key", "text"), cells))


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
    return _styled(f'<div class="tiles">{inner}</div>{error}')


def plots(actor: Actor, chat: Chat) -> str:
    """Perplexity of the newest lesson, and prompt tokens of the chat."""
    values = actor.absorbs[-1].perplexities if actor.absorbs else ()
    saved = sum(cost.full - cost.sent for cost in chat.costs)
    caption = (
        f"Over {_many(len(chat.costs), 'turn')} the prompts had "
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
    return _styled(f'<div class="charts">{curve(values)}{cost}</div>')


def absorb_log(actor: Actor) -> str:
    """Return the table of all absorbs, with the figures of each."""
    if not actor.absorbs:
        return _styled('<p class="quiet">Nothing was absorbed yet.</p>')

    def number(value: float | None, form: str) -> str:
        return "-" if value is None else format(value, form)

    heads = ("time", "what", "tokens#", "perplexity before#", "after#", "verbatim#", "KL#", "MB#")
    cells = [
        [
            _clock(record.time),
            escape(record.source),
            f"{record.report.tokens:,}",
            number(record.report.perplexity_before, ".2f"),
            number(record.report.perplexity_after, ".2f"),
            number(record.report.recalled, ".0%"),
            number(record.report.kl, ".3f"),
            f"{record.report.bytes / 1e6:.2f}",
        ]
        for record in actor.absorbs
    ]
    return _styled(_table("Absorbed", "What was absorbed when", heads, cells))


def revisions(history: Sequence[Revision], head_name: str | None) -> str:
    """The revisions on disk."""
    if not history:
        return _styled('<p class="quiet">This memory has no revision yet.</p>')
    heads = ("revision", "made", "documents#", "messages#", "tokens#", "MB#")
    cells = [
        [
            f"<code>{row.name[:12]}</code>{' <b>newest</b>' if row.name == head_name else ''}",
            _clock(row.created),
            f"{len(row.documents)}",
            f"{row.messages}",
            f"{row.tokens:,}",
            f"{row.bytes / 1e6:.2f}",
        ]
        for row in reversed(history)
    ]
    return _styled(_table("Revisions", "Revisions on disk, newest first", heads, cells))


def visit_log(rows: Sequence[VisitEvent]) -> str:
    """The visitor's log, newest first."""
    if not rows:
        return _styled('<p class="quiet">Nothing happened yet.</p>')
    cells = [
        [_clock(row.time), escape(row.event), escape(row.detail)] for row in reversed(rows[-50:])
    ]
    return _styled(_table("Receipts", "Receipts of this visit", ("time", "what", "detail"), cells))


def probe_result(probe: Probe) -> str:
    """A measured answer."""
    sums = (("base model", probe.without_memory), ("with the memory", probe.with_memory))
    cells = [[name, _meter(total / probe.tokens), f"{total:.2f}"] for name, total in sums]
    heads = ("model", "per token#", "log-probability of the whole answer#")
    return _styled(
        f'<p role="status">The memory makes each token of this answer '
        f"<b>{math.exp(probe.gain):.2f} times</b> as likely.</p>"
        + _table("Measured", "Probability of the answer", heads, cells)
    )


def no_character() -> str:
    """Return what stands where a character has to be chosen first."""
    return _styled(
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


def _clock(moment: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(moment))
