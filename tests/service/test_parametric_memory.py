"""The service as a whole: its surface, its life, and many threads."""

import copy
import pickle
import threading

import pytest

from templora_memory import Memory, Message, ParametricMemory, Policy, WithoutMemory
from templora_memory.errors import (
    Closed,
    InvalidSetting,
)
from templora_memory.testing import FakeBackend

BIO = "Ada keeps bees on the roof."


def public(kind):
    return {name for name in vars(kind) if not name.startswith("_")}


def test_a_verb_stands_in_one_place():
    assert public(ParametricMemory) & public(Memory) == {"forget", "wait"}
    assert public(WithoutMemory) == {"reply", "stream"}
    with pytest.raises(TypeError):
        ParametricMemory.forget(None, "ada")  # of a user, by keyword only


def test_a_service_is_not_copied_and_not_pickled(box):
    for value in (box.service, box.service["ada"]):
        copied = copy.deepcopy({"memory": value})["memory"]
        assert getattr(copied, "service", copied) is box.service
        with pytest.raises(TypeError, match="cannot be pickled"):
            pickle.dumps(value)
    assert copy.copy(box.service) is box.service
    for stream in (
        box.service["ada"].stream([Message("user", "x")]),
        box.service["ada"].generate(max_tokens=1),
    ):
        with pytest.raises(TypeError, match="cannot be pickled or copied"):
            copy.deepcopy(stream)


def test_construction_loads_nothing_and_first_use_does(make_box):
    box = make_box()
    box.service = ParametricMemory(box.backend, box.store, Policy(window=64))
    assert "not loaded" in repr(box.service)
    assert not box.root.exists()
    box.service["ada"].absorb(BIO)
    assert ", open)" in repr(box.service)


def test_a_closed_service_says_so(make_box):
    box = make_box()
    box.open()
    with box.service as service:
        ada = service.open("ada")
    service.close()
    assert "closed" in repr(service)
    for call in (
        service.load,
        service.list,
        lambda: service.policy,
        lambda: service.base,
        lambda: ada.absorb(BIO),
        lambda: ada.reply([Message("user", "x")]),
        lambda: ada.fork("eve"),
        lambda: ada.generate(max_tokens=1),
        ada.forget,
        lambda: service.import_("x.zip"),
    ):
        with pytest.raises(Closed):
            call()


def test_closing_finishes_background_work(make_box, gate):
    box = make_box(on_learn=gate)
    box.open()
    job = box.service["ada"].absorb(BIO, wait=False)
    closing = threading.Thread(target=box.service.close)
    closing.start()
    gate.open.set()
    closing.join(30)
    assert job.wait(0).tokens == 6


def test_a_policy_that_does_not_suit_the_model_is_refused_at_loading(make_box):
    box = make_box(context=64)
    with pytest.raises(InvalidSetting, match="trained with 64"):
        box.open()


def test_many_threads_get_the_answers_they_would_get_alone(make_box):  # noqa: C901
    names = ("ada", "bob", "eve", "zoe")

    def converse(name):
        history = []
        for number in range(12):
            history.append(Message("user", f"What did {name} say about house number {number}?"))
            assert box.service[name].reply(history).text
            history.append(Message("assistant", f"{name} said something about house {number}."))

    box, alone = make_box(), make_box("alone")
    box.open(window=64, reply_tokens=24, chunk=16)
    alone.open(window=64, reply_tokens=24, chunk=16)
    errors, replies = [], {}
    for name in names:
        box.service[name].absorb(f"The secret of {name} is number{name}.")

    def run(index):
        name = names[index % 4]
        try:
            for round_ in range(6):
                question = Message("user", f"What is the secret of {name}? {round_}")
                replies[index, round_] = box.service[name].reply([question]).text
            if index < 4:
                converse(name)
        except Exception as error:  # noqa: BLE001  # shown by the claim below
            errors.append(error)

    threads = [threading.Thread(target=run, args=(index,)) for index in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    box.service.wait()
    assert errors == []
    for name in names:
        alone.service[name].absorb(f"The secret of {name} is number{name}.")
    for (index, round_), text in replies.items():
        name = names[index % 4]
        question = Message("user", f"What is the secret of {name}? {round_}")
        assert text == alone.service[name].reply([question]).text
        assert f"number{name}" in text
    for name in names:
        assert box.service[name].status().last_error is None
        weights = "".join(p.read_text() for p in (box.root / name).rglob("adapter.json"))
        assert not any(f"number{other}" in weights for other in names if other != name)


def test_two_services_on_one_store_lose_nothing(make_box):
    boxes = [make_box(), make_box()]
    for box in boxes:
        box.open()
    errors = []

    def run(index):
        try:
            for number in range(5):
                boxes[index].service["ada"].absorb(f"Text {number} of {index}.")
        except Exception as error:  # noqa: BLE001
            errors.append(error)

    threads = [threading.Thread(target=run, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == []
    assert boxes[0].service["ada"].status().absorbed_documents == 10


def test_the_fake_is_named_in_a_repr():
    assert repr(FakeBackend(name="x")) == "FakeBackend('x')"
