"""The file of API keys."""

import json

import pytest

from templora_memory.errors import InvalidSetting
from templora_memory.server import ApiKeys, add_key


def test_a_file_of_keys_holds_digests_only(tmp_path):
    path = tmp_path / "keys.json"
    made = [add_key(path, "alice"), add_key(path, "alice"), add_key(path, "bob")]
    assert len(set(made)) == 3
    assert not any(key in path.read_text() for key in made)
    assert path.stat().st_mode & 0o077 == 0
    keys = ApiKeys.load(path)
    assert [keys.namespace(key) for key in made] == ["alice", "alice", "bob"]
    assert keys.namespace("wrong") is None
    assert keys.namespaces == ("alice", "bob")
    assert "alice" not in repr(keys)


@pytest.mark.parametrize("name", ["", "Alice", "../x", "a/b", "a" * 65, "-a", ".a", "a.b"])
def test_namespaces_are_plain(tmp_path, name):
    with pytest.raises(InvalidSetting, match="unusable: use 1 to 64"):
        add_key(tmp_path / "keys.json", name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "not a file of keys"),
        ("[]", "must map each namespace"),
        ('{"a": "b"}', "must map each namespace"),
        ('{"a": ["b"]}', "not a SHA-256"),
        ("{}", "no API key"),
        (json.dumps({"a": ["0" * 64], "b": ["0" * 64]}), "one key to 'a' and to 'b'"),
    ],
)
def test_a_file_that_is_none_is_refused(tmp_path, text, said):
    path = tmp_path / "keys.json"
    path.write_text(text)
    with pytest.raises(InvalidSetting, match=said):
        ApiKeys.load(path)


def test_a_missing_file_and_a_weak_key_are_refused(tmp_path):
    with pytest.raises(InvalidSetting, match="cannot be read"):
        ApiKeys.load(tmp_path / "none.json")
    with pytest.raises(InvalidSetting, match="at least 16"):
        ApiKeys.of({"short": "alice"})
