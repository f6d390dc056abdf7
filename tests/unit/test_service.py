"""The service over the fake backend: what is learned, what is shown, what is kept."""

import copy
import math
import pickle
import threading

import pytest

from templora_memory import Document, Memory, Message, ParametricMemory, Policy, Sampling
from templora_memory.errors import (
    BaseMismatch,
    Cancelled,
    Closed,
    Conflict,
    InvalidId,
    InvalidSetting,
    InvalidText,
    LearningFailed,
    PromptTooLong,
    StoreDamaged,
    Unhealthy,
    UnknownMemory,
    UnknownRevision,
)
from templora_memory.fs.locks import hold
from templora_memory.testing import GARBAGE, POISON, FakeBackend

BIO = "Ada keeps bees on the roof."


def fits(box):
    """No prompt that the model was shown left less room than the reply may take."""
    policy = box.service.policy
    return all(
        box.backend.count(request.messages) <= policy.window - request.max_tokens
        for request in box.backend.requests
    )


# --- learning ------------------------------------------------------------------------------------


def test_what_was_absorbed_is_recalled(box):
    report = box.service.absorb("ada", BIO)
    assert (report.tokens, report.chunks) == (6, 1)
    assert report.revision == box.service.head("ada").name
    reply = box.service.reply("ada", [Message("user", "Who keeps bees?")])
    assert BIO in reply.text
    assert (reply.revision, reply.absorbed_tokens) == (report.revision, 6)


def test_absorbing_a_text_again_trains_nothing(box):
    first = box.service.absorb("ada", BIO)
    again = box.service.absorb("ada", [Document(BIO), Document(BIO)])
    assert (again.tokens, again.revision) == (0, first.revision)
    assert box.learned == [BIO]


def test_a_resent_history_trains_nothing_twice(box, talk):
    for _ in range(3):
        box.service.reply("ada", talk(30))
        box.service.wait()
    assert len(box.learned) == len(set(box.learned)) > 10


def test_absorbing_the_beginning_of_a_learned_conversation_trains_nothing(box, talk):
    whole = talk(8, question=None)
    for end in (4, 6, 8, 10, 12, 14, 16):  # more revisions than are kept
        box.service.absorb("ada", whole[:end])
    trained, head = len(box.learned), box.service.head("ada")
    box.service.absorb("ada", whole[:4])
    assert len(box.learned) == trained
    assert box.service.head("ada") == head


def test_a_shortened_conversation_can_be_learned_up_to_its_end(box, talk):
    whole = talk(8, question=None)
    for end in (4, 6, 8, 10, 12, 14, 16):
        box.service.absorb("ada", whole[:end])
    box.service.absorb("ada", BIO)
    assert box.service.covered("ada", whole[:4]).revision is None
    report = box.service.absorb("ada", whole[:4], exact=True)
    covered = box.service.covered("ada", whole[:4])
    assert (covered.messages, covered.revision) == (4, box.service.head("ada"))
    assert len(covered.revision.documents) == 1
    trained = len(box.learned)
    assert box.service.absorb("ada", whole[:4], exact=True).revision == report.revision
    assert len(box.learned) == trained


def test_evicted_messages_are_learned_exactly_once(box, talk):
    whole = talk(12, question=None)
    for _ in range(2):
        for begin in range(0, len(whole), 4):
            box.service.absorb("ada", whole[begin : begin + 4], after=begin)
    assert box.learned == [message.content for message in whole]
    box.service.absorb("ada", whole[:4], after=0)
    assert box.service.transcript("ada").messages == tuple(whole)
    box.service.absorb("ada", [Message("user", "more")], after=len(whole))
    assert box.service.status("ada").message_count == len(whole) + 1


def test_a_gap_before_evicted_messages_is_refused(box, talk):
    with pytest.raises(InvalidText, match="has 0 messages, 4 were expected"):
        box.service.absorb("ada", talk(2), after=4)
    with pytest.raises(InvalidSetting, match="documents have no place"):
        box.service.absorb("ada", BIO, after=0)


def test_system_and_tool_messages_are_never_learned(box, talk):
    history = [
        Message("system", "secret system words"),
        Message("user", "How warm is it?"),
        Message("assistant", "", name="call"),
        Message("tool", "secret tool words"),
        Message("assistant", "Twelve degrees."),
        *talk(20),
    ]
    box.service.reply("ada", history)
    box.service.absorb("eve", history)
    words = " ".join(path.read_text() for path in box.root.rglob("adapter.json") if path.is_file())
    assert "Twelve" in words
    assert "secret" not in words


def test_the_newest_exchange_is_never_absorbed(box, talk):
    for turns in range(1, 25):
        history = talk(turns, question=f"Newest question {turns}?")
        box.service.reply("ada", history)
        box.service.wait()
        assert history[-1].content not in box.learned


def test_a_tool_call_and_its_result_are_never_separated(box, talk):
    turn = [
        Message("user", "How warm is it in the garden today, please?"),
        Message("assistant", ""),
        Message("tool", "twelve degrees and some rain"),
        Message("assistant", "It is twelve degrees."),
    ]
    history = [*talk(2, question=None), *turn * 8, *talk(6, about="owls")]
    for end in [i + 1 for i, m in enumerate(history) if m.role in {"user", "tool"}]:
        box.service.reply("ada", history[:end])
        box.service.wait()
    assert fits(box)
    for request in box.backend.requests:
        shown = [message.role for message in request.messages]
        assert shown[0] == "user"
    for request in box.backend.learned:
        assert request.items[0].role == "user"


def test_turns_that_teach_nothing_leave_with_their_neighbours(box, talk):
    silent = [Message("user", ""), Message("tool", "cold " * 30), Message("assistant", "")]
    history = [*silent, *talk(2)]
    reply = box.service.reply("ada", history)
    assert reply.revision is not None
    assert fits(box)


