"""Text of unlimited length: the tokens that the window holds, and the cache that may be reused."""

from __future__ import annotations

from collections.abc import Callable

from templora_memory.backends.local.decode.request import DecodeRequest, PrefixCache
from templora_memory.backends.local.decode.stream import Channel, LocalStream
from templora_memory.backends.local.lora.batched import LoraWeights
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
        send: Callable[[DecodeRequest], None],
        load: Callable[[Adapter], LoraWeights],
    ) -> None:
        self._ids = prompt
        self._begin = 0  # first token of the text that the window holds
        self._window = window
        self._send = send
        self._load = load
        self._cache: PrefixCache | None = None  # of the tokens from `_begin` on
        self._undecoded = 0  # newest tokens that are part of a character not yet complete
        self._last: tuple[DecodeRequest, LocalStream] | None = None

    def generate(
        self,
        *,
        adapter: Adapter | None,
        strength: float,
        sampling: Sampling,
        max_tokens: int,
        reuse: bool,
    ) -> LocalStream:
        """Go on with the text; see `TextSession.generate`.

        Raises:
            InvalidSetting: `max_tokens` does not fit the window.
        """
        if not 0 < max_tokens < self._window:
            raise InvalidSetting(
                f"max_tokens is {max_tokens}: it must be at least 1 and below the window "
                f"of {self._window}."
            )
        self._take_over()
        version = f"{adapter.version}*{strength}" if adapter and strength else ""
        self._make_room(self._window - max_tokens, max_tokens, version, reuse=reuse)
        request = DecodeRequest(
            prompt=tuple(self._ids[self._begin :]),
            weights=self._load(adapter) if adapter and strength else None,
            version=version,
            strength=strength,
            sampling=sampling,
            stop=sampling.stop,
            max_tokens=max_tokens,
            channel=Channel(),
            cache=self._cache,
            keep_cache=True,
            undecoded=self._undecoded,
        )
        stream = LocalStream(request.channel)
        self._last = (request, stream)
        self._send(request)
        return stream

    def _make_room(self, room: int, chunk: int, version: str, *, reuse: bool) -> None:
        """Decide which tokens the window holds, and if the cache is still good for them.

        It is while the window is not full, if reuse is wanted or the adapter has not changed.
        Otherwise the window is computed again: from all that fits without reuse; from about half
        of it with reuse, so that the chunks to come find room.
        """
        held = len(self._ids) - self._begin
        good = self._cache is not None and (reuse or self._cache.versions == {version})
        if good and held <= room:
            return
        self._cache = None
        if held > room:
            newest = max(min(chunk, room), room // 2) if reuse else room
            self._begin = len(self._ids) - newest
        elif not reuse:
            self._begin = max(0, len(self._ids) - room)

    def _take_over(self) -> None:
        """Take over the tokens and the cache of the last chunk; waits until it has ended."""
        if self._last is None:
            return
        request, stream = self._last
        self._last = None
        stream.completion  # noqa: B018  # raises here if that chunk failed
        self._ids = [*self._ids, *request.output_ids]
        self._undecoded = request.undecoded or 0
        self._cache = request.prefix_cache

    def close(self) -> None:
        """Stop a chunk under way and drop the cache."""
        if self._last is not None:
            self._last[1].close()
        self._last, self._cache = None, None
