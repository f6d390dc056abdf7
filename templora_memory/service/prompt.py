"""The prompt of one call: its system message, and the room for turns and passages beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise

from templora_memory.domain.messages import Document, Message
from templora_memory.domain.results import Passage
from templora_memory.domain.turns import newest_exchange
from templora_memory.errors import Cancelled, InvalidText, PromptTooLong

NOT_TOLD = (
    "You were told nothing about this. Unless the conversation here answers the question, say that "
    "you were not told."
)
"""What the prompt asks for where a question is not covered (`Policy.question_gate`)."""
_PIECE_CHARACTERS = 8192
_MAX_MISSES = 8  # passages that are too long for the room left: then no smaller one is looked for
_CUT_TOKENS = 8  # that a cut through the text may add to a piece, generously


def never() -> bool:
    """Return False: for a call that nobody cancels."""
    return False


def check_wanted(cancelled: Callable[[], bool]) -> None:
    """End a call that nobody wants any more.

    Raises:
        Cancelled: it was cancelled.
    """
    if cancelled():
        raise Cancelled("The call was cancelled before its answer began; the text is kept.")


class Prompt:
    """The system message of one call and the room for turns beside it.

    Args:
        count: returns the tokens of messages in the model's prompt.
        texts: of the system message: the caller's, then retrieved ones.
        max_tokens: tokens that a prompt may have.
        passage_tokens: how many of them passages of the memory's own texts may take.
        instruction: what is asked for after the last turn, in this call only.
        prefill: text that the answer begins with.
        cancelled: asked before each piece of text is counted; True ends it with `Cancelled`.
    """

    def __init__(
        self,
        count: Callable[[Sequence[Message]], int],
        texts: tuple[str, ...],
        max_tokens: int,
        passage_tokens: int = 0,
        *,
        instruction: str = "",
        prefill: str = "",
        cancelled: Callable[[], bool] = never,
    ) -> None:
        self._backend_count = count
        self._cancelled = cancelled
        self.instruction = instruction
        # as the user's: many templates allow a system message nowhere but at the beginning
        self._instruction = (Message("user", instruction),) if instruction else ()
        self._after = (*self._instruction, *((Message("assistant", prefill),) if prefill else ()))
        self._texts = texts
        self.system = _system_message(texts)
        self._max_tokens = max_tokens
        self.passage_tokens = passage_tokens
        pair = (Message("user", "a"), Message("assistant", "b"))
        # what a template adds to any prompt, however many turns it has
        self._overhead = 2 * count(pair) - count(pair + pair)

    def _tokens_of(self, messages: Sequence[Message]) -> int:
        check_wanted(self._cancelled)
        return self._backend_count(messages)

    def begin_answer(self) -> None:
        """Ask no more whether the call is cancelled: what follows an answer is always done."""
        self._cancelled = never

    def _count(self, body: Sequence[Message]) -> int:
        """Return the tokens of the whole prompt around these turns."""
        return self._tokens_of((*self.system, *body, *self._after))

    def _is_over(self, messages: Sequence[Message]) -> bool:
        """Return True if messages have more tokens than any prompt, without counting all of them.

        Long text is counted piece by piece and only as far as the room goes. So it costs no more
        time and memory than what fits, however long it is, and the tokenizer, which all requests
        share, is free again after every piece. False where it must be counted to know.
        """
        if sum(len(message.content) for message in messages) <= 2 * _PIECE_CHARACTERS:
            return False
        empty = self._tokens_of((Message("user", "a"),)) + _CUT_TOKENS
        least = 0
        for message in messages:
            for begin in range(0, len(message.content), _PIECE_CHARACTERS):
                piece = message.content[begin : begin + _PIECE_CHARACTERS]
                least += max(0, self._tokens_of((Message("user", piece),)) - empty)
                if least > self._max_tokens:
                    return True
        return False

    def fits(self, body: Sequence[Message]) -> bool:
        """Return whether it fits beside all passages, or only the newest exchange is left."""
        if self._is_over(body):
            return False
        tokens = self._count(body)
        return tokens <= self._max_tokens - (self.passage_tokens if newest_exchange(body) else 0)

    def with_passages(
        self, body: Sequence[Message], passages: Sequence[Passage], *, note: str = ""
    ) -> tuple[tuple[Message, ...], tuple[Passage, ...]]:
        """Return system message and body, with as many of these passages as there is room for.

        Args:
            body: the turns.
            passages: the most important one first.
            note: for the model, after the passages, in their room and before any of them.
        """
        if not passages and not note:
            # without counting: nearly every prompt goes this way
            return (*self.system, *body, *self._instruction), ()
        before = self._count(body)
        room = min(self.passage_tokens, self._max_tokens - before)
        # beside the newest exchange alone: counting all turns for every passage takes long
        newest = (*body[newest_exchange(body) :], *self._after)
        alone = self._tokens_of((*self.system, *newest))

        def added(texts: Sequence[str]) -> int:
            return self._tokens_of((*_system_message((*self._texts, *texts)), *newest)) - alone

        end = (note,) if note and added((note,)) <= room else ()
        taken: list[Passage] = []
        misses = 0
        for passage in passages:
            if added((*(p.text for p in taken), passage.text, *end)) <= room:
                taken.append(passage)
            elif (misses := misses + 1) == _MAX_MISSES:
                break
        while True:
            texts = (*self._texts, *(passage.text for passage in taken), *end)
            system = _system_message(texts)
            over = self._tokens_of((*system, *body, *self._after)) - before > room
            if not over or not (taken or end):
                return (*system, *body, *self._instruction), tuple(taken)
            # a template that counts otherwise beside all turns
            taken, end = (taken[:-1], end) if taken else (taken, ())

    def check(self, body: Sequence[Message]) -> None:
        """Refuse what can never fit.

        Raises:
            PromptTooLong: says by how much.
        """
        for messages, what in (
            (
                (*self.system, *self._after),
                "What is shown beside the conversation, system message and context,",
            ),
            (body, "The newest message"),
        ):
            if self._is_over(messages):
                size = sum(len(message.content) for message in messages)
                raise PromptTooLong(
                    f"{what} of {size:,} characters cannot fit: there is room for "
                    f"{self._max_tokens} tokens. Send less in one message, use a larger window, or "
                    "absorb long texts as documents."
                )
        tokens = self._count(body)
        if tokens > self._max_tokens:
            in_system = self._tokens_of(self.system) if self.system else 0
            raise PromptTooLong(
                f"The prompt has {tokens} tokens (about {in_system} of them in system messages and "
                f"context) and there is room for {self._max_tokens}: shorten the message, the "
                "system message or the context, ask for fewer max_tokens, or use a larger window."
            )

    def costs(self, body: Sequence[Message], starts: Sequence[int]) -> tuple[int, ...]:
        """Return the tokens that each turn takes in the prompt."""
        return tuple(self._cost(body[begin:end]) for begin, end in pairwise((*starts, len(body))))

    def _cost(self, turn: Sequence[Message]) -> int:
        """Return the tokens of a turn; of one that can never fit just more than there is room."""
        if self._is_over(turn):
            return self._max_tokens + 1
        return max(1, self._tokens_of(turn) - self._overhead)

    def turns_budget(self, body: Sequence[Message], starts: Sequence[int], spare: int = 0) -> int:
        """Return the tokens that all turns together may take."""
        newest = body[starts[-1] :]
        others = self._count(newest) - self.costs(newest, (0,))[0]
        return self._max_tokens - self.passage_tokens - others - spare


def system_texts(
    messages: Sequence[Message], context: str | Sequence[str | Document]
) -> tuple[str, ...]:
    """Return the texts of all system messages, then the retrieved ones; blank ones are left out.

    Raises:
        InvalidText: `context` is neither text nor a list of texts and documents.
    """
    texts = [message.content for message in messages if message.role == "system"]
    if isinstance(context, str):
        context = (context,)
    elif not isinstance(context, Iterable):
        raise InvalidText(f"context must be text or a list of texts, not {_type_name(context)}.")
    for number, piece in enumerate(context):
        if isinstance(piece, Document):
            texts.append(f"{piece.title}\n{piece.text}" if piece.title else piece.text)
        elif isinstance(piece, str):
            texts.append(Document(piece).text if piece.strip() else "")
        else:
            raise InvalidText(
                f"context[{number}] must be text or a Document, not {_type_name(piece)}."
            )
    return tuple(text for text in texts if text.strip())


def _type_name(value: object) -> str:
    return type(value).__name__


def _system_message(texts: Sequence[str]) -> tuple[Message, ...]:
    """Return all texts as one system message, for strict templates."""
    return (Message("system", "\n\n".join(texts)),) if texts else ()
