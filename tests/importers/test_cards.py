"""Every format that is read, and that a card survives its way out and in again."""

import base64
import json
from dataclasses import replace

import pytest

from templora_memory import Message
from templora_memory.errors import InvalidText
from templora_memory.importers import (
    ChatLog,
    FileRefused,
    card_text,
    chat_to_jsonl,
    documents,
    fill,
    greetings,
    instructions,
    load,
    load_character,
    load_chat,
    matching_lore,
    to_card,
    to_json,
    to_png,
    with_lore_entry,
)


@pytest.mark.parametrize(("version", "keyword"), [(1, b"chara"), (2, b"Chara"), (3, b"ccv3")])
def test_a_card_in_a_picture_is_read(files, version, keyword):
    found = load_character(files.card_png(files.card(version), keyword), filename="x.png")
    assert found.name == "Marta Quill"
    assert found.personality == "Dry and kind."
    assert found.source_format == f"Character Card V{version}, PNG"
    assert found.portrait.startswith(b"\x89PNG")
    assert b"Marta" not in base64.b64decode(base64.b64encode(found.portrait))


@pytest.mark.parametrize("version", [1, 2, 3])
def test_a_card_as_json_is_read(files, version):
    found = load_character(files.json(files.card(version)))
    assert (found.name, found.portrait) == ("Marta Quill", None)


def test_v3_wins_over_v2_in_one_picture(files):
    old, new = files.card(2, name="Old"), files.card(3, name="New")
    picture = files.png((b"chara", files.pack(old)), (b"ccv3", files.pack(new)))
    assert load_character(picture).name == "New"


def test_a_charx_is_read_also_behind_a_jpeg(files):
    icon = {"type": "icon", "uri": "embeded://assets/icon/main.png", "name": "main", "ext": "png"}
    body = files.json(files.card(3, assets=[icon]))
    archive = files.zip([("card.json", body), ("assets/icon/main.png", files.png())])
    for data in (archive, b"\xff\xd8\xff\xe0 a picture" + archive):
        found = load_character(data, filename="marta.charx")
        assert (found.name, found.source_format) == ("Marta Quill", "Character Card V3, CHARX")
        assert found.portrait.startswith(b"\x89PNG")


def test_the_fields_are_what_they_say(files):
    found = load_character(files.json())
    assert found.alternate_greetings == ("The door is open.", "You again?")
    assert found.tags == ("inn", "ale")
    assert found.version == "1.2"
    assert [len(block) for block in found.example_dialogues] == [2, 1]
    assert found.example_dialogues[0][1] == Message("assistant", "Wipe your boots.\nThen sit.")
    assert [entry.content for entry in found.lore] == ["Tom is the cook.", "The cellar is flooded."]
    assert [entry.enabled for entry in found.lore] == [False, True]


def test_only_the_bio_is_learned_and_nothing_about_the_file(files):
    learned = "\n".join(item.text for item in documents(load_character(files.json())))
    assert "Marta Quill keeps the inn. Marta Quill pours ale for the user." in learned
    assert "Dry and kind." in learned
    assert "Marta Quill: Wipe your boots." in learned
    for kept_out in ("Best with ale", "nobody", "1.2", "cellar", "Tom", "{{", "Speak plainly"):
        assert kept_out not in learned


def test_lore_is_learned_only_when_wanted_and_enabled(files):
    learned = [item.text for item in documents(load_character(files.json()), lore=True)]
    assert "The cellar is flooded." in learned
    assert "Tom is the cook." not in learned


def test_instructions_and_greetings_are_filled(files):
    found = load_character(files.json())
    assert instructions(found, user="Ben") == "Speak plainly.\n\nStay in character."
    assert greetings(found, user="Ben")[0] == "Sit down, Ben."
    assert len(greetings(found, user="Ben")) == 3
    assert "pours ale for Ben" in card_text(found, user="Ben")


def test_the_nickname_is_what_macros_say(files):
    found = load_character(files.json(files.card(3, nickname="Mar")))
    assert greetings(found, user="B") == ("Sit down, B.", "The door is open.", "You again?")
    assert documents(found)[0].text.startswith("Mar keeps the inn.")


