"""Documents for recall only: found and shown, never learned."""

import pytest

from templora_memory import Document, Message

BEES = Document("Ada keeps bees on the roof.")
LORE = Document("The cellar of the inn is flooded.", recall_only=True)
ASKED = [Message("user", "What about the cellar?")]


def test_a_document_for_recall_is_not_learned(box):
    report = box.service.open("ada").absorb([LORE])
    assert (report.revision, report.tokens) == (None, 0)
    status = box.service["ada"].status()
    assert (status.document_count, status.absorbed_documents) == (0, 0)


def test_it_is_found_beside_what_is_learned(box):
    memory = box.service.open("ada")
    memory.absorb([BEES, LORE])
    assert box.service["ada"].status().absorbed_documents == 1
    assert memory.search("cellar")[0].text == LORE.text
    reply = memory.reply(ASKED, recall_tokens=40)
    assert reply.recalled[0].text == LORE.text


def test_it_is_shown_before_anything_is_learned(box):
    memory = box.service.open("ada")
    memory.absorb([LORE])
    assert memory.reply(ASKED, recall_tokens=40).recalled[0].text == LORE.text


def test_a_pair_recalls_the_lore_of_the_memory_it_began_from(box):
    box.service.open("ada").absorb([BEES, LORE])
    reply = box.service.open("ada@bob").reply(ASKED, recall_tokens=40)
    assert reply.recalled[0].text == LORE.text


@pytest.mark.parametrize("again", ["rebuild", "resume"])
def test_learning_again_leaves_it_out(box, again):
    memory = box.service.open("ada")
    memory.absorb([BEES, LORE])
    if again == "rebuild":
        memory.rebuild()
    else:
        memory.resume().wait()
    assert box.service["ada"].status().absorbed_documents == 1
    assert memory.search("cellar")[0].text == LORE.text


def test_rolling_back_keeps_it(box):
    memory = box.service.open("ada")
    memory.absorb([BEES, LORE])
    first = memory.head().name
    memory.absorb("A third text about ships and harbours.")
    box.service["ada"].rollback(first)
    assert memory.search("cellar")[0].text == LORE.text


def test_the_same_text_can_be_learned_later(box):
    memory = box.service.open("ada")
    memory.absorb([LORE])
    memory.absorb(LORE.text)
    assert box.service["ada"].status().absorbed_documents == 1
