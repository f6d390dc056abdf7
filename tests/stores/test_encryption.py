"""Bytes that were encrypted: the format, and the order of chunks."""

import pytest

from templora_memory.stores import (
    Key,
    encryption,
)

SECRET = bytes(range(32))


GOLDEN = {
    "key.json": """{
 "format": 1,
 "cipher": "AES-256-GCM",
 "master": "88d2e1d23be55d4d",
 "key": "AgICAgICAgICAgICmikYurjYMFrKhKP5MnjbEh3orm2VVXnwQ1/QAnZqSMOVkVrkAjp993vdcm/Pljlt"
}""",
    "line": b"AwMDAwMDAwMDAwMDg0N/85HgFVON3pIOvDtZoqZTpF5XcGk75o9D40LXOpI=\n",
    "whole": "04040404040404040404040494dcbf5e4e3ca986de62861ddc1690fe1253",
    "pieces": "05050505050505050505050576c788520ac640b38254c683171af1c7d3b83b60bb5607",
}


def test_what_the_first_version_wrote_opens_and_is_written_again(tmp_path, monkeypatch):
    """Whoever changes the format must still read this one."""
    cipher = Key(SECRET).open_cipher(GOLDEN["key.json"].encode(), "ada")
    assert cipher.decrypt_line(GOLDEN["line"], 7) == b'{"kind": "tip"}\n'
    assert cipher.decrypt(bytes.fromhex(GOLDEN["whole"]), "manifest.json") == b"{}"
    (tmp_path / "file").write_bytes(bytes.fromhex(GOLDEN["pieces"]))
    assert list(cipher.decrypt_file(tmp_path / "file", "name/file")) == [b"weights"]
    numbers = iter(range(1, 9))
    monkeypatch.setattr(encryption.os, "urandom", lambda count: bytes([next(numbers)]) * count)
    again, key = Key(SECRET).make_cipher()
    assert key.decode() == GOLDEN["key.json"]
    assert again.encrypt_line(b'{"kind": "tip"}\n', 7) == GOLDEN["line"]
    assert again.encrypt(b"{}", "manifest.json").hex() == GOLDEN["whole"]
    pieces = again.encrypt_chunks(iter([b"weights"]), "name/file")
    assert b"".join(pieces).hex() == GOLDEN["pieces"]


def test_pieces_open_in_their_order_only_and_all_of_them(tmp_path, monkeypatch):
    """Also where each of them is whole."""
    monkeypatch.setattr(encryption, "_CHUNK_BYTES", 8)
    cipher, path = encryption.AesGcmCipher(SECRET), tmp_path / "file"
    one, two, three = cipher.encrypt_chunks(iter([b"12345678", b"abcdefgh", b"the end"]), "name")
    path.write_bytes(one + two + three)
    assert b"".join(cipher.decrypt_file(path, "name")) == b"12345678abcdefghthe end"
    for body in (one + two, one, two + one + three, one + two + two + three, one + three, three):
        path.write_bytes(body)
        with pytest.raises(ValueError, match="it was changed"):
            list(cipher.decrypt_file(path, "name"))
    path.write_bytes(one + two + three)
    with pytest.raises(ValueError, match="it was changed"):
        list(cipher.decrypt_file(path, "another name"))
