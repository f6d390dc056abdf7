"""Tokens to text while they come, and the stop texts in it."""

from __future__ import annotations

from collections.abc import Sequence

from templora_memory.backends.local.tokenizer import ChatTokenizer

_CONTEXT_TOKENS = 8  # tokens before a text that decide how it begins
_MAX_CHARACTER_TOKENS = 4  # bytes, and so tokens, of the longest character


class IncrementalDetokenizer:
    """Text from tokens as they come, and where to stop.

    A piece is held back while it ends inside a character (U+FFFD) or could be the beginning of a
    stop text.

    Args:
        tokenizer: between tokens and text.
        stop: texts that end an answer and are no part of it.
        before: tokens that the answer goes on with, if it is part of a longer text.
        undecoded: the last tokens of `before` of which no text was given out yet.
    """

    def __init__(
        self,
        tokenizer: ChatTokenizer,
        stop: Sequence[str],
        *,
        before: Sequence[int] = (),
        undecoded: int = 0,
    ) -> None:
        self._tokenizer = tokenizer
        self._stop = tuple(stop)
        self._ids = list(before[-_CONTEXT_TOKENS:])
        self._start = 0  # decoding starts here: a token's text may depend on the one before
        self._done = len(self._ids) - undecoded  # text of these is in `_pending` or was given out
        self._pending = ""
        self.stopped = False

    def push(self, token: int) -> str:
        """Take in a token; return the text that is certain by now."""
        self._ids.append(token)
        before = self._tokenizer.decode(self._ids[self._start : self._done])
        after = self._tokenizer.decode(self._ids[self._start :])
        if after.endswith("\ufffd") or len(after) <= len(before):
            return ""
        self._start, self._done = self._done, len(self._ids)
        return self._give(after[len(before) :])

    def _give(self, fresh: str) -> str:
        """Return new text up to a stop text, and none that may be the beginning of one."""
        self._pending += fresh
        ends = [at for stop in self._stop if (at := self._pending.find(stop)) >= 0]
        if ends:
            self.stopped = True
            text, self._pending = self._pending[: min(ends)], ""
            return text
        overlap = max((_overlap(self._pending, stop) for stop in self._stop), default=0)
        cut = len(self._pending) - overlap
        text, self._pending = self._pending[:cut], self._pending[cut:]
        return text

    @property
    def held(self) -> int:
        """Count of the last tokens that no text was made of yet."""
        return len(self._ids) - self._done

    def finish(self, *, hold: bool = False) -> str:
        """Return the text that was held back; with `hold` all but a character that may go on."""
        rest = ""
        if not hold or self.held >= _MAX_CHARACTER_TOKENS:
            before = self._tokenizer.decode(self._ids[self._start : self._done])
            after = self._tokenizer.decode(self._ids[self._start :])
            self._done = len(self._ids)
            rest = self._give(after[len(before) :]) if len(after) > len(before) else ""
        if self.stopped:
            return rest
        rest, self._pending = rest + self._pending, ""
        return rest


def _overlap(text: str, stop: str) -> int:
    """Return the length of the longest end of `text` that begins `stop`."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
