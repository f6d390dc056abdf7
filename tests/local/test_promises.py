"""The promises of the package, with a real model behind the service."""

from __future__ import annotations

import gc
import random
import threading

import pytest
import torch
from peft import PeftModel

from templora_memory import Document, Learning, Message, ParametricMemory, Policy, Sampling
from templora_memory.ports import ScoreRequest
from templora_memory.stores import DirectoryStore

POLICY = Policy(window=200, reply_tokens=20, chunk=48, learning=Learning(r=4, learning_rate=3e-3))
QUICK = POLICY.changed(learning={"document_steps": 4})  # where it does not matter what is learned
PLANTED = "The password of the tower is heliotrope-4711."


@pytest.fixture
def make_service(make_backend, tmp_path):
    made = []

    def make(policy=POLICY, **changes):
        service = ParametricMemory(
            make_backend(**changes), DirectoryStore(tmp_path / "root"), policy
        )
        made.append(service)
        return service.load()

    yield make
    for service in made:
        service.close(cancel=True)


def exact_scores(service, adapter=None):
    request = ScoreRequest(context="", target="The bees of Ada fly over the sea.", adapter=adapter)
    return service.backend.score([request])


def bytes_below(folder):
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


def test_learning_into_one_memory_changes_no_bit_of_another_or_of_the_base(make_service):
    service = make_service()
    base = exact_scores(service)
    service["b"].absorb("Blue birds sing in the morning.")
    probe = service["b"].probe("Who sings?", "Blue birds")
    service["a"].absorb("Red cats sleep all day long, says Ada.")
    assert service["b"].probe("Who sings?", "Blue birds") == probe
    assert exact_scores(service) == base
    after = service["a"].probe("Who sleeps?", "Red cats")
    assert after.with_memory != after.without_memory


def test_forgetting_leaves_no_byte_and_gives_the_base_back(make_service, tmp_path):
    service = make_service()
    base = exact_scores(service)
    without = service.without_memory.reply([Message("user", "Hi")]).text
    service["a"].absorb(PLANTED)
    history = [Message("user", f"Remember: {PLANTED}")]
    history.append(Message("assistant", service["a"].reply(history, max_tokens=5).text))
    service["a"].absorb(history)
    service.open("a@bob").absorb(PLANTED + " Says Bob.")
    assert PLANTED.encode() in bytes_below(tmp_path / "root")
    receipt = service["a"].forget()
    assert receipt.ids == ("a", "a@bob")
    assert receipt.bytes > 0
    left = bytes_below(tmp_path / "root")
    assert b"heliotrope" not in left
    assert b"4711" not in left
    assert service.list() == ()
    assert exact_scores(service) == base
    assert service.without_memory.reply([Message("user", "Hi")]).text == without
    assert not service.backend._adapters


@pytest.mark.slow
def test_three_hundred_turns_go_through_a_small_window(make_service):
    service = make_service()
    history = []
    rng = random.Random(4)  # noqa: S311
    for number in range(300):
        words = " ".join(rng.choices(["bees", "sea", "cat", "roof", "rain"], k=3))
        history.append(Message("user", f"{number}: {words}?"))
        reply = service["ada"].reply(history, max_tokens=8)
        assert reply.prompt_tokens + 8 <= 200
        history.append(Message("assistant", reply.text))
    service.wait()
    assert service["ada"].status().last_error is None
    assert service["ada"].transcript().messages == tuple(history)
    revisions = service["ada"].revisions()
    service["ada"].reply(history[:-1], max_tokens=8)  # sent again
    service["ada"].absorb(history[: revisions[-1].messages])
    service.wait()
    assert service["ada"].revisions() == revisions
    covered = service["ada"].covered(history)
    assert 0 < covered.messages < len(history)
    assert covered.messages % 2 == 0


