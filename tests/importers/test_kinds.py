"""The kinds of files that people have, each read as it is: a claim for each kind.

Cards, dialogues, macros and markup, lore, chats, histories, documents; translation memories stand
in test_segments.py. All content is invented here.
"""

import io
import json
import struct
import zipfile
import zlib

import pytest

from templora_memory.importers import (
    ChatLog,
    FileRefused,
    World,
    _documents,
    documents,
    instructions,
    load,
    load_character,
    load_chat,
    matching_lore,
    to_json,
    uses,
    with_lore,
    world_character,
)


def encoded(value):
    return json.dumps(value, ensure_ascii=False).encode()


def v2(**fields):
    data = {"name": "Ines", "description": "A lighthouse keeper.", "personality": "",
            "scenario": "", "first_mes": "Ahoy.", "mes_example": "", **fields}  # fmt: skip
    return {"spec": "chara_card_v2", "spec_version": "2.0", "data": data}


def read(**fields):
    return load_character(encoded(v2(**fields)))


def entry(content="The lamp is green.", keys=("lamp",), **fields):
    return {"keys": list(keys), "content": content, "enabled": True, "insertion_order": 1,
            "extensions": {}, **fields}  # fmt: skip


def found_lore(text, **fields):
    lore = read(character_book={"entries": [entry(**fields)]}).lore
    return [item.content for item in matching_lore(lore, [text])]


def learned(text):
    return documents(read(description=text), user="Tom")[0].text


def dialogue(text, **fields):
    blocks = read(mes_example=text, **fields).example_dialogues
    return [[(message.role, message.content) for message in block] for block in blocks]


def said(data, **options):
    log = data if isinstance(data, ChatLog) else load_chat(data, **options)
    return [(message.role, message.content) for message in log.messages]


def lines(*rows, header=True):
    head = [{"user_name": "Tom", "character_name": "Ines", "chat_metadata": {}}] if header else []
    return b"\n".join(encoded(row) for row in (*head, *rows))


def row(text, name="Ines", *, user=False, **more):
    return {"name": name, "is_user": user, "is_system": False, "mes": text, **more}


def refused(data, **options):
    with pytest.raises(FileRefused) as caught:
        load(data, **options)
    return caught.value.code


# --- what a file is, its content says -------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "{{char}} keeps the light.",
        '[Character("Ines"){Age("40")}]',
        "[Scenario: a storm at night]\nInes waits.",
        "[Ines](http://example.org/ines) keeps the light.",
        "[[Ines]] keeps the light.",
        "[1] Ines keeps the light.\n[2] She is shy.",
        "{Character: Ines; Age: 40}",
        "<ines@example.org> writes letters.",
        "<START>\nInes: Ahoy.",
    ],
)
def test_a_text_that_begins_like_another_format_is_a_text(text):
    character = load(text.encode(), filename="ines.txt")
    assert (character.description, character.source_format) == (text, "text")


@pytest.mark.parametrize("text", ['{"name": "Ines", ', '[{"name": ', "[[[", '{"a": NaN}'])
def test_what_begins_as_json_does_is_refused_where_it_is_damaged(text):
    assert refused(text.encode(), filename="ines.txt") == "bad_json"


def test_a_package_of_a_program_is_no_character():
    package = {"name": "lamp", "version": "1.0.0", "description": "A lamp", "scripts": {}}
    assert refused(encoded(package)) == "not_a_card"


def test_the_name_is_a_heading_at_the_top_and_no_later_one():
    assert load(b"# Ines\n\nShe is shy.", filename="x.md").name == "Ines"
    assert load(b"She is shy.\n\n## Appearance\nTall.", filename="ines.md").name == "ines"
    assert load(b"## Personality\nShy.", filename="ines.md").name == "ines"


# --- cards ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [
        {"character_book": {"entries": [entry(constant=True)]}},
        {"first_mes": "Ahoy."},
        {"system_prompt": "You are Ines."},
        {"extensions": {"depth_prompt": {"prompt": "Stay calm.", "depth": 4}}},
    ],
)
def test_a_card_without_a_bio_is_a_card(fields):
    card = v2(**{"description": "", "first_mes": "", **fields})
    assert load_character(encoded(card)).name == "Ines"


def test_fields_beside_an_empty_data_are_read():
    card = {**v2(description=""), "description": "A keeper."}
    assert load_character(encoded(card)).description == "A keeper."


def test_the_depth_prompt_stands_among_the_instructions():
    character = read(
        system_prompt="One.",
        post_history_instructions="Three.",
        extensions={"depth_prompt": {"prompt": "Two of {{char}}.", "depth": 4}},
    )
    assert instructions(character, user="Tom") == "One.\n\nTwo of Ines.\n\nThree."
    assert "the card's instructions" in uses(character).prompt


