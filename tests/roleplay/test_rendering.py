"""What is shown: foreign text is never markup, the numbers are the numbers."""

import base64
import time
from html.parser import HTMLParser
from xml.etree import ElementTree as ET

import pytest

from templora_memory import AbsorbReport, Document, ForgetReceipt, Message
from templora_memory.apps.roleplay import (
    bundled_characters,
    comparison,
    deletion_rendering,
    learning_rendering,
    rendering,
)
from templora_memory.apps.roleplay.charts import Series, chart
from templora_memory.apps.roleplay.comparison import ComparedAnswer
from templora_memory.apps.roleplay.deletions import DeletionProof, PendingDeletion
from templora_memory.apps.roleplay.faces import avatars, picture_address
from templora_memory.apps.roleplay.learning_estimate import duration
from templora_memory.apps.roleplay.learning_task import LearningStep, LearningTask
from templora_memory.apps.roleplay.state import (
    AbsorbRecord,
    CharacterFact,
    Chat,
    FactProbe,
    Persona,
    PromptCost,
    PromptPart,
    PromptRecord,
    VisitEvent,
)
from templora_memory.domain.results import RemovedFile
from templora_memory.importers import Character, ChatLog, LoreEntry, uses

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
    actor = bundled_characters.from_character(card)
    actor.tagline = EVIL
    actor.probes = (
        FactProbe(fact=CharacterFact(EVIL, EVIL, EVIL), base=-3.0, now=-0.1, now_reply=EVIL),
    )
    actor.absorbs.append(
        AbsorbRecord(source=EVIL, time=time.time(), report=REPORT, perplexities=(3.0, 2.0))
    )
    return actor


def pages():
    actor = evil_actor()
    persona = Persona(name=EVIL)
    chat = Chat(messages=[Message("user", EVIL)], costs=[PromptCost(sent=5, full=50)])
    shown = PromptRecord(
        parts=(PromptPart(EVIL, EVIL, 3), PromptPart("user", EVIL, 3)),
        sent=5, full=50, in_weights=2, dropped=1, learned=100, revision="b" * 64,
    )  # fmt: skip
    log = ChatLog(messages=(Message("user", EVIL),), character_name=EVIL, warnings=(EVIL,))
    gone = DeletionProof(
        label=EVIL,
        receipt=ForgetReceipt(ids=("x",), files=(RemovedFile(path=f"a/{EVIL}", bytes=3),)),
        downloads=1,
        probes=actor.probes,
        equals_base=True,
    )
    actor.chats[persona.key] = [chat]
    chat.prompt = shown
    task, waiting, ended, failed = (
        LearningTask(actor, EVIL, fresh=True, estimate=60) for _ in range(4)
    )
    task.phase = "learning"
    task.step = LearningStep(done=1, total=2, seconds=1, perplexities=(3.0,))
    waiting.rows = actor.probes
    ended.succeeded, failed.note = True, EVIL
    ended.ended.set()
    failed.ended.set()
    pending = PendingDeletion(label=EVIL, due=0, restore=dict, finish=lambda: gone)
    return {
        "head": rendering.page_header(EVIL, 60),
        "face": rendering.face(actor, EVIL),
        "preview": rendering.preview(actor, [Document(EVIL)], uses(actor.character), 3, 60),
        "chat preview": rendering.chat_preview(log, actor, persona),
        "progress": learning_rendering.learning_bar(task),
        "waiting": learning_rendering.learning_bar(waiting),
        "watched": learning_rendering.details(waiting),
        "probes": learning_rendering.probes(actor.probes, now=EVIL, caption=EVIL),
        "learned": learning_rendering.learning_result(ended) + learning_rendering.details(ended),
        "failed": learning_rendering.learning_result(failed),
        "actors": rendering.character_list([actor], actor.id, {actor.id: EVIL}, {actor.id: EVIL}),
        "question": deletion_rendering.character_question(actor, 3, [persona], 60),
        "chat question": deletion_rendering.chat_question(actor, persona, chat, 1, 60),
        "persona question": deletion_rendering.persona_question(persona, [actor], 3, 60),
        "rollback question": deletion_rendering.rollback_question(actor, 2, EVIL, 60),
        "undo": deletion_rendering.undo_bar([pending]),
        "deleted": deletion_rendering.deletion_result(gone),
        "compared": comparison.comparison(EVIL, [ComparedAnswer(mode="both", text=EVIL)], 1),
        "now": rendering.memory_now(actor, chat, 3, EVIL),
        "prompt": rendering.prompt(shown),
        "status": rendering.status_line(actor, chat, shown, 1),
        "lorebook": rendering.lorebook(actor),
        "tiles": rendering.figure_tiles(None, actor, chat, 1.5),
        "plots": rendering.plots(actor, chat),
        "lessons": rendering.absorb_log(actor),
        "receipts": rendering.visit_log([VisitEvent(time=0, event=EVIL, detail=EVIL)]),
        "chart": chart(EVIL, [Series(EVIL, [1.0, 2.0])], x=EVIL, caption=EVIL),
    }


