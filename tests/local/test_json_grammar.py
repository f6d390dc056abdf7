"""Answers that follow a JSON schema."""

from __future__ import annotations

import json

import pytest

from templora_memory import Message, Sampling
from templora_memory.errors import InvalidSetting
from templora_memory.ports import GenerateRequest

pytest.importorskip("llguidance")

CALL = {
    "type": "object",
    "properties": {
        "name": {"enum": ["add", "subtract"]},
        "numbers": {"type": "array", "items": {"type": "integer"}, "maxItems": 3},
        "sure": {"type": "boolean"},
        "note": {"type": "string", "maxLength": 8},
    },
    "required": ["name", "numbers", "sure", "note"],
    "additionalProperties": False,
}


def ask(backend, schema, **sampling):
    return backend.stream(
        GenerateRequest(
            messages=(Message("user", "Add 3 and 4."),),
            adapter=None,
            strength=1.0,
            sampling=Sampling(schema=json.dumps(schema), **sampling),
            max_tokens=180,
        )
    )


@pytest.mark.parametrize("seed", range(3))
def test_an_answer_follows_its_schema(make_backend, seed):
    backend = make_backend()
    answer = ask(backend, CALL, temperature=1.5, seed=seed).completion
    assert answer.finish_reason == "stop"
    found = json.loads(answer.text)
    assert set(found) == set(CALL["required"])
    assert found["name"] in {"add", "subtract"}
    assert all(isinstance(number, int) for number in found["numbers"])


def test_answers_with_and_without_a_schema_run_together(make_backend):
    backend = make_backend()
    free = GenerateRequest(
        messages=(Message("user", "Add 3 and 4."),),
        adapter=None,
        strength=1.0,
        sampling=Sampling(),
        max_tokens=40,
    )
    alone = backend.stream(free).completion.text
    streams = [ask(backend, CALL), backend.stream(free), ask(backend, CALL)]
    first, plain, second = (stream.completion.text for stream in streams)
    assert plain == alone
    assert json.loads(first) == json.loads(second)


def test_a_schema_that_cannot_be_followed_is_refused(make_backend):
    backend = make_backend()
    with pytest.raises(InvalidSetting, match=r"cannot be followed: .*nonsense"):
        _ = ask(backend, {"type": "nonsense"}).completion
    assert json.loads(ask(backend, CALL).completion.text)
