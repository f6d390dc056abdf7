"""Translation memories: TMX as translation tools write it, tab-separated lines, hostile XML."""

import time
import tracemalloc

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from templora_memory import Message
from templora_memory.importers import FileRefused, Limits, Segment, load_segments, turns

MIB = 1 << 20


def unit(**texts):
    inner = "".join(
        f'<tuv xml:lang="{language.replace("_", "-")}"><prop type="x">note</prop>'
        f"<seg>{text}</seg></tuv>"
        for language, text in texts.items()
    )
    return f"<tu>{inner}</tu>"


def tmx(*units, source="en", before='<?xml version="1.0" encoding="UTF-8"?>\n'):
    body = "".join(units)
    return (
        f'{before}<tmx version="1.4"><header srclang="{source}" datatype="xml"/>'
        f"<body>{body}</body></tmx>"
    )


TWO = tmx(unit(en="The bell rings.", de="Die Glocke läutet."), unit(en="Good.", de="Gut."))


def test_tmx_becomes_pairs_in_its_order():
    found = load_segments(TWO.encode())
    assert found.pairs == (
        Segment("The bell rings.", "Die Glocke läutet."),
        Segment("Good.", "Gut."),
    )
    assert (found.source_language, found.target_language) == ("en", "de")
    assert (found.source_format, found.skipped, found.warnings) == ("TMX", 0, ())


def test_a_path_is_read(tmp_path):
    path = tmp_path / "memory.tmx"
    path.write_bytes(TWO.encode())
    assert len(load_segments(path).pairs) == 2


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_other_encodings_are_read(encoding):
    text = TWO.replace(' encoding="UTF-8"', "")
    assert load_segments(text.encode(encoding)).pairs[0].target == "Die Glocke läutet."


def test_a_declared_8_bit_encoding_is_read():
    text = TWO.replace("UTF-8", "windows-1252")
    assert load_segments(text.encode("cp1252")).pairs[0].target == "Die Glocke läutet."


def test_a_doctype_that_names_the_standard_is_not_fetched():
    before = '<?xml version="1.0"?>\n<!DOCTYPE tmx SYSTEM "http://example.invalid/tmx14.dtd">\n'
    assert load_segments(tmx(unit(en="Yes.", de="Ja."), before=before).encode()).pairs


def test_marks_of_a_tool_go_and_what_they_enclose_stays():
    text = (
        'The <bpt i="1">&lt;b&gt;<sub>hidden</sub></bpt>old<ept i="1">&lt;/b&gt;</ept> '
        "<hi>bell</hi><ph/>"
    )
    found = load_segments(tmx(unit(en=text, de="Die alte\n      Glocke &amp; mehr")).encode())
    assert found.pairs == (Segment("The hidden old bell", "Die alte Glocke & mehr"),)


def test_units_without_a_translation_are_counted():
    found = load_segments(
        tmx(unit(en="One.", de="Eins."), unit(en="Two."), unit(en="T", de=" ")).encode()
    )
    assert len(found.pairs) == 1
    assert found.skipped == 2
    assert "2 segments" in found.warnings[0]


def test_a_language_finds_its_regions():
    data = tmx(unit(de_AT="Servus.", en_GB="Hello."), source="*all*").encode()
    found = load_segments(data, source="EN", target="de")
    assert found.pairs == (Segment("Hello.", "Servus."),)
    assert load_segments(data).pairs == (Segment("Servus.", "Hello."),)


def test_one_of_several_targets_has_to_be_named():
    data = tmx(unit(en="Yes.", de="Ja.", fr="Oui.")).encode()
    assert load_segments(data, target="fr").pairs == (Segment("Yes.", "Oui."),)
    with pytest.raises(FileRefused, match="de, fr") as refused:
        load_segments(data)
    assert refused.value.code == "which_language"


def test_tab_separated_lines_become_pairs():
    data = "\ufeffOne.\tEins.\tapproved\r\n\r\nno tab\nTwo.\tZwei.\n\tDrei.".encode()
    found = load_segments(data, target="de")
    assert found.pairs == (Segment("One.", "Eins."), Segment("Two.", "Zwei."))
    assert (found.target_language, found.skipped) == ("de", 2)


def test_a_first_line_of_languages_names_the_columns():
    data = b"de\ten-GB\nEins.\tOne.\n"
    assert load_segments(data).pairs == (Segment("Eins.", "One."),)
    found = load_segments(data, source="en")
    assert found.pairs == (Segment("One.", "Eins."),)
    assert (found.source_language, found.target_language) == ("en", "de")
    with pytest.raises(FileRefused, match="de and en-GB"):
        load_segments(data, source="fr")