@pytest.mark.parametrize("name", sorted(pages()))
def test_foreign_text_is_never_markup(name):
    found = Tags()
    found.feed(pages()[name])
    assert not {"script", "img", "style", "iframe", "a"} & found.tags
    assert not [name for name in found.attributes if name.startswith("on")]
    assert "script" not in "".join(found.attributes)


def test_messages_keep_emphasis_and_lose_tags_and_pictures():
    assert rendering.safe_markdown("*smiles* ![x](http://e/x.png)<b onclick=x>hi</b> 1 < 2") == (
        "*smiles* &lt;b onclick=x>hi&lt;/b> 1 < 2"
    )


def test_the_score_says_how_many_facts_are_right():
    rows = [
        FactProbe(
            fact=CharacterFact("q", "Jory", "s"),
            base=-2.0,
            now=-1.0,
            base_reply="Bob.",
            now_reply=said,
        )
        for said in ("It is Jory.", "It is jory!", "Nobody.")
    ]
    assert "2 of 3 facts right with nothing in the prompt, 0 before" in learning_rendering.score(
        rows
    )
    assert "2.7 times" in learning_rendering.score(rows)


def test_greetings_are_offered_only_at_the_beginning():
    actor = bundled_characters.actor("marta_quill")
    chat = Chat(messages=[Message("assistant", "Hi")])
    (row,) = rendering.chat_messages(actor, chat, ("Hi", "Ho"))
    assert [option["label"] for option in row["options"]] == ["Greeting 1", "Greeting 2"]
    chat.messages.append(Message("user", "Hello"))
    assert "options" not in rendering.chat_messages(actor, chat, ("Hi", "Ho"))[0]


def test_a_portrait_becomes_a_small_picture_and_a_broken_one_none():
    image = pytest.importorskip("PIL.Image")
    import io  # noqa: PLC0415

    target = io.BytesIO()
    image.new("RGB", (400, 600), "red").save(target, "PNG")
    assert picture_address(target.getvalue()).startswith("data:image/jpeg;base64,")
    assert picture_address(b"\x89PNG\r\n\x1a\n broken") == ""
    assert picture_address(None) == ""


def test_everybody_has_a_face_and_a_name_in_it_is_never_markup():
    actor = evil_actor()
    user, character = avatars(actor, Persona(name="<&> <b>"))
    for picture in (user, character):
        kind, _, data = picture["url"].partition(",")
        assert kind == "data:image/svg+xml;base64"
        ET.fromstring(base64.b64decode(data))  # noqa: S314  # drawn here
    actor.image = "data:image/jpeg;base64,AAAA"
    assert avatars(actor, Persona())[1]["url"] == actor.image
    assert avatars(None, Persona()) == [None, None]


def test_words_about_perplexity_follow_the_numbers():
    fell = learning_rendering.curve([109.38, 30.0, 4.85])
    rose = learning_rendering.curve([4.85, 30.0, 109.38])
    same = learning_rendering.curve([4.85, 4.86])
    assert "fell from 109.38 to 4.85 over 3 passes" in fell
    assert "rose from 4.85 to 109.38" in rose
    assert "did not learn" in rose
    assert "stayed at 4.86" in same
    assert "fell" not in rose + same + learning_rendering.curve([4.0])


def test_facts_that_became_less_likely_are_not_called_more_likely():
    row = FactProbe(fact=CharacterFact("q", "", "s"), base=-1.0, now=-2.0)
    assert "2.7 times less likely" in learning_rendering.score([row])


def test_receipts_count_the_text_as_the_preview_did():
    record = AbsorbRecord(source="", time=0, report=REPORT, perplexities=(), text_tokens=40)
    assert learning_rendering.learned_from(record).startswith("40 tokens of text, learned by 100")


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(3, "a few seconds"), (33, "30 seconds"), (70, "1 minute"), (290, "5 minutes"),
     (9000, "2.5 hours")],
)  # fmt: skip
def test_durations_are_no_more_exact_than_they_are_known(seconds, words):
    assert duration(seconds) == words
