"""One memory: handles of what exists and what does not, measuring, and the base model alone."""

import math

import pytest

from templora_memory import Memory, Message, ParametricMemory, Policy
from templora_memory.errors import InvalidId, InvalidText, NotAdmitted, UnknownMemory

BIO = "Ada keeps bees on the roof."
ASKED = [Message("user", "Who keeps bees?")]


def test_a_handle_makes_and_loads_nothing(make_box):
    box = make_box()
    box.service = ParametricMemory(box.backend, box.store, Policy(window=64))
    ada = box.service["ada"]
    ada.wait()
    assert (ada.id, ada.service, repr(ada)) == ("ada", box.service, "Memory('ada')")
    assert "not loaded" in repr(box.service)
    assert not box.root.exists()


@pytest.mark.parametrize("wrong", ["", "../ada", None, 7])
def test_a_handle_of_no_id_is_refused(box, wrong):
    with pytest.raises(InvalidId):
        box.service[wrong]


def test_a_handle_has_the_id_that_files_have(box):
    assert box.service["Zoe\u0308"].id == box.service.open("Zo\u00eb").id == "Zo\u00eb"


@pytest.mark.parametrize(
    "write",
    [
        lambda ada: ada.absorb(BIO),
        lambda ada: ada.reply(ASKED),
        lambda ada: ada.stream(ASKED).close(),
        lambda ada: ada.generate("x", max_tokens=3).close(),
    ],
)
def test_what_writes_makes_the_memory(box, write):
    write(box.service["ada"])
    assert box.service.list() == ("ada",)


@pytest.mark.parametrize(
    "look",
    [
        lambda ada: ada.search("bees"),
        lambda ada: ada.probe("Who?", "bees"),
        lambda ada: ada.fork("eve"),
        lambda ada: ada.resume(),
        lambda ada: ada.forget(),
        lambda ada: ada.reply(ASKED, revision="head"),
    ],
)
def test_what_looks_makes_none(box, look):
    with pytest.raises(UnknownMemory):
        look(box.service["ada"])
    assert box.service.list() == ()


def test_refused_text_makes_none(make_box):
    box = make_box()
    box.service = ParametricMemory(
        box.backend, box.store, Policy(window=64), admit=lambda _id, _text: "not here"
    )
    with pytest.raises(NotAdmitted):
        box.service["ada"].absorb(BIO)
    assert box.service.list() == ()


def test_a_name_without_a_memory_of_its_own_forgets_its_pairs(box):
    box.service["ada@bob"].absorb(BIO)
    assert box.service["ada"].forget().ids == ("ada@bob",)


def test_a_handle_outlives_its_memory(box):
    ada = box.service["ada"]
    ada.absorb(BIO)
    ada.forget()
    with pytest.raises(UnknownMemory):
        ada.status()
    assert ada.absorb("Ada is back.").tokens == 3
    box.service.close()
    ada.wait()


def test_the_base_model_alone_keeps_nothing(box):
    alone = box.service.without_memory
    with alone.stream(ASKED) as stream:
        text = "".join(stream)
    assert text == alone.reply(ASKED).text == box.service["ada"].reply(ASKED).text
    box.service["ada"].forget()
    alone.reply(ASKED)
    assert box.service.list() == ()
    assert repr(alone) == "WithoutMemory()"


def test_a_probe_compares_with_the_base_model(box):
    box.service["ada"].absorb(BIO)
    probe = box.service["ada"].probe("Where are they?", "on the roof.")
    assert (probe.tokens, probe.recalled) == (3, 1.0)
    assert probe.gain == pytest.approx(math.log(0.6 / 0.01))
    none = box.service["ada"].probe("Where are they?", "on the roof.", strength=0)
    assert none.gain == 0
    box.service.open("eve")
    assert box.service["eve"].probe("Where?", "there").gain == 0
    with pytest.raises(InvalidText):
        box.service["ada"].probe("Where?", "")
    with pytest.raises(UnknownMemory):
        box.service["nobody"].probe("Where?", "there")


def test_a_handle_has_the_verbs_of_its_memory(box, tmp_path):
    ada = box.service.open("ada")
    assert (ada.id, ada.service, repr(ada)) == ("ada", box.service, "Memory('ada')")
    assert ada.status().head_name is None
    with pytest.raises(UnknownMemory, match="learned nothing"):
        ada.adapter()
    first = ada.absorb(BIO).revision
    job = ada.absorb("Owls sleep in the barn.", wait=False)
    ada.wait()
    assert job.done
    assert ada.head().name == ada.revisions()[-1].name == job.wait().revision
    assert (ada.adapter() / "report.json").exists()
    assert ada.probe("Who?", "bees").tokens == 1
    assert ada.covered([Message("user", "x")]).messages == 0
    assert ada.rollback(first[:10]).name == first
    assert ada.generate("x", max_tokens=3).reply.completion_tokens == 3
    assert ada.rebuild(wait=False).wait().tokens > 0
    assert ada.export(tmp_path / "x.zip").exists()
    assert list(ada.stream([Message("user", "x")]))
    assert isinstance(ada.fork("eve"), Memory)
    assert ada.forget().ids == ("ada",)
