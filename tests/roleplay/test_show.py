"""What is shown: foreign text is never markup, the numbers are the numbers."""

import dataclasses
import re
import time
from html.parser import HTMLParser

import pytest

from templora_memory import AbsorbReport, Document, ForgetReceipt, Message
from templora_memory.apps.roleplay import _bundled, _look, _show
from templora_memory.apps.roleplay._charts import Line, chart
from templora_memory.apps.roleplay._state import (
    Chat,
    Cost,
    Fact,
    Lesson,
    Part,
    Persona,
    Probed,
    Receipt,
    Shown,
)
from templora_memory.apps.roleplay._studio import Deleted, Step
from templora_memory.apps.roleplay._talk import passages
from templora_memory.domain.results import RemovedFile
from templora_memory.importers import Character, ChatLog, LoreEntry

EVIL = "<script>x()</script><img src=http://evil onerror=x()>\"'&"
REPORT = AbsorbReport(
    revision="a" * 64, tokens=100, chunks=2, perplexity_before=12.5, perplexity_after=1.5,
    recalled=0.8, kl=0.1, seconds=2.0, bytes=1_300_000,
)  # fmt: skip


class Tags(HTMLParser):
    """The tags and attribute names that a browser would see."""

    def __init__(self):
        super().__init__()
        self.tags, self.attributes = set(), set()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}


def evil_actor():
    card = Character(
        name=EVIL,
        description=EVIL,
        first_message=EVIL,
        creator_notes=EVIL,
        tags=(EVIL,),
        warnings=(EVIL,),
        source_format=EVIL,
        lore=(LoreEntry(content=EVIL, keys=(EVIL,)),),
    )
    actor = _bundled.from_character(card)
    actor.tagline = EVIL
    actor.probes = (Probed(fact=Fact(EVIL, EVIL, EVIL), base=-3.0, now=-0.1, now_said=EVIL),)
    actor.lessons.append(Lesson(what=EVIL, when=time.time(), report=REPORT, curve=(3.0, 2.0)))
    return actor


def pages():
    actor = evil_actor()
    persona = Persona(name=EVIL)
    chat = Chat(messages=[Message("user", EVIL)], costs=[Cost(sent=5, whole=50)])
    shown = Shown(
        parts=(Part(EVIL, EVIL, 3), Part("user", EVIL, 3)),
        sent=5, whole=50, in_weights=2, dropped=1, learned=100, revision="b" * 64,
    )  # fmt: skip
    log = ChatLog(messages=(Message("user", EVIL),), character_name=EVIL, warnings=(EVIL,))
    gone = Deleted(
        label=EVIL,
        receipt=ForgetReceipt(ids=("x",), files=(RemovedFile(path=f"a/{EVIL}", bytes=3),)),
        downloads=1,
        probes=actor.probes,
        same=True,
    )
    return {
        "head": _show.head(EVIL, 60),
        "face": _show.face(actor, EVIL),
        "preview": _show.preview(actor, [Document(EVIL)], len),
        "chat preview": _show.chat_preview(log, actor, persona),
        "progress": _show.progress(EVIL, Step(done=1, whole=2, seconds=1, curve=(3.0,))),
        "waiting": _show.progress(EVIL, None, doing=EVIL),
        "probes": _show.probes(actor.probes, now=EVIL, caption=EVIL),
        "learned": _show.learned(actor),
        "actors": _show.actors([actor], actor.id, {}),
        "question": _show.question(actor),
        "deleted": _show.deleted(gone),
        "prompt": _show.prompt(shown),
        "status": _show.status_line(actor, chat, shown, 1),
        "lorebook": _show.lorebook(actor),
        "tiles": _show.tiles(None, actor, chat, 1.5),
        "plots": _show.plots(actor, chat),
        "lessons": _show.lessons(actor),
        "receipts": _show.receipts([Receipt(when=0, what=EVIL, detail=EVIL)]),
        "chart": chart(EVIL, [Line(EVIL, [1.0, 2.0])], x=EVIL, says=EVIL),
    }


