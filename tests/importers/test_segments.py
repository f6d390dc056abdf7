"""Translation memories: TMX as translation tools write it, tab-separated lines, hostile XML."""

import sqlite3
import time
import tracemalloc
from contextlib import closing

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


# --- languages ------------------------------------------------------------------------------------


def pairs(data, **options):
    found = load_segments(data if isinstance(data, bytes) else data.encode(), **options)
    return [(pair.source, pair.target) for pair in found.pairs]


@pytest.mark.parametrize(
    ("languages", "options", "expected"),
    [
        (("en", "fr"), {"source": "en-US"}, ("en", "fr")),
        (("en", "fr"), {"target": "fr-CA"}, ("en", "fr")),
        (("en_US", "FR-ca"), {"source": "EN", "target": "fr-CA"}, ("en_US", "FR-ca")),
        (("en", "zh-CN"), {"target": "zh-Hans"}, ("en", "zh-CN")),
        (("en", "fr"), {"target": "en"}, ("fr", "en")),
        (("en", "fr"), {"source": "fr"}, ("fr", "en")),
        (("en-GB", "fr"), {"source": "en-US"}, ("en-GB", "fr")),
        (("iw", "en"), {"source": "he"}, ("iw", "en")),
    ],
)
def test_languages_match_in_both_directions(languages, options, expected):
    text = tmx(unit(**{name.replace("-", "_"): name for name in languages}))
    assert pairs(text, **options) == [expected]


def test_another_region_is_taken_and_told():
    found = load_segments(tmx(unit(en_GB="Hi", fr="Salut")).encode(), source="en-US")
    assert "en-GB was taken" in found.warnings[0]


@pytest.mark.parametrize("asked", [{"target": "de"}, {"source": "zh-TW", "target": "en"}])
def test_a_language_that_is_not_there_is_refused(asked):
    with pytest.raises(FileRefused) as refused:
        load_segments(tmx(unit(en="Hi", zh_CN="X")).encode(), **asked)
    assert refused.value.code == "which_language"


def test_one_language_written_in_two_ways_is_one():
    text = tmx(unit(en="A", fr_CA="B"), unit(en_US="C", FR_CA="D"), unit(en="E", fr="F"))
    assert pairs(text) == [("A", "B"), ("C", "D"), ("E", "F")]


def test_a_text_is_never_paired_with_itself():
    text = tmx(unit(en="A", de="B", fr="C"))
    with pytest.raises(FileRefused, match="translate from") as refused:
        load_segments(text.encode(), target="en")
    assert refused.value.code == "which_language"


@pytest.mark.parametrize(
    ("declared", "encoding"),
    [
        ("UTF-16LE", "utf-16"),
        ("UTF-16", "utf-16-le"),
        ("UTF-8", "utf-16"),
        ("UTF-16", "utf-8"),
        ("Shift_JIS", "shift_jis"),
        ("EUC-JP", "euc_jp"),
    ],
)
def test_an_encoding_is_what_the_bytes_say_and_then_the_declaration(declared, encoding):
    text = TWO.replace("läutet", "読む").replace("UTF-8", declared)
    assert load_segments(text.encode(encoding)).pairs[0].target == "Die Glocke 読む."


def test_gb2312_is_read():
    text = tmx(unit(zh="你好", en="Hi"), source="zh").replace("UTF-8", "GB2312")
    assert pairs(text.encode("gb2312")) == [("你好", "Hi")]


# --- marks ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ('One<ph x="1">&lt;br/&gt;</ph>two', "One two"),
        ('un<bpt i="1">&lt;b&gt;</bpt>do<ept i="1">&lt;/b&gt;</ept>ne', "undone"),
        ("one<it>&lt;br&gt;</it>two", "one two"),
        ("(<ph/>one<ph/>).", "(one)."),
        ("See<ph>x<sub>a note</sub>y</ph>here", "See a note here"),
        ("一<ph/>二", "一二"),
        ("a <hi>b</hi>c", "a bc"),
    ],
)
def test_a_mark_parts_words_where_it_stands_for_something(text, plain):
    assert pairs(tmx(unit(en=text, de="x"))) == [(plain, "x")]


# --- lines ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Source\tTarget\nOne\tEins", [("One", "Eins")]),
        ("id\tsource\ttarget\n7\tOne\tEins", [("One", "Eins")]),
        ("English\tGerman\nOne\tEins", [("One", "Eins")]),
        ("\nen\tde\nOne\tEins", [("One", "Eins")]),
        ('"He said ""hi"""\tEr grüßt', [('He said "hi"', "Er grüßt")]),
        ('"a\nb"\t"c\nd"\ne\tf', [("a b", "c d"), ("e", "f")]),
        ('"Stop!"\t"Halt!"\nGo\tLos', [('"Stop!"', '"Halt!"'), ("Go", "Los")]),
        ('"One"\t"Eins"\n"Two"\t"Zwei"', [("One", "Eins"), ("Two", "Zwei")]),
        ('He said "no".\tNein, "nein".', [('He said "no".', 'Nein, "nein".')]),
    ],
)
def test_lines_are_read_as_a_spreadsheet_means_them(text, expected):
    assert pairs(text) == expected


