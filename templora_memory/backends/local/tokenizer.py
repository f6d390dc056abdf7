"""Text to tokens and back: the chat template, and tokens to train on with their loss weights.

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
_SPOKEN = frozenset({"assistant", "call"})  # written by the model
LONG_TURN = 16  # messages
OPENING = "Hello."  # the user's part where a template insists that the user speaks first


@dataclass(frozen=True, slots=True)
class TemplateCapabilities:
    """The messages that a chat template renders; measured on it, because templates differ silently.

    Args:
        system: a system message.
        tool: a tool's result.
        same_role_twice: two messages of one role in a row.
        assistant_first: a conversation that the assistant begins.
    """

    system: bool
    tool: bool
    same_role_twice: bool
    assistant_first: bool


@dataclass(frozen=True, slots=True)
class MaskedTokens:
    """Tokens with a loss weight each: 1 where the token is learned, 0 where it is only seen."""

    ids: tuple[int, ...]
    weights: tuple[float, ...]


class ChatTokenizer:
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
        self._capabilities = self._measure()
        self._lead = self._measure_lead()
        rendered = [self._render([Message("assistant", letter)]) for letter in "xy"]
        self._opening = _common_length(*rendered)  # tokens before an assistant's text

    @property
    def uses_plain_template(self) -> bool:
        """True if the model has no chat template of its own."""
        return self._template is not None

    # --- chat ----------------------------------------------------------------------------------

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """Return the tokens of a conversation, up to where the assistant's answer begins.

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
    ) -> MaskedTokens:
        """Return the tokens of a dialogue to train on; messages of these roles are learned.

        Each turn is rendered on its own, so that the cost grows with the text and no template
        rewrites an earlier turn. `lead` keeps what the template puts before the first message.
        """
        ids: list[int] = []
        weights: list[float] = []
        for turn in _turns(messages):
            turn_ids: list[int] = []
            turn_weights: list[float] = []
            if turn[0].role in _SPOKEN and not self._capabilities.assistant_first:
                turn_ids = self._render([Message("user", OPENING)])  # nobody said that
                turn_weights = [0.0] * len(turn_ids)
            for count, message in enumerate(turn, start=1):
                rendered = self._render(turn[:count])
                same = _common_length(turn_ids, rendered)
                learned = message.role in roles and bool(message.content.strip())
                new_weights = [float(learned)] * (len(rendered) - same)
                turn_ids, turn_weights = rendered, turn_weights[:same] + new_weights
            if turn[0].role != "system":  # one of its own takes the place of the template's
                turn_weights[: self._lead] = [0.0] * min(self._lead, len(turn_weights))
            skip = 0 if lead and not ids else self._lead
            ids += turn_ids[skip:]
            weights += turn_weights[skip:]
        return MaskedTokens(tuple(ids), tuple(weights))

    def _render(self, messages: Sequence[Message], *, answer: bool = False) -> list[int]:
        """Return the tokens of messages, with `answer` up to where the assistant's begins."""
        rows = _as_rows(messages, self._capabilities)
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
        """Return what the chat template writes about tools in the system message; None: nothing."""
        mark = "alpha"
        rows = [{"role": "system", "content": mark}, {"role": "user", "content": "beta"}]
        try:
            with self._lock:
                without, with_tools = (
                    str(self._tokenizer.apply_chat_template(rows, tokenize=False, **extra))
                    for extra in ({}, {"tools": list(tools)})
                )
                special = list(self._tokenizer.all_special_tokens)
        except (TemplateError, ValueError, TypeError, KeyError):
            return None
        begin, marked, after = without.partition(mark)
        before = begin + marked
        if not (
            marked and with_tools.startswith(before) and with_tools[len(before) :].endswith(after)
        ):
            return None  # it writes it elsewhere
        words = with_tools[len(before) : len(with_tools) - len(after)].strip()
        return None if any(token in words for token in special) else words or None

    def _measure(self) -> TemplateCapabilities:
        def renders(*rows: tuple[str, str]) -> bool:
            """Return True if the template renders these rows with all of their text."""
            try:
                ids = self._apply([{"role": r, "content": c} for r, c in rows], answer=False)
            except (TemplateError, ValueError, TypeError, KeyError):
                return False
            text = self.decode(ids, special=True)
            return all(content in text for _, content in rows)

        return TemplateCapabilities(
            system=renders(("system", "alpha"), ("user", "beta")),
            tool=renders(("user", "alpha"), ("assistant", "beta"), ("tool", "gamma")),
            same_role_twice=renders(("user", "alpha"), ("user", "beta")),
            assistant_first=renders(("assistant", "alpha"), ("user", "beta")),
        )

    def _measure_lead(self) -> int:
        """Count the tokens that the template puts before the first message."""
        pair = [Message("user", "a"), Message("assistant", "b")]
        once, twice = self._render(pair), self._render(pair + pair)
        if twice[: len(once)] == once:
            return max(0, 2 * len(once) - len(twice))
        # The newest answer is dressed differently (an empty thought): both end in the same turn.
        return len(once) - _common_length(once[::-1], twice[::-1])

    # --- plain text ----------------------------------------------------------------------------

    @property
    def beginning(self) -> list[int]:
        """The tokens that the tokenizer itself puts before a text: a begin token, or nothing."""
        with self._lock:
            with_special = list(self._tokenizer("a")["input_ids"])
            without = list(self._tokenizer("a", add_special_tokens=False)["input_ids"])
        at = with_special.index(without[0]) if without and without[0] in with_special else 0
        return with_special[:at]

    def encode(self, text: str) -> list[int]:
        """Return the tokens of plain text: no special tokens are added or read from it."""
        with self._lock:
            encoded = self._tokenizer(
                text, add_special_tokens=False, split_special_tokens=True, verbose=False
            )
        return list(encoded["input_ids"])

    def documents(self, documents: Sequence[Document], *, bos_token_id: int | None) -> MaskedTokens:
        """Return tokens of documents one after the other; every token of their text is learned.

        `bos_token_id` is put before the first, unless that one continues.
        """
        ids: list[int] = []
        weights: list[float] = []
        for document in documents:
            if ids and not document.continues:
                gap = self.encode(SEPARATOR)
                ids += gap
                weights += [0.0] * len(gap)
            elif not ids and not document.continues and bos_token_id is not None:
                ids, weights = [bos_token_id], [0.0]
            text_ids = self.encode(document.text)
            ids += text_ids
            weights += [1.0] * len(text_ids)
        return MaskedTokens(tuple(ids), tuple(weights))

    def statements(self, sentences: Sequence[str]) -> MaskedTokens:
        """Return each sentence as a message of the assistant; its text and its end are learned."""
        ids: list[int] = []
        weights: list[float] = []
        for sentence in sentences:
            rendered = self._render([Message("assistant", sentence)])
            skip = self._lead if ids else 0
            ids += rendered[skip:]
            weights += [0.0] * (self._opening - skip) + [1.0] * (len(rendered) - self._opening)
        return MaskedTokens(tuple(ids), tuple(weights))

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
        """Return the text of tokens; control tokens are left out unless `special`."""
        with self._reading:
            text: str = self._reader.decode(
                list(ids), skip_special_tokens=not special, clean_up_tokenization_spaces=False
            )
        return text