@pytest.mark.parametrize(
    ("changes", "check"),
    [
        ({"tags": "a, b"}, lambda c: c.tags == ("a", "b")),
        ({"alternate_greetings": "Hi there"}, lambda c: c.alternate_greetings == ("Hi there",)),
        ({"alternate_greetings": None}, lambda c: c.alternate_greetings == ()),
        ({"character_version": 3}, lambda c: c.version == "3"),
        ({"extensions": None}, lambda c: c.name == "Marta Quill"),
        ({"name": None}, lambda c: c.name == "card"),
        ({"description": "a\ud800b"}, lambda c: c.description == "a?b"),
        ({"character_book": {"entries": {"0": {"key": ["x"], "content": "y", "disable": True}}}},
         lambda c: (c.lore[0].keys, c.lore[0].enabled) == (("x",), False)),
        ({"character_book": {"entries": [{"keys": "a,b", "content": "y"}]}},
         lambda c: (c.lore[0].keys, c.lore[0].enabled) == (("a", "b"), True)),
        ({"character_book": "none"}, lambda c: c.lore == ()),
    ],
)  # fmt: skip
def test_wrong_types_are_made_right(files, changes, check):
    assert check(load_character(files.json(files.card(**changes)), filename="card.json"))


def test_base64_may_be_wrapped_url_safe_and_unpadded(files):
    packed = base64.urlsafe_b64encode(files.json()).rstrip(b"=")
    wrapped = b"\n".join(packed[start : start + 60] for start in range(0, len(packed), 60))
    assert load_character(files.png((b"chara", wrapped))).name == "Marta Quill"


def test_a_newer_specification_is_read_with_a_warning(files):
    card = {**files.card(3), "spec_version": "4.1"}
    assert "newer" in load_character(files.json(card)).warnings[0]


@pytest.mark.parametrize(
    ("text", "name", "source"),
    [
        (b"# Marta\n\nShe keeps the inn.", "Marta", "Markdown"),
        (b"---\nname: Marta Q\n---\nShe keeps the inn.", "Marta Q", "Markdown"),
        (b"She keeps the inn.", "my marta", "Markdown"),
        ("\ufeffShe keeps the inn.".encode(), "my marta", "Markdown"),
        ("She keeps the inn.".encode("utf-16"), "my marta", "Markdown"),
    ],
)
def test_a_text_is_a_bio(text, name, source):
    found = load_character(text, filename="C:\\up\\my_marta.md")
    assert (found.name, found.source_format) == (name, source)
    assert "She keeps the inn." in found.description


def test_an_old_encoding_is_guessed_with_a_warning():
    found = load_character("Café owner".encode("cp1252"), filename="a.txt")
    assert found.description == "Café owner"
    assert "guessed" in found.warnings[0]


def test_yaml_characters_keep_every_value_as_text():
    text = b"name: Norway\ngreeting: no\ncontext: |-\n  {{char}} is 007.\n  yes: 1e3\n"
    found = load_character(text, filename="a.yaml")
    assert (found.name, found.first_message) == ("Norway", "no")
    assert found.description == "{{char}} is 007.\n  yes: 1e3".replace("  yes", "yes")
    assert found.source_format == "text-generation-webui character, YAML"


def test_old_json_names_are_read():
    card = {"char_name": "M", "char_persona": "An innkeeper.", "char_greeting": "Hm."}
    found = load_character(json.dumps(card).encode())
    assert (found.name, found.description, found.first_message) == ("M", "An innkeeper.", "Hm.")


def test_a_path_is_read(files, tmp_path):
    path = tmp_path / "marta.png"
    path.write_bytes(files.card_png())
    assert load_character(path).name == "Marta Quill"


# --- out again -----------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [2, 3])
def test_a_card_loses_nothing_on_its_way_out_and_in(files, version):
    card = {**files.card(version, unknown={"deep": [1, "\ud800"]}), "beside": True}
    found = load_character(files.json(card))
    assert to_card(found) == card
    again = load_character(to_png(found))
    assert to_card(again) == card
    assert load_character(to_json(again)).description == found.description


def test_a_text_becomes_a_card():
    found = load_character(b"# Marta\n\nShe keeps the inn.", filename="a.md")
    again = load_character(to_png(found))
    assert (again.name, again.description) == (found.name, found.description)
    assert again.source_format == "Character Card V2, PNG"


def test_lore_and_examples_of_an_old_card_survive(files):
    found = load_character(files.json())
    bare = replace(found, raw={})
    built = load_character(to_json(bare))
    assert built.lore == found.lore
    assert built.example_dialogues == found.example_dialogues


