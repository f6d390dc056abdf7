"""Answering: choose the revision, fit the prompt, generate, learn afterwards what leaves it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from typing import TypedDict

from templora_memory.domain.ids import parse_id
from templora_memory.domain.manifest import Manifest, Revision
from templora_memory.domain.messages import (
    Document,
    Message,
    MessageLike,
    as_messages,
)
from templora_memory.domain.results import Reply
from templora_memory.domain.settings import ResolvedPolicy, Sampling, positive, whole
from templora_memory.domain.turns import newest_exchange, oldest_turns, turn_starts
from templora_memory.errors import (
    Closed,
    InvalidSetting,
    LearningFailed,
    NotAdmitted,
    StoreError,
    UnknownMemory,
)
from templora_memory.ports import Backend, Completion, GenerateRequest, ScoreRequest, Store
from templora_memory.service.catalog import Catalog
from templora_memory.service.conversation import SentConversation
from templora_memory.service.jobs import JobQueue
from templora_memory.service.learning import Absorber, missing_documents, teaches
from templora_memory.service.prompt import NOT_TOLD, Prompt, check_wanted, never, system_texts
from templora_memory.service.search import RecallResult, Searcher
from templora_memory.service.streams import OpenStreams, ReplyStream
from templora_memory.service.turn import AskedTurn

HEAD = "head"
"""Stands for the newest revision where a revision is named."""
_CANCEL_POLL_SECONDS = 0.1
_NOTHING = RecallResult(passages=(), coverage=None)
_QUESTION_MARKS = frozenset("?\u037e\u055e\u061f\u1367\uff1f")
GATE_TOKENS = 12
"""Tokens of a trial answer that `Policy.gate` looks at."""


class ReplyOptions(TypedDict, total=False):
    """The keyword arguments of `reply` and `stream`; each may be left out.

    Args:
        context: retrieved texts for this turn only. They go into the system message and are
            neither journalled nor learned; blank ones count as none.
        strength: factor on the memory; 0 is exactly the base model. Default 1.
        sampling: how to choose tokens; None, the default: greedy.
        max_tokens: of the reply; None, the default: `Policy.reply_tokens`.
        revision: answer with exactly this revision ("head" or a name): the messages go into the
            prompt as they are, nothing is absorbed or journalled.
        recall_tokens: maximum of tokens of the prompt for passages of what the answering revision
            has learned, found by the words of the newest message and by the speaker and time that
            it asks for; they stand in the system message, after `context`. None, the default:
            `Policy.recall_tokens`, but 0 at strength 0 and where `revision` names one, so that the
            prompt is only what was sent.
        continue_final_message: an assistant's message at the end is the beginning of the answer,
            and the reply goes on with it, the default; False: it stands, and another one follows.
        create: make the memory if it does not exist, the default; False: `UnknownMemory`, so that
            a call under way does not bring back what was forgotten meanwhile.
        cancelled: asked again and again until the answer begins, while the history is counted and
            while the call waits for an absorb; once it returns True the call ends with `Cancelled`.
            What is being absorbed then goes on in the background. Later: `ReplyStream.close`.
    """

    context: str | Sequence[str | Document]
    strength: float
    sampling: Sampling | None
    max_tokens: int | None
    revision: str | None
    recall_tokens: int | None
    continue_final_message: bool
    create: bool
    cancelled: Callable[[], bool]


class Answerer:
    """Answers conversations with what their memory has learned.

    Args:
        backend: generates, counts and scores.
        store: where the conversation is journalled.
        policy: the settings in force.
        catalog: looks memories up and makes them.
        absorber: learns what must leave the prompt.
        jobs: runs it.
        searcher: finds passages that stand in the prompt.
        streams: takes note of replies under way.
        check_open: raises `Closed` once the service is closed.
    """

    def __init__(
        self,
        backend: Backend,
        store: Store,
        policy: ResolvedPolicy,
        *,
        catalog: Catalog,
        absorber: Absorber,
        jobs: JobQueue,
        searcher: Searcher,
        streams: OpenStreams,
        check_open: Callable[[], object],
    ) -> None:
        self._backend = backend
        self._store = store
        self._policy = policy
        self._catalog = catalog
        self._absorber = absorber
        self._jobs = jobs
        self._searcher = searcher
        self._streams = streams
        self._check_open = check_open

    def stream(
        self,
        memory_id: str | None,
        history: Iterable[MessageLike],
        *,
        context: str | Sequence[str | Document] = (),
        strength: float = 1.0,
        sampling: Sampling | None = None,
        max_tokens: int | None = None,
        revision: str | None = None,
        recall_tokens: int | None = None,
        continue_final_message: bool = True,
        create: bool = True,
        cancelled: Callable[[], bool] = never,
    ) -> ReplyStream:
        """Start answering a conversation; see `Memory.stream` and `ReplyOptions`."""
        policy = self._policy
        asked = AskedTurn.of(as_messages(history), continue_final_message=continue_final_message)
        body = asked.dialogue
        positive("strength", strength, zero=True)
        reply_tokens = policy.reply_tokens if max_tokens is None else max_tokens
        whole("max_tokens", reply_tokens)
        if reply_tokens >= policy.window:
            raise InvalidSetting(
                f"max_tokens is {reply_tokens!r}: it must be below the window of {policy.window}."
            )
        whole("recall_tokens", recall_tokens, zero=True, none=True)
        passage_tokens = policy.recall_tokens if recall_tokens is None else recall_tokens
        if recall_tokens is None and (memory_id is None or revision is not None or not strength):
            passage_tokens = 0
        prompt = Prompt(
            self._backend.count,
            system_texts(asked.system, context),
            policy.window - reply_tokens,
            passage_tokens,
            instruction=asked.instruction,
            prefill=asked.prefill,
            cancelled=cancelled,
        )
        request = GenerateRequest(
            messages=(),
            adapter=None,
            strength=strength,
            sampling=sampling or Sampling(),
            max_tokens=reply_tokens,
            prefill=asked.prefill,
        )
        if memory_id is None or revision is not None:
            return self._answer_at_revision(memory_id, revision, body, prompt, request)
        return self._answer(memory_id, asked, prompt, request, create=create, cancelled=cancelled)

    def _answer(
        self,
        memory_id: str,
        asked: AskedTurn,
        prompt: Prompt,
        request: GenerateRequest,
        *,
        create: bool,
        cancelled: Callable[[], bool],
    ) -> ReplyStream:
        """Answer with the revision that covers most of the conversation, which is journalled."""
        name, body = parse_id(memory_id), asked.dialogue
        prompt.check(body[newest_exchange(body) :])
        self._catalog.check_admitted(name, body, resumes=True)
        manifest = self._catalog.ensure(name, create=create)
        manifest.check_base(self._backend.identity)
        conversation = SentConversation.resume(body, manifest, self._store.journal(manifest.id))
        if body:
            self._store.record(manifest.id, body, after=conversation.start)
        manifest, covering = self._absorb_until_fits(manifest, conversation, prompt, cancelled)
        rest = conversation.after(covering, self._store.journal(manifest.id))
        shown, recall = self._with_recalled(manifest, covering, rest, prompt)
        adapter = self._absorber.adapter(manifest, covering)
        request = self._apply_confidence_gate(replace(request, messages=shown, adapter=adapter))
        check_wanted(cancelled)
        prompt.begin_answer()
        tokens = self._backend.stream(request)

        def make(completion: Completion) -> Reply:
            reply = _reply(completion, covering, recall, request.strength)
            return replace(reply, omitted_messages=conversation.omitted)

        def finished(reply: Reply) -> None:
            if reply.finish_reason != "cancelled" and not asked.instruction:
                text = asked.prefill + reply.text
                answered = conversation.followed_by(Message("assistant", text))
                self._after_reply(manifest, answered, prompt)

        return self._streams.add(ReplyStream(tokens, make=make, finished=finished), manifest.id)

    def _answer_at_revision(
        self,
        memory_id: str | None,
        revision: str | None,
        body: tuple[Message, ...],
        prompt: Prompt,
        request: GenerateRequest,
    ) -> ReplyStream:
        """Answer with the base model or one revision, the messages as they are."""
        prompt.check(body)
        chosen, adapter = None, None
        (shown, _), recall = prompt.with_passages(body, ()), _NOTHING
        if memory_id is not None and revision is not None:
            manifest = self._catalog.get(memory_id)
            chosen = manifest.newest if revision == HEAD else manifest.get(revision)
            adapter = self._absorber.adapter(manifest, chosen)
            shown, recall = self._with_recalled(manifest, chosen, body, prompt)
        elif revision is not None:
            raise InvalidSetting(f"revision {revision!r} was given without a memory id.")
        request = self._apply_confidence_gate(replace(request, messages=shown, adapter=adapter))
        stream = ReplyStream(
            self._backend.stream(request),
            make=lambda completion: _reply(completion, chosen, recall, request.strength),
            finished=lambda _: None,
        )
        return stream if memory_id is None else self._streams.add(stream, str(parse_id(memory_id)))

    def _apply_confidence_gate(self, request: GenerateRequest) -> GenerateRequest:
        """Return the request at the strength that the gate gives it, see `Policy.gate`.

        With c the mean log-probability of a token of a short trial answer, and g the gate, the
        strength is multiplied by 2 + c / g, cut to between 0 and 1: whole down to c = -g, none
        from c = -2 g.
        """
        gate = self._policy.gate
        if gate is None or request.adapter is None or not request.strength:
            return request
        trial = replace(
            request, sampling=Sampling(), max_tokens=min(GATE_TOKENS, request.max_tokens)
        )
        with closing(self._backend.stream(trial)) as tokens:
            beginning = tokens.completion.text
        if not beginning.strip():
            return request
        question = ScoreRequest(
            context=request.messages,
            target=request.prefill + beginning,
            adapter=request.adapter,
            strength=request.strength,
        )
        (scores,) = self._backend.score([question])
        confidence = sum(scores) / max(1, len(scores))
        factor = min(1.0, max(0.0, 2 + confidence / gate))
        return replace(request, strength=request.strength * factor)

    def _with_recalled(
        self,
        manifest: Manifest,
        revision: Revision | None,
        rest: tuple[Message, ...],
        prompt: Prompt,
    ) -> tuple[tuple[Message, ...], RecallResult]:
        """Return the messages to show, with passages of what a revision has learned; and those.

        Documents that are for recall only are searched along, also where nothing is learned.
        Pinned texts come first, unless the messages say them.
        """
        if not prompt.passage_tokens or not (rest or prompt.instruction):
            return prompt.with_passages(rest, ())[0], _NOTHING
        asked = newest_exchange(rest)
        question = prompt.instruction or rest[asked].content
        found = self._searcher.recall(
            manifest,
            question,
            documents=revision.documents if revision else (),
            dialogue=revision.dialogue if revision else manifest.first,
            shown=(*prompt.system, *(rest if prompt.instruction else rest[:asked])),
        )
        said = {message.content.strip() for message in rest}
        pinned = self._searcher.pinned(manifest, said)
        told = "\n".join(passage.text for passage in pinned)
        passages = (*pinned, *(hit for hit in found.passages if hit.text not in told))
        gate, coverage = self._policy.question_gate, found.coverage
        untold = gate is not None and coverage is not None and coverage < gate
        note = NOT_TOLD if untold and not _QUESTION_MARKS.isdisjoint(question) else ""
        messages, taken = prompt.with_passages(rest, passages, note=note)
        return messages, replace(found, passages=taken)

    def _absorb_until_fits(
        self,
        manifest: Manifest,
        conversation: SentConversation,
        prompt: Prompt,
        cancelled: Callable[[], bool],
    ) -> tuple[Manifest, Revision | None]:
        """Absorb until the rest fits; returns the revision that covers what is left out."""
        memory_id, digests = manifest.id, conversation.digests
        limit = conversation.newest_exchange
        while True:
            manifest = self._catalog.still_there(manifest)
            covering = conversation.covering(manifest)
            known = covering.messages if covering else 0
            head = manifest.newest
            if head and missing_documents(head, covering):
                # an edited conversation fell back to a revision from before some documents
                self._absorb_now(memory_id, digests[known], cancelled)
                continue
            rest = conversation.after(covering, self._store.journal(memory_id))
            if prompt.fits(rest):
                return manifest, covering
            # the newest exchange is a turn of its own, also where the cut before it was not ours
            starts = sorted({*turn_starts(rest), limit - known})
            turns = oldest_turns(
                prompt.costs(rest, starts),
                budget=prompt.turns_budget(rest, starts),
                chunk=self._policy.chunk,
                keep=self._policy.keep_turns,
                needed=True,
            )
            turns = max(1, turns)
            while turns < len(starts) - 1 and not teaches(rest[: starts[turns]]):
                turns += 1
            self._absorb_now(memory_id, digests[known + starts[turns]], cancelled)

    def _absorb_now(self, memory_id: str, target: str, cancelled: Callable[[], bool]) -> None:
        """Absorb a conversation up to `target` while a reply waits that nobody has cancelled."""
        work = partial(self._absorber.dialogue, target)
        job = self._jobs.start(memory_id, work, urgent=True)
        while not job.finished(_CANCEL_POLL_SECONDS):
            check_wanted(cancelled)
        job.wait()

    def _after_reply(
        self, manifest: Manifest, conversation: SentConversation, prompt: Prompt
    ) -> None:
        """Journal the reply, and absorb in the background what is about to leave the window.

        A failure does not take the reply away: it is in `status`, and the next call, which brings
        the history again, tries again.
        """
        policy = self._policy
        try:
            self._check_open()
            now = self._store.manifest(manifest.id)
            if now is None or not now.same_memory(manifest) or now.edits != manifest.edits:
                # forgotten while the reply was written, or texts were removed which the history
                # still has: the next call brings what is left of it
                return
            self._catalog.check_admitted(parse_id(now.id), conversation.sent, resumes=True)
            self._store.record(now.id, conversation.sent, after=conversation.start)
            covering = conversation.covering(now)
            known = covering.messages if covering else 0
            rest = conversation.after(covering, self._store.journal(now.id))
            starts = turn_starts(rest)
            spare = min(policy.chunk, policy.window // 4) // 2
            turns = oldest_turns(
                prompt.costs(rest, starts),
                budget=prompt.turns_budget(rest, starts, spare),
                chunk=policy.chunk,
                keep=policy.keep_turns,
                needed=False,
            )
            if turns and teaches(rest[: starts[turns]]) and not self._jobs.jobs(now.id):
                target = conversation.digests[known + starts[turns]]
                self._jobs.start(now.id, partial(self._absorber.dialogue, target))
        except UnknownMemory:
            return  # forgotten just now
        except (StoreError, Closed, NotAdmitted, LearningFailed) as error:
            self._jobs.note_failure(manifest.id, error)


def _reply(
    completion: Completion,
    revision: Revision | None,
    recall: RecallResult,
    strength: float,
) -> Reply:
    return Reply(
        text=completion.text,
        finish_reason=completion.finish_reason,
        prompt_tokens=completion.prompt_tokens,
        completion_tokens=completion.completion_tokens,
        absorbed_tokens=revision.tokens if revision else 0,
        revision=revision.name if revision else None,
        recalled=recall.passages,
        coverage=recall.coverage,
        strength=strength,
        logprobs=completion.logprobs,
    )
