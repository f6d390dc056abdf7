"""Hybrid recall: passages of what a memory was told, found by words, in the prompt."""

from unicodedata import normalize

import pytest

from templora_memory import Document, Message, Policy
from templora_memory.domain.journal import JournalEntry
from templora_memory.errors import InvalidSetting, UnknownMemory
from templora_memory.service.search import PassageIndex, Searcher
from tools.search_languages import SETS, measure

BEES = "Ada keeps bees on the roof."
SHIPS = "The ship leaves at nine from pier four."


def ask(text):
    return [Message("user", text)]


def shown(box):
    """The prompt of the newest request, as one text."""
    return "\n".join(message.content for message in box.backend.requests[-1].messages)


def test_documents_and_turns_are_found_by_their_words(box, talk):
    box.service["ada"].absorb([Document(BEES), Document(SHIPS)])
    box.service["ada"].absorb(talk(4, question=None))
    (best, *_) = box.service["ada"].search("When do the ships leave?")
    assert best.text == SHIPS
    turn = box.service.open("ada").search("house 2", limit=1)[0]
    assert (
        turn.text
        == "user: Question 2 about bees at house 2?\nassistant: Answer 2 is bees number 2."
    )
    assert box.service["ada"].search("zebra") == ()
    assert box.service["ada"].search('" OR * NEAR(') == ()


def test_a_long_document_is_found_in_passages(box):
    text = " ".join(f"House {number} belongs to the family Name{number}." for number in range(200))
    box.service["ada"].absorb(text)
    (best, *_) = box.service["ada"].search("Name137")
    assert "Name137" in best.text
    assert len(best.text) < 400


def test_passages_stand_in_the_prompt_within_their_share(box):
    box.service["ada"].absorb([Document(BEES), Document(SHIPS)])
    question = ask("When does the ship leave?")
    plain = box.service["ada"].reply(question)
    reply = box.service["ada"].reply(question, recall_tokens=12)
    assert [passage.text for passage in reply.recalled] == [SHIPS]
    assert SHIPS in shown(box)
    assert 0 < reply.prompt_tokens - plain.prompt_tokens <= 12
    assert plain.recalled == ()
    assert box.service["ada"].reply(question, recall_tokens=3).recalled == ()


def test_the_share_is_kept_free_while_turns_are_absorbed(make_box, talk):
    box = make_box()
    box.open(window=128, recall_tokens=32)
    for turns in range(1, 30):
        reply = box.service["ada"].reply(talk(turns, question="What was number 0 of the bees?"))
        assert reply.prompt_tokens <= 128 - 24
        box.service.wait()
    assert "bees number 0." in reply.recalled[0].text
    assert "bees number 0." in shown(box)


def test_what_stands_in_the_prompt_anyway_is_not_recalled(box, talk):
    history = talk(3)
    reply = box.service["ada"].reply(history, recall_tokens=40)
    assert reply.recalled == ()  # nothing is absorbed yet


def test_an_edited_conversation_recalls_only_itself(make_box, talk):
    box = make_box()
    box.open(window=128, recall_tokens=40)
    old = [*talk(12, about="wasps", question=None), *ask("And wasps?")]
    box.service["ada"].reply(old)
    edited = [*talk(12, about="ants", question=None), *ask("What about wasps?")]
    reply = box.service["ada"].reply(edited)
    assert all("wasps" not in passage.text for passage in reply.recalled)


def test_a_pinned_revision_recalls_what_it_has_learned(box):
    first = box.service["ada"].absorb(BEES).revision
    box.service["ada"].absorb(SHIPS)
    for revision, expected in ((first, []), ("head", [SHIPS])):
        reply = box.service["ada"].reply(ask("ship"), revision=revision, recall_tokens=20)
        assert [passage.text for passage in reply.recalled] == expected


def test_a_memory_that_began_from_another_recalls_its_documents(box):
    box.service["ada"].absorb(BEES)
    box.service.open("ada@bob")
    reply = box.service["ada@bob"].reply(ask("Who keeps bees?"), recall_tokens=20)
    assert [passage.text for passage in reply.recalled] == [BEES]


def test_a_forgotten_memory_is_found_no_more(box):
    box.service["ada"].absorb(BEES)
    assert box.service["ada"].search("bees")
    box.service["ada"].forget()
    with pytest.raises(UnknownMemory):
        box.service["ada"].search("bees")
    box.service["ada"].absorb(SHIPS)
    assert box.service["ada"].search("bees") == ()