def test_an_agnai_character_is_its_persona_and_not_its_note():
    attributes = {"species": ["human"], "trade": ["keeper", "smith"]}
    card = {"kind": "character", "name": "Ines", "description": "my note", "scenario": "a storm",
            "persona": {"kind": "attributes", "attributes": attributes}, "greeting": "Ahoy.",
            "sampleChat": "{{user}}: Hello\n{{char}}: Ahoy"}  # fmt: skip
    character = load_character(encoded(card))
    assert character.description == "species: human\ntrade: keeper, smith"
    assert (character.creator_notes, character.first_message) == ("my note", "Ahoy.")
    assert len(character.example_dialogues[0]) == 2


def test_a_card_as_yaml_is_read():
    text = b"spec: chara_card_v2\ndata:\n  name: Ines\n  description: keeps the light\n"
    assert load(text, filename="x.yaml").name == "Ines"
    flat = b"name: Ines\ndescription: keeps the light\nfirst_mes: Ahoy\n"
    assert load(flat, filename="x.yaml").first_message == "Ahoy"


def test_a_text_with_colons_is_no_yaml():
    text = "name: Ines\ndescription: she said: no: [never\n"
    assert load(text.encode(), filename="x.txt").source_format == "text"


def test_what_a_card_has_and_nobody_uses_is_named():
    character = read(
        group_only_greetings=["Ahoy all."],
        extensions={"risuai": {"customScripts": [1]}, "regex_scripts": [1]},
        assets=[{"type": "icon"}, {"type": "emotion"}],
    )
    told = " ".join(character.warnings)
    for word in ("greetings for groups", "RisuAI", "regular expressions", "2 pictures"):
        assert word in told
    assert set(character.warnings) <= set(uses(character).ignored)


def test_the_choices_decide_what_the_preview_says():
    character = read(mes_example="<START>\n{{user}}: Hi\n{{char}}: Ahoy",
                     character_book={"entries": [entry()]})  # fmt: skip
    assert uses(character).learned == ("the bio", "1 example dialogue")
    other = uses(character, examples=False, lore=True)
    assert other.learned == ("the bio", "1 lorebook text")
    assert "1 example dialogue, not ticked" in other.ignored


# --- pictures -------------------------------------------------------------------------------------


@pytest.mark.parametrize("keyword", [b"chara", b"ccv3"])
@pytest.mark.parametrize("kind", [b"tEXt", b"zTXt", b"iTXt", b"packed iTXt"])
def test_every_kind_of_text_in_a_png_is_read(files, kind, keyword):
    body = files.pack(v2())
    value = {
        b"tEXt": b"\0" + body,
        b"zTXt": b"\0\0" + zlib.compress(body),
        b"iTXt": b"\0\0\0\0\0" + body,
        b"packed iTXt": b"\0\1\0\0\0" + zlib.compress(body),
    }[kind]
    assert load(files.png(extra=[(kind[-4:], keyword + value)])).name == "Ines"


def test_a_whole_card_is_read_beside_a_damaged_one(files):
    character = load(files.png((b"ccv3", b"!!!"), (b"chara", files.pack(v2()))))
    assert character.name == "Ines"
    assert "damaged" in character.warnings[0]


def test_any_number_of_added_pictures_is_passed_over(files):
    assets = [(b"tEXt", b"chara-ext-asset_:%d\0AA" % number) for number in range(5000)]
    assert load(files.png(extra=[(b"tEXt", b"chara\0" + files.pack(v2())), *assets])).name == "Ines"


def exif(text, order="<"):
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8)
    first = struct.pack(order + "HHHIII", 1, 0x8769, 4, 1, 26, 0)
    second = struct.pack(order + "HHHIII", 1, 0x9286, 7, len(text), 44, 0)
    return head + first + second + text


def webp(block):
    parts = b"WEBPVP8 " + struct.pack("<I", 4) + b"xxxxEXIF" + struct.pack("<I", len(block)) + block
    return b"RIFF" + struct.pack("<I", len(parts)) + parts


def jpeg(block):
    body = b"Exif\0\0" + block
    return b"\xff\xd8\xff\xe1" + struct.pack(">H", len(body) + 2) + body + b"\xff\xd9"


TEXTS = {
    "json": lambda: b"ASCII\0\0\0" + encoded(v2()),
    "base64": lambda: b"\0" * 8 + __import__("base64").b64encode(encoded(v2())),
    "numbers": lambda: b"ASCII\0\0\0" + ",".join(map(str, encoded(v2()))).encode(),
}


