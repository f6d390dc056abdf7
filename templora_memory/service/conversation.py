"""A history as a client sent it, and where in the memory's journal it goes on from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from templora_memory.domain.journal import Journal
from templora_memory.domain.manifest import Manifest, Revision
from templora_memory.domain.messages import Message, chain
from templora_memory.domain.turns import newest_exchange


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class SentConversation:
    """A history with the messages that its client left out at the beginning.

    Args:
        sent: messages of the history, without system messages.
        omitted: how many messages of the journal come before them.
        digests: of the whole conversation after 0, 1, ... messages, the omitted ones included.
    """

    sent: tuple[Message, ...]
    omitted: int
    digests: tuple[str, ...]

    @classmethod
    def resume(
        cls, sent: tuple[Message, ...], manifest: Manifest, journal: Journal
    ) -> SentConversation:
        """Find what a history goes on from; see `Journal.omitted_before`."""
        digests = manifest.chain(sent)
        if journal.knows(digests[newest_exchange(sent)]):
            return cls(sent=sent, omitted=0, digests=digests)  # nearly every history goes this way
        start = journal.omitted_before(sent)
        path = journal.path(start)
        digests = (manifest.first, *path[:-1], *chain(start, sent)) if path else digests
        return cls(sent=sent, omitted=len(path), digests=digests)

    @property
    def start(self) -> str | None:
        """The digest that the sent messages follow; None: they are a whole conversation."""
        return self.digests[self.omitted] if self.omitted else None

    @property
    def newest_exchange(self) -> int:
        """How many messages there are before the newest exchange."""
        return self.omitted + newest_exchange(self.sent)

    def followed_by(self, message: Message) -> SentConversation:
        """Return the conversation after one more message."""
        return replace(
            self,
            sent=(*self.sent, message),
            digests=(*self.digests[:-1], *chain(self.digests[-1], (message,))),
        )

    def covering(self, manifest: Manifest, limit: int | None = None) -> Revision | None:
        """Return the revision that covers most of it, before the newest exchange by default."""
        return manifest.covering(self.digests, self.newest_exchange if limit is None else limit)

    def after(self, revision: Revision | None, journal: Journal) -> tuple[Message, ...]:
        """Return the messages that a revision does not cover, omitted ones from the journal.

        Raises:
            StoreDamaged: one of them is missing.
        """
        known = revision.messages if revision else 0
        if known >= self.omitted:
            return self.sent[known - self.omitted :]
        return (
            *journal.messages(self.digests[self.omitted], after=self.digests[known]),
            *self.sent,
        )


def sent_positions(
    history: Sequence[Message], conversation: SentConversation, revision: Revision | None
) -> int:
    """Return how many messages of a history, system ones included, a revision covers."""
    left = max(0, (revision.messages if revision else 0) - conversation.omitted)
    position = 0
    for message in history:
        if left == 0:
            break
        position += 1
        left -= message.role != "system"
    return position