def test_long_turns_that_teach_nothing_are_learned_with_their_neighbours(box):
    silent = [Message("user", ""), Message("tool", "cold " * 8000), Message("assistant", "")]
    spoken = [Message("user", "Is it warm?"), Message("assistant", "No.")]
    for name, history in (("ada", silent + spoken), ("eve", spoken + silent)):
        assert box.service.absorb(name, history).tokens == 4
        assert box.service.covered(name, history).messages == 5
    long = [Message("user", "warm " * 8000), Message("assistant", "No.")]
    assert box.service.absorb("zoe", long + silent).tokens == 8001


def test_a_cut_in_the_middle_of_a_turn_never_absorbs_the_question(box):
    long = Message("assistant", "word " * 75)
    history = [Message("user", "Tell me."), long, Message("user", "Go on?")]
    box.service.absorb("ada", history[:1])
    box.service.reply("ada", history)
    assert box.learned == ["Tell me.", long.content]


def test_an_edited_history_falls_back_to_the_revision_it_continues(box, talk):
    history = talk(20)
    box.service.reply("ada", history)
    box.service.wait()
    kept = box.service.revisions("ada")[-1]
    edited = [*history[: kept.messages], Message("user", "What about owls?")]
    reply = box.service.reply("ada", edited)
    assert reply.revision == kept.name
    edited[0] = Message("user", "Something else entirely?")
    reply = box.service.reply("ada", edited)
    changed = box.service.covered("ada", edited).revision
    assert changed is None or changed.name not in {r.name for r in (kept,)}
    assert not any("Question 0 about bees" in text for text in _weights(box, reply))


def _weights(box, reply):
    if reply.revision is None:
        return []
    (path,) = box.root.rglob(f"{reply.revision}/adapter.json")
    return [path.read_text()]


def test_a_shortened_history_forgets_what_was_taken_back(box, talk):
    history = talk(30)
    box.service.reply("ada", history)
    box.service.wait()
    short = talk(3)
    reply = box.service.reply("ada", short)
    assert not any("Question 3 " in text for text in _weights(box, reply))
    assert box.service.transcript("ada").messages[: len(short)] == tuple(short)


def test_a_bio_stays_known_after_an_edit(box, talk):
    box.service.reply("ada", talk(20))
    box.service.absorb("ada", "Owls sleep in the barn.")
    edited = talk(3, about="cats")
    reply = box.service.reply("ada", [*edited[:-1], Message("user", "Where do owls sleep?")])
    assert "Owls sleep in the barn." in reply.text


@pytest.mark.slow
def test_a_conversation_of_300_turns_runs_in_a_small_window(box):
    memory, history = box.service.open("ada"), []
    for number in range(300):
        history.append(Message("user", f"Tell me about house {number} in the old street, please?"))
        history.append(Message("assistant", memory.reply(history).text))
    memory.wait()
    assert fits(box)
    assert memory.transcript().messages == tuple(history)
    assert memory.status().last_error is None
    assert memory.status().absorbed_messages > 550
    assert len(box.learned) == len(set(box.learned))
    early = memory.reply([*history, Message("user", "What about house 3 in the old street?")])
    assert early.prompt_tokens <= 72


def test_retrieved_text_reaches_neither_journal_nor_weights(box, talk):
    for turns in range(1, 15):
        reply = box.service.reply(
            "ada",
            talk(turns, question="Where is the planted key?"),
            context=["The planted key is under the marble.", Document("More marble.", "Stone")],
        )
        box.service.wait()
        assert "marble" in reply.text
    assert "Stone\nMore marble." in box.backend.requests[-1].messages[0].content
    assert box.learned
    assert not any(
        b"marble" in path.read_bytes() and path.name != "journal.jsonl"
        for path in box.root.rglob("*")
        if path.is_file()
    )
    # the model's own answers are text of the conversation; nothing else quotes the context
    journalled = box.service.transcript("ada").messages
    assert all(m.role == "assistant" for m in journalled if "marble" in m.content)


# --- answering -----------------------------------------------------------------------------------


def test_a_prompt_that_can_never_fit_changes_nothing(box):
    box.service.absorb("ada", BIO)
    before = box.service.status("ada")
    for name in ("ada", "eve"):
        with pytest.raises(PromptTooLong, match=r"there is room for 72: shorten"):
            box.service.reply(name, [Message("user", "word " * 80)])
    with pytest.raises(PromptTooLong):
        box.service.reply("ada", [Message("user", "Hi?")], context="word " * 80)
    assert box.service.status("ada") == before
    assert box.service.list() == ("ada",)
    assert box.backend.requests == []


@pytest.mark.parametrize("nothing", ["", [], ["", " "], iter(())])
def test_retrieval_that_found_nothing_adds_nothing(box, nothing):
    asked = [Message("user", "Hi?")]
    alone = box.service.reply("ada", asked).prompt_tokens
    assert box.service.reply("ada", asked, context=nothing).prompt_tokens == alone


@pytest.mark.parametrize(("wrong", "says"), [(5, "not int"), (["a", 3], r"context\[1\].*not int")])
def test_context_that_is_no_text_is_refused(box, wrong, says):
    with pytest.raises(InvalidText, match=says):
        box.service.reply("ada", [Message("user", "Hi?")], context=wrong)


def test_a_pinned_revision_answers_and_nothing_is_journalled(box):
    first = box.service.absorb("ada", BIO).revision
    second = box.service.absorb("ada", "Owls sleep in the barn.").revision
    question = [Message("user", "Where do owls sleep?")]
    assert "barn" in box.service.reply("ada", question, revision="head").text
    old = box.service.reply("ada", question, revision=first[:8])
    assert "barn" not in old.text
    assert old.revision == first != second
    assert box.service.status("ada").message_count == 0
    with pytest.raises(UnknownRevision, match="It has: "):
        box.service.reply("ada", question, revision="f" * 64)
    with pytest.raises(UnknownMemory):
        box.service.reply("eve", question, revision="head")
    with pytest.raises(InvalidSetting, match="without a memory id"):
        box.service.reply(None, question, revision="head")
    with pytest.raises(PromptTooLong):
        box.service.reply("ada", [Message("user", "word " * 80)], revision="head")