@pytest.mark.parametrize("picture", [webp, jpeg])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("text", TEXTS)
def test_a_card_in_a_webp_or_jpeg_is_read(picture, order, text):
    character = load(picture(exif(TEXTS[text](), order)))
    assert (character.name, character.portrait) == ("Ines", None)


@pytest.mark.parametrize("picture", [webp, jpeg])
def test_a_remark_in_a_picture_is_no_card(picture):
    assert refused(picture(exif(b"ASCII\0\0\0My camera"))) == "not_a_card"


def test_pictures_of_a_charx_do_not_count(files):
    many = [(f"assets/{number}.png", b"\0" * 5_000_000) for number in range(3)]
    data = files.zip([("card.json", encoded(v2())), *many], compression=zipfile.ZIP_STORED)
    character = load(data, filename="x.charx")
    assert character.name == "Ines"
    assert "3 pictures" in character.warnings[0]


def test_the_module_of_risuai_is_named_as_not_read(files):
    data = files.zip([("card.json", encoded(v2())), ("module.risum", b"o\0abc")])
    assert "module.risum" in " ".join(load(data).warnings)


# --- lore -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "fields", "found"),
    [
        ("the lamps", {}, True),
        ("the lamps", {"extensions": {"match_whole_words": True}}, False),
        ("LAMP", {"case_sensitive": True}, False),
        ("LAMP", {"extensions": {"case_sensitive": True}}, False),
        ("a lamp", {"use_regex": True}, True),
        ("a lamp", {"keys": ("/l[ai]mp/i",)}, True),
        ("a LIMP", {"keys": ("/l[ai]mp/i",)}, True),
        ("a limp", {"keys": ("/l[ai]mp/",), "secondary_keys": ["sea"], "selective": True}, False),
        ("lamp", {"selective": True, "secondary_keys": []}, True),
        ("lamp", {"selective": False, "secondary_keys": ["sea"]}, True),
        ("lamp, sea", {"selective": True, "secondary_keys": ["sea", "sky"]}, True),
        ("lamp, sea", {"selective": True, "secondary_keys": ["sea", "sky"],
                       "extensions": {"selectiveLogic": 1}}, True),
        ("lamp, sea, sky", {"selective": True, "secondary_keys": ["sea", "sky"],
                            "extensions": {"selectiveLogic": 1}}, False),
        ("lamp, sea", {"selective": True, "secondary_keys": ["sea"],
                       "extensions": {"selectiveLogic": 2}}, False),
        ("lamp, sea", {"selective": True, "secondary_keys": ["sea", "sky"],
                       "extensions": {"selectiveLogic": 3}}, False),
        ("nothing", {"constant": True}, True),
        ("lamp", {"enabled": False}, False),
        ("lamp", {"extensions": {"probability": 0, "useProbability": True}}, False),
        ("nothing", {"content": "@@activate\nThe lamp is green."}, True),
        ("lamp", {"content": "@@dont_activate\nThe lamp is green."}, False),
        ("lamp, sea", {"content": "@@exclude_keys sea\nThe lamp is green."}, False),
    ],
)  # fmt: skip
def test_an_entry_joins_when_its_keys_say_so(text, fields, found):
    assert found_lore(text, **fields) == (["The lamp is green."] if found else [])


@pytest.mark.parametrize("pattern", ["(a+)+$", "((a{900}){900}){900}", "(", "(?:a|a)*b" * 20])
def test_no_key_takes_long(pattern):
    import time  # noqa: PLC0415

    begin = time.process_time()
    book = {"entries": [entry(keys=(f"/{pattern}/",))] * 200}
    assert matching_lore(read(character_book=book).lore, ["a" * 50_000 + "!"]) == ()
    assert time.process_time() - begin < 3


def test_decorators_stand_at_the_beginning_only():
    lore = read(character_book={"entries": [entry("@@depth 4\n@@role system\nLamp @@x")]}).lore
    assert lore[0].content == "Lamp @@x"


def test_what_an_entry_asks_for_in_vain_is_named():
    asked = {"probability": 40, "useProbability": True, "sticky": 2, "group": "a",
             "prevent_recursion": True, "position": 4, "depth": 2}  # fmt: skip
    told = " ".join(read(character_book={"scan_depth": 3, "entries": [entry(extensions=asked)]})
                    .warnings)  # fmt: skip
    for word in ("chance", "cooldown", "group", "mention one another", "place", "scan_depth"):
        assert word in told


