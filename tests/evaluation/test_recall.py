"""Questions about people: all arms over the fake backend."""

from __future__ import annotations

from dataclasses import replace

import pytest

from templora_memory import Memory, ParametricMemory, Policy
from templora_memory.errors import InvalidText
from templora_memory.evaluation._answers import (
    RECALL_TOKENS,
    ArmAnswer,
    Question,
    arm_of,
    interval,
)
from templora_memory.evaluation._other import everyday_questions
from templora_memory.evaluation.recall import (
    ARMS,
    PEOPLE,
    Person,
    bundled_people,
    load_people,
    people_called,
    recall,
)
from templora_memory.stores import DirectoryStore
from templora_memory.testing import FakeBackend

ADA = Person(
    name="Ada",
    bio="Ada lives in Salt Harbour. Ada has a cat called Pim.",
    questions=(
        Question(ask="Where does Ada live in?", fact="Salt Harbour"),
        Question(ask="What cat has Ada?", fact="Pim"),
    ),
)
BEN = Person(
    name="Ben",
    bio="Ben lives in Oak Hill. Ben has a dog called Rex.",
    questions=(Question(ask="Where does Ben live in?", fact="Oak Hill"),),
)


@pytest.mark.parametrize(
    ("fact", "answer", "right"),
    [
        ("Pim", "It is called PIM.", True),
        ("Pim", "Pimpernel", False),
        ("蜜蜂", "我养蜜蜂。", True),
        ("蜜蜂", "我养狗。", False),
        ("दिन", "वह दान देती है", False),
        ("caf\u00e9", "The cafe\u0301.", True),
    ],
)
def test_an_answer_is_right_if_it_has_the_words_in_any_script(fact, answer, right):
    assert Question(ask="?", fact=fact).accepts(answer) is right


@pytest.fixture
def service(tmp_path):
    made = ParametricMemory(
        FakeBackend(context=512), DirectoryStore(tmp_path), Policy(window=400, chunk=50)
    )
    with made:
        yield made


def test_the_bio_and_the_memory_answer_and_nothing_else_does(service):
    seen = []
    report = recall(service, [ADA, BEN], progress=lambda done, count: seen.append((done, count)))
    accuracy = {name: arm.accuracy for name, arm in report.arms.items()}
    right = {"prompt", "memory", "half", "bm25", "memory_bm25"}
    assert accuracy == {arm: float(arm in right) for arm in ARMS}
    assert report.same_after_forget
    assert report.gain > 0
    assert [report.arms[arm].asked for arm in ARMS] == [3] * len(ARMS)
    lengths = {name: arm.prompt_tokens for name, arm in report.arms.items()}
    assert lengths["memory"] == lengths["none"] < lengths["bm25"] == lengths["memory_bm25"]
    assert lengths["bm25"] <= lengths["none"] + RECALL_TOKENS
    assert seen == [(0, 2), (1, 2), (2, 2)]
    assert service.list() == ()


def test_everyday_questions_tell_what_a_memory_says_instead(service):
    """The fake model answers a question with what it has learned with the same words."""
    other = replace(ADA, kind="plain", bio="Ada can mend a torn shirt with fish bones and wool.")
    report = recall(service, [other, BEN], arms=["memory"]).everyday
    assert report.asked == 2 * len(everyday_questions())
    assert 0 < report.from_bio < report.asked
    assert any("fish bones" in example["answer"] for example in report.examples)
    assert recall(service, [other, BEN], arms=["none"]).everyday is None


def test_answers_tell_who_speaks_and_whether_they_end():
    question = Question(ask="?", fact="Pim")
    answers = [
        ArmAnswer(0, question, "I have a cat called Pim.", 1),
        ArmAnswer(0, question, "She has a cat in Miami", 1, ended=False),
    ]
    arm = arm_of(answers)
    assert (arm.first_person, arm.ended) == (0.5, 0.5)


@pytest.mark.parametrize("name", sorted(PEOPLE))
def test_the_people_of_every_set_answer_their_own_questions(name):
    for person in people_called(name):
        bio = person.bio.replace("{{char}}", person.name)
        right = [question for question in person.questions if question.accepts(bio)]
        assert len(right) >= len(person.questions) - 1, person.name


def test_intervals_are_those_of_resampled_people():
    answers = [
        ArmAnswer(person, Question(ask="?", fact="yes"), "yes" if person < 5 else "no", 1)
        for person in range(10)
        for _ in range(20)
    ]
    low, high = interval(answers)
    assert low == pytest.approx(0.2, abs=0.11)  # ten people, not two hundred answers
    assert high == pytest.approx(0.8, abs=0.11)
    assert interval(answers[:100]) == (1, 1)


def test_an_error_leaves_no_memory_behind(service, monkeypatch):
    monkeypatch.setattr(Memory, "probe", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        recall(service, [ADA, BEN])
    assert service.list() == ()


def test_an_answer_is_right_if_it_has_the_words_of_the_fact_as_words():
    question = Question(ask="What colour?", fact="red")
    assert question.accepts("It is Red.")
    assert not question.accepts("It was covered.")


def test_the_bundled_people_answer_their_own_questions():
    people = bundled_people()
    assert len(people) >= 20
    assert len({person.name for person in people}) == len(people)
    for person in people:
        assert len(person.questions) == 10
        assert all(question.accepts(person.bio) for question in person.questions)


@pytest.mark.parametrize(
    "content",
    ["[", "{}", "[]", '[{"name": "a"}]', '[{"name": "a", "bio": "b", "questions": [{"x": 1}]}]'],
)
def test_a_file_that_holds_no_people_is_refused(tmp_path, content):
    path = tmp_path / "people.json"
    path.write_text(content)
    with pytest.raises(InvalidText, match=r"people\.json"):
        load_people(path)


def test_other_text_is_scored_with_every_memory(service):
    report = recall(service, [ADA, BEN], other="Quite another story, told at length. " * 40)
    assert report.other_text == pytest.approx(1, abs=0.5)
    assert recall(service, [ADA, BEN]).other_text is None


def test_a_text_may_be_learned_before_the_questions(service):
    text = "Quite another story, told at length. " * 40
    report = recall(service, [ADA, BEN], then=text, chunks=3)
    assert report.later_chunks == 3
    learned = [request.items[0] for request in service.backend.learned]
    assert [item.text for item in learned[:2]] == [ADA.bio, learned[1].text]
    assert learned[1].continues
    with pytest.raises(InvalidText, match="chunks"):
        recall(service, [ADA, BEN], then=text, chunks=3000)
    assert not service.list()


def test_other_text_must_be_long_enough(service):
    with pytest.raises(InvalidText, match="too short"):
        recall(service, [ADA, BEN], other="Short.")
    assert not service.list()