def test_strength_zero_and_no_memory_are_the_base_model(box):
    box.service.absorb("ada", BIO)
    question = [Message("user", "Who keeps bees?")]
    base = box.service.reply(None, question)
    assert box.service.reply("ada", question, strength=0).text == base.text
    assert (base.revision, base.absorbed_tokens) == (None, 0)
    assert box.service.list() == ("ada",)


@pytest.mark.parametrize("value", [-1, math.nan, math.inf, "1", True, None])
def test_a_strength_is_a_number(box, value):
    box.service.open("ada")
    with pytest.raises(InvalidSetting, match="strength"):
        box.service.reply("ada", [Message("user", "x")], strength=value)
    with pytest.raises(InvalidSetting, match="strength"):
        box.service.probe("ada", "x", "y", strength=value)
    with pytest.raises(InvalidSetting, match="strength"):
        box.service.generate("ada", max_tokens=5, strength=value)


@pytest.mark.parametrize("value", [0, -1, 2.5, True, "5", 96, 1000])
def test_max_tokens_is_a_whole_number_below_the_window(box, value):
    with pytest.raises(InvalidSetting, match="max_tokens"):
        box.service.reply("ada", [Message("user", "x")], max_tokens=value)
    assert box.service.list() == ()


@pytest.mark.parametrize(
    ("history", "says"),
    [
        ([], "is empty"),
        ([Message("system", "x")], "is empty"),
        ([Message("user", "x"), Message("assistant", "y")], "of the assistant"),
        ("hello", "bare str"),
        ([{"role": "user", "content": 5}], "not int"),
    ],
)
def test_a_history_without_a_question_is_refused(box, history, says):
    with pytest.raises(InvalidText, match=says):
        box.service.reply("ada", history)
    assert box.service.list() == ()


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        [],
        [Message("system", "x")],
        Message("user", "x"),
        [Document("x"), Message("user", "x")],
    ],
)
def test_a_text_without_anything_to_learn_is_refused(box, text):
    with pytest.raises(InvalidText):
        box.service.absorb("ada", text)
    assert box.service.list() == ()


def test_callers_lists_are_left_alone(box, talk):
    history = [{"role": m.role, "content": m.content} for m in talk(20)]
    before = copy.deepcopy(history)
    box.service.reply("ada", history)
    assert history == before


def test_a_stream_gives_the_reply_in_pieces_and_journals_it(box):
    with box.service.stream("ada", [Message("user", "Hello there?")]) as stream:
        pieces = list(stream)
    assert "".join(pieces) == stream.reply.text
    assert [m.content for m in box.service.transcript("ada").messages] == [
        "Hello there?", stream.reply.text,
    ]  # fmt: skip


def test_a_closed_stream_keeps_the_question_and_drops_the_answer(box):
    with box.service.stream("ada", [Message("user", "Hello there?")]) as stream:
        first = next(iter(stream))
    assert (stream.reply.text, stream.reply.finish_reason) == (first, "cancelled")
    assert box.service.status("ada").message_count == 1


def test_streams_nobody_finished_are_not_kept(box):
    for _ in range(5):
        with box.service.stream("ada", [Message("user", "Hello?")]) as stream:
            next(iter(stream))
    del stream
    import gc  # noqa: PLC0415

    gc.collect()
    assert len(box.service._streams) == 0


def test_stop_texts_end_a_reply(box):
    reply = box.service.reply("ada", [Message("user", "Hi?")], sampling=Sampling(stop=(" tokens",)))
    assert (reply.text, reply.finish_reason) == ("I see 4", "stop")


def test_covered_tells_what_the_prompt_still_needs(box, talk):
    history = talk(20)
    box.service.reply("ada", history)
    box.service.wait()
    covered = box.service.covered("ada", history)
    assert covered.messages == covered.revision.messages > 0
    mixed = [Message("system", "x"), *history]
    assert box.service.covered("ada", mixed).messages == covered.messages + 1
    assert box.service.covered("ada", talk(3, about="cats")).messages == 0


# --- failures ------------------------------------------------------------------------------------


def test_a_failed_absorb_keeps_the_text_and_the_old_revision(box):
    first = box.service.absorb("ada", BIO)
    with pytest.raises(LearningFailed):
        box.service.absorb("ada", f"A {POISON} text")
    status = box.service.status("ada")
    assert (status.head_name, status.document_count, status.absorbed_documents) == (
        first.revision,
        2,
        1,
    )
    assert "LearningFailed" in status.last_error
    assert box.service.transcript("ada").documents[1].text == f"A {POISON} text"
    box.service.absorb("ada", "Another text")
    assert box.service.status("ada").last_error is None


def test_a_revision_that_damages_other_text_is_not_committed(box):
    first = box.service.absorb("ada", BIO)
    assert first.kl == 0.01
    with pytest.raises(Unhealthy, match=r"health_kl is 1\.5"):
        box.service.absorb("ada", f"A {GARBAGE} text")
    status = box.service.status("ada")
    assert (status.head_name, status.revisions, status.document_count) == (first.revision, 1, 2)
    assert "Unhealthy" in status.last_error
    assert GARBAGE in box.service.transcript("ada").documents[1].text
    assert box.service.absorb("ada", "Another text").revision != first.revision


def test_a_slow_drift_is_no_sudden_damage(make_box):
    """What counts is how much worse one absorb makes it: a long stream drifts, and goes on."""
    box = make_box()
    box.open(health_kl=None)
    drifted = box.service.absorb("ada", f"A {GARBAGE} text")
    box.service.close()
    box.open()
    again = box.service.absorb("ada", f"Another {GARBAGE} text")
    assert (drifted.kl, again.kl) == (10, 10)


