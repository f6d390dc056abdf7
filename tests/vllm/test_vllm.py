"""vLLM as the generator, against a stub of its endpoints."""

import json
import threading

import pytest

from templora_memory import Message, ParametricMemory, Policy, Sampling
from templora_memory.backends.vllm import VllmBackend
from templora_memory.backends.vllm.adapters import adapter_name
from templora_memory.errors import (
    Closed,
    InvalidSetting,
    InvalidText,
    ModelError,
    ModelNotFound,
    UnknownRevision,
)
from templora_memory.ports import Adapter, GenerateRequest
from templora_memory.stores import DirectoryStore
from templora_memory.testing import FakeBackend
from templora_memory.testing.contracts import BackendContract

pytestmark = pytest.mark.enable_socket
POLICY = Policy(window=96, reply_tokens=24, chunk=16)


class TestVllmBackend(BackendContract):
    @pytest.fixture(autouse=True)
    def _server(self, vllm):
        self._url = vllm.url

    def make_backend(self):
        return VllmBackend(FakeBackend(), self._url)


@pytest.fixture
def backend(vllm):
    made = VllmBackend(FakeBackend(), vllm.url, keep=2)
    made.open()
    yield made
    made.close()


@pytest.fixture
def service(vllm, tmp_path):
    backend = VllmBackend(FakeBackend(), vllm.url, keep=2)
    with ParametricMemory(backend, DirectoryStore(tmp_path / "root"), POLICY) as made:
        yield made


@pytest.fixture
def adapter(tmp_path):
    def make(number, text="Ada keeps bees.", version=None):
        folder = tmp_path / f"adapter{number}"
        folder.mkdir()
        (folder / "adapter.json").write_text(json.dumps([text]))
        return Adapter(folder=folder, version=version or f"ada/{number}")

    return make


def ask(adapter=None, **changes):
    values = {
        "messages": (Message("user", "Who keeps bees?"),),
        "adapter": adapter,
        "strength": 1.0,
        "sampling": Sampling(),
        "max_tokens": 24,
    }
    return GenerateRequest(**{**values, **changes})


def said(service, memory="ada"):
    return service[memory].reply([Message("user", "Who keeps bees?")])


# --- names and paths (S1, S3, S4) ----------------------------------------------------------------


def test_every_revision_has_a_name_and_a_path_of_its_own(service, vllm):
    texts = []
    for number in range(3):
        service["ada"].absorb(f"Text {number}: Ada keeps {number} bees.")
        texts.append(said(service).text)
    loads = [body for path, body in vllm.calls if path == "/v1/load_lora_adapter"]
    assert len({body["lora_name"] for body in loads}) == len(loads) == 3
    assert len({body["lora_path"] for body in loads}) == 3
    assert not any("load_inplace" in body for body in loads)
    # the stub answers from blocks cached by name and path: a stale one would say fewer texts
    assert [f"{n} texts in weights" in text for n, text in enumerate(texts, 1)] == [True] * 3


def test_the_same_path_with_other_content_has_another_name(backend, vllm, adapter):
    one = adapter(1, version="ada/one")
    backend.stream(ask(one)).completion  # noqa: B018  # waits
    (one.folder / "adapter.json").write_text(json.dumps(["Eve keeps bees."]))
    again = Adapter(folder=one.folder, version="ada/two")
    assert "Eve keeps bees" in backend.stream(ask(again)).completion.text
    assert len(vllm.loaded) == 2


@pytest.mark.parametrize("name", ["../../etc", "Füße 日本語", "x" * 256, "ada@bob", "a b:c"])
def test_no_memory_id_becomes_a_name(name):
    assert set(adapter_name(f"{name}/1")) <= set("templora-0123456789abcdef")
    assert len(adapter_name(f"{name}/1")) < 64
    assert adapter_name(f"{name}/1") != adapter_name(f"{name}/2")


def test_ids_reach_the_server_neither_as_name_nor_in_a_request(service, vllm):
    service["secret name"].absorb("Ada keeps bees.")
    said(service, "secret name")
    names = [body["lora_name"] for _, body in vllm.calls] + [body["model"] for body in vllm.asked]
    assert not any("secret" in name for name in names)


def test_the_turn_after_an_absorb_answers_with_the_new_revision(service, vllm):
    for text in ("Ada keeps bees.", "Ada sails."):
        service["ada"].absorb(text)
        reply = said(service)
        assert reply.revision == service["ada"].head().name
        manifest = service._store.manifest("ada")
        current = service._parts.absorber.adapter(manifest, manifest.newest)
        assert vllm.asked[-1]["model"] == adapter_name(current.version)


def test_the_base_answers_without_a_memory_and_at_strength_zero(backend, vllm, adapter):
    backend.stream(ask()).completion  # noqa: B018  # waits
    backend.stream(ask(adapter(1), strength=0.0)).completion  # noqa: B018  # waits
    assert {body["model"] for body in vllm.asked} == {"fake"}
    assert vllm.calls == []
    with pytest.raises(InvalidSetting, match="wholly"):
        backend.stream(ask(adapter(2), strength=0.5))