def test_short_words_are_no_languages():
    assert load_segments(b"Yes\tJa\n").pairs == (Segment("Yes", "Ja"),)


def test_an_encoding_that_was_guessed_is_told():
    found = load_segments("Bell.\tGlöckchen.".encode("cp1252"))
    assert found.pairs[0].target == "Glöckchen."
    assert "guessed" in found.warnings[0]


def test_turns_are_what_the_recipe_for_pairs_learns():
    assert turns([Segment("One.", "Eins.")]) == (
        Message("user", "One."),
        Message("assistant", "Eins."),
    )


def test_a_limit_cuts_and_says_so():
    few = Limits(segments=1)
    for data in (TWO.encode(), b"a\tb\nc\td"):
        found = load_segments(data, limits=few)
        assert len(found.pairs) == 1
        assert "first 1 segments" in found.warnings[-1]


def test_what_is_shown_of_a_segment_is_no_text():
    found = load_segments(TWO.encode())
    assert "bell" not in repr(found) + repr(found.pairs)


# --- hostile ------------------------------------------------------------------------------------


def declared(inside, use="&a;"):
    return tmx(unit(en=use, de="x"), before=f"<!DOCTYPE tmx [{inside}]>").encode()


LAUGHS = '<!ENTITY a "ha">' + "".join(
    f'<!ENTITY {b} "{f"&{a};" * 10}">' for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)
HOSTILE = {
    "billion laughs": (declared(LAUGHS, "&i;"), "bad_xml"),
    "one long entity": (declared(f'<!ENTITY a "{"x" * 100_000}">', "&a;" * 10_000), "bad_xml"),
    "file of this machine": (declared('<!ENTITY a SYSTEM "file:///etc/passwd">'), "bad_xml"),
    "address": (declared('<!ENTITY a SYSTEM "http://127.0.0.1:9/">'), "bad_xml"),
    "parameter entity": (declared('<!ENTITY % a SYSTEM "file:///etc/passwd"> %a;'), "bad_xml"),
    "entity nobody declared": (tmx(unit(en="&nbsp;", de="x")).encode(), "bad_xml"),
    "entity of a far document type": (
        tmx(
            unit(en="&x;", de="x"), before='<!DOCTYPE tmx SYSTEM "http://127.0.0.1:9/t.dtd">'
        ).encode(),
        "bad_xml",
    ),
    "nested too deeply": (tmx("<tu>" * 100_000).encode(), "bad_xml"),
    "cut off": (TWO.encode()[:150], "bad_xml"),
    "unknown encoding": (TWO.replace("UTF-8", "rot13").encode(), "bad_xml"),
    "strange encoding": (TWO.replace("UTF-8", "unicode_escape").encode(), "bad_xml"),
    "wrong bytes": (TWO.encode().replace("ä".encode(), b"\xff"), "bad_xml"),
    "other XML": (b"<svg><script/></svg>", "unsupported_type"),
    "no units": (tmx().encode(), "empty"),
    "one language": (tmx(unit(en="alone")).encode(), "empty"),
    "too much text": (b"a\tb\n" * (9 * MIB), "too_large"),
    "nothing": (b"", "empty"),
    "no tabs": (b"one\ntwo", "empty"),
    "binary": (bytes(range(256)), "unsupported_type"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused_in_little_time_and_memory(name):
    data, code = HOSTILE[name]
    tracemalloc.start()
    began = time.process_time()
    try:
        with pytest.raises(FileRefused) as refused:
            load_segments(data)
        assert tracemalloc.get_traced_memory()[1] < 100 * MIB
    finally:
        tracemalloc.stop()
    assert time.process_time() - began < 2.0
    assert refused.value.code == code


def test_a_file_over_the_limit_is_refused():
    with pytest.raises(FileRefused, match="larger than 1 MB") as refused:
        load_segments(b"<tmx>" + b" " * MIB, limits=Limits(file=MIB))
    assert refused.value.code == "too_large"


@pytest.mark.parametrize("data", [b"<" * MIB, b"<tmx>" + b"<a>" * 9, b" " * MIB + b"\t" * MIB])
def test_large_nonsense_takes_little_time(data):
    began = time.process_time()
    with pytest.raises(FileRefused):
        load_segments(data)
    assert time.process_time() - began < 2.0


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.one_of(st.binary(max_size=300), st.text(max_size=300).map(str.encode)))
def test_whatever_comes_is_read_or_refused(data):
    for given_data in (data, b"<tmx><body><tu>" + data):
        try:
            assert load_segments(given_data).pairs
        except FileRefused as refused:
            assert refused.code  # noqa: PT017  # any of them
