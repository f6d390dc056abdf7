"""One message answered four ways from the same history, so that only the memory differs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

from templora_memory import Message, ParametricMemory

from .character_reply import MODES, CharacterReply, Mode, ReplyControls
from .markup import many, quiet, styled
from .state import Actor, Chat, Persona

MODE_NAMES: dict[Mode, str] = {
    "weights": "Memory in weights",
    "prompt": "Card in the prompt",
    "both": "Both",
    "neither": "Neither",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedAnswer:
    """An answer as far as it is written.

    `prompt_tokens` is None until it ended; `dropped` are earlier messages that did not fit.
    """

    mode: Mode
    text: str = ""
    prompt_tokens: int | None = None
    dropped: int = 0


def compare(
    memory: ParametricMemory,
    actor: Actor,
    persona: Persona,
    messages: Sequence[Message],
    options: ReplyControls,
    *,
    seed: int,
) -> Iterator[tuple[ComparedAnswer, ...]]:
    """Answer a conversation, which ends with the user's message, in every mode; it stays as it is.

    All four get the same messages, options and seed. Nothing of it is learned or kept.
    """
    answers = [ComparedAnswer(mode=mode) for mode in MODES]
    yield tuple(answers)
    for number, mode in enumerate(MODES):
        chat = Chat(messages=list(messages))
        reply = CharacterReply(memory, actor, chat, persona, options.with_mode(mode), seed=seed)
        text = ""
        for piece in reply:
            text += piece
            answers[number] = ComparedAnswer(mode=mode, text=text)
            yield tuple(answers)
        prompt = reply.prompt
        answers[number] = ComparedAnswer(
            mode=mode, text=text.strip() or "(it said nothing)",
            prompt_tokens=prompt.sent if prompt else 0, dropped=prompt.dropped if prompt else 0,
        )  # fmt: skip
        yield tuple(answers)


def comparison(question: str, answers: Sequence[ComparedAnswer], earlier: int) -> str:
    """The four answers side by side, as HTML.

    Args:
        question: that was asked.
        answers: so far.
        earlier: messages before the question, the same for all four.
    """
    history = f"the same {many(earlier, 'earlier message')}" if earlier else "no earlier message"
    cells = "".join(
        f'<section class="{answer.mode}"><h3>{MODE_NAMES[answer.mode]}</h3>'
        f'<p dir="auto">{escape(answer.text) or "…"}</p>'
        + (
            f"<footer><b>{answer.prompt_tokens:,}</b> tokens in the prompt"
            f"{_dropped(answer)}</footer>"
            if answer.prompt_tokens is not None
            else "<footer>…</footer>"
        )
        + "</section>"
        for answer in answers
    )
    return styled(
        f'<p>“<b dir="auto">{escape(question)}</b>”, asked with {history} in each.</p>'
        f'<div class="four">{cells}</div>'
        + quiet("Not part of the chat; nothing of it is learned.")
    )


def _dropped(answer: ComparedAnswer) -> str:
    did_not_fit = many(answer.dropped, "earlier message") + " did not fit"
    return f'<br><span class="warn">{did_not_fit}</span>' if answer.dropped else ""


def no_comparison() -> str:
    """What stands there before anything was compared."""
    return styled(
        quiet(
            "The same message answered with the memory in weights, with the card in the prompt, "
            "with both and with neither, side by side."
        )
    )