# --- letting go (S2) -----------------------------------------------------------------------------


def test_names_used_longest_ago_are_unloaded(backend, vllm, adapter):
    every = [adapter(number) for number in range(4)]
    for one in (every[0], every[1], every[0], every[2], every[3]):
        backend.stream(ask(one)).completion  # noqa: B018  # waits
    assert set(vllm.loaded) == {adapter_name(every[n].version) for n in (2, 3)}
    assert set(backend.registered) == set(vllm.loaded)
    assert "Ada keeps bees" in backend.stream(ask(every[1])).completion.text


def test_a_name_in_use_is_not_unloaded(backend, vllm, adapter):
    vllm.hold.clear()
    every = [adapter(number) for number in range(4)]
    streams = [backend.stream(ask(one)) for one in every]
    assert len(vllm.loaded) == 4
    vllm.hold.set()
    assert all("Ada keeps bees" in stream.completion.text for stream in streams)
    assert len(vllm.loaded) == 2


def test_forgetting_unloads_and_names_what_the_server_may_still_hold(service, vllm):
    backend = service._backend
    service["ada"].absorb("The zanzibar marble.")
    service["eve"].absorb("Eve sails.")
    said(service, "ada")
    said(service, "eve")
    (ada,) = [
        n for n in vllm.loaded if "zanzibar" in (vllm.weights[n] / "adapter.json").read_text()
    ]
    service["ada"].forget()
    assert ada not in vllm.loaded
    assert ada in vllm.weights  # as vLLM: the name is gone, the weights are not yet
    assert backend.pending == (ada,)
    for number in range(8):  # until others need the place
        service["eve"].absorb(f"Eve sails to island {number}.")
        said(service, "eve")
    assert ada not in vllm.weights


def test_a_receipt_names_every_revision_that_the_server_may_still_hold(service, vllm):
    for number in range(3):  # the first is unloaded for the third: two names are kept
        service["ada"].absorb(f"Marble {number}.")
        said(service, "ada")
    service["eve"].absorb("Eve sails.")
    said(service, "eve")
    held = {n for n in vllm.weights if "Marble" in (vllm.weights[n] / "adapter.json").read_text()}
    assert len(held) == 3
    receipt = service["ada"].forget()
    assert set(receipt.remote) == {f"{vllm.url}/{name}" for name in held}
    assert receipt.as_dict()["remote"] == receipt.remote
    assert service._backend.pending == tuple(one.rsplit("/", 1)[1] for one in receipt.remote)
    assert len(service["eve"].forget().remote) == 1


def test_closing_unloads_everything(vllm, adapter):
    backend = VllmBackend(FakeBackend(), vllm.url)
    backend.open()
    backend.stream(ask(adapter(1))).completion  # noqa: B018  # waits
    backend.close()
    assert vllm.loaded == {}
    with pytest.raises(Closed):
        backend.stream(ask())


# --- files (S5) ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["adapter_model.bin", "adapter_model.pt", "x.pkl", "run.py"])
def test_nothing_but_json_and_safetensors_is_handed_over(backend, vllm, adapter, name):
    one = adapter(1)
    (one.folder / name).write_bytes(b"pickle")
    with pytest.raises(InvalidSetting, match="only JSON and safetensors"):
        backend.stream(ask(one))
    assert vllm.calls == []


def test_a_link_is_not_handed_over(backend, vllm, adapter, tmp_path):
    one = adapter(1)
    (one.folder / "x.json").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InvalidSetting, match="a link"):
        backend.stream(ask(one))
    assert vllm.calls == []


def test_too_large_an_adapter_is_refused_before_anybody_reads_it(vllm, adapter):
    backend = VllmBackend(FakeBackend(), vllm.url, max_bytes=1000, max_rank=8)
    backend.open()
    large, wide, strange = adapter(1), adapter(2), adapter(3)
    with (large.folder / "adapter_model.safetensors").open("wb") as file:
        file.truncate(1 << 40)  # never read
    with pytest.raises(InvalidSetting, match="max_bytes"):
        backend.stream(ask(large))
    (wide.folder / "adapter_config.json").write_text('{"r": 16}')
    with pytest.raises(InvalidSetting, match=r"rank 16.*--max-lora-rank 16"):
        backend.stream(ask(wide))
    (strange.folder / "adapter_config.json").write_text("{}")
    with pytest.raises(InvalidSetting, match="no rank"):
        backend.stream(ask(strange))
    assert vllm.calls == []
    backend.close()


# --- several clients, trouble --------------------------------------------------------------------


def test_two_clients_of_one_server_do_not_disturb_each_other(vllm, adapter):
    one, two = (VllmBackend(FakeBackend(), vllm.url) for _ in range(2))
    shared = adapter(1)
    for backend in (one, two):
        backend.open()
        assert "Ada keeps bees" in backend.stream(ask(shared)).completion.text
    two.close()  # unloads what the first has registered too
    assert "Ada keeps bees" in one.stream(ask(shared)).completion.text
    one.close()


