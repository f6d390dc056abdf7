"""Faults while a real model learns and answers; counted for `python -m tools.trust`."""

from __future__ import annotations

import threading
import time

import pytest
import torch

from templora_memory import Learning, Message, ParametricMemory, Policy
from templora_memory.backends.local.train.step import batch_loss
from templora_memory.errors import LearningFailed, ModelError, StoreDamaged
from templora_memory.stores import DirectoryStore
from tests.local.generate_requests import ENDLESS

RUNS = "templora_memory.backends.local.train.runs"
LEARNING = Learning(r=2, learning_rate=3e-3, document_steps=8, carry_optimizer=True)
POLICY = Policy(window=200, reply_tokens=20, chunk=32, recipe="continue", learning=LEARNING)
BIO = "Ada keeps bees on the roof of the old observatory, and her cat is grey."


@pytest.fixture
def make_service(make_backend, tmp_path):
    made = []

    def make(policy=POLICY):
        service = ParametricMemory(make_backend(), DirectoryStore(tmp_path / "root"), policy)
        made.append(service)
        return service.load()

    yield make
    for service in made:
        service.close(cancel=True)


@pytest.fixture
def tried(record_property):
    def note(kind, count=1):
        row = {"suite": "faults", "kind": kind, "tried": count, "lost": 0, "half": 0, "unclear": 0}
        record_property("trust", row)

    return note


def unharmed(service, before, *texts):
    """The old revision answers, the texts are kept, and learning goes on."""
    assert service["ada"].revisions() == before
    kept = [document.text for document in service["ada"].transcript().documents]
    assert kept == [BIO, *texts]
    assert service["ada"].reply([Message("user", "Hi")], revision="head", max_tokens=4)
    service["ada"].resume().wait()
    assert service["ada"].status().absorbed_documents == 1 + len(texts)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        MemoryError("no more"),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
    ],
    ids=["cuda", "python", "cpu"],
)
@pytest.mark.parametrize("step", [1, 5])
def test_memory_runs_out_in_a_training_step(make_service, monkeypatch, tried, error, step):
    service = make_service()
    service["ada"].absorb(BIO)
    before, steps = service["ada"].revisions(), {"left": step}
    real = batch_loss

    def short(*args):
        steps["left"] -= 1
        if steps["left"] == 0:
            raise error
        return real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(f"{RUNS}.batch_loss", short)
        with pytest.raises(LearningFailed, match=r"not enough memory.*smaller chunk"):
            service["ada"].absorb("Her sister Cora sails to Madeira.")
    tried("out of memory in a training step")
    unharmed(service, before, "Her sister Cora sails to Madeira.")


def test_another_error_of_the_model_is_not_called_a_lack_of_memory(make_service, monkeypatch):
    service = make_service()

    def wrong(*_):
        raise RuntimeError("shapes differ")

    monkeypatch.setattr(f"{RUNS}.batch_loss", wrong)
    with pytest.raises(RuntimeError, match="shapes differ"):
        service["ada"].absorb(BIO)


@pytest.mark.parametrize(("kind", "rate"), [("diverging loss", 50.0), ("loss that is NaN", 1e30)])
def test_a_loss_goes_astray(make_service, tried, kind, rate):
    service = make_service()
    service["ada"].absorb(BIO)
    before = service["ada"].revisions()
    service.close()
    wild = make_service(POLICY.changed(learning={"learning_rate": rate, "document_steps": 40}))
    text = "Her sister Cora sails to Madeira."
    with pytest.raises(LearningFailed, match=r"old revision stays.*[Ll]ower"):
        wild["ada"].absorb(text)
    wild.close()
    tried(kind)
    unharmed(make_service(), before, text)


def test_the_thread_of_the_model_dies(make_service, monkeypatch, tried):
    """Everybody who waits is told, nobody waits for ever, and the next start is healthy."""
    service = make_service()
    service["ada"].absorb(BIO)
    before = service["ada"].revisions()
    thread = service.backend.loaded.thread
    stream = service["ada"].stream([Message("user", "Hi")], sampling=ENDLESS, max_tokens=20)
    pieces = iter(stream)
    next(pieces)
    errors = []

    def wait(call):
        try:
            call()
        except ModelError as error:
            errors.append(error)

    waiting = [
        threading.Thread(target=wait, args=(call,))
        for call in (
            lambda: list(pieces),
            lambda: service["ada"].absorb("Her sister Cora sails to Madeira."),
            lambda: service["ada"].probe("Who?", "Cora"),
        )
    ]

    def die(**_):
        raise SystemError("a bug in the worker")

    monkeypatch.setattr(thread._training, "step", die)
    for thread in waiting:
        thread.start()
    for thread in waiting:
        thread.join(30)
        assert not thread.is_alive()
    assert "a bug in the worker" in str(errors[0])
    assert all("make a new one" in str(error) for error in errors)
    with pytest.raises(ModelError, match="SystemError"):
        service["ada"].reply([Message("user", "Hi")])
    service.close()
    tried("worker thread that dies")
    unharmed(make_service(), before, "Her sister Cora sails to Madeira.")


@pytest.mark.parametrize("leaves", ["sleeps", "closes", "forgets the stream", "raises"])
def test_a_consumer_that_is_slow_or_gone_delays_nobody(make_service, tried, leaves):
    service = make_service()
    service["ada"].absorb(BIO)
    stream = service["ada"].stream([Message("user", "Tell me")], sampling=ENDLESS, max_tokens=20)
    pieces = iter(stream)
    next(pieces)
    if leaves == "closes":
        stream.close()
    elif leaves == "forgets the stream":
        del stream, pieces
    elif leaves == "raises":
        with pytest.raises(ZeroDivisionError), stream:
            raise ZeroDivisionError
    began = time.monotonic()
    assert service["eve"].reply([Message("user", "Hi")], max_tokens=4).text is not None
    assert service["eve"].absorb("Eve sails.").tokens
    assert service["ada"].forget().files
    assert time.monotonic() - began < 30
    assert service.list() == ("eve",)
    tried("slow or vanishing consumer")


@pytest.mark.parametrize(
    "name", ["adapter_model.safetensors", "adapter_config.json", "optimizer.safetensors",
             "training.json", "report.json"]
)  # fmt: skip
def test_a_bit_flips_in_a_file_of_a_real_adapter(make_service, tried, tmp_path, name):
    service = make_service()
    service["ada"].absorb(BIO)
    head = service["ada"].head()
    service.close()
    path = tmp_path / "root" / "ada" / "revisions" / head.name / name
    whole = path.read_bytes()
    flips = 4
    for number in range(flips):
        body = bytearray(whole)
        body[number * len(body) // flips] ^= 1 << 2 * number
        path.write_bytes(body)
        again = make_service()
        for verb in (
            lambda again=again: again["ada"].reply([Message("user", "Hi")], max_tokens=2),
            lambda again=again: again["ada"].absorb("Her sister Cora sails to Madeira."),
        ):
            with pytest.raises(StoreDamaged, match=f"{name}.*rebuild"):
                verb()
        again.close()
    tried(f"bit flip in {name}", flips)
    path.write_bytes(whole)
    last = make_service()
    last["ada"].resume().wait()
    assert last["ada"].status().absorbed_documents == 2