WORLDS = {
    "SillyTavern": {"entries": {"0": {"uid": 0, "key": ["lamp"], "keysecondary": [],
                    "content": "Green.", "disable": False, "order": 1}}},
    "NovelAI": {"lorebookVersion": 5, "entries": [{"text": "Green.", "displayName": "L",
                "keys": ["lamp"], "enabled": True, "contextConfig": {"budgetPriority": 4}}]},
    "KoboldAI": {"folders": {}, "entries": {"1": {"key": ["lamp"], "content": "Green."}}},
    "KoboldAI, a list": [{"key": "lamp, light", "content": "Green.", "keysecondary": ""}],
    "RisuAI": {"type": "risu", "ver": 1, "data": [{"key": "lamp", "content": "Green."}]},
    "Agnai": {"kind": "memory", "name": "Sea", "entries": [
              {"name": "l", "entry": "Green.", "keywords": ["lamp"], "enabled": True}]},
    "V3": {"spec": "lorebook_v3", "data": {"name": "Sea", "entries": [entry("Green.")]}},
}  # fmt: skip


@pytest.mark.parametrize("tool", WORLDS)
def test_a_world_file_is_lore(tool):
    world = load(encoded(WORLDS[tool]), filename="sea.json")
    assert isinstance(world, World)
    assert [item.content for item in matching_lore(world.lore, ["the lamp"])] == ["Green."]
    told = load_character(encoded(WORLDS[tool]), filename="sea.json")
    assert (told.lore, told.name) == (world.lore, world.name)


def test_a_world_joins_a_character_and_survives_an_export():
    world = load(encoded(WORLDS["SillyTavern"]))
    both = with_lore(read(), world)
    assert [item.content for item in both.lore] == ["Green."]
    assert load_character(to_json(both)).lore == both.lore
    assert load_character(to_json(world_character(world))).lore == world.lore


# --- who speaks -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "beginning",
    ["{{char}}:", "<BOT>:", "Ines:", "Ines Dolan:", "Dolan:", "Nessie:", "**Ines**:", "**Ines:**",
     "*Ines:*", '"Ines":', "[Ines]:", "Ines：", "  Ines:", "Ines (smiling):", "> Ines:"],
)  # fmt: skip
def test_a_character_is_known_by_what_it_is_called(beginning):
    block = dialogue(f"<START>\n{{{{user}}}}: Hi\n{beginning} Ahoy", name="Ines Dolan",
                     nickname="Nessie")  # fmt: skip
    assert block == [[("user", "Hi"), ("assistant", "Ahoy")]]


@pytest.mark.parametrize("beginning", ["{{user}}:", "<USER>:", "You:", "{{user}}：", " {{User}} :"])
def test_a_user_is_known_by_the_marks(beginning):
    assert dialogue(f"{beginning} Hi") == [[("user", "Hi")]]


def test_a_third_person_speaks_for_nobody_else():
    character = read(mes_example="<START>\n{{user}}: Hi\nBen: Good day.\n*He bows.*")
    third = character.example_dialogues[0][1]
    assert (third.role, third.name) == ("assistant", "Ben")
    assert documents(character)[1].text == "the user: Hi\nBen: Good day.\n*He bows.*"


def test_prose_and_a_narrator_are_nobodys_words():
    character = read(mes_example='<START>\n*Ines hums.* "Wait."\n<START>\nNarrator: It rains.')
    assert [block[0].role for block in character.example_dialogues] == ["system", "system"]
    assert documents(character)[1].text == '*Ines hums.* "Wait."'


@pytest.mark.parametrize(
    "line", ["Come at 10:30.", "she said: no", "http://example.org", "Oh. Well: yes"]
)
def test_a_colon_in_a_sentence_names_nobody(line):
    assert dialogue(f"{{{{char}}}}: Listen.\n{line}") == [[("assistant", f"Listen.\n{line}")]]


# --- text -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{{random::red::blue}}", "red"),
        ("{{pick::red::blue}}", "red"),
        ("{{random: red , blue}}", "red"),
        ("{{random::{{char}}::x}}", "Ines"),
        ("A{{// see {{char}} }}B", "AB"),
        ("<USER> and <bot>", "Tom and Ines"),
        ("{{roll:1d6}}{{newline}}{{setvar::a::b}}x", "1\nx"),
        ("one\n{{trim}}\ntwo", "onetwo"),
        ("<p>One.</p><p>Two.</p>", "One.\n\nTwo."),
        ("one<br>two<BR/>three", "one\ntwo\nthree"),
        ("<ul><li>a</li><li>b</li></ul>", "a\nb"),
        ("salt &amp; lamp &#39;x&#39;", "salt & lamp 'x'"),
        ("AT&T &copyright R&D", "AT&T &copyright R&D"),
        ("A<!-- a > b -- c -->B", "AB"),
        ("5 < 6, I <3 you, <custom>kept</custom>", "5 < 6, I <3 you, <custom>kept</custom>"),
        ("write to <ines@example.org>", "write to <ines@example.org>"),
        ('<img src="data:image/png;base64,' + "A" * 5000 + '">x', "x"),
        ("![p](data:image/png;base64," + "A" * 5000 + ")x", "x"),
        ("<style>p{a>b}</style>x<script>y</script>", "x"),
    ],
)
def test_text_is_what_a_reader_sees(text, expected):
    assert learned(text) == expected


