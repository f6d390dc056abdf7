"""Text to tokens and back: the chat template, training segments, and incremental decoding.

One lock guards the tokenizer: fast tokenizers refuse concurrent use from several threads. A second
one, with its own lock, decodes, so that answers go on while a long text is encoded.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from jinja2.exceptions import TemplateError

from templora_memory.domain.messages import LEARNED_ROLES, Document, Message
from templora_memory.errors import InvalidText

PLAIN_TEMPLATE = (
    "{% for m in messages %}{{ m.role | capitalize }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)
"""For models without a chat template."""

PLAIN_STOP = "\nUser:"  # such a model goes on with the other side of the conversation

_UNBOUNDED = 10**30
SEPARATOR = "\n\n"  # between documents that do not continue each other
_TAIL = 8  # tokens before a text that decide how it begins
_SPOKEN = frozenset({"assistant", "call"})  # written by the model
_CHARACTER = 4  # bytes, and so tokens, of the longest character
LONG_TURN = 16  # messages
OPENING = "Hello."  # the user's part where a template insists that the user speaks first


@dataclass(frozen=True, slots=True)
class Habits:
    """What a chat template puts up with; measured on it, because templates differ silently."""

    system: bool
    tool: bool
    same_role_twice: bool
    assistant_first: bool


@dataclass(frozen=True, slots=True)
class Segments:
    """Tokens to train on: `weights` is 1 where the token is learned, 0 where it is only seen."""

    ids: tuple[int, ...]
    weights: tuple[float, ...]


class Text:
    """A tokenizer and its chat template, safe to use from any thread."""

    def __init__(self, tokenizer: Any, *, thinking: bool = False) -> None:
        self._tokenizer = tokenizer
        self._thinking = thinking
        # lengths are the service's business, which checks them: no warning from in between
        tokenizer.model_max_length = _UNBOUNDED
        self._lock = threading.Lock()
        self._reader = copy.deepcopy(tokenizer)
        self._reading = threading.Lock()
        self._template = None if getattr(tokenizer, "chat_template", None) else PLAIN_TEMPLATE
        self._habits = self._measure()
        self._lead = self._measure_lead()
        said = [self._render([Message("assistant", letter)]) for letter in "xy"]
        self._opening = _common(*said)  # what stands before the text of an assistant's message

    @property
    def plain(self) -> bool:
        """Whether the model has no chat template of its own."""
        return self._template is not None

    # --- chat ----------------------------------------------------------------------------------

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """Tokens of a conversation, up to where the assistant's answer begins.

        Raises:
            InvalidText: the template refuses it.
        """
        return self._render(messages, answer=True)

    def dialogue(
        self,
        messages: Sequence[Message],
        *,
        lead: bool,
        roles: frozenset[str] = LEARNED_ROLES,
    ) -> Segments:
        """Tokens of a dialogue to train on; messages of these roles are learned.

        Each turn is rendered on its own, so that the cost grows with the text and no template
        rewrites an earlier turn. `lead` keeps what the template puts before the first message.
        """
        ids: list[int] = []
        weights: list[float] = []
        for turn in _turns(messages):
            known: list[int] = []
            marks: list[float] = []
            if turn[0].role in _SPOKEN and not self._habits.assistant_first:
                known = self._render([Message("user", OPENING)])  # nobody said that
                marks = [0.0] * len(known)
            for count, message in enumerate(turn, start=1):
                rendered = self._render(turn[:count])
                same = _common(known, rendered)
                learned = message.role in roles and bool(message.content.strip())
                marks = marks[:same] + [float(learned)] * (len(rendered) - same)
                known = rendered
            marks[: self._lead] = [0.0] * min(self._lead, len(marks))
            skip = 0 if lead and not ids else self._lead
            ids += known[skip:]
            weights += marks[skip:]
        return Segments(tuple(ids), tuple(weights))

    def _render(self, messages: Sequence[Message], *, answer: bool = False) -> list[int]:
        rows = _as_rows(messages, self._habits)
        try:
            return self._apply(rows, answer=answer)
        except (TemplateError, ValueError, TypeError, KeyError) as error:
            raise InvalidText(
                f"The model's chat template refuses this conversation: {error}."
            ) from error

    def _apply(self, rows: list[dict[str, str]], *, answer: bool) -> list[int]:
        extra: dict[str, Any] = {"enable_thinking": self._thinking}  # most templates do not ask
        if self._template is not None:
            extra["chat_template"] = self._template
        with self._lock:
            encoded = self._tokenizer.apply_chat_template(
                rows,
                add_generation_prompt=answer,
                tokenize=True,
                return_dict=True,
                sanitize_control_tokens=True,  # text that looks like a control token stays text
                **extra,
            )
        return list(encoded["input_ids"])

    def tools(self, tools: Sequence[Mapping[str, Any]]) -> str | None:
        """What the chat template itself says about tools in the system message; None: nothing."""
        mark = "alpha"
        rows = [{"role": "system", "content": mark}, {"role": "user", "content": "beta"}]
        try:
            with self._lock:
                plain, told = (
                    str(self._tokenizer.apply_chat_template(rows, tokenize=False, **extra))
                    for extra in ({}, {"tools": list(tools)})
                )
                special = list(self._tokenizer.all_special_tokens)
        except (TemplateError, ValueError, TypeError, KeyError):
            return None
        begin, found, rest = plain.partition(mark)
        before = begin + found
        if not (found and told.startswith(before) and told[len(before) :].endswith(rest)):
            return None  # it says it elsewhere
        said = told[len(before) : len(told) - len(rest)].strip()
        return None if any(token in said for token in special) else said or None

    def _measure(self) -> Habits:
        def shows(*rows: tuple[str, str]) -> bool:
            """Whether the template renders these rows with all of their text."""
            try:
                ids = self._apply([{"role": r, "content": c} for r, c in rows], answer=False)
            except (TemplateError, ValueError, TypeError, KeyError):
                return False
            text = self.decode(ids, special=True)
            return all(content in text for _, content in rows)

        return Habits(
            system=shows(("system", "alpha"), ("user", "beta")),
            tool=shows(("user", "alpha"), ("assistant", "beta"), ("tool", "gamma")),
            same_role_twice=shows(("user", "alpha"), ("user", "beta")),
            assistant_first=shows(("assistant", "alpha"), ("user", "beta")),
        )

    def _measure_lead(self) -> int:
        """How many tokens the template puts before the first message."""
        pair = [Message("user", "a"), Message("assistant", "b")]
        once, twice = self._render(pair), self._render(pair + pair)
        if twice[: len(once)] == once:
            return max(0, 2 * len(once) - len(twice))
        # The newest answer is dressed differently (an empty thought): both end in the same turn.
        return len(once) - _common(once[::-1], twice[::-1])

    # --- plain text ----------------------------------------------------------------------------

    def encode(self, text: str) -> list[int]:
        """Tokens of plain text: no special tokens are added or read from it."""
        with self._lock:
            encoded = self._tokenizer(
                text, add_special_tokens=False, split_special_tokens=True, verbose=False
            )
        return list(encoded["input_ids"])

    def documents(self, documents: Sequence[Document], *, start: int | None) -> Segments:
        """Tokens of documents one after the other; every token of their text is learned.

        `start` (the model's begin token) is put before the first, unless that one continues.
        """
        ids: list[int] = []
        weights: list[float] = []
        for document in documents:
            if ids and not document.continues:
                gap = self.encode(SEPARATOR)
                ids += gap
                weights += [0.0] * len(gap)
            elif not ids and not document.continues and start is not None:
                ids, weights = [start], [0.0]
            own = self.encode(document.text)
            ids += own
            weights += [1.0] * len(own)
        return Segments(tuple(ids), tuple(weights))

    def statements(self, sentences: Sequence[str]) -> Segments:
        """Each sentence as a message of the assistant; its text and its end are learned."""
        ids: list[int] = []
        weights: list[float] = []
        for sentence in sentences:
            said = self._render([Message("assistant", sentence)])
            skip = self._lead if ids else 0
            ids += said[skip:]
            weights += [0.0] * (self._opening - skip) + [1.0] * (len(said) - self._opening)
        return Segments(tuple(ids), tuple(weights))

    def split(self, text: str, tokens: int) -> tuple[str, ...]:
        """Cut text into pieces of `tokens` tokens; the pieces, joined, are the text."""
        with self._lock:
            encoded = self._tokenizer(
                text,
                add_special_tokens=False,
                split_special_tokens=True,
                return_offsets_mapping=True,
                verbose=False,
            )
        starts = [begin for begin, _ in encoded["offset_mapping"]]
        cuts = [0, *(starts[index] for index in range(tokens, len(starts), tokens)), len(text)]
        pieces = (text[begin:end] for begin, end in pairwise(cuts))
        return tuple(piece for piece in pieces if piece)

    def decode(self, ids: Sequence[int], *, special: bool = False) -> str:
        with self._reading:
            text: str = self._reader.decode(
                list(ids), skip_special_tokens=not special, clean_up_tokenization_spaces=False
            )
        return text


def _turns(messages: Sequence[Message]) -> list[list[Message]]:
    """Turns; a very long one (a tool loop) in parts that begin with the assistant.

    Each part is rendered once per message, so its length is what rendering costs.
    """
    turns: list[list[Message]] = []
    for message in messages:
        asks = message.role == "user" and turns and any(m.role == "user" for m in turns[-1])
        long = message.role in _SPOKEN and turns and len(turns[-1]) >= LONG_TURN
        if not turns or asks or long:
            turns.append([])
        turns[-1].append(message)
    return turns


def _common(left: Sequence[int], right: Sequence[int]) -> int:
    count = 0
    for a, b in zip(left, right, strict=False):
        if a != b:
            break
        count += 1
    return count


def _as_rows(messages: Sequence[Message], habits: Habits) -> list[dict[str, str]]:
    """Rows for the template, reshaped only as far as it insists on it."""
    rows = _calls_as_said(messages)
    if not habits.tool:
        for row in rows:
            if row["role"] == "tool":
                row["role"] = "user"
    if not habits.system:
        rows = _fold_system(rows)
    if not habits.assistant_first:
        first = next((i for i, row in enumerate(rows) if row["role"] != "system"), None)
        if first is not None and rows[first]["role"] == "assistant":
            rows.insert(first, {"role": "user", "content": OPENING})
    if not habits.same_role_twice:
        merged: list[dict[str, str]] = []
        for row in rows:
            if merged and merged[-1]["role"] == row["role"]:
                merged[-1]["content"] += "\n\n" + row["content"]
            else:
                merged.append(row)
        rows = merged
    return rows


def _calls_as_said(messages: Sequence[Message]) -> list[dict[str, str]]:
    rows: list[dict[str, str]] = []
    for message in messages:
        if message.role != "call":
            rows.append({"role": message.role, "content": message.content})
        elif rows and rows[-1]["role"] == "assistant":  # said and called in one breath
            rows[-1]["content"] += f"\n{message.content}"
        else:
            rows.append({"role": "assistant", "content": message.content})
    return rows


def _fold_system(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    system = "\n\n".join(row["content"] for row in rows if row["role"] == "system")
    others = [row for row in rows if row["role"] != "system"]
    if not system:
        return others
    if others and others[0]["role"] == "user":
        first = {"role": "user", "content": f"{system}\n\n{others[0]['content']}"}
        return [first, *others[1:]]
    return [{"role": "user", "content": system}, *others]


class Decoder:
    """Text from tokens as they come, and where to stop.

    A piece is held back while it ends inside a character (U+FFFD) or could be the beginning of a
    stop text. Where the tokens go on with a text, `before` is that text, of whose last `unsaid`
    tokens nothing was given out yet.
    """

    def __init__(
        self, text: Text, stop: Sequence[str], *, before: Sequence[int] = (), unsaid: int = 0
    ) -> None:
        self._text = text
        self._stop = tuple(stop)
        self._ids = list(before[-_TAIL:])
        self._from = 0  # decoding starts here: a token's text may depend on the one before
        self._done = len(self._ids) - unsaid  # text of these is in `_pending` or was given out
        self._pending = ""
        self.stopped = False

    def push(self, token: int) -> str:
        """Take in a token; returns text that is certain by now."""
        self._ids.append(token)
        before = self._text.decode(self._ids[self._from : self._done])
        after = self._text.decode(self._ids[self._from :])
        if after.endswith("\ufffd") or len(after) <= len(before):
            return ""
        self._from, self._done = self._done, len(self._ids)
        return self._give(after[len(before) :])

    def _give(self, fresh: str) -> str:
        self._pending += fresh
        ends = [at for stop in self._stop if (at := self._pending.find(stop)) >= 0]
        if ends:
            self.stopped = True
            text, self._pending = self._pending[: min(ends)], ""
            return text
        keep = max((_overlap(self._pending, stop) for stop in self._stop), default=0)
        cut = len(self._pending) - keep
        text, self._pending = self._pending[:cut], self._pending[cut:]
        return text

    @property
    def held(self) -> int:
        """How many of the last tokens no text was made of yet."""
        return len(self._ids) - self._done

    def finish(self, *, hold: bool = False) -> str:
        """The rest: text that was held back; with `hold` all but a character that may go on."""
        rest = ""
        if not hold or self.held >= _CHARACTER:
            before = self._text.decode(self._ids[self._from : self._done])
            after = self._text.decode(self._ids[self._from :])
            self._done = len(self._ids)
            rest = self._give(after[len(before) :]) if len(after) > len(before) else ""
        if self.stopped:
            return rest
        rest, self._pending = rest + self._pending, ""
        return rest


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that begins `stop`."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
