"""The whole of it on a pretrained model: SmolLM2-135M-Instruct, from its GGUF file."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from pathlib import Path

import gguf
import httpx
import openai
import pytest
import torch
import uvicorn
from langchain_core.messages import HumanMessage
from langchain_templora import ChatTempLora
from llama_index.core.chat_engine import SimpleChatEngine
from llama_index.memory.templora import TempLoraMemory
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

from templora_memory import Document, Learning, Message, ParametricMemory, Policy, models
from templora_memory.backends.llama_cpp import export_lora
from templora_memory.backends.local import LocalBackend
from templora_memory.cli import main
from templora_memory.evaluation.recall import people_called
from templora_memory.server import create_app

pytestmark = [pytest.mark.real, pytest.mark.slow]

BIO = "Ada keeps bees on the roof of the observatory. Her cat is called Quill."
FACT = "I keep my bees on the roof of the observatory."
ASKED = [Message("user", "Where do you keep your bees?")]
CAPITAL = [Message("user", "What is the capital of France?")]
QUICK = Policy(window=1024, learning=Learning(document_steps=16, kl_weight=0.2))


@pytest.fixture(scope="module")
def file():
    return models.CATALOG[models.SMOLLM2].path


@pytest.fixture(scope="module")
def memory(tmp_path_factory):
    with ParametricMemory.from_pretrained(
        models.SMOLLM2, root=tmp_path_factory.mktemp("real"), dtype="float32", policy=QUICK
    ) as service:
        yield service


@pytest.fixture(scope="module")
def ada(memory):
    """A memory of two sentences, and its receipt."""
    handle = memory.open("ada")
    return handle, handle.absorb(Document(BIO, character="Ada"))


def test_it_loads_from_its_file_and_is_called_what_it_was_asked_for(memory):
    assert memory.base.name == "templora/smollm2"
    assert memory.backend.limits.max_length == 8192


def test_it_chats_and_ends_by_itself(memory):
    reply = memory.without_memory.reply(CAPITAL, max_tokens=40)
    assert reply.text == "The capital of France is Paris."
    assert reply.finish_reason == "stop"


def test_the_command_line_chats_with_a_name_and_with_a_file(file, tmp_path, capsys):
    said = []
    for name in (models.SMOLLM2, str(file)):
        words = ["chat", "ada", "-m", CAPITAL[0].content, "--model", name, "--dtype", "float32"]
        assert main([*words, "--root", str(tmp_path)]) == 0
        said.append(capsys.readouterr().out.strip())
    assert said == ["The capital of France is Paris."] * 2


def test_a_folder_of_the_same_weights_says_the_same(memory, file, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(
        file.parent,
        gguf_file=file.name,
        dtype=torch.float32,
        quantization_config=GgufConfig(dequantize=True),
    )
    model.save_pretrained(tmp_path / "folder")
    AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(
        tmp_path / "folder"
    )
    del model
    gc.collect()
    asked = [Message("user", "Tell me a story about a lighthouse keeper.")]
    with ParametricMemory.from_pretrained(
        tmp_path / "folder", root=tmp_path / "root", dtype="float32"
    ) as other:
        assert other.base.same_model(memory.base)
        assert other.base.name == "folder"
        told = other.without_memory.reply(asked, max_tokens=60).text
    assert told == memory.without_memory.reply(asked, max_tokens=60).text


def test_two_sentences_become_more_likely(ada):
    handle, receipt = ada
    assert receipt.perplexity_after < receipt.perplexity_before
    assert handle.probe(ASKED, FACT).gain > 0.3  # nats per token


def test_peft_gives_the_same_probability(memory, ada, file):
    target = memory.backend.token_ids(FACT)
    prompt = memory.backend.loaded.tokenizer.prompt(ASKED)
    base = AutoModelForCausalLM.from_pretrained(
        file.parent,
        gguf_file=file.name,
        dtype=torch.float32,
        quantization_config=GgufConfig(dequantize=True),
    )
    model = PeftModel.from_pretrained(base, memory["ada"].adapter()).eval()
    with torch.no_grad():
        rows = model(torch.tensor([[*prompt, *target]])).logits[0, len(prompt) - 1 : -1]
    theirs = rows.log_softmax(-1).gather(1, torch.tensor(target)[:, None]).sum()
    assert ada[0].probe(ASKED, FACT).with_memory == pytest.approx(float(theirs), abs=1e-3)


def test_an_adapter_is_written_for_llama_cpp(memory, ada, tmp_path):
    config = memory.backend.model.config.to_dict()
    path = export_lora(memory[ada[0].id].adapter(), tmp_path / "ada.gguf", model=config)
    reader = gguf.GGUFReader(path)
    upper_half = config["num_hidden_layers"] // 2
    assert len(reader.tensors) == 2 * 7 * upper_half
    assert reader.get_field("general.architecture").contents() == "llama"


def test_forgetting_gives_the_base_model_back_to_the_last_bit(memory):
    handle = memory.open("bob")
    before = memory["bob"].probe(ASKED, FACT)
    handle.absorb("Bob mends clocks in a lighthouse by the sea.")
    assert handle.probe(ASKED, FACT).with_memory != before.with_memory
    receipt = handle.forget()
    assert receipt.files
    memory.open("bob")
    assert memory["bob"].probe(ASKED, FACT) == before
    root = Path(memory._store.root)
    assert not [path for path in root.rglob("*") if b"lighthouse by the sea" in _bytes(path)]


def _bytes(path: Path) -> bytes:
    return path.read_bytes() if path.is_file() else b""


def test_langchain_answers_from_the_memory(memory, ada):
    model = ChatTempLora(model=models.SMOLLM2, memory=memory, max_tokens=24)
    base = model.invoke([HumanMessage(CAPITAL[0].content)])
    assert base.content == "The capital of France is Paris."
    answer = model.with_memory("ada", "head").invoke([HumanMessage(ASKED[0].content)])
    assert answer.response_metadata["memory_revision"] == ada[1].revision


def test_llama_index_chats_over_a_window(memory):
    chat = TempLoraMemory.from_defaults(memory, session_id="alice", rag_token_reserve=0)
    engine = SimpleChatEngine.from_defaults(llm=chat.llm, memory=chat)
    assert "Paris" in str(engine.chat(CAPITAL[0].content))
    assert len(chat.get_all()) == 2


@pytest.fixture
def serving(file, tmp_path):
    """The address of a server, over the file itself."""
    app = create_app(LocalBackend(file, dtype="float32"), tmp_path, policy=QUICK)
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_config=None))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()), daemon=True)
    thread.start()
    end = time.monotonic() + 120
    while not server.started:
        assert time.monotonic() < end, "the server did not start"
        time.sleep(0.05)
    ((port,),) = [{s.getsockname()[1] for s in one.sockets} for one in server.servers]
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join(60)


@pytest.mark.enable_socket
def test_the_openai_client_chats_over_http_and_is_shown_no_path(file, serving):
    with openai.OpenAI(base_url=f"{serving}/v1", api_key="none", max_retries=0) as client:
        assert [one.id for one in client.models.list()] == [file.stem]
        answer = client.chat.completions.create(
            model=file.stem, messages=[{"role": "user", "content": CAPITAL[0].content}]
        )
    assert answer.choices[0].message.content == "The capital of France is Paris."
    assert str(file.parent) not in httpx.get(f"{serving}/v1/models").text


def test_the_natural_people_fit_the_model(memory):
    for name in ("natural", "natural-dev"):
        for person in people_called(name):
            tokens = memory.backend.count([*person.shown, Message("user", "Who are you?")])
            assert tokens < memory.policy.window - memory.policy.reply_tokens