def test_unknown_macros_stay_and_are_named():
    character = read(description="{{weekday}} {{#if x}}a{{/if}}")
    assert documents(character)[0].text == "{{weekday}} {{#if x}}a{{/if}}"
    assert "{{weekday}}, {{#if}}, {{/if}}" in character.warnings[0]


@pytest.mark.parametrize("text", ["use `List<String> x`", "press <enter>", "a &amp; b", "<b>x</b>"])
def test_what_people_wrote_is_no_web_page(text):
    assert said(lines(row(text))) == [("assistant", text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<think>plan</think>Ahoy", [("assistant", "Ahoy")]),
        ("plan</think>Ahoy", [("assistant", "Ahoy")]),
        ("<thinking>a\nb</thinking>\n\nAhoy", [("assistant", "Ahoy")]),
        ("write `<think>` first", [("assistant", "write `<think>` first")]),
    ],
)
def test_thoughts_are_no_speech(text, expected):
    log = load_chat(lines(row(text)))
    assert said(log) == expected
    assert ("thoughts" in " ".join(log.warnings)) is (expected[0][1] == "Ahoy")


# --- chats ----------------------------------------------------------------------------------------


def test_a_chat_needs_no_header():
    data = lines(row("Ahoy"), row("Hello", "Tom", user=True), header=False)
    assert said(data) == [("assistant", "Ahoy"), ("user", "Hello")]


def test_a_header_may_be_long():
    head = {"chat_metadata": {"variables": {"x": "y" * 300_000}}, "user_name": "unused"}
    assert said(encoded(head) + b"\n" + encoded(row("Ahoy"))) == [("assistant", "Ahoy")]


def test_a_group_keeps_who_speaks():
    log = load_chat(lines(row("Ahoy"), row("I count ships.", "Ben"), row("Hi", "Tom", user=True)))
    assert said(log) == [
        ("assistant", "Ahoy"),
        ("assistant", "Ben: I count ships."),
        ("user", "Hi"),
    ]
    assert log.messages[1].name == "Ben"
    assert log.speakers == ("Ines", "Ben", "Tom")
    bare = load_chat(lines(row("Ahoy"), row("Hm", "Ben"), header=False))
    assert said(bare) == [("assistant", "Ines: Ahoy"), ("assistant", "Ben: Hm")]


def test_a_narrator_speaks_for_nobody_and_hidden_messages_are_counted():
    log = load_chat(lines(
        row("It rains.", "System", extra={"type": "narrator"}),
        {**row("secret"), "is_system": True}, row("Ahoy"),
    ))  # fmt: skip
    assert said(log) == [("system", "It rains."), ("assistant", "Ahoy")]
    assert "hidden messages (1)" in log.warnings[0]


OLD, NEW = ("assistant", "old"), [("user", "Hi"), ("assistant", "new")]


def node(name, parent, role=None, text="", **more):
    message = {
        "author": {"role": role},
        "content": {"content_type": "text", "parts": [text]},
        **more,
    }
    return {"id": name, "parent": parent, "children": [], "message": message if role else None}


def chatgpt(*nodes, **fields):
    return [{"title": "A light", "mapping": {item["id"]: item for item in nodes}, **fields}]


TREE = (node("r", None), node("a", "r", "user", "Hi"), node("b", "a", "assistant", "old"),
        node("c", "a", "assistant", "new"))  # fmt: skip
