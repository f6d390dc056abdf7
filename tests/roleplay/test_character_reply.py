from templora_memory.apps.roleplay.character_reply import passages


def test_notes_are_found_by_their_rare_words():
    notes = "The mayor is Ludo. He likes fish.\n\nThe inn serves soup.\n\nThe road is long."
    assert passages(notes, "Who is the mayor?")[0].startswith("The mayor")
    assert passages(notes, "zebra") == ()
    assert passages("", "anything") == ()
