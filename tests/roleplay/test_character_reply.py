from templora_memory.apps.roleplay.character_reply import passages


def test_notes_are_found_by_their_rare_words():
    notes = "The mayor is Ludo. He likes fish.\n\nThe inn serves soup.\n\nThe road is long."
    assert passages(notes, "Who is the mayor?")[0].startswith("The mayor")
    assert passages(notes, "zebra") == ()
    assert passages("", "anything") == ()


def test_notes_without_spaces_are_found_too():
    notes = "镇长叫奥尔加。她住在山上。\n\n渡船从四号码头出发。"
    assert passages(notes, "码头在哪里?")[0].startswith("渡船")