def test_an_index_of_a_memory_forgotten_by_another_process_is_dropped(box):
    box.service["ada"].absorb(BEES)
    old = box.store.manifest("ada")
    searcher = Searcher(box.store)
    head = box.service["ada"].head()
    assert searcher.search(old, "bees", documents=head.documents, dialogue=old.first)
    box.service["ada"].forget()
    box.service["ada"].absorb(SHIPS)
    new = box.store.manifest("ada")
    assert searcher.search(new, "bees", documents=head.documents, dialogue=new.first) == ()
    searcher.drop()


def test_withdrawn_documents_are_not_found(box):
    first = box.service["ada"].absorb(BEES).revision
    box.service["ada"].absorb(SHIPS)
    assert box.service["ada"].search("ship")
    box.service["ada"].rollback(first)
    assert box.service["ada"].search("ship") == ()


def test_bad_settings_are_refused(box):
    box.service["ada"].absorb(BEES)
    for value in (-1, 1.5, True):
        with pytest.raises(InvalidSetting, match="recall_tokens"):
            box.service["ada"].reply(ask("ship"), recall_tokens=value)
    with pytest.raises(InvalidSetting, match="limit"):
        box.service["ada"].search("bees", limit=0)
    with pytest.raises(InvalidSetting, match="no room is left"):
        Policy(window=64, reply_tokens=32, recall_tokens=32)


def test_a_passage_has_its_source_and_the_better_one_the_higher_score(box):
    box.service["ada"].absorb([Document(BEES), Document(SHIPS), Document("The ship of pier four.")])
    digests = box.store.journal("ada").documents
    found = box.service["ada"].search("pier four ship bees roof Ada keeps")
    assert {passage.source for passage in found} == set(digests)
    assert found[0].source == digests[0]
    scores = [passage.score for passage in found]
    assert scores == sorted(scores, reverse=True)
    assert scores[-1] > 0


@pytest.mark.parametrize(
    ("text", "query"),
    [
        ("艾达在天文台的屋顶上养蜜蜂。", "蜜蜂"),
        ("艾达在天文台的屋顶上养蜜蜂。", "谁养蜜蜂?"),
        ("アダは屋根で蜜蜂を飼っている。", "屋根"),
        ("Ada hält Bienen auf dem Dach.", "Biene"),
        ("아다는 지붕에서 꿀벌을 키운다.", "꿀벌"),
        ("อาดาเลี้ยงผึ้งบนหลังคา", "ผึ้ง"),
        ("Ада держит пчёл на крыше.", "пчела"),
        ("她的名字叫 Ada Quill。", "quill"),
    ],
)
def test_words_are_found_in_any_language(box, text, query):
    box.service["ada"].absorb([Document(SHIPS), Document(text)])
    assert [passage.text for passage in box.service["ada"].search(query)] == [text]


def test_a_vowel_sign_makes_another_word(box):
    box.service["ada"].absorb("वह मंदिर में दान देती है।")
    assert box.service["ada"].search("दिन") == ()
    assert box.service["ada"].search("दान")


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_a_text_is_found_however_it_is_coded(box, form):
    text = normalize(form, "Zoë liebt Käse. हिन्दी में ज़रूर. がっこう")
    box.service["ada"].absorb(text)
    for word in ("Zoë", "Käse", "ज़रूर", "がっこう"):
        for coding in ("NFC", "NFD"):
            assert box.service["ada"].search(normalize(coding, word)), (word, coding)


def test_text_without_spaces_is_recalled_in_short_passages(box):
    text = "".join(f"第{number}号房子里住着一家养蜂人。" for number in range(40))
    box.service["ada"].absorb(f"{text}渡船从四号码头出发。")
    (best, *_) = box.service["ada"].search("码头")
    assert "码头" in best.text
    assert len(best.text) <= 80


def test_a_closed_index_holds_no_text():
    index = PassageIndex(("salt", 0))
    index.add_document(JournalEntry(id="1", digest="digest", item=Document(BEES), time=None))
    index.close()
    assert index.search("bees", {"digest"}) == ()
    assert BEES not in str(vars(index))


@pytest.mark.parametrize("language", SETS)
def test_most_of_what_is_asked_for_is_found_first(language):
    _, _, first = measure(*SETS[language])
    assert first >= 0.8
