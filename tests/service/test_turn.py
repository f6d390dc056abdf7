"""How a history ends: with a question, with an unfinished answer, or with what to write next."""

import pytest

from templora_memory import Message, ParametricMemory, Policy
from templora_memory.errors import InvalidText
from templora_memory.service.turn import AskedTurn
from templora_memory.stores import DirectoryStore

USER, SPOKEN = Message("user", "Who keeps bees?"), Message("assistant", "It is")
SCENE, NUDGE = Message("system", "You are Ada."), Message("system", "Write as Bob.")


@pytest.mark.parametrize(
    ("history", "system", "dialogue", "instruction", "prefill"),
    [
        ([SCENE, USER], [SCENE], [USER], "", ""),
        ([SCENE, USER, NUDGE], [SCENE, NUDGE], [USER], "", ""),
        ([SCENE, USER, SPOKEN], [SCENE], [USER], "", "It is"),
        ([SCENE, USER, SPOKEN, NUDGE], [SCENE], [USER, SPOKEN], "Write as Bob.", ""),
        ([USER, SCENE, SPOKEN, NUDGE], [SCENE], [USER, SPOKEN], "Write as Bob.", ""),
        ([USER, SPOKEN, SCENE, NUDGE], [], [USER, SPOKEN], "You are Ada.\n\nWrite as Bob.", ""),
        ([SCENE, NUDGE], [SCENE], [], "Write as Bob.", ""),
        ([NUDGE], [], [], "Write as Bob.", ""),
        ([SPOKEN], [], [], "", "It is"),
        ([USER, Message("assistant", "")], [], [USER, Message("assistant", "")], "", ""),
    ],
)
def test_the_end_of_a_history_says_what_is_asked(history, system, dialogue, instruction, prefill):
    turn = AskedTurn.of(history, continue_final_message=True)
    assert (list(turn.system), list(turn.dialogue)) == (system, dialogue)
    assert (turn.instruction, turn.prefill) == (instruction, prefill)


@pytest.mark.parametrize("history", [[], [Message("system", " ")]])
def test_nothing_is_not_answered(history):
    with pytest.raises(InvalidText, match="nothing to answer"):
        AskedTurn.of(history, continue_final_message=True)


def journalled(box):
    return box.service["ada"].transcript().messages


def test_an_unfinished_answer_is_continued_and_journalled_as_one(box):
    reply = box.service["ada"].reply([SCENE, USER, SPOKEN])
    request = box.backend.requests[-1]
    assert (request.messages, request.prefill) == ((SCENE, USER), "It is")
    assert journalled(box) == (USER, Message("assistant", "It is" + reply.text))
    later = [USER, journalled(box)[1], Message("user", "Where?")]
    box.service["ada"].reply(later)
    assert list(journalled(box)[:3]) == later


def test_an_answer_may_be_followed_by_another(box):
    reply = box.service["ada"].reply([USER, SPOKEN], continue_final_message=False)
    assert box.backend.requests[-1].messages == (USER, SPOKEN)
    assert journalled(box) == (USER, SPOKEN, Message("assistant", reply.text))


def test_an_instruction_is_for_one_answer_alone(box, talk):
    history = talk(3, question=None)
    box.service["ada"].reply([SCENE, *history, NUDGE])
    shown = box.backend.requests[-1].messages
    assert shown == (SCENE, *history, Message("user", "Write as Bob."))
    assert list(journalled(box)) == history
    box.service["ada"].reply([SCENE, NUDGE])
    assert box.backend.requests[-1].messages == (SCENE, Message("user", "Write as Bob."))
    assert list(journalled(box)) == history


def test_instructions_are_never_learned_and_always_fit(box, talk):
    for turns in range(1, 20):
        history = talk(turns, question=None)
        box.service["ada"].reply([*history, Message("system", "planted " * 20)])
        box.service["ada"].reply([*history[:-1], Message("assistant", "begun " * 12)])
        box.service.wait()
    policy = box.service.policy
    for request in box.backend.requests:
        begun = (Message("assistant", request.prefill),) if request.prefill else ()
        count = box.backend.count((*request.messages, *begun))
        assert count <= policy.window - request.max_tokens
    assert box.learned
    assert not any("planted" in text or "begun" in text for text in box.learned)


def test_the_model_goes_on_with_what_was_begun(tmp_path):
    policy = Policy(window=128, reply_tokens=24, chunk=64)
    with ParametricMemory.from_pretrained(root=tmp_path / "real", policy=policy) as service:
        history = [Message("user", "Where do you live?")]
        whole = service["ada"].reply(history).text
        words = whole.split(" ")
        begun = " ".join(words[:3])
        rest = service["bob"].reply([*history, Message("assistant", begun)]).text
        assert len(words) > 4
        assert begun + rest == whole[: len(begun + rest)]
        assert DirectoryStore(tmp_path / "real").ids()
