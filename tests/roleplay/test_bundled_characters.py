from templora_memory.apps.roleplay import bundled_characters, rendering, style
from templora_memory.importers import Character

EVIL = "<script>x()</script><img src=http://evil onerror=x()>\"'&"


def test_a_strangers_colour_and_art_are_not_trusted():
    own = {"accent": "red;}</style>", "art": EVIL, "tagline": EVIL, "facts": [{"ask": 1}, "x"]}
    raw = {"data": {"extensions": {"templora": own}}}
    actor = bundled_characters.from_character(
        Character(name="x", description="A long sentence.", raw=raw)
    )
    assert actor.accent == ""
    assert "<script" not in actor.tagline
    assert [fact.sentence for fact in actor.facts] == ["A long sentence."]
    assert EVIL not in rendering.face(actor, "")


def test_every_bundled_fact_stands_in_its_bio_and_every_emblem_is_drawn():
    for name in bundled_characters.names():
        actor = bundled_characters.actor(name)
        bio = f"{actor.character.description} {actor.character.personality}"
        assert len(actor.facts) == 6
        for fact in actor.facts:
            assert fact.answer in bio
            assert fact.answer in fact.sentence
        assert actor.art in style._EMBLEMS
        assert actor.character.alternate_greetings
        assert "CC0" in actor.character.creator_notes


def test_two_bundled_characters_answer_one_question_differently():
    rivals = [
        next(
            f.answer
            for f in bundled_characters.actor(name).facts
            if f.question == "Who is your rival?"
        )
        for name in ("marta_quill", "oren_vale")
    ]
    assert rivals == ["Oren", "Marta"]