def test_one_adapter_is_loaded_once_for_many_requests(backend, vllm, adapter):
    shared, found = adapter(1), []
    threads = [
        threading.Thread(target=lambda: found.append(backend.stream(ask(shared)).completion.text))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(set(found)) == 1
    assert len(found) == 8
    assert len(vllm.calls) == 1


def test_a_folder_the_server_sees_under_another_path(vllm, adapter, tmp_path):
    def elsewhere(folder):
        return str(tmp_path / "." / folder.name)

    backend = VllmBackend(FakeBackend(), vllm.url, path=elsewhere)
    backend.open()
    backend.stream(ask(adapter(1))).completion  # noqa: B018  # waits
    assert vllm.calls[0][1]["lora_path"] == elsewhere(tmp_path / "adapter1")
    backend.close()


def test_what_the_server_cannot_load_says_what_it_needs(backend, vllm, adapter):
    vllm.failing = True
    with pytest.raises(ModelError, match=r"out of memory.*ALLOW_RUNTIME_LORA_UPDATING"):
        backend.stream(ask(adapter(1)))


def test_an_answer_that_breaks_off_is_an_error(backend, vllm):
    vllm.hold.clear()
    stream = backend.stream(ask())
    pieces = iter(stream)
    next(pieces)
    vllm.failing = True
    vllm.hold.set()
    with pytest.raises(ModelError, match="the engine died"):
        list(pieces)


def test_closing_a_stream_ends_it_for_the_thread_that_reads(backend, vllm):
    vllm.hold.clear()
    stream = backend.stream(ask())
    said, first = [], threading.Event()

    def read():
        for piece in stream:
            said.append(piece)
            first.set()

    reader = threading.Thread(target=read)
    reader.start()
    assert first.wait(30)
    stream.close()
    reader.join(10)
    assert not reader.is_alive()
    assert stream.completion.finish_reason == "cancelled"


def test_closing_the_backend_ends_its_streams(vllm):
    backend = VllmBackend(FakeBackend(), vllm.url)
    backend.open()
    vllm.hold.clear()
    stream = backend.stream(ask())
    pieces = iter(stream)
    next(pieces)
    backend.close()
    with pytest.raises(Closed):
        list(pieces)


def test_sampling_reaches_the_server(backend, vllm):
    sampling = Sampling(
        temperature=0.5, top_p=0.9, top_k=5, seed=3, stop=("x",), repetition_penalty=1.2,
        ignore_end=True, min_p=0.1, frequency_penalty=0.5, presence_penalty=-0.5, logprobs=2,
    )  # fmt: skip
    backend.stream(ask(sampling=sampling)).completion  # noqa: B018  # waits
    asked = vllm.asked[-1]
    expected = {
        "temperature": 0.5, "top_p": 0.9, "top_k": 5, "seed": 3, "stop": ["x"],
        "repetition_penalty": 1.2, "ignore_eos": True, "max_tokens": 24, "stream": True,
        "min_p": 0.1, "frequency_penalty": 0.5, "presence_penalty": -0.5, "logprobs": True,
        "top_logprobs": 2,
    }  # fmt: skip
    assert {name: asked[name] for name in expected} == expected
    schema = '{"type": "object"}'
    backend.stream(ask(sampling=Sampling(schema=schema))).completion  # noqa: B018  # waits
    assert vllm.asked[-1]["response_format"]["json_schema"]["schema"] == {"type": "object"}


def test_a_server_that_is_not_there_or_serves_another_model(vllm):
    with pytest.raises(ModelNotFound, match="does not answer"):
        VllmBackend(FakeBackend(), "http://127.0.0.1:9").open()
    with pytest.raises(ModelNotFound, match="'other'"):
        VllmBackend(FakeBackend(), vllm.url, model="other").open()
    for url in ("localhost:8000", "ftp://x", "http://"):
        with pytest.raises(InvalidSetting, match="HOST:PORT"):
            VllmBackend(FakeBackend(), url)
    with pytest.raises(InvalidSetting, match="keep"):
        VllmBackend(FakeBackend(), vllm.url, keep=0)


def test_limits_are_those_of_the_smaller_one(vllm):
    vllm.length = 512
    backend = VllmBackend(FakeBackend(), vllm.url)
    backend.open()
    assert backend.limits.max_length == 512
    backend.close()


def test_a_request_the_server_refuses_is_the_callers(backend, vllm, monkeypatch):
    def refuse(handler, _):
        handler._say(400, '{"error": {"message": "roles must alternate"}}')

    monkeypatch.setattr(vllm, "chat", refuse)
    with pytest.raises(InvalidText, match="roles must alternate"):
        backend.stream(ask())


def test_a_vanished_folder_is_an_unknown_revision(backend, tmp_path):
    with pytest.raises(UnknownRevision):
        backend.stream(ask(Adapter(folder=tmp_path / "gone", version="x")))