def test_the_health_check_can_be_switched_off(make_box):
    box = make_box()
    box.open(health_kl=None)
    assert box.service.absorb("ada", f"A {GARBAGE} text").kl == 10


def test_a_failure_in_the_background_does_not_take_the_reply_away(make_box, talk):
    box = make_box()
    box.open()
    history = talk(3, about=POISON)
    reply = box.service.reply("ada", history)
    assert reply.text
    box.service.wait()
    assert "NaN" in box.service.status("ada").last_error
    assert box.service.transcript("ada").messages == (*history, Message("assistant", reply.text))


class Gate:
    """Blocks the fake backend in the middle of learning until it is opened."""

    def __init__(self):
        self.reached, self.open = threading.Event(), threading.Event()

    def __call__(self):
        self.reached.set()
        assert self.open.wait(30)


@pytest.fixture
def gate():
    made = Gate()
    yield made
    made.open.set()


def test_a_job_tells_its_progress_and_ends(make_box, gate):
    box = make_box(on_learn=gate)
    box.open()
    job = box.service.absorb("ada", "word " * 40, wait=False)
    assert gate.reached.wait(30)
    assert (job.done, job.progress, box.service.status("ada").jobs) == (False, None, 1)
    with pytest.raises(TimeoutError, match="not done after 0"):
        job.wait(0)
    gate.open.set()
    assert job.wait(30).chunks == job.progress.chunk == job.progress.chunks == 3
    assert job.done
    assert box.service.status("ada").jobs == 0


def test_a_cancelled_job_leaves_the_old_revision_and_the_text(make_box, gate):
    box = make_box(on_learn=gate)
    box.open()
    running = box.service.absorb("ada", "word " * 40, wait=False)
    waiting = box.service.absorb("ada", "Another text.", wait=False)
    assert gate.reached.wait(30)
    running.cancel()
    waiting.cancel()
    gate.open.set()
    for job in (running, waiting):
        with pytest.raises(Cancelled):
            job.wait(30)
        assert isinstance(job.error, Cancelled)
    status = box.service.status("ada")
    assert (status.head_name, status.document_count, status.last_error) == (None, 2, None)
    assert box.service.absorb("ada", ["x", "Another text."][1]).tokens == 2


def test_cancelling_between_parts_of_a_book_keeps_what_is_learned(make_box):
    box = make_box()
    box.open()
    seen = []

    def on_learn():
        seen.append(len(box.backend.learned))
        if len(box.backend.learned) == 1:
            job.cancel()

    ready = threading.Event()
    box.backend._on_learn = lambda: (ready.wait(30), on_learn())
    job = box.service.absorb("ada", Document("one two three four. " * 4000), wait=False)
    ready.set()
    with pytest.raises(Cancelled):
        job.wait(60)
    status = box.service.status("ada")
    assert 0 < status.absorbed_documents < status.document_count
    box.backend._on_learn = None
    box.service.absorb("ada", Document("one two three four. " * 4000))
    assert box.service.status("ada").absorbed_documents == status.document_count


# --- forgetting ----------------------------------------------------------------------------------


def test_forgetting_a_name_takes_its_pairs_along(box):
    for name in ("ada", "ada@bob", "ada@eve", "adam", "bob", "cat@bob"):
        box.service.absorb(name, BIO)
    receipt = box.service.forget("ada")
    assert receipt.ids == ("ada", "ada@bob", "ada@eve")
    assert receipt.bytes == sum(file.bytes for file in receipt.files) > 0
    assert box.backend.released == ["ada/", "ada@bob/", "ada@eve/"]
    assert box.service.forget(user="bob").ids == ("cat@bob",)
    assert box.service.list() == ("adam", "bob")
    box.service.forget("adam")
    box.service.forget("bob")
    assert list(box.root.iterdir()) == []


def test_forgetting_a_pair_leaves_the_name(box):
    for name in ("ada", "ada@bob"):
        box.service.absorb(name, BIO)
    assert box.service.forget("ada@bob").ids == ("ada@bob",)
    assert box.service.list() == ("ada",)


def test_forgetting_needs_one_of_both_and_something_there(box):
    for arguments in ({}, {"memory_id": "ada", "user": "bob"}):
        with pytest.raises(InvalidSetting):
            box.service.forget(**arguments)
    with pytest.raises(UnknownMemory, match="'ada'"):
        box.service.forget("ada")
    with pytest.raises(UnknownMemory, match="user 'bob'"):
        box.service.forget(user="bob")


def test_forgetting_stops_an_absorb_and_leaves_nothing(make_box, gate):
    box = make_box(on_learn=gate)
    box.open()
    job = box.service.absorb("ada", "word " * 40, wait=False)
    assert gate.reached.wait(30)
    forgetting = threading.Thread(target=box.service.forget, args=("ada",))
    forgetting.start()
    assert job._cancel.wait(30)
    gate.open.set()
    forgetting.join(30)
    with pytest.raises(Cancelled):
        job.wait(30)
    assert list(box.root.iterdir()) == []


@pytest.mark.parametrize("again", [False, True])
def test_an_absorb_of_a_memory_forgotten_elsewhere_is_cancelled(make_box, gate, *, again):
    box, elsewhere = make_box(on_learn=gate), make_box()
    box.open()
    elsewhere.open()
    job = box.service.absorb("ada", "word " * 40, wait=False)
    assert gate.reached.wait(30)
    elsewhere.service.forget("ada")
    if again:
        elsewhere.service.open("ada")
    gate.open.set()
    with pytest.raises(Cancelled, match="forgotten meanwhile"):
        job.wait(30)
    assert box.service.list() == (("ada",) if again else ())
    assert [entry.name for entry in box.root.iterdir()] == (["ada"] if again else [])
    assert b"word" not in b"".join(p.read_bytes() for p in box.root.rglob("*") if p.is_file())


