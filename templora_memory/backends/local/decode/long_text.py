"""Text of unlimited length: which tokens the window holds, and what may be reused of the cache."""

from __future__ import annotations

from collections.abc import Callable

from templora_memory.backends.local.decode.batch import Answer, Channel, Computed, LocalStream
from templora_memory.backends.local.lora import batched
from templora_memory.domain.settings import Sampling
from templora_memory.errors import InvalidSetting
from templora_memory.ports import Adapter


class LocalText:
    """See `TextSession`. One chunk at a time; the next begins when the last one has ended."""

    def __init__(
        self,
        prompt: list[int],
        window: int,
        *,
        send: Callable[[Answer], None],
        load: Callable[[Adapter], batched.Weights],
    ) -> None:
        self._ids = prompt
        self._begin = 0  # first token of the text that the window holds
        self._window = window
        self._send = send
        self._load = load
        self._cache: Computed | None = None  # of the tokens from `_begin` on
        self._unsaid = 0  # newest tokens that are part of a character not yet whole
        self._last: tuple[Answer, LocalStream] | None = None

    def generate(
        self,
        *,
        adapter: Adapter | None,
        strength: float,
        sampling: Sampling,
        max_tokens: int,
        reuse: bool,
    ) -> LocalStream:
        if not 0 < max_tokens < self._window:
            raise InvalidSetting(
                f"max_tokens is {max_tokens}: it must be at least 1 and below the window "
                f"of {self._window}."
            )
        self._take_over()
        version = f"{adapter.version}*{strength}" if adapter and strength else ""
        self._make_room(self._window - max_tokens, max_tokens, version, reuse=reuse)
        answer = Answer(
            prompt=tuple(self._ids[self._begin :]),
            weights=self._load(adapter) if adapter and strength else None,
            version=version,
            strength=strength,
            sampling=sampling,
            stop=sampling.stop,
            most=max_tokens,
            channel=Channel(),
            cache=self._cache,
            keep_cache=True,
            unsaid=self._unsaid,
        )
        stream = LocalStream(answer.channel)
        self._last = (answer, stream)
        self._send(answer)
        return stream

    def _make_room(self, room: int, chunk: int, version: str, *, reuse: bool) -> None:
        """Decide what the window shows, and whether the cache is still good for it.

        It is while the window is not full, if reuse is wanted or the adapter has not changed.
        Otherwise the window is computed again: from all that fits without reuse; from about half
        of it with reuse, so that the chunks to come find room.
        """
        shown = len(self._ids) - self._begin
        good = self._cache is not None and (reuse or self._cache.versions == {version})
        if good and shown <= room:
            return
        self._cache = None
        if shown > room:
            keep = max(min(chunk, room), room // 2) if reuse else room
            self._begin = len(self._ids) - keep
        elif not reuse:
            self._begin = max(0, len(self._ids) - room)

    def _take_over(self) -> None:
        """Take over the tokens and the cache of the last chunk; waits until it has ended."""
        if self._last is None:
            return
        answer, stream = self._last
        self._last = None
        stream.completion  # noqa: B018  # raises here if that chunk failed
        self._ids = [*self._ids, *answer.ids]
        self._unsaid = answer.unsaid or 0
        self._cache = answer.computed

    def close(self) -> None:
        """Stop a chunk under way and drop the cache."""
        if self._last is not None:
            self._last[1].close()
        self._last, self._cache = None, None
