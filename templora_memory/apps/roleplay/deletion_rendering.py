"""What is shown of deletions, as HTML: the question, the way back, the receipt."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from .deletions import DeletionProof, PendingDeletion
from .markup import file_size, many, quiet, styled, table
from .state import Actor, Chat, FactProbe, Persona


def _question(title: str, goes: Sequence[str], grace: float) -> str:
    """Ask before a deletion; texts are HTML."""
    items = "".join(f"<li>{item}</li>" for item in goes)
    back = (
        f"You can undo it for {grace:.0f} seconds, while this page is open."
        if grace >= 1
        else "It cannot be undone."
    )
    return styled(f"<h3>{title}</h3><p>What goes:</p><ul>{items}</ul>{quiet(back)}")


def character_question(actor: Actor, size: int, personas: Sequence[Persona], grace: float) -> str:
    """Asked before a character is deleted."""
    chats = sum(chat.begun for chats in actor.chats.values() for chat in chats)
    names = [p.name for p in personas if any(c.begun for c in actor.chats.get(p.key, []))]
    told = f", and what it learned from {escape(', '.join(names))}" if names else ""
    goes = [
        f"its memory in weights ({file_size(size)}){told}",
        f"its bio, notes and {many(chats, 'chat')}",
        "downloads prepared here; copies that you saved stay",
    ]
    if actor.saved:
        goes.append("it is kept on this machine: that copy goes, too")
    return _question(f"Delete {escape(actor.label)}?", goes, grace)


def chat_question(actor: Actor, persona: Persona, chat: Chat, in_weights: int, grace: float) -> str:
    """Asked before a conversation is deleted."""
    learned = (
        f"what {escape(actor.label)} learned from it ({many(in_weights, 'message')} in weights)"
        if in_weights
        else "nothing of it is in the weights"
    )
    goes = [f"{many(len(chat.messages), 'message')} with {escape(persona.name)}", learned]
    title = f"the chat “{escape(chat.title)}”" if chat.title else "this chat"
    return _question(f"Delete {title}?", goes, grace)


def persona_question(persona: Persona, actors: Sequence[Actor], size: int, grace: float) -> str:
    """Asked before everything of a persona is deleted."""
    chats = [(a, sum(c.begun for c in a.chats.get(persona.key, []))) for a in actors]
    lines = [f"{many(count, 'chat')} with {escape(a.label)}" for a, count in chats if count]
    lines.append(f"what the characters learned from them ({file_size(size)})")
    return _question(f"Forget everything {escape(persona.name)} said?", lines, grace)


def rollback_question(actor: Actor, newer: int, revision: str, grace: float) -> str:
    """Asked before a memory goes back to an older revision."""
    goes = [f"{many(newer, 'newer revision')}, with what only they had learned"]
    title = f"Take {escape(actor.label)} back to revision {escape(revision[:12])}?"
    return _question(title, goes, grace)


def undo_bar(deletions: Sequence[PendingDeletion]) -> str:
    """What was deleted last, and how long it can be undone."""
    if not deletions:
        return ""
    newest = deletions[-1]
    more = f" · and {len(deletions) - 1} more before it" if len(deletions) > 1 else ""
    return styled(
        f'<p role="status"><b dir="auto">{escape(newest.label)}</b>: deleted, removed for good in '
        f"{newest.seconds_left():.0f} s{more}</p>"
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
        None: "",
        True: "Every probed fact is again exactly as likely as for the base model: equal to the "
        "last bit.",
        False: "Some facts are not at their base level. Please report this.",
    }[result.equals_base]
    downloads = f" and {result.downloads} prepared downloads" if result.downloads else ""
    return styled(
        f'<div class="done" role="status"><h3 dir="auto">{escape(result.label)} is gone</h3><p>'
        f"{many(len(result.receipt.files), 'file')} with "
        f"{file_size(result.receipt.bytes)} removed{downloads}. {proof}</p></div>"
        + table("Receipt", "Receipt: every file of it", ("file", "count#", "bytes#"), cells)
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
    return styled(table("Probe", caption, heads, cells))