@pytest.mark.parametrize("name", sorted(pages()))
def test_foreign_text_is_never_markup(name):
    found = Tags()
    found.feed(pages()[name])
    assert not {"script", "img", "style", "iframe", "a"} & found.tags
    assert not [name for name in found.attributes if name.startswith("on")]
    assert "script" not in "".join(found.attributes)


def test_messages_keep_emphasis_and_lose_tags_and_pictures():
    assert _show.message("*smiles* ![x](http://e/x.png)<b onclick=x>hi</b> 1 < 2") == (
        "*smiles* &lt;b onclick=x>hi&lt;/b> 1 < 2"
    )


def test_a_strangers_colour_and_art_are_not_trusted():
    own = {"accent": "red;}</style>", "art": EVIL, "tagline": EVIL, "facts": [{"ask": 1}, "x"]}
    raw = {"data": {"extensions": {"templora": own}}}
    actor = _bundled.from_character(Character(name="x", description="A long sentence.", raw=raw))
    assert actor.accent == ""
    assert "<script" not in actor.tagline
    assert [fact.said for fact in actor.facts] == ["A long sentence."]
    assert EVIL not in _show.face(actor, "")


def test_every_bundled_fact_stands_in_its_bio_and_every_emblem_is_drawn():
    for name in _bundled.names():
        actor = _bundled.actor(name)
        bio = f"{actor.character.description} {actor.character.personality}"
        assert len(actor.facts) == 6
        for fact in actor.facts:
            assert fact.answer in bio
            assert fact.answer in fact.said
        assert actor.art in _look._EMBLEMS
        assert actor.character.alternate_greetings
        assert "CC0" in actor.character.creator_notes


def test_two_bundled_characters_answer_one_question_differently():
    rivals = [
        next(f.answer for f in _bundled.actor(name).facts if f.ask == "Who is your rival?")
        for name in ("marta_quill", "oren_vale")
    ]
    assert rivals == ["Oren", "Marta"]


def test_the_score_says_how_many_facts_are_right():
    rows = [
        Probed(fact=Fact("q", "Jory", "s"), base=-2.0, now=-1.0, base_said="Bob.", now_said=said)
        for said in ("It is Jory.", "It is jory!", "Nobody.")
    ]
    assert "2 of 3 facts right with nothing in the prompt, 0 before" in _show.score(rows)
    assert "2.7 times" in _show.score(rows)


def test_a_chart_says_in_words_what_it_shows():
    drawn = chart("T", [Line("a", [4.0, 2.0, 1.0])], x="step", says="From 4 to 1.", log=True)
    assert 'role="img" aria-label="From 4 to 1."' in drawn
    points = re.search(r'points="([^"]*)"', drawn)[1].split()
    heights = [float(point.split(",")[1]) for point in points]
    assert heights == sorted(heights)  # falling values go down, so y grows
    assert heights[1] - heights[0] == pytest.approx(heights[2] - heights[1], abs=0.2)  # log


def test_greetings_are_offered_only_at_the_beginning():
    actor = _bundled.actor("marta_quill")
    chat = Chat(messages=[Message("assistant", "Hi")])
    (row,) = _show.chatbot(actor, chat, ("Hi", "Ho"))
    assert [option["label"] for option in row["options"]] == ["Greeting 1", "Greeting 2"]
    chat.messages.append(Message("user", "Hello"))
    assert "options" not in _show.chatbot(actor, chat, ("Hi", "Ho"))[0]


def test_a_portrait_becomes_a_small_picture_and_a_broken_one_none():
    image = pytest.importorskip("PIL.Image")
    import io  # noqa: PLC0415

    target = io.BytesIO()
    image.new("RGB", (400, 600), "red").save(target, "PNG")
    assert _show.picture(target.getvalue()).startswith("data:image/jpeg;base64,")
    assert _show.picture(b"\x89PNG\r\n\x1a\n broken") == ""
    assert _show.picture(None) == ""


def test_notes_are_found_by_their_rare_words():
    notes = "The mayor is Ludo. He likes fish.\n\nThe inn serves soup.\n\nThe road is long."
    assert passages(notes, "Who is the mayor?")[0].startswith("The mayor")
    assert passages(notes, "zebra") == ()
    assert passages("", "anything") == ()


def test_values_of_a_page_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Cost(sent=1, whole=2).sent = 3
