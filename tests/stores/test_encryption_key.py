"""Keys of stores: where they come from, and what is no key."""

import pickle
import sys

import pytest

from templora_memory.errors import InvalidSetting
from templora_memory.stores import (
    KEY_FILE_VARIABLE,
    KEY_VARIABLE,
    Key,
)

SECRET = bytes(range(32))


@pytest.mark.parametrize("length", [0, 16, 31, 33, 64])
def test_a_key_has_32_bytes(length):
    with pytest.raises(InvalidSetting, match=f"has 32 bytes, not {length}: make one with python"):
        Key(b"k" * length)


@pytest.mark.parametrize("text", ["", "password", "ab" * 31, "ab" * 33, "xy" * 32, "a b" * 22])
def test_what_is_no_key_is_refused_without_repeating_it(tmp_path, text):
    (tmp_path / "key").write_text(text)
    with pytest.raises(InvalidSetting, match=r"key file .*64 hexadecimal digits are needed") as got:
        Key.load(tmp_path / "key")
    assert not text or text not in str(got.value)


def test_a_key_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(InvalidSetting, match=r"missing' cannot be read: No such file.*Make one"):
        Key.load(tmp_path / "missing")
    (tmp_path / "binary").write_bytes(SECRET + b"\xff")
    with pytest.raises(InvalidSetting, match="binary' does not hold a key"):
        Key.load(tmp_path / "binary")


def test_keys_come_from_the_environment_or_a_file(tmp_path, monkeypatch):
    for name in (KEY_VARIABLE, KEY_FILE_VARIABLE):
        monkeypatch.delenv(name, raising=False)
    assert Key.from_environment() is None
    (tmp_path / "key").write_text(f"{SECRET.hex().upper()}\n")
    monkeypatch.setenv(KEY_FILE_VARIABLE, str(tmp_path / "key"))
    assert Key.from_environment().fingerprint == Key(SECRET).fingerprint
    monkeypatch.setenv(KEY_VARIABLE, SECRET.hex())
    with pytest.raises(InvalidSetting, match="Both TEMPLORA_ENCRYPTION_KEY and"):
        Key.from_environment()
    monkeypatch.delenv(KEY_FILE_VARIABLE)
    assert (
        Key.from_environment().fingerprint == Key(SECRET).fingerprint != Key(b"x" * 32).fingerprint
    )
    monkeypatch.setenv(KEY_VARIABLE, "short")
    with pytest.raises(InvalidSetting, match="TEMPLORA_ENCRYPTION_KEY does not hold a key"):
        Key.from_environment()


def test_a_key_shows_nothing_of_itself_and_travels_to_other_processes():
    key = Key(SECRET)
    assert SECRET.hex()[:8] not in repr(key) + repr(key._cipher)
    assert repr(pickle.loads(pickle.dumps(key))) == repr(key)  # noqa: S301  # our own


def test_without_the_library_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.ciphers.aead", None)
    with pytest.raises(InvalidSetting, match=r"pip install 'templora-memory\[encryption\]'"):
        Key(SECRET)