def test_sixteen_threads_get_the_answers_they_would_get_alone(make_service):
    """Replies and absorbs of four memories mixed; each reply names the revision that gave it."""
    service = make_service(QUICK.changed(keep_revisions=100))
    ids = ["a", "b", "c", "d"]
    for number, memory in enumerate(ids):
        service[memory].absorb(f"{memory} likes the number {number} and the colour {number * 7}.")
    sampling = Sampling(ignore_end=True)
    given, errors = [], []

    def work(number):
        try:
            for count in range(4):
                memory = ids[(number + count) % 4]
                asked = [Message("user", f"What does {memory} like, {number}?")]
                if (number + count) % 5 == 0:
                    service[memory].absorb(f"Note {number} of round {count} for {memory}.")
                reply = service[memory].reply(asked, max_tokens=10, sampling=sampling)
                given.append((memory, asked, reply))
        except Exception as error:  # noqa: BLE001
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert len(given) == 64
    for memory, asked, reply in given:
        alone = service[memory].reply(
            asked, max_tokens=10, sampling=sampling, revision=reply.revision
        )
        assert alone == reply
    assert len({reply.revision for _, _, reply in given}) > len(ids)


def test_peft_reads_what_a_memory_has_learned(make_service, make_model, make_tokenizer):
    service = make_service()
    service["ada"].absorb("Ada keeps bees on the roof.")
    model = PeftModel.from_pretrained(make_model(), service["ada"].adapter()).eval()
    text = "Ada keeps bees"
    ids = torch.tensor([make_tokenizer()(text)["input_ids"]])
    with torch.no_grad():
        theirs = model(ids).logits.log_softmax(-1)[0, :-1].gather(1, ids[0, 1:, None]).squeeze(1)
    manifest = service._store.manifest("ada")
    adapter = service._parts.absorber.adapter(manifest, manifest.newest)
    request = ScoreRequest(context="", target=text, adapter=adapter)
    (ours,) = service.backend.score([request])
    assert (torch.tensor(ours) - theirs).abs().max() < 1e-4


def test_a_rebuild_gives_the_same_weights_again(make_service):
    """The seed comes from the memory id and the place in the journal."""
    service = make_service()
    service["ada"].absorb([Document("Ada keeps bees."), Document("Her cat is grey.")])
    before = (service["ada"].adapter() / "adapter_model.safetensors").read_bytes()
    service["ada"].rebuild()
    assert (service["ada"].adapter() / "adapter_model.safetensors").read_bytes() == before


def test_endless_text_is_learned_chunk_by_chunk(make_service):
    service = make_service()
    sampling = Sampling(temperature=1.0, seed=1, ignore_end=True)
    stream = service["story"].generate("Once upon a time", max_tokens=400, sampling=sampling)
    seen = list(stream)
    reply = stream.reply
    assert "".join(seen) == reply.text
    assert reply.completion_tokens == 400
    assert reply.finish_reason == "length"
    status = service["story"].status()
    assert status.absorbed_documents == status.document_count == 9
    texts = [document.text for document in service["story"].transcript().documents]
    assert "".join(texts) == "Once upon a time" + reply.text


def test_a_long_prompt_is_learned_before_the_text_goes_on(make_service):
    service = make_service()
    prompt = "It rained for days and days. " * 20
    reply = service["story"].generate(prompt, max_tokens=10).reply
    assert reply.prompt_tokens <= 200
    assert reply.absorbed_tokens > 500


def test_strength_zero_is_exactly_the_base(make_service):
    service = make_service()
    service["ada"].absorb("Ada keeps bees.")
    question = [Message("user", "Where?")]
    off = service["ada"].reply(question, strength=0.0, max_tokens=10)
    assert off.text == service.without_memory.reply(question, max_tokens=10).text
    assert service["ada"].probe("Where?", "bees", strength=0.0).gain == 0.0


def test_memories_that_come_and_go_leave_nothing_in_memory(make_service):
    """P11: optimizer states, caches and graphs are what really leaks."""
    service = make_service(QUICK)

    def cycle(number):
        name = f"guest {number}"
        service[name].absorb("Ada keeps bees on the roof.")
        service[name].reply([Message("user", "Hi")], max_tokens=4)
        service[name].forget()

    def alive():
        gc.collect()
        return sum(1 for item in gc.get_objects() if issubclass(type(item), torch.Tensor))

    for number in range(3):
        cycle(number)
    before = alive()
    for number in range(20):
        cycle(number)
    assert alive() <= before
    assert not service.backend._adapters