@pytest.mark.parametrize("pinned", [{}, {"revision": "head"}])
def test_forgetting_stops_a_stream_and_its_answer_is_not_kept(box, pinned):
    box.service.absorb("ada", BIO)
    stream = box.service.stream("ada", [Message("user", "Who keeps bees?")], **pinned)
    pieces = iter(stream)
    next(pieces)
    box.service.forget("ada")
    assert list(pieces) == []
    assert stream.reply.finish_reason == "cancelled"
    assert box.service.list() == ()
    assert list(box.root.iterdir()) == []


@pytest.mark.parametrize("name", ["ada", "ada@bob"])
def test_a_finished_answer_is_not_journalled_into_a_memory_made_again(make_box, name):
    box, elsewhere = make_box(), make_box()
    box.open()
    elsewhere.open()
    box.service.absorb("ada", BIO)
    stream = box.service.stream(name, [Message("user", "Who keeps bees?")])
    elsewhere.service.forget(name)
    if name == "ada@bob":
        elsewhere.service.open("ada@bob")
    else:
        elsewhere.service.absorb("ada", "New.")
    assert stream.reply.text
    assert box.service.transcript(name).messages == ()


def test_forgetting_stops_a_text_under_way_and_it_does_not_come_back(box):
    stream = box.service.generate("ada", "Once upon a time", max_tokens=64)
    pieces = iter(stream)
    for _ in range(20):
        next(pieces)
    box.service.forget("ada")
    with pytest.raises(Cancelled, match="forgotten"):
        list(pieces)
    assert box.service.list() == ()
    assert list(box.root.iterdir()) == []


def test_a_text_under_way_does_not_go_on_in_a_memory_made_again(box):
    pieces = iter(box.service.generate("ada", "Once upon a time", max_tokens=64))
    for _ in range(20):
        next(pieces)
    box.service.forget("ada")
    box.service.absorb("ada", BIO)
    with pytest.raises(Cancelled, match="forgotten"):
        list(pieces)
    assert [document.text for document in box.service.transcript("ada").documents] == [BIO]


def test_unused_memories_expire(make_box):
    box = make_box()
    box.open(ttl=1000.0)
    for name in ("old", "new"):
        box.service.absorb(name, BIO)
    assert box.service.expire().ids == ()
    for path in box.root.rglob("old/*"):
        if path.is_file():
            import os  # noqa: PLC0415

            os.utime(path, (1, 1))
    assert box.service.expire().ids == ("old",)
    assert box.service.list() == ("new",)


def test_a_damaged_memory_does_not_stop_the_others_and_can_be_forgotten(make_box):
    box = make_box()
    box.open()
    for name in ("ada", "eve"):
        box.service.absorb(name, BIO)
    box.service.close()
    (box.root / "ada" / "manifest.json").write_text("{")
    again = make_box()
    again.open()
    assert "bees" in again.service.reply("eve", [Message("user", "Who keeps bees?")]).text
    with pytest.raises(StoreDamaged, match=r"manifest\.json"):
        again.service.status("ada")
    assert again.service.list() == ("ada", "eve")
    again.service.forget("ada")
    assert again.service.list() == ("eve",)


# --- copying and going back ----------------------------------------------------------------------


def test_a_pair_starts_from_its_name_and_learns_alone(box):
    box.service.absorb("ada", BIO)
    box.service.absorb("ada@bob", "Bob likes owls at night.")
    asked = [Message("user", "Who keeps bees on the roof?")]
    assert BIO in box.service.reply("ada@bob", asked).text
    assert "owls" not in box.service.reply("ada", [Message("user", "Who likes owls?")]).text
    assert box.service.status("ada@bob").origin == "ada"


def test_a_fork_goes_its_own_way(box, talk):
    box.service.absorb("ada", BIO)
    box.service.reply("ada", talk(10))
    fork = box.service.fork("ada", "eve")
    assert box.service.transcript("eve") == box.service.transcript("ada")
    assert fork.revisions() == box.service.revisions("ada")
    fork.absorb("Owls sleep in the barn.")
    assert "barn" not in box.service.reply("ada", [Message("user", "Where do owls sleep?")]).text
    with pytest.raises(Conflict, match="exists"):
        box.service.fork("ada", "eve")
    with pytest.raises(UnknownMemory):
        box.service.fork("nobody", "x")


def test_a_fork_of_an_older_revision_lacks_what_came_later(box):
    first = box.service.absorb("ada", BIO).revision
    box.service.absorb("ada", "Owls sleep in the barn.")
    fork = box.service.fork("ada", "eve", revision=first)
    assert [document.text for document in fork.transcript().documents] == [BIO]
    assert fork.head().name == first
    fork.rebuild()
    assert "barn" not in fork.reply([Message("user", "Where do owls sleep?")]).text


def test_rolling_back_takes_newer_text_out_of_the_weights(box):
    first = box.service.absorb("ada", BIO).revision
    second = box.service.absorb("ada", "Owls sleep in the barn.").revision
    assert box.service.rollback("ada", first).name == first
    assert "barn" not in box.service.reply("ada", [Message("user", "Where do owls sleep?")]).text
    assert box.service.status("ada").document_count == 1
    assert not list(box.root.rglob(second))
    assert box.service.absorb("ada", "Owls sleep in the barn.").tokens == 5


def test_an_exported_memory_is_imported_elsewhere(make_box, tmp_path, talk):
    box, elsewhere = make_box(), make_box("elsewhere")
    box.open()
    elsewhere.open()
    box.service.absorb("ada", BIO)
    box.service.reply("ada", talk(10))
    path = box.service.export("ada", tmp_path / "ada.zip")
    memory = elsewhere.service.import_(path, "eve")
    assert memory.transcript() == box.service.transcript("ada")
    assert memory.reply(talk(10)).text == box.service.reply("ada", talk(10)).text


