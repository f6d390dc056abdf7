"""Files made to hurt: each is refused with a readable message, in little time and memory."""

import io
import json
import pickle
import struct
import time
import tracemalloc
import zipfile
import zlib

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from templora_memory.errors import InputError
from templora_memory.importers import Character, ChatLog, FileRefused, Limits, World, load

SECONDS = 1.0
BYTES = 100 << 20
MIB = 1 << 20


def encrypted(files):
    data = bytearray(files.zip([("card.json", files.json())]))
    for mark, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(mark) + place] |= 1
    return bytes(data)


def twice(files):
    with pytest.warns(UserWarning, match="Duplicate name"):
        return files.zip([("card.json", files.json()), ("card.json", b"{}")])


def many_members():
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for number in range(10_001):
            archive.writestr(str(number), b"")
    return target.getvalue()


def alias_bomb():
    lines = ['name: "x"', "greeting: hi", 'a: &a ["lol","lol","lol"]']
    lines += [f"{b}: &{b} [*{a},*{a},*{a},*{a}]" for a, b in zip("abcdefg", "bcdefgh", strict=True)]
    return "\n".join(lines).encode()


CASES = {
    "huge file": (lambda _: b"x" * (8 * MIB + 1), "too_large"),
    "huge database": (lambda _: b"SQLite format 3\0" + b"x" * MIB, "unsupported_type"),
    "nothing": (lambda _: b" \n ", "empty"),
    "program": (lambda _: b"MZ\x90\0" + b"\0" * 100, "unsupported_type"),
    "program named as a picture": (lambda _: b"\x7fELF" + b"\0" * 100, "unsupported_type"),
    "binary": (lambda _: bytes(range(256)) * 10, "unsupported_type"),
    "picture without a card": (lambda f: f.png(), "not_a_card"),
    "jpeg without a card": (lambda _: b"\xff\xd8\xff\xe0" + b"x" * 100, "not_a_card"),
    "gif": (lambda _: b"GIF89a" + b"\0" * 20, "unsupported_type"),
    "broken base64": (lambda f: f.png((b"chara", b"!!!!")), "bad_base64"),
    "base64 of no json": (lambda f: f.png((b"chara", b"aGVsbG8=")), "bad_json"),
    "huge text chunk": (lambda f: f.png((b"chara", b"A" * (6 * MIB))), "too_large"),
    "too many chunks": (lambda f: f.png(extra=[(b"teSt", b"")] * 5000), "bad_file"),
    "cut off before the card": (lambda f: f.card_png()[:60], "not_a_card"),
    "only a signature": (lambda _: b"\x89PNG\r\n\x1a\n", "not_a_card"),
    "chunk longer than the file": (
        lambda _: b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 2**31 - 1) + b"tEXtchara\0",
        "not_a_card",
    ),
    "compressed text bomb": (
        lambda f: f.png(extra=[(b"zTXt", b"chara\0\0" + zlib.compress(b"A" * 50_000_000))]),
        "too_large",
    ),
    "zip bomb": (lambda f: f.zip([("card.json", b" " * (200 * MIB))]), "too_large"),
    "two cards in a zip": (twice, "bad_file"),
    "card in a folder": (lambda f: f.zip([("../card.json", f.json())]), "no_card_json"),
    "name that ends like a card": (lambda f: f.zip([("xcard.json", f.json())]), "no_card_json"),
    "encrypted zip": (encrypted, "encrypted_zip"),
    "strange compression": (
        lambda f: f.zip([("card.json", f.json())], compression=zipfile.ZIP_LZMA),
        "bad_file",
    ),
    "many members": (lambda _: many_members(), "too_many_entries"),
    "half a zip": (lambda f: f.zip([("card.json", f.json())])[:80], "bad_file"),
    "deep lists": (lambda _: b"[" * 100_000, "bad_json"),
    "deep objects": (lambda _: b'{"a":' * 50_000 + b"1" + b"}" * 50_000, "bad_json"),
    "deep but closed": (lambda _: b"[" * 500 + b"]" * 500, "bad_json"),
    "millions of lists": (lambda _: b"[" + b"[]," * (1 * MIB) + b"[]]", "bad_json"),
    "huge json": (lambda _: b'{"name":"' + b"a" * (4 * MIB) + b'"}', "too_large"),
    "giant number": (lambda _: b'{"name":"x","description":' + b"9" * 100_000 + b"}", "bad_json"),
    "not a number": (lambda _: b'{"name":"x","description":NaN}', "bad_json"),
    "json of another kind": (lambda _: b'{"hello": [1, 2]}', "not_a_card"),
    "a list": (lambda _: b"[1, 2, 3]", "not_a_card"),
    "a name and nothing else": (lambda _: b'{"name": "x", "description": " ", "first_mes": ""}', "empty"),
    "alias bomb": (lambda _: alias_bomb(), "bad_file"),
    "deep yaml": (lambda _: b"name: x\ngreeting: " + b"[" * 10_000, "bad_file"),
    "python in yaml": (
        lambda _: b"name: !!python/object/apply:os.system ['x']\ngreeting: [", "bad_file"),
    "huge yaml": (lambda _: b"name: x\ngreeting: hi\ncontext: " + b"a " * MIB, "too_large"),
    "huge text": (lambda _: b"word " * MIB, "too_large"),
    "a chat without messages": (lambda f: f.chat([{"mes": ""}]), "empty"),
    "a chat of millions of lines": (
        lambda f: f.chat([]) + b"\n{}" * (2 * MIB), "empty"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_hostile_file_is_refused(files, name):
    make, code = CASES[name]
    data = make(files)
    tracemalloc.start()
    begin = time.process_time()
    with pytest.raises(FileRefused) as caught:
        load(data, filename="x.yaml" if "yaml" in name else "x")
    seconds = time.process_time() - begin
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert caught.value.code == code
    assert isinstance(caught.value, InputError)
    assert str(caught.value)[-1] in ".:"
    assert len(str(caught.value)) > 20
    assert seconds < 3 * SECONDS  # tracing memory slows this several times
    assert peak < BYTES


SLOW = {
    "spaces": b" " * (3 * MIB) + b"x",
    "opening tags": b"<a" * MIB,
    "scripts": b"<script " * (MIB // 4),
    "pictures": b"![" * MIB,
    "picture targets": b"![](" * (MIB // 2),
    "macros": b"{{" * MIB,
    "backslashes": b'{"name":"' + b'\\"' * MIB,
    "headings": b"#" * MIB,
    "colons": b"a:" * MIB,
    "decorators": b"@@@" * MIB,
    "yaml keys": b"name: x\ngreeting: hi\n" + b"? " * 60_000,
    "yaml quotes": b"name: x\ngreeting: hi\n" + b'"a' * 60_000,
}


@pytest.mark.parametrize("name", SLOW)
def test_no_text_takes_more_than_a_second(name):
    begin = time.process_time()
    try:
        load(SLOW[name], filename="x.md")
    except FileRefused as error:
        assert error.code in {"bad_json", "bad_file", "empty", "not_a_card"}  # noqa: PT017
    assert time.process_time() - begin < SECONDS


@pytest.mark.parametrize("field", ["description", "mes_example", "first_mes", "tags", "name"])
def test_no_field_of_a_card_takes_more_than_a_second(files, field):
    for piece in ("<START>", "<a ", "![](", "{{user}}: x\n", "{{", "a" * 70 + ":", "\n \n", ","):
        data = files.json(files.card(**{field: piece * (90_000 // len(piece))}))
        begin = time.process_time()
        assert isinstance(load(data), Character)
        assert time.process_time() - begin < SECONDS


def test_a_pixel_bomb_is_read_without_its_picture(files):
    found = load(files.card_png(width=60_000, height=60_000))
    assert found.portrait is None
    assert "too large to show" in found.warnings[0]


def test_a_cut_picture_gives_its_card_without_its_picture(files):
    found = load(files.card_png()[:-12])
    assert (found.name, found.portrait) == ("Marta Quill", None)


def test_compressed_text_beside_a_card_is_ignored_with_a_warning(files):
    bomb = b"Comment\0\0" + zlib.compress(b"A" * 1_000_000)
    found = load(files.card_png(extra=[(b"zTXt", bomb)]))
    assert "ignored" in found.warnings[0]


def test_a_path_in_a_name_stays_a_name(files):
    found = load(files.json(files.card(name="../../etc/passwd\0")), filename="../../x.json")
    assert found.name == "../../etc/passwd"  # shown, never opened: ids and files are random


def test_a_looping_pdf_is_stopped():
    # a page tree that contains itself
    body = (
        b"%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\n"
        b"2 0 obj<</Type/Pages/Kids[2 0 R 2 0 R]/Count 9>>endobj\n"
        b"trailer<</Root 1 0 R/Size 3>>\nstartxref\n0\n%%EOF"
    )
    with pytest.raises(FileRefused, match="PDF") as caught:
        load(body, limits=Limits(pdf_seconds=1))
    assert caught.value.code in {"bad_file", "pdf_no_text"}


def test_a_pdf_that_is_none_is_refused():
    with pytest.raises(FileRefused) as caught:
        load(b"%PDF-1.7\n" + b"\0\xff" * 1000)
    assert caught.value.code == "bad_file"


def test_a_refusal_quotes_nothing_of_the_file(files):
    told = "my-secret-bio"
    for data in (told.encode() + b"\0", f'{{"name": "{told}", '.encode(),
                 files.png((b"chara", told.encode()))):  # fmt: skip
        with pytest.raises(FileRefused) as caught:
            load(data, filename=f"{told}.png")
        assert told not in str(caught.value)


def test_a_refusal_can_be_pickled():
    error = pickle.loads(pickle.dumps(FileRefused("empty", "This file is empty.")))  # noqa: S301
    assert (error.code, str(error)) == ("empty", "This file is empty.")


# --- any bytes whatever --------------------------------------------------------------------------

STARTS = st.sampled_from([
    b"", b"\x89PNG\r\n\x1a\n", b"PK\x03\x04", b"\xff\xd8\xffPK\x03\x04", b"{", b"[", b"---\nname: ",
    b'{"user_name":"a"}\n{', b"name: x\ngreeting: ", b"\xff\xfe", b"GIF8",
])  # fmt: skip
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)  # fmt: skip
FIELDS = (
    "name", "description", "personality", "scenario", "first_mes", "mes_example", "tags", "creator",
    "alternate_greetings", "character_book", "nickname", "system_prompt", "assets", "extensions",
)  # fmt: skip


def only_refuses(data):
    try:
        found = load(data, filename="x")
    except FileRefused:
        return None
    assert isinstance(found, (Character, ChatLog, World))
    if isinstance(found, Character):
        for text in (found.name, found.description, found.first_message, *found.tags):
            text.encode()
            assert "<script" not in text
        assert "\n" not in found.name
    return found


@settings(max_examples=300, deadline=None)
@given(STARTS, st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(start, rest):
    only_refuses(start + rest)


@settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(st.sampled_from(FIELDS), values), st.sampled_from([1, 2, 3]))
def test_any_card_is_read_or_refused(data, version):
    card = (
        {"name": "x", **data} if version == 1 else {"spec": f"chara_card_v{version}", "data": data}
    )
    only_refuses(json.dumps(card).encode())


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_damage_to_good_files_is_read_or_refused(files, data):
    makers = (
        files.card_png,
        files.json,
        lambda: files.zip([("card.json", files.json())]),
        lambda: files.chat([{"is_user": True, "mes": "hello"}]),
    )
    whole = bytearray(data.draw(st.sampled_from(makers))())
    for _ in range(data.draw(st.integers(1, 6))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    only_refuses(bytes(whole[: data.draw(st.integers(0, len(whole)))]))