@pytest.mark.parametrize("book", ["list", "rows by key"])
def test_a_changed_lore_entry_stands_in_the_card_and_nothing_else_of_it_changes(files, book):
    card = json.loads(json.dumps(files.card()))  # its own
    rows = card["data"]["character_book"]["entries"]
    rows[0] |= {"secondary_keys": ["wet"], "selective": True, "extensions": {"mine": [1]}}
    card["data"]["character_book"]["scan_depth"] = 7
    if book == "rows by key":
        card["data"]["character_book"]["entries"] = {str(n): row for n, row in enumerate(rows)}
    found = load_character(files.json(card))
    (before,) = [e for e in found.lore if e.keys == ("cellar",)]
    edited = with_lore_entry(
        found, found.lore.index(before), content="It is <b>dry</b> now.", keys=["cellar", "/va+t/i"]
    )
    again = load_character(to_json(edited))
    assert again.lore == edited.lore
    after = again.lore[found.lore.index(before)]
    assert (after.content, after.keys, after.regex) == (
        "It is dry now.", ("cellar", "/va+t/i"), True,
    )  # fmt: skip
    assert after.secondary_keys == ("wet",)
    written = json.loads(to_json(edited))["data"]["character_book"]
    assert written["scan_depth"] == 7
    assert written["entries"][0]["extensions"] == {"mine": [1]}
    assert written["entries"][0]["content"].startswith("@@depth 4\n")
    assert [e for e in again.lore if e.keys != after.keys] == [e for e in found.lore if e != before]


@pytest.mark.parametrize("raw", [True, False], ids=["a card", "a text"])
def test_another_lore_entry_comes_behind_the_others(files, raw):
    found = load_character(files.json())
    found = found if raw else replace(found, raw={})
    more = with_lore_entry(found, None, content="A ghost.", keys=[], name="Attic", constant=True)
    assert [e.content for e in more.lore] == [*(e.content for e in found.lore), "A ghost."]
    assert load_character(to_json(more)).lore == more.lore
    for content, keys in (("<img src=x>", ["attic"]), ("A ghost.", [" "])):
        with pytest.raises(InvalidText, match="A lorebook entry needs"):
            with_lore_entry(found, None, content=content, keys=keys)


@pytest.mark.parametrize(
    "row",
    [{"content": "@@dont_activate\nDark."}, {"content": "Dark.", "extensions": {"probability": 0}},
     {"content": "Dark.", "enabled": False, "disable": True}],
)  # fmt: skip
def test_an_entry_that_is_switched_on_is_on_whatever_switched_it_off(files, row):
    rows = [{"keys": ["cellar"], "insertion_order": 1, **row}]
    found = load_character(files.json(files.card(character_book={"entries": rows})))
    assert not found.lore[0].enabled
    changed = with_lore_entry(found, 0, content="Dark.", keys=["cellar"])
    assert load_character(to_json(changed)).lore[0].enabled


# --- macros, markup, lore ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "filled"),
    [
        ("{{char}} {{USER}} <bot> <User>", "M B M B"),
        ("{{ char }}", "M"),
        ("{{random:a\\,b,c}}{{pick:x,y}}", "a,bx"),
        ("{{roll:d6}}{{reverse:abc}}", "1cba"),
        ("{{// note}}{{comment: x}}{{hidden_key:k}}.", "."),
        ("{{weekday}}", "{{weekday}}"),
        ("{{random:{{user}},x}}", "B"),
    ],
)
def test_macros(text, filled):
    assert fill(text, char="M", user="B") == filled


def test_macros_cannot_make_a_text_grow_without_end():
    text = "{{char}}" * 100_000
    assert len(fill(text, char="x" * 120, user="u")) <= 2 * len(text) + 20_000


def test_markup_scripts_and_remote_pictures_are_gone(files):
    nasty = (
        'Hi <img src=x onerror="alert(1)"> ![p](http://evil.example/p.png) <b>you</b>'
        "<script>alert(2)</script><style>*{}</style> I <3 ale ![r][ref] <START>"
    )
    found = load_character(
        files.json(files.card(first_mes=nasty, name="<b>Marta\u202e</b>\n\u200b"))
    )
    assert found.first_message == "Hi   youalert(2) I <3 ale  <START>".replace("alert(2)", "")
    assert found.name == "Marta"


def test_lore_joins_when_it_is_mentioned(files):
    lore = load_character(files.json()).lore
    assert [e.content for e in matching_lore(lore, ["What is in the Cellar?"])] == [
        "The cellar is flooded."
    ]
    assert matching_lore(lore, ["seller", "Tom"]) == ()


def test_lore_in_other_alphabets_is_mentioned_by_whole_words_if_it_asks_for_them(files):
    whole = {"match_whole_words": True}
    book = {
        "entries": [
            {"keys": ["лев"], "content": "A lion.", "insertion_order": 1, "extensions": whole},
            {"keys": ["été"], "content": "Summer.", "insertion_order": 2, "extensions": whole},
            {"keys": ["蜜蜂"], "content": "Bees.", "insertion_order": 3, "extensions": whole},
        ]
    }
    lore = load_character(files.json(files.card(character_book=book))).lore
    assert matching_lore(lore, ["налево", "répété"]) == ()
    said = ["Это лев!", "L'e\u0301te\u0301 arrive.", "艾达养蜜蜂吗？"]
    assert [entry.content for entry in matching_lore(lore, said)] == [
        "A lion.", "Summer.", "Bees."
    ]  # fmt: skip


