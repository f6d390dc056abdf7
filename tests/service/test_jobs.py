"""Jobs: their order, their progress, and what is urgent."""

import threading
import time

import pytest

from templora_memory import Message
from templora_memory.domain.results import JobPhase
from templora_memory.errors import Cancelled, LearningFailed
from templora_memory.service.jobs import MAX_THREADS, Job, JobQueue


class Work:
    """Jobs that begin when the queue lets them and end when the test does."""

    def __init__(self):
        self.queue = JobQueue()
        self.began = []
        self.go_on = threading.Event()
        self.changed = threading.Condition()

    def submit(self, name, *, urgent=False):
        def run(job):
            with self.changed:
                self.began.append(name)
                self.changed.notify_all()
            assert self.go_on.wait(30)
            if job.cancelled():
                raise Cancelled("stopped")
            return name

        return self.queue.submit(Job(str(name).split("/")[0], run, urgent=urgent))

    def wait_for(self, count):
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.began) >= count, 30)

    def fill(self):
        """Take all places."""
        for number in range(MAX_THREADS):
            self.submit(f"m{number}")
        self.wait_for(MAX_THREADS)


@pytest.fixture
def work():
    made = Work()
    yield made
    made.go_on.set()
    made.queue.close(cancel=False)


def test_only_so_many_run_at_once_and_the_oldest_is_next(work):
    work.fill()
    later = [work.submit(f"later{number}") for number in range(3)]
    assert not any(job.done for job in later)
    assert len(work.began) == MAX_THREADS
    work.go_on.set()
    assert [job.wait(30) for job in later] == ["later0", "later1", "later2"]


def test_what_a_reply_waits_for_does_not_stand_in_line(work):
    work.fill()
    work.submit("late")
    work.submit("reply", urgent=True)
    work.wait_for(MAX_THREADS + 1)
    assert work.began[-1] == "reply"


def test_what_stands_before_it_in_its_own_memory_does_not_either(work):
    work.fill()
    work.submit("ada/before")
    work.submit("ada/reply", urgent=True)
    work.wait_for(MAX_THREADS + 1)
    assert work.began[-1] == "ada/before"


def test_a_job_that_is_cancelled_in_line_ends_at_once(work):
    work.fill()
    job = work.submit("late")
    job.cancel()
    with pytest.raises(Cancelled, match="before it began"):
        job.wait(30)
    assert len(work.began) == MAX_THREADS


def test_a_closing_queue_ends_who_stands_in_line(work):
    work.fill()
    job = work.submit("late")
    closing = threading.Thread(target=work.queue.close, kwargs={"cancel": True})
    closing.start()
    with pytest.raises(Cancelled):
        job.wait(30)
    work.go_on.set()
    closing.join(30)
    assert not closing.is_alive()


def test_a_reply_that_must_learn_first_says_so_to_the_backend(make_box):
    box = make_box(context=256)
    box.open(window=64, reply_tokens=16, chunk=16)
    talk = [
        Message("assistant" if n % 2 else "user", f"Message {n} has some words.") for n in range(21)
    ]
    box.service["ada"].reply(talk)
    box.service["eve"].absorb("Eve keeps bees.")
    assert box.backend.hurried == [True, *[False] * (len(box.backend.hurried) - 1)]


def test_an_absorb_that_runs_becomes_urgent_when_a_reply_must_wait_for_it(make_box):
    began, go_on = threading.Event(), threading.Event()

    def on_learn():
        began.set()
        assert go_on.wait(30)

    box = make_box(context=256, on_learn=on_learn)
    box.open(window=64, reply_tokens=16, chunk=16)
    bio = box.service["ada"].absorb("Ada keeps bees.", wait=False)
    assert began.wait(30)
    assert not bio.urgent()
    talk = [
        Message("assistant" if n % 2 else "user", f"Message {n} has some words.") for n in range(21)
    ]
    reply = threading.Thread(target=box.service["ada"].reply, args=(talk,))
    reply.start()
    end = time.monotonic() + 30
    while not bio.urgent():
        assert time.monotonic() < end
        time.sleep(0.001)
    go_on.set()
    reply.join(30)
    assert box.backend.hurried[:2] == [True, True]


