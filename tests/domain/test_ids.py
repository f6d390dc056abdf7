import pytest
from hypothesis import given, strategies as st

from templora_memory.domain.ids import MAX_FOLDER_CHARACTERS, folder_name, id_of_folder, parse_id
from templora_memory.errors import InvalidId


def usable(text):
    try:
        parse_id(text)
    except InvalidId:
        return False
    return True


ids = st.text(
    st.one_of(st.sampled_from("aAbB@%~.-_ é:"), st.characters()), min_size=1, max_size=12
).filter(usable)


@given(ids, ids)
def test_two_ids_never_share_a_folder_even_where_case_is_folded(one, other):
    first, second = parse_id(one), parse_id(other)
    same = folder_name(first).casefold() == folder_name(second).casefold()
    assert same == (first == second)


@given(ids)
def test_parsing_a_parsed_id_changes_nothing(text):
    assert parse_id(str(parse_id(text))) == parse_id(text)


@given(ids)
def test_a_folder_name_is_one_plain_visible_name_and_tells_its_id(text):
    name = folder_name(parse_id(text))
    assert name.isascii()
    assert not set(name) & set('/\\:*?"<>| ')
    assert name[0] != "."
    assert name[-1] != "."
    assert id_of_folder(name) == parse_id(text)


@given(st.text("aé", min_size=60, max_size=250))
def test_a_long_id_gets_a_short_folder_of_its_own(text):
    names = [folder_name(parse_id(t)) for t in (text + "x", text + "y")]
    assert names[0] != names[1]
    assert all(len(name) <= MAX_FOLDER_CHARACTERS for name in names)


@pytest.mark.parametrize("text", ["con", "nul", "com1", "aux.txt"])
def test_device_names_are_not_used(text):
    assert folder_name(parse_id(text)).split(".")[0] != text.split(".")[0]


@pytest.mark.parametrize(
    "text",
    [
        "", "@", "a@", "@b", "a@b@c", ".", "..", "a@..", "../x", "a/b", "a\\b", " a", "a ", "a\n",
        "a\x00", "a\u200b", "a\u202e", "\ud800", "x" * 257, "\u0378",
    ],
)  # fmt: skip
def test_a_hostile_id_is_refused(text):
    with pytest.raises(InvalidId, match="memory id"):
        parse_id(text)


def test_an_id_is_a_string():
    with pytest.raises(InvalidId, match="not int"):
        parse_id(5)


def test_composed_and_decomposed_letters_are_one_id():
    assert parse_id("e\u0301") == parse_id("\u00e9")


def test_a_name_covers_its_pairs_and_nothing_else():
    ada = parse_id("ada")
    assert [ada.covers(parse_id(t)) for t in ("ada", "ada@bob", "ad", "adam", "adam@bob")] == [
        True, True, False, False, False,
    ]  # fmt: skip
    pair = parse_id("ada@bob")
    assert [pair.covers(parse_id(t)) for t in ("ada", "ada@bob", "ada@bobby")] == [
        False, True, False,
    ]  # fmt: skip
    assert pair.parent == ada
    assert ada.parent is None


@pytest.mark.parametrize("name", ["ADA", "%61da", "%zz", "a~b", "..", "a%2", "%ff"])
def test_what_is_no_folder_name_has_no_id(name):
    assert id_of_folder(name) is None