def test_lore_has_a_budget_constants_and_secondary_keys(files):
    book = {
        "entries": [
            {"keys": [], "content": "Always.", "constant": True, "insertion_order": 1},
            {"keys": ["(a+)+$"], "content": "Never.", "use_regex": True, "insertion_order": 2},
            {"keys": ["inn"], "secondary_keys": ["night"], "selective": True, "content": "Dark.",
             "insertion_order": 3},
            {"keys": ["酒場"], "content": "Sake.", "insertion_order": 4},
        ]
    }  # fmt: skip
    found = load_character(files.json(files.card(character_book=book)))
    said = ["the inn at night, 古い酒場で", "a" * 40 + "!"]
    assert [e.content for e in matching_lore(found.lore, said)] == ["Always.", "Dark.", "Sake."]
    assert [e.content for e in matching_lore(found.lore, ["the inn"])] == ["Always."]
    assert [e.content for e in matching_lore(found.lore, said, most=12)] == ["Always.", "Dark."]


# --- chats ---------------------------------------------------------------------------------------


def test_a_sillytavern_chat_is_read(files):
    rows = [
        {"name": "Marta", "is_user": False, "mes": "Sit.", "swipes": ["Sit.", "No."]},
        {"name": "Ben", "is_user": True, "mes": "Thanks."},
        {"name": "x", "is_user": False, "is_system": True, "mes": "hidden"},
        {"name": "Marta", "is_user": False, "mes": {"message": "Ale?"}},
        {"nothing": 1},
    ]
    found = load_chat(files.chat(rows) + b"\nnot json\n")
    assert [(m.role, m.content) for m in found.messages] == [
        ("assistant", "Sit."),
        ("user", "Thanks."),
        ("assistant", "Ale?"),
    ]
    assert (found.user_name, found.character_name, found.skipped) == ("Ben", "Marta", 2)


def test_a_chat_goes_out_and_in_again():
    log = ChatLog(
        messages=(Message("user", "Hi\u2028there"), Message("assistant", "Ho")),
        user_name="B",
        character_name="M",
    )
    found = load(chat_to_jsonl(log))
    assert found.messages == log.messages
    assert (found.user_name, found.character_name) == ("B", "M")


def test_a_chat_of_text_generation_webui_is_read():
    found = load_chat(
        json.dumps({"internal": [["<|BEGIN-VISIBLE-CHAT|>", "Hm."], ["Hi", "Yes?"]]}).encode()
    )
    assert [m.role for m in found.messages] == ["assistant", "user", "assistant"]


def test_a_chat_is_no_character_and_the_other_way_round(files):
    with pytest.raises(FileRefused, match="chat, not a character"):
        load_character(files.chat([{"mes": "x"}]))
    with pytest.raises(FileRefused, match="no chat"):
        load_chat(files.json())


# --- PDF -----------------------------------------------------------------------------------------


def make_pdf(text, pages=1):
    """The smallest PDF with a text layer."""
    stream = f"BT /F1 12 Tf 20 100 Td ({text}) Tj ET".encode()
    objects = [
        b"<</Type/Catalog/Pages 2 0 R>>",
        b"<</Type/Pages/Kids[" + b"3 0 R " * pages + b"]/Count " + str(pages).encode() + b">>",
        (
            b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 300 200]/Contents 4 0 R"
            b"/Resources<</Font<</F1 5 0 R>>>>>>"
        ),
        b"<</Length " + str(len(stream)).encode() + b">>stream\n" + stream + b"\nendstream",
        b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>",
    ]
    body, places = b"%PDF-1.4\n", []
    for number, item in enumerate(objects, 1):
        places.append(len(body))
        body += f"{number} 0 obj".encode() + item + b"endobj\n"
    table = "".join(f"{place:010d} 00000 n \n" for place in places).encode()
    count = str(len(objects) + 1).encode()
    end = b"trailer<</Root 1 0 R/Size " + count + b">>\nstartxref\n" + str(len(body)).encode()
    return body + b"xref\n0 " + count + b"\n0000000000 65535 f \n" + table + end + b"\n%%EOF"


def test_a_pdf_is_a_bio():
    found = load_character(make_pdf("She keeps the inn."), filename="marta.pdf")
    assert (found.name, found.description) == ("marta", "She keeps the inn.")


def test_a_scanned_pdf_says_so():
    with pytest.raises(FileRefused) as caught:
        load_character(make_pdf(""), filename="scan.pdf")
    assert caught.value.code == "pdf_no_text"