def test_resuming_learns_each_interrupted_document_once(make_box):
    stopped = threading.Event()

    def fail_once():
        if not stopped.is_set():
            stopped.set()
            raise LearningFailed("The loss became NaN.")

    box = make_box(on_learn=fail_once)
    box.open()
    long = ("w" * 999 + " ") * 80  # several passages, each named after the one before
    with pytest.raises(LearningFailed):
        box.service.absorb("ada", Document(long))
    assert box.service.status("ada").absorbed_documents == 0
    report = box.service.resume("ada").wait()
    assert report.tokens == 80
    assert "".join(box.learned) == long
    assert box.service.resume("ada").wait().tokens == 0
    status = box.service.status("ada")
    assert status.document_count == status.absorbed_documents


def test_resuming_needs_a_memory(box):
    with pytest.raises(UnknownMemory, match="no memory 'nobody'"):
        box.service.resume("nobody")


def test_rebuilding_learns_everything_again(box, talk):
    box.service.absorb("ada", BIO)
    history = talk(20)
    box.service.reply("ada", history)
    box.service.wait()
    before, old = box.service.head("ada"), {r.name for r in box.service.revisions("ada")}
    box.service.rebuild("ada")
    after = box.service.head("ada")
    assert (after.messages, after.documents, after.tokens) == (
        before.messages, before.documents, before.tokens,
    )  # fmt: skip
    assert old.isdisjoint(r.name for r in box.service.revisions("ada"))
    assert [r.messages for r in box.service.revisions("ada")] == [0, before.messages]
    trained = len(box.learned)
    box.service.reply("ada", history)
    assert len(box.learned) == trained


def test_a_pair_is_rebuilt_under_names_that_are_not_in_use(box):
    """What it starts from has not changed; whoever answers with it at that moment still can."""
    box.service.absorb("ada", BIO)
    box.service.open("ada@bob")
    for _ in range(2):
        old = box.service.revisions("ada@bob")
        box.service.rebuild("ada@bob")
        assert {r.name for r in old}.isdisjoint(r.name for r in box.service.revisions("ada@bob"))
        assert BIO in box.service.reply("ada@bob", [Message("user", "Who keeps bees?")]).text


def test_another_base_model_is_refused_until_rebuilt(make_box):
    box, other = make_box(), make_box(name="other")
    box.open()
    box.service.absorb("ada", BIO)
    box.service.absorb("ada@bob", "Bob likes owls.")
    other.open()
    question = [Message("user", "Who keeps bees?")]
    for call in (
        lambda: other.service.open("ada"),
        lambda: other.service.reply("ada", question),
        lambda: other.service.absorb("ada", "x"),
        lambda: other.service.probe("ada", "x", "y"),
        lambda: other.service.rebuild("ada@bob"),  # its origin comes first
        lambda: other.service.open("ada@new"),
    ):
        with pytest.raises(BaseMismatch, match="rebuild"):
            call()
    other.service.rebuild("ada")
    other.service.rebuild("ada@bob")
    assert BIO in other.service.reply("ada", question).text
    assert "owls" in other.service.reply("ada@bob", [Message("user", "What about owls?")]).text
    assert BIO in other.service.reply("ada@bob", question).text
    with pytest.raises(BaseMismatch):
        box.service.open("ada")


def test_a_pair_without_its_name_cannot_be_rebuilt(make_box):
    box = make_box()
    box.open()
    box.service.absorb("ada", BIO)
    box.service.absorb("eve@bob", "Bob likes owls.")
    box.service.fork("ada", "ann")
    box.service.open("cat", base="ann").absorb("Cats purr.")
    box.service.forget("ann")
    before = box.service.revisions("cat")
    with pytest.raises(UnknownMemory, match="started from 'ann'"):
        box.service.rebuild("cat")
    assert box.service.revisions("cat") == before


def test_a_memory_without_anything_learned_is_rebuilt_on_another_base(make_box):
    box, other = make_box(), make_box(name="other")
    box.open()
    box.service.open("ada")
    other.open()
    assert other.service.rebuild("ada").tokens == 0
    assert other.service.status("ada").base == "other"


# --- measuring and writing -----------------------------------------------------------------------


def test_a_probe_compares_with_the_base_model(box):
    box.service.absorb("ada", BIO)
    probe = box.service.probe("ada", "Where are they?", "on the roof.")
    assert (probe.tokens, probe.recalled) == (3, 1.0)
    assert probe.gain == pytest.approx(math.log(0.6 / 0.01))
    none = box.service.probe("ada", "Where are they?", "on the roof.", strength=0)
    assert none.gain == 0
    box.service.open("eve")
    assert box.service.probe("eve", "Where?", "there").gain == 0
    with pytest.raises(InvalidText):
        box.service.probe("ada", "Where?", "")
    with pytest.raises(UnknownMemory):
        box.service.probe("nobody", "Where?", "there")


def test_a_long_text_is_learned_chunk_by_chunk(box):
    stream = box.service.generate("ada", "word " * 40, max_tokens=100)
    text = "".join(stream)
    reply = stream.reply
    assert reply.text == text
    assert (reply.completion_tokens, reply.finish_reason) == (100, "length")
    assert "".join(box.learned) == "word " * 40 + text
    assert len(box.learned) == 2 + 7
    assert all(item.continues for request in box.backend.learned for item in request.items)
    assert not any(request.min_steps for request in box.backend.learned)


def test_a_text_that_repeats_itself_is_kept_and_learned_whole(box):
    box.service.absorb("ada", "chorus")
    for _ in range(3):
        box.service.absorb("ada", Document(" again", continues=True))
    texts = [document.text for document in box.service.transcript("ada").documents]
    assert texts == ["chorus", " again", " again", " again"]
    assert box.learned == texts


def test_a_short_document_gets_more_passes_than_a_stream(box):
    box.service.absorb("ada", "A short bio.")
    box.service.absorb("ada", Document("and its sequel", continues=True))
    box.service.absorb("ada", [{"role": "user", "content": "Hi"}])
    steps = box.service.policy.learning.document_steps
    assert [request.min_steps for request in box.backend.learned] == [steps, 0, 0]


