"""What a prompt recalls by itself: by words, by speaker, by time; and what was never told."""

from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from templora_memory import Document, Message, Policy
from templora_memory.domain import journal as journal_lines
from templora_memory.domain.settings import ModelLimits
from templora_memory.errors import InvalidSetting
from templora_memory.service.prompt import NOT_TOLD

OF_BEN = "We repair clocks in the mill, and the goose sleeps beside us."
OF_ADA = "The bees live on the roof, and my brother repairs clocks."


@pytest.fixture
def told_on(monkeypatch):
    """Let texts be told so many days ago."""

    def set_clock(days):
        moment = (datetime.now().astimezone() - timedelta(days=days)).timestamp()
        monkeypatch.setattr(journal_lines.time, "time", lambda: moment)

    yield set_clock
    monkeypatch.undo()


def ask(text):
    return [Message("user", text)]


def said(name, text):
    return [Message("user", text, name), Message("assistant", "I see.")]


def prompt_of(box):
    return "\n".join(message.content for message in box.backend.requests[-1].messages)


def test_a_conversation_recalls_what_left_the_window_without_being_asked_to(make_box):
    box = make_box()
    ada = box.open(window=512)["ada"]
    ada.absorb([Message("user", "The hive has the number twelve."), Message("assistant", "Good.")])
    history = [
        Message("user", "The hive has the number twelve."),
        Message("assistant", "Good."),
        Message("user", "What number has the hive?"),
    ]
    reply = ada.reply(history)
    assert "number twelve" in reply.recalled[0].text
    assert "number twelve" in prompt_of(box)
    assert reply.coverage == 1.0


def test_what_is_answered_without_memory_or_by_a_named_revision_is_the_prompt_as_sent(make_box):
    box = make_box()
    ada = box.open(window=512)["ada"]
    ada.absorb("The hive has the number twelve.")
    question = ask("What number has the hive?")
    assert ada.reply(question).recalled
    for reply in (
        ada.reply(question, strength=0.0),
        ada.reply(question, revision="head"),
        ada.reply(question, recall_tokens=0),
        box.service.without_memory.reply(question),
    ):
        assert (reply.recalled, reply.coverage) == ((), None)
        assert "twelve" not in prompt_of(box)


@pytest.mark.parametrize(("window", "expected"), [(4096, 256), (512, 32), (496, 0), (96, 0)])
def test_a_sixteenth_of_the_window_is_for_passages(window, expected):
    limits = ModelLimits(max_length=8192)
    assert Policy(window=window).resolve(limits).recall_tokens == expected
    assert Policy(window=window, recall_tokens=0).resolve(limits).recall_tokens == 0
    assert Policy.preset("reference", window=window).resolve(limits).recall_tokens == 0


def test_who_is_asked_for_comes_before_others_with_the_same_words(box):
    ada = box.service["ada"]
    ada.absorb([*said("Ada", OF_ADA), *said("Ben", OF_BEN)])
    for name, text in (("Ben", OF_BEN), ("Ada", OF_ADA)):
        assert text in ada.search(f"Where did {name} repair clocks?")[0].text


def test_a_time_that_is_asked_for_counts_more_than_a_word(box, told_on):
    ada = box.service["ada"]
    for days, text in ((40, "The ship left pier four."), (1, "The ship left pier nine.")):
        told_on(days)
        ada.absorb(text)
    told_on(0)
    assert ada.search("Which pier did the ship leave yesterday?")[0].text.endswith("nine.")
    month = (datetime.now().astimezone() - timedelta(days=40)).strftime("%d %B %Y")
    assert ada.search(f"Which pier did the ship leave on {month}?")[0].text.endswith("four.")


def test_what_somebody_said_on_a_day_needs_no_other_words(box, told_on):
    ada = box.service["ada"]
    told_on(3)
    ada.absorb([*said("Ben", OF_BEN), *said("Ada", OF_ADA)])
    told_on(0)
    day = datetime.now().astimezone() - timedelta(days=3)
    found = ada.search(f"What did Ben say on {day:%Y-%m-%d}?")
    assert [passage.text.splitlines()[0] for passage in found] == [f"Ben: {OF_BEN}"]
    assert found[0].score == 0
    assert ada.search("What did Ben say the day before yesterday?") == ()
    assert len(ada.search("What did I say three days ago?")) == 2


def test_texts_without_a_time_are_found_by_words_all_the_same(box, monkeypatch):
    monkeypatch.setattr(
        journal_lines.Journal, "entry",
        lambda self, digest, entry=journal_lines.Journal.entry: replace(
            entry(self, digest), time=None
        ),
    )  # fmt: skip
    box.service["ada"].absorb("The ship left pier four.")
    assert box.service["ada"].search("Which pier did the ship leave yesterday?")
    assert box.service["ada"].search("yesterday") == ()


def test_coverage_says_whether_a_question_was_told_about(make_box):
    ada = make_box().open(window=512)["ada"]
    ada.absorb([*said("Ada", OF_ADA), *said("Ben", OF_BEN)])

    def coverage(question):
        return ada.reply(ask(question), revision="head", recall_tokens=40).coverage

    assert coverage("Where does Ben repair clocks?") == 1.0
    assert coverage("Where do the zebras of Zanzibar graze?") == 0.0
    # told, but of Ada
    assert coverage("Where are the bees of Ben?") < 0.15 < coverage("Where are the bees of Ada?")


def test_what_the_prompt_says_is_told(make_box):
    ada = make_box().open(window=512)["ada"]
    ada.absorb(OF_BEN)
    question = ask("Where do the zebras graze?")
    assert ada.reply(question).coverage == 0.0
    assert ada.reply(question, context="The zebras graze in Zanzibar.").coverage == 1.0
    history = [Message("user", "Zebras graze here."), Message("assistant", "Yes."), *question]
    assert ada.reply(history).coverage == 1.0


def test_the_prompt_asks_to_say_what_was_not_told(make_box):
    box = make_box()
    ada = box.open(window=1024, question_gate=0.15)["ada"]
    ada.absorb([Document(OF_BEN)])
    for question, asked in (
        ("Where do the zebras graze?", True),
        ("Where do the geese sleep, in the mill?", False),
        ("My zebras graze in Zanzibar.", False),  # told, not asked
    ):
        ada.reply(ask(question))
        assert (NOT_TOLD in prompt_of(box)) is asked
    off = make_box("off").open(window=1024)["ada"]
    off.absorb([Document(OF_BEN)])
    off.reply(ask("Where do the zebras graze?"))
    assert NOT_TOLD not in prompt_of(box)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"question_gate": 1.5}, "at most 1"),
        ({"question_gate": 0.0}, "more than zero"),
        ({"question_gate": 0.2, "recall_tokens": 0}, "leave one of the two out"),
    ],
)
def test_a_gate_that_can_do_nothing_is_refused(settings, words):
    with pytest.raises(InvalidSetting, match=words):
        Policy(**settings)