HISTORIES = {
    "ChatGPT": chatgpt(*TREE, current_node="c"),
    "ChatGPT without its current node": chatgpt(*TREE),
    "ChatGPT with tools and hidden messages": chatgpt(
        *TREE[:2], node("t", "a", "assistant", "search()", recipient="browser"),
        node("u", "t", "tool", "found"),
        node("h", "u", "user", "x", metadata={"is_visually_hidden_from_conversation": True}),
        node("c", "h", "assistant", "new"), current_node="c"),
    "Claude": [{"uuid": "1", "name": "A light", "chat_messages": [
        {"uuid": "a", "sender": "human", "text": "Hi", "parent_message_uuid": "0", "created_at": "1"},
        {"uuid": "b", "sender": "assistant", "text": "old", "parent_message_uuid": "a",
         "created_at": "2"},
        {"uuid": "c", "sender": "assistant", "parent_message_uuid": "a", "created_at": "3", "text": "",
         "content": [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "new"}]}]}],
    "messages": {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "new"}]},
    "messages in parts": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]},
                          {"role": "assistant", "content": "new"}],
    "ShareGPT": [{"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "new"}]}],
    "LibreChat": {"conversationId": "1", "messages": [
        {"messageId": "a", "parentMessageId": "0", "text": "Hi", "isCreatedByUser": True},
        {"messageId": "b", "parentMessageId": "a", "text": "old", "isCreatedByUser": False},
        {"messageId": "c", "parentMessageId": "a", "text": "new", "isCreatedByUser": False}]},
    "Open WebUI": [{"title": "A light", "chat": {"history": {"currentId": "c", "messages": {
        "a": {"id": "a", "parentId": None, "role": "user", "content": "Hi"},
        "b": {"id": "b", "parentId": "a", "role": "assistant", "content": "old"},
        "c": {"id": "c", "parentId": "a", "role": "assistant", "content": "new"}}}}}],
    "Character.AI": {"histories": {"histories": [{"msgs": [
        {"src": {"is_human": True}, "text": "Hi"}, {"src": {"is_human": False}, "text": "new"}]}]}},
    "RisuAI": {"type": "risuChat", "data": {"message": [
        {"role": "user", "data": "Hi"}, {"role": "char", "data": "new"}]}},
    "Agnai": {"name": "c", "messages": [{"msg": "Hi", "userId": "1"}, {"msg": "new"}]},
    "text-generation-webui": {"internal": [["Hi", "new"]]},
    "KoboldAI": {"prompt": "", "actions": ["{{[INPUT]}}Hi{{[OUTPUT]}}new"]},
}  # fmt: skip


@pytest.mark.parametrize("tool", HISTORIES)
def test_the_branch_that_was_shown_is_read(tool):
    log = load_chat(encoded(HISTORIES[tool]), filename="export.json")
    assert said(log) == NEW
    assert len(log.conversations) == 1


def test_lines_of_conversations_are_read():
    one = encoded(HISTORIES["messages"])
    assert len(load_chat(one + b"\n" + one).conversations) == 2


def test_an_export_keeps_its_conversations_apart():
    export = HISTORIES["ChatGPT"] * 3
    log = load_chat(encoded([{**item, "create_time": 1.7e9} for item in export]))
    assert [(talk.title, talk.started[:10]) for talk in log.conversations] == [
        ("A light", "2023-11-14")
    ] * 3
    assert said(log) == NEW * 3
    assert "messages of other branches (3)" in log.warnings[0]


def test_a_branch_that_goes_in_a_circle_ends():
    circle = [node("a", "b", "user", "Hi"), node("b", "a", "assistant", "new")]
    assert said(encoded(chatgpt(*circle, current_node="b"))) == NEW


def test_a_large_export_is_read_piece_by_piece():
    export = encoded(HISTORIES["ChatGPT"] * 20_000)
    assert len(export) > 10_000_000
    assert len(load_chat(export).conversations) == 20_000


# --- messengers -----------------------------------------------------------------------------------


WHATSAPP = {
    "Android": "27/11/2026, 10:01 - Messages are end-to-end encrypted.\n"
    "27/11/2026, 10:01 - Ines: Ahoy\nat night\n27/11/2026, 10:02 - Tom: Hello: you\n"
    "27/11/2026, 10:03 - Tom: <Media omitted>\n",
    "Android, American": "11/27/26, 10:01\u202fAM - Ines: Ahoy\nat night\n"
    "11/27/26, 10:02\u202fAM - Tom: Hello: you\n",
    "iPhone": "\ufeff[27.11.26, 10:01:02] Ines: Ahoy\nat night\n"
    "[27.11.26, 10:02:02] Tom: Hello: you\n\u200e[27.11.26, 10:02:09] Tom: \u200eimage omitted\n",
}


@pytest.mark.parametrize("phone", WHATSAPP)
def test_whatsapp_is_read_and_the_user_is_given(phone):
    log = load_chat(WHATSAPP[phone].encode(), filename="_chat.txt", user="Tom")
    assert said(log) == [("assistant", "Ahoy\nat night"), ("user", "Hello: you")]
    assert (log.user_name, log.character_name, log.user_guessed) == ("Tom", "Ines", False)


def test_whatsapp_names_the_other_one_in_the_name_of_its_file():
    log = load_chat(WHATSAPP["Android"].encode(), filename="WhatsApp Chat with Ines.txt")
    assert (log.user_name, log.user_guessed) == ("Tom", False)


def test_a_guess_who_the_user_is_is_told_and_a_wrong_name_refused():
    log = load_chat(WHATSAPP["iPhone"].encode(), filename="_chat.txt")
    assert log.user_guessed
    assert "guessed" in log.warnings[0]
    with pytest.raises(FileRefused, match="Ines, Tom") as caught:
        load_chat(WHATSAPP["iPhone"].encode(), filename="_chat.txt", user="Zoe")
    assert caught.value.code == "which_user"


MESSENGERS = {
    "Telegram": {"name": "Ines", "type": "personal_chat", "id": 1, "messages": [
        {"type": "service", "action": "phone_call"}, {"type": "message", "from": "Tom", "text": "Hi"},
        {"type": "message", "from": "Ines", "text": ["new", {"type": "bold", "text": "s"}]}]},
    "Discord": {"guild": {}, "channel": {"type": "DirectTextChat", "name": "Ines"}, "messages": [
        {"type": "Default", "content": "Hi", "author": {"name": "t", "nickname": "Tom"}},
        {"type": "RecipientAdd", "content": "x", "author": {"name": "t"}},
        {"type": "Reply", "content": "news", "author": {"name": "Ines"}}]},
    "Instagram": {"participants": [{"name": "Ines"}, {"name": "Tom"}], "title": "Ines", "messages": [
        {"sender_name": "Ines", "timestamp_ms": 2, "content": "news"},
        {"sender_name": "Tom", "timestamp_ms": 1, "content": "Hi"}]},
}  # fmt: skip


@pytest.mark.parametrize("messenger", MESSENGERS)
def test_a_chat_named_after_the_other_one_says_who_the_user_is(messenger):
    log = load_chat(encoded(MESSENGERS[messenger]))
    assert said(log) == [("user", "Hi"), ("assistant", "news")]
    assert (log.user_name, log.user_guessed) == ("Tom", False)


def test_instagrams_letters_are_repaired():
    broken = "café".encode().decode("latin-1")
    value = {"participants": [], "messages": [{"sender_name": "Ines", "content": broken}]}
    assert said(encoded(value), user="Ines") == [("user", "café")]


def test_slack_has_names_links_and_entities():
    value = [
        {"type": "message", "user": "U2", "text": "news", "ts": "2",
         "user_profile": {"display_name": "Ines"}},
        {"type": "message", "user": "U1", "text": "Hi <@U2>, <https://e.example|here> &amp; there",
         "ts": "1", "user_profile": {"real_name": "Tom"}},
        {"type": "message", "subtype": "channel_join", "user": "U2", "text": "joined", "ts": "3"},
    ]  # fmt: skip
    log = load_chat(encoded(value), user="Tom")
    assert said(log) == [
        ("user", "Hi @Ines, here (https://e.example) & there"),
        ("assistant", "news"),
    ]


def zipped(**members):
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for name, body in members.items():
            archive.writestr(name.replace("__", "/").replace("_dot_", "."), body)
    return target.getvalue()


def test_exports_are_read_inside_their_zip():
    assert said(zipped(conversations_dot_json=encoded(HISTORIES["ChatGPT"]))) == NEW
    log = load_chat(zipped(_chat_dot_txt=WHATSAPP["iPhone"]), filename="WhatsApp Chat - Ines.zip")
    assert log.user_name == "Tom"
    slack = zipped(
        users_dot_json=encoded([{"id": "U1", "profile": {"display_name": "Tom"}}]),
        channels_dot_json=b"[]",
        sea__day_dot_json=encoded([{"type": "message", "user": "U1", "text": "Hi", "ts": "1"}]),
    )
    assert said(slack, user="Tom") == [("user", "Hi")]


@pytest.mark.parametrize("value", [[{"uuid": "1", "chat_messages": []}], {"messages": []}])
def test_an_empty_or_unknown_chat_is_refused_without_a_word_of_cards(value):
    with pytest.raises(FileRefused) as caught:
        load(encoded([*value] if isinstance(value, list) else value))
    assert caught.value.code in {"empty", "not_a_card"}


# --- documents ------------------------------------------------------------------------------------


def test_an_rtf_is_a_bio():
    text = rb"{\rtf1\ansi\ansicpg1252 Ines keeps the light in a caf\'e9.\par She is \u8212? shy.}"
    assert load(text, filename="ines.rtf").description.startswith("Ines keeps the light in a café.")


def test_a_page_is_a_bio():
    page = "<!DOCTYPE html><html><head><title>Ines</title><style>x</style></head><body><h1>Who</h1>"
    page += "<p>Ines   keeps\nthe light.</p><ul><li>shy</li></ul><script>no</script></body></html>"
    character = load(page.encode(), filename="x.html")
    assert character.name == "Ines"
    assert character.description == "Who\n\nInes keeps the light.\n\nshy"


DOCX = (
    '<?xml version="1.0"?><w:document xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/'
    '2006/main"><w:body>{}</w:body></w:document>'
)


def docx(*paragraphs):
    body = "".join(f"<w:p><w:r><w:t>{text}</w:t></w:r></w:p>" for text in paragraphs)
    types = '<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types"/>'
    return zipped(**{"word__document_dot_xml": DOCX.format(body), "[Content_Types]_dot_xml": types})


def test_a_docx_is_a_bio():
    character = load(docx("Ines keeps the light.", "She is shy."), filename="ines.docx")
    assert (character.name, character.source_format) == ("ines", "DOCX")
    assert character.description == "Ines keeps the light.\n\nShe is shy."


def epub(**more):
    container = '<container><rootfiles><rootfile full-path="O/b.opf"/></rootfiles></container>'
    package = (
        '<package xmlns:dc="x"><metadata><dc:title>The Light</dc:title></metadata><manifest>'
        '<item id="one" href="1.xhtml"/><item id="two" href="t/2.xhtml"/></manifest>'
        '<spine><itemref idref="two"/><itemref idref="one"/></spine></package>'
    )
    page = "<html><head><title>x</title></head><body><p>{}</p></body></html>"
    return zipped(
        mimetype="application/epub+zip",
        **{"META-INF__container_dot_xml": container, "O__b_dot_opf": package,
           "O__1_dot_xhtml": page.format("Then night."), "O__t__2_dot_xhtml": page.format("First day.")},
        **more,
    )  # fmt: skip


def test_a_book_is_read_in_its_order():
    book = load(epub(), filename="x.epub")
    assert (book.name, book.description) == ("The Light", "First day.\n\nThen night.")


def test_a_locked_book_is_refused():
    assert refused(epub(**{"META-INF__rights_dot_xml": "<x/>"})) == "encrypted_zip"


ENCODED = {
    "cp1252": "Inès garde le phare à la côte.",
    "cp1250": "Ines hlídá maják a má ráda včely, když prší.",
    "cp1251": "Инес хранит маяк и любит море.",
    "koi8_r": "Инес хранит маяк и любит море.",
    "cp1253": "Η Ίνες φυλάει τον φάρο και αγαπά τη θάλασσα.",
    "cp1254": "İnes deniz fenerini bekliyor ve ışığı seviyor, yağmur yağıyor.",
    "shift_jis": "イネスは灯台を守っている。",
    "euc_jp": "イネスは灯台を守っている。",
    "gb18030": "伊内斯守着灯塔，她很喜欢大海。",
    "big5": "伊內斯守著燈塔，她很喜歡大海。",
    "euc_kr": "이네스는 등대를 지키고 바다를 좋아한다.",
    "utf-16": "Ines keeps the light.",
    "utf-16-le": "Ines keeps the light.",
}


@pytest.mark.parametrize("encoding", ENCODED)
def test_an_old_encoding_is_recognised(encoding):
    text = ENCODED[encoding]
    assert load(text.encode(encoding), filename="x.txt").description == text


def test_an_encoding_that_nobody_can_tell_is_refused():
    assert refused(bytes(range(1, 256)) * 4) == "bad_encoding"
    assert refused("Caf\x8e ow\x8der \x90\x81".encode("latin-1")) == "bad_encoding"


def test_headings_are_read_without_their_marks():
    found = load(b"# Ines\n\n## Home\n\nShe plays in C# at place #1.", filename="x.md")
    assert found.description == "Ines\n\nHome\n\nShe plays in C# at place #1."


@pytest.mark.parametrize("line", ["Page 1 of 1", "- 3 -", "3", "Seite 2 von 9", "2/9"])
def test_lines_that_only_number_a_page_are_no_text(line):
    page = f"{line}\nShe left in 1987.\nThat was it.\n{line}\n"
    assert _documents._without_page_lines(page) == "She left in 1987.\nThat was it."


def test_a_pdf_is_called_by_its_first_line_only_if_that_reads_as_a_title():
    assert _documents._title("Ada Finch\nShe keeps bees.") == "Ada Finch"
    assert _documents._title("She keeps bees.\nAnd a cat.") == ""
    assert _documents._title("Ada Finch") == ""