def test_a_damaged_po_is_no_pair_of_columns():
    with pytest.raises(FileRefused) as refused:
        load_segments(b'msgid\t"One"\nmsgstr\t"Eins"\n')
    assert refused.value.code == "unsupported_type"


# --- other formats --------------------------------------------------------------------------------

XLIFF_1 = """<?xml version="1.0"?>
<xliff version="1.2" xmlns="urn:oasis:names:tc:xliff:document:1.2">
<file source-language="en" target-language="de" original="x" datatype="x"><body>
<trans-unit id="1"><source>One <g id="1">bell</g></source><target>Eine <g id="1">Glocke</g></target>
<alt-trans><target>Keine</target></alt-trans></trans-unit>
<trans-unit id="2"><source>Two</source><target state="needs-translation">Two</target></trans-unit>
<trans-unit id="3"><source>Three</source></trans-unit>
<trans-unit id="4"><source>A. B.</source>
<seg-source><mrk mtype="seg" mid="1">A.</mrk> <mrk mtype="seg" mid="2">B.</mrk></seg-source>
<target><mrk mtype="seg" mid="1">C.</mrk> <mrk mtype="seg" mid="2">D.</mrk></target></trans-unit>
</body></file></xliff>"""
XLIFF_2 = """<?xml version="1.0"?>
<xliff version="2.0" srcLang="en-US" trgLang="de-DE" xmlns="urn:oasis:names:tc:xliff:document:2.0">
<file id="f"><unit id="1"><segment><source>One <pc id="1">bell</pc></source>
<target>Eine <pc id="1">Glocke</pc></target></segment></unit></file></xliff>"""
PO = """msgid ""
msgstr ""
"Content-Type: text/plain; charset=UTF-8\\n"
"Language: de\\n"

msgid "One bell"
msgstr "Eine Glocke"

#, fuzzy
msgid "Two"
msgstr "Drei"

msgid "%d bell"
msgid_plural "%d bells"
msgstr[0] "%d Glocke"
msgstr[1] "%d Glocken"
"""
TBX = """<?xml version="1.0"?>
<martif type="TBX" xml:lang="en"><text><body><termEntry id="1">
<langSet xml:lang="en"><tig><term>bell</term></tig></langSet>
<langSet xml:lang="de"><tig><term>Glocke</term></tig><tig><term>Schelle</term></tig></langSet>
</termEntry></body></text></martif>"""


def test_xliff_is_read_in_both_versions():
    found = load_segments(XLIFF_1.encode(), target="de-AT")
    assert [(p.source, p.target) for p in found.pairs] == [
        ("One bell", "Eine Glocke"), ("A.", "C."), ("B.", "D."),
    ]  # fmt: skip
    assert found.skipped == 2
    assert pairs(XLIFF_2) == [("One bell", "Eine Glocke")]


def test_po_is_read_without_what_is_fuzzy():
    found = load_segments(PO.encode())
    assert [(p.source, p.target) for p in found.pairs] == [
        ("One bell", "Eine Glocke"), ("%d bell", "%d Glocke"), ("%d bells", "%d Glocken"),
    ]  # fmt: skip
    assert (found.source_language, found.target_language) == ("", "de")
    assert "fuzzy" in found.warnings[0]


def test_terms_are_read():
    found = load_segments(TBX.encode())
    assert found.pairs == (Segment("bell", "Glocke"),)
    assert "1 further terms" in found.warnings[0]


def database(script, *rows):
    with closing(sqlite3.connect(":memory:")) as base:
        base.executescript(script)
        if rows:
            base.executemany("INSERT INTO translation_units VALUES (?, ?)", rows)
        base.commit()
        return base.serialize()


TABLES = (
    "CREATE TABLE translation_memories(source_language, target_language);"
    "INSERT INTO translation_memories VALUES('en-US', 'de-DE');"
)


def test_a_memory_of_trados_is_read():
    def cell(text):
        return (
            f"<Segment><Elements><Text><Value>{text}</Value></Text><Tag><Type>Start</Type></Tag>"
            "<Text><Value> x</Value></Text></Elements></Segment>"
        )

    script = TABLES + "CREATE TABLE translation_units(source_segment, target_segment);"
    found = load_segments(database(script, (cell("One"), cell("Eins"))))
    assert found.pairs == (Segment("One x", "Eins x"),)
    assert (found.source_language, found.source_format) == ("en-US", "SDLTM")


def test_a_database_that_never_ends_is_stopped():
    script = TABLES + (
        "CREATE VIEW translation_units AS WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL "
        "SELECT x+1 FROM c) SELECT x AS source_segment, x AS target_segment FROM c WHERE x < 0;"
    )
    began = time.process_time()
    with pytest.raises(FileRefused) as refused:
        load_segments(database(script))
    assert refused.value.code == "bad_file"
    assert time.process_time() - began < 10