def _turns(messages: Sequence[Message]) -> list[list[Message]]:
    """Return turns; a very long one (a tool loop) in parts that begin with the assistant.

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


def _common_length(left: Sequence[int], right: Sequence[int]) -> int:
    """Return the length of what both begin with."""
    count = 0
    for a, b in zip(left, right, strict=False):
        if a != b:
            break
        count += 1
    return count


def _as_rows(
    messages: Sequence[Message], capabilities: TemplateCapabilities
) -> list[dict[str, str]]:
    """Return rows for the template, reshaped only as far as it insists on it."""
    rows = _join_calls(messages)
    if not capabilities.tool:
        for row in rows:
            if row["role"] == "tool":
                row["role"] = "user"
    if not capabilities.system:
        rows = _fold_system(rows)
    if not capabilities.assistant_first:
        first = next((i for i, row in enumerate(rows) if row["role"] != "system"), None)
        if first is not None and rows[first]["role"] == "assistant":
            rows.insert(first, {"role": "user", "content": OPENING})
    if not capabilities.same_role_twice:
        merged: list[dict[str, str]] = []
        for row in rows:
            if merged and merged[-1]["role"] == row["role"]:
                merged[-1]["content"] += "\n\n" + row["content"]
            else:
                merged.append(row)
        rows = merged
    return rows


def _join_calls(messages: Sequence[Message]) -> list[dict[str, str]]:
    """Return rows in which a tool call is part of the assistant's message before it."""
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
    """Return rows with the system messages at the beginning of the user's first."""
    system = "\n\n".join(row["content"] for row in rows if row["role"] == "system")
    others = [row for row in rows if row["role"] != "system"]
    if not system:
        return others
    if others and others[0]["role"] == "user":
        first = {"role": "user", "content": f"{system}\n\n{others[0]['content']}"}
        return [first, *others[1:]]
    return [{"role": "user", "content": system}, *others]