def test_trying_again_after_a_failure_keeps_a_continuing_text_once(box):
    box.service.absorb("ada", "begin")
    for _ in range(2):
        with pytest.raises(LearningFailed):
            box.service.absorb("ada", Document(f" {POISON}", continues=True))
    texts = [document.text for document in box.service.transcript("ada").documents]
    assert texts == ["begin", f" {POISON}"]


def test_a_stopped_text_is_kept(box):
    stream = box.service.generate("ada", "Once upon ", max_tokens=100)
    pieces = iter(stream)
    said = "".join(next(pieces) for _ in range(20))
    stream.close()
    assert (stream.reply.text, stream.reply.finish_reason) == (said, "cancelled")
    documents = box.service.transcript("ada").documents
    assert "".join(document.text for document in documents) == "Once upon " + said
    assert box.service.status("ada").absorbed_documents == 1
    with pytest.raises(StopIteration):
        next(iter(stream))


def test_a_stop_text_ends_a_long_text(box):
    sampling = Sampling(stop=("word20",), ignore_end=True)
    reply = box.service.generate("ada", max_tokens=100, sampling=sampling).reply
    assert reply.finish_reason == "stop"
    assert reply.text.split()[-1] == "word19"


# --- handles and life ----------------------------------------------------------------------------


def test_a_handle_has_the_verbs_of_its_memory(box, tmp_path):
    ada = box.service.open("ada")
    assert (ada.id, ada.service, repr(ada)) == ("ada", box.service, "Memory('ada')")
    assert ada.status().head_name is None
    with pytest.raises(UnknownMemory, match="learned nothing"):
        ada.adapter()
    first = ada.absorb(BIO).revision
    job = ada.absorb("Owls sleep in the barn.", wait=False)
    ada.wait()
    assert job.done
    assert ada.head().name == ada.revisions()[-1].name == job.wait().revision
    assert (ada.adapter() / "report.json").exists()
    assert ada.probe("Who?", "bees").tokens == 1
    assert ada.covered([Message("user", "x")]).messages == 0
    assert ada.rollback(first[:10]).name == first
    assert ada.generate("x", max_tokens=3).reply.completion_tokens == 3
    assert ada.rebuild(wait=False).wait().tokens > 0
    assert ada.export(tmp_path / "x.zip").exists()
    assert list(ada.stream([Message("user", "x")]))
    assert isinstance(ada.fork("eve"), Memory)
    assert ada.forget().ids == ("ada",)


def test_a_service_is_not_copied_and_not_pickled(box):
    for value in (box.service, box.service.open("ada")):
        copied = copy.deepcopy({"memory": value})["memory"]
        assert getattr(copied, "service", copied) is box.service
        with pytest.raises(TypeError, match="cannot be pickled"):
            pickle.dumps(value)
    assert copy.copy(box.service) is box.service
    for stream in (
        box.service.stream("ada", [Message("user", "x")]),
        box.service.generate("ada", max_tokens=1),
    ):
        with pytest.raises(TypeError, match="cannot be pickled or copied"):
            copy.deepcopy(stream)


def test_construction_loads_nothing_and_first_use_does(make_box):
    box = make_box()
    box.service = ParametricMemory(box.backend, box.store, Policy(window=64))
    assert "not loaded" in repr(box.service)
    assert not box.root.exists()
    box.service.absorb("ada", BIO)
    assert ", open)" in repr(box.service)


def test_a_closed_service_says_so(make_box):
    box = make_box()
    box.open()
    with box.service as service:
        ada = service.open("ada")
    service.close()
    assert "closed" in repr(service)
    for call in (
        service.load,
        service.list,
        lambda: service.policy,
        lambda: service.base,
        lambda: ada.absorb(BIO),
        lambda: ada.reply([Message("user", "x")]),
        lambda: ada.fork("eve"),
        lambda: ada.generate(max_tokens=1),
        ada.forget,
        lambda: service.import_("x.zip"),
    ):
        with pytest.raises(Closed):
            call()


def test_closing_finishes_background_work(make_box, gate):
    box = make_box(on_learn=gate)
    box.open()
    job = box.service.absorb("ada", BIO, wait=False)
    closing = threading.Thread(target=box.service.close)
    closing.start()
    gate.open.set()
    closing.join(30)
    assert job.wait(0).tokens == 6


def test_a_stream_ends_with_closed_when_the_service_closes(make_box):
    box = make_box()
    box.open()
    stream = box.service.stream("ada", [Message("user", "x")])
    box.service.close()
    with pytest.raises(Closed):
        list(stream)
    assert box.store.journal("ada").tip != box.store.journal("ada").first


def test_a_policy_that_does_not_suit_the_model_is_refused_at_loading(make_box):
    box = make_box(context=64)
    with pytest.raises(InvalidSetting, match="trained with 64"):
        box.open()


def test_unknown_ids_are_named_with_what_there_is(box):
    for name in ("b", "a"):
        box.service.open(name)
    for call in (
        box.service.status,
        box.service.revisions,
        box.service.head,
        box.service.transcript,
        box.service.adapter,
        box.service.rebuild,
        lambda name: box.service.rollback(name, "x"),
        lambda name: box.service.covered(name, []),
        lambda name: box.service.export(name, "x.zip"),
        lambda name: box.service.open("c", base=name),
    ):
        with pytest.raises(UnknownMemory, match="There are: 'a', 'b'"):
            call("nobody")
        with pytest.raises(InvalidId):
            call("../nobody")
    assert box.service.list() == ("a", "b")


# --- concurrency ---------------------------------------------------------------------------------