def test_a_job_tells_its_progress_and_ends(make_box, gate):
    box = make_box(on_learn=gate)
    box.open()
    job = box.service["ada"].absorb("word " * 40, wait=False)
    assert gate.reached.wait(30)
    assert (job.done, job.progress, box.service["ada"].status().jobs) == (False, None, 1)
    assert job.phase == JobPhase(name="learning")
    later = box.service["ada"].absorb("Eve sails.", wait=False)
    assert (str(later.phase), str(job.phase)) == ("queued", "learning")
    with pytest.raises(TimeoutError, match="not done after 0"):
        job.wait(0)
    gate.open.set()
    assert job.wait(30).chunks == job.progress.chunk == job.progress.chunks == 3
    assert (job.done, str(job.phase)) == (True, "ended")
    later.wait(30)
    assert box.service["ada"].status().jobs == 0


def test_a_job_goes_through_its_phases(make_box):
    phases = []
    box = make_box(on_learn=lambda: phases.append(str(job().phase)))

    def job():
        (running,) = box.service["ada"]._jobs.jobs("ada")
        return running

    box.open()
    commit = box.store.commit
    box.store.commit = lambda *a, **k: (phases.append(str(job().phase)), commit(*a, **k))[1]
    box.service["ada"].absorb("word " * 40)
    assert phases == ["learning", "learning 1 of at most 3", "learning 2 of at most 3",
                      "committing"]  # fmt: skip


def test_a_reply_that_nobody_wants_waits_for_nothing_and_what_it_needed_is_learned(make_box, gate):
    box = make_box(context=256, on_learn=gate)
    box.open(window=64, reply_tokens=16, chunk=16)
    talk = [
        Message("assistant" if n % 2 else "user", f"Message {n} has some words.") for n in range(21)
    ]
    gone = threading.Event()
    ends = []

    def reply():
        with pytest.raises(Cancelled, match="before its answer began"):
            box.service["ada"].reply(talk, cancelled=gone.is_set)
        ends.append("cancelled")

    waiting = threading.Thread(target=reply)
    waiting.start()
    assert gate.reached.wait(30)
    gone.set()
    waiting.join(30)
    assert ends == ["cancelled"]
    gate.open.set()
    box.service.wait()
    assert box.service["ada"].status().absorbed_messages
    assert not box.backend.requests
    assert box.service["ada"].reply(talk, cancelled=lambda: False).text


def test_counting_a_history_ends_when_nobody_wants_the_answer(make_box):
    box = make_box(context=256)
    box.open(window=64, reply_tokens=16, chunk=16)
    counted = []
    count = box.backend.count
    box.backend.count = lambda messages: (counted.append(1), count(messages))[1]
    talk = [
        Message("assistant" if n % 2 else "user", f"Message {n} has some words.")
        for n in range(801)
    ]
    with pytest.raises(Cancelled):
        box.service["ada"].reply(talk, cancelled=lambda: len(counted) > 20)
    assert len(counted) < 30
    assert box.service["ada"].status().message_count == 801


def test_a_cancelled_job_leaves_the_old_revision_and_the_text(make_box, gate):
    box = make_box(on_learn=gate)
    box.open()
    running = box.service["ada"].absorb("word " * 40, wait=False)
    waiting = box.service["ada"].absorb("Another text.", wait=False)
    assert gate.reached.wait(30)
    running.cancel()
    waiting.cancel()
    gate.open.set()
    for job in (running, waiting):
        with pytest.raises(Cancelled):
            job.wait(30)
        assert isinstance(job.error, Cancelled)
    status = box.service["ada"].status()
    assert (status.head_name, status.document_count, status.last_error) == (None, 2, None)
    assert box.service["ada"].absorb(["x", "Another text."][1]).tokens == 2


def test_a_thread_that_does_not_start_leaves_nobody_waiting(box, monkeypatch):
    def refuse(_):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(LearningFailed, match=r"text is in the journal: can't start new thread"):
            box.service["ada"].absorb("Ada keeps bees.")
        box.service.wait()
        assert box.service["ada"].reply([Message("user", "Hello?")]).text
    box.service["ada"].resume().wait()
    assert box.service["ada"].status().absorbed_documents == 1
