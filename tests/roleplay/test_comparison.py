"""Four answers to one message from one history; the conversation stays as it is."""

from templora_memory import Message
from templora_memory.apps.roleplay.character_reply import MODES, ReplyControls
from templora_memory.apps.roleplay.comparison import compare, comparison

QUESTION = "Which lame goose is called what?"


def test_all_four_see_the_same_history_and_only_the_story_differs(studio, enter, absorbed):
    visitor = enter()
    actor, persona = absorbed(visitor), visitor.personas[0]
    before = list(actor.chat(persona).messages)
    backend = studio.memory.backend
    asked = len(backend.requests)
    messages = [Message("user", "Hi."), Message("assistant", "Ho."), Message("user", QUESTION)]
    options = ReplyControls(temperature=0.7)
    *_, answers = compare(studio.memory, actor, persona, messages, options, seed=3)
    assert tuple(answer.mode for answer in answers) == MODES
    said = {answer.mode: answer.text for answer in answers}
    assert all("Button" in said[mode] for mode in ("weights", "prompt", "both"))
    assert "Button" not in said["neither"]
    tokens = {answer.mode: answer.prompt_tokens for answer in answers}
    assert tokens["neither"] <= tokens["weights"] < tokens["both"]
    requests = backend.requests[asked:]
    turns = [[m for m in request.messages if m.role != "system"] for request in requests]
    assert turns == [messages, messages[2:], messages, messages]
    assert [answer.dropped for answer in answers] == [0, 2, 0, 0]  # the card took the room
    assert {request.sampling.seed for request in requests} == {3}
    assert actor.chat(persona).messages == before
    shown = comparison(QUESTION, answers, 2)
    assert "the same 2 earlier messages" in shown
    assert shown.count("tokens in the prompt") == 4
    assert shown.count("did not fit") == 1