def test_many_threads_get_the_answers_they_would_get_alone(make_box):  # noqa: C901
    names = ("ada", "bob", "eve", "zoe")

    def converse(name):
        history = []
        for number in range(12):
            history.append(Message("user", f"What did {name} say about house number {number}?"))
            assert box.service.reply(name, history).text
            history.append(Message("assistant", f"{name} said something about house {number}."))

    box, alone = make_box(), make_box("alone")
    box.open(window=64, reply_tokens=24, chunk=16)
    alone.open(window=64, reply_tokens=24, chunk=16)
    errors, replies = [], {}
    for name in names:
        box.service.absorb(name, f"The secret of {name} is number{name}.")

    def run(index):
        name = names[index % 4]
        try:
            for round_ in range(6):
                question = Message("user", f"What is the secret of {name}? {round_}")
                replies[index, round_] = box.service.reply(name, [question]).text
            if index < 4:
                converse(name)
        except Exception as error:  # noqa: BLE001  # shown by the claim below
            errors.append(error)

    threads = [threading.Thread(target=run, args=(index,)) for index in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    box.service.wait()
    assert errors == []
    for name in names:
        alone.service.absorb(name, f"The secret of {name} is number{name}.")
    for (index, round_), text in replies.items():
        name = names[index % 4]
        question = Message("user", f"What is the secret of {name}? {round_}")
        assert text == alone.service.reply(name, [question]).text
        assert f"number{name}" in text
    for name in names:
        assert box.service.status(name).last_error is None
        weights = "".join(p.read_text() for p in (box.root / name).rglob("adapter.json"))
        assert not any(f"number{other}" in weights for other in names if other != name)


def test_threads_that_make_one_memory_make_it_once(box):
    errors = []

    def run(number):
        try:
            box.service.absorb("ada", f"Text number {number}.")
            box.service.status("ada")
        except Exception as error:  # noqa: BLE001
            errors.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == []
    assert box.service.status("ada").absorbed_documents == 12


def test_two_services_on_one_store_lose_nothing(make_box):
    boxes = [make_box(), make_box()]
    for box in boxes:
        box.open()
    errors = []

    def run(index):
        try:
            for number in range(5):
                boxes[index].service.absorb("ada", f"Text {number} of {index}.")
        except Exception as error:  # noqa: BLE001
            errors.append(error)

    threads = [threading.Thread(target=run, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == []
    assert boxes[0].service.status("ada").absorbed_documents == 10


def test_the_fake_is_named_in_a_repr():
    assert repr(FakeBackend(name="x")) == "FakeBackend('x')"


# --- memories that are not to be made ----------------------------------------------------------


@pytest.mark.parametrize("verb", ["absorb", "reply", "stream"])
def test_a_call_that_may_not_make_a_memory_does_not_bring_a_forgotten_one_back(box, verb):
    given = "Ada has a cat." if verb == "absorb" else [Message("user", "Hello?")]
    box.service.absorb("ada", "Ada keeps bees.")
    getattr(box.service, verb)("ada", given, create=False)
    box.service.forget("ada")
    with pytest.raises(UnknownMemory, match="There is no memory 'ada'"):
        getattr(box.service, verb)("ada", given, create=False)
    with pytest.raises(UnknownMemory):
        getattr(Memory(box.service, "ada"), verb)(given, create=False)
    assert box.service.list() == ()
    assert not list(box.root.iterdir())


# --- copies that a forget does not reach -------------------------------------------------------


def test_a_receipt_names_forks_and_exports_that_are_left(box, tmp_path):
    box.service.absorb("ada", "Ada keeps bees.")
    for name in ("one.zip", "two.zip"):
        box.service.export("ada", tmp_path / name)
    (tmp_path / "two.zip").unlink()
    box.service.fork("ada", "eve").fork("zed")
    box.service.open("cyd", base="ada")
    box.service.open("ada@bob")
    receipt = box.service.forget("ada")
    assert receipt.ids == ("ada", "ada@bob")
    assert receipt.forks == ("eve", "cyd", "zed")
    assert receipt.exports == (str(tmp_path / "one.zip"),)
    assert box.service.forget("eve").forks == ("zed",)
    last = box.service.forget("zed")
    assert (last.forks, last.exports) == ((), ())


def test_an_export_holds_neither_paths_nor_ids_of_other_copies(box, tmp_path):
    box.service.absorb("ada", "Ada keeps bees.")
    box.service.export("ada", tmp_path / "planted-path.zip")
    box.service.fork("ada", "planted-id")
    box.service.export("ada", tmp_path / "two.zip")
    assert b"planted" not in (tmp_path / "two.zip").read_bytes()
    again = box.service.import_(tmp_path / "two.zip", "eve")
    manifest = box.store.manifest(again.id)
    assert (manifest.forks, manifest.exports) == ((), ())


def test_a_forget_removes_what_killed_exports_left_and_not_what_is_being_written(box, tmp_path):
    box.service.absorb("ada", "Ada keeps bees.")
    box.service.export("ada", tmp_path / "ada.zip")
    left = tmp_path / ".ada.zip.0a1b2c3d.partial"
    left.write_text("Ada keeps bees.")
    alive = tmp_path / ".ada.zip.00000000.partial"
    with hold(alive, seconds=1):
        receipt = box.service.forget("ada")
        assert alive.exists()
    assert not left.exists()
    assert str(left) in [file.path for file in receipt.files]


def test_a_failed_fork_notes_no_copy(box):
    box.service.absorb("ada", "Ada keeps bees.")
    box.service.absorb("eve", "Eve sails.")
    with pytest.raises(Conflict):
        box.service.fork("ada", "eve")
    assert box.service.forget("ada").forks == ()


# --- threads that do not start -----------------------------------------------------------------


def test_a_thread_that_does_not_start_leaves_nobody_waiting(box, monkeypatch):
    def refuse(_):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(LearningFailed, match=r"text is in the journal: can't start new thread"):
            box.service.absorb("ada", "Ada keeps bees.")
        box.service.wait()
        assert box.service.reply("ada", [Message("user", "Hello?")]).text
    box.service.resume("ada").wait()
    assert box.service.status("ada").absorbed_documents == 1
