import json

from templora_memory import Message, Sampling
from templora_memory.ports import GenerateRequest
from templora_memory.testing import FakeBackend
from templora_memory.testing.contracts import BackendContract


class TestFakeBackend(BackendContract):
    def make_backend(self):
        return FakeBackend()


def test_a_schema_is_followed_by_the_simplest_value():
    backend = FakeBackend()
    backend.open()
    schema = {
        "type": "object",
        "properties": {
            "name": {"const": "add"},
            "kind": {"enum": ["a", "b"]},
            "part": {"$ref": "#/$defs/Part"},
            "list": {"type": "array", "items": {"type": "number", "minimum": -9}, "minItems": 2},
            "left": {"anyOf": [{"type": "string"}, {"type": "null"}]},
            "not": {"type": "boolean"},
        },
        "$defs": {"Part": {"type": "object", "properties": {"n": {"type": "integer"}}}},
    }
    request = GenerateRequest(
        messages=(Message("user", "x"),),
        adapter=None,
        strength=1.0,
        sampling=Sampling(schema=json.dumps(schema)),
        max_tokens=50,
    )
    assert json.loads(backend.stream(request).completion.text) == {
        "name": "add",
        "kind": "a",
        "part": {"n": 0},
        "list": [0, 0],
        "left": "word",
        "not": False,
    }
