"""Base models in one GGUF file."""

from __future__ import annotations

import threading
from pathlib import Path

import gguf
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

import templora_memory
from templora_memory import Learning, Message, ParametricMemory, Policy
from templora_memory.backends.local import LocalBackend, gguf_file
from templora_memory.errors import BaseMismatch, ModelNotFound, UnsupportedModel
from templora_memory.stores import DirectoryStore

TINY = Path(templora_memory.__file__).parent / "tiny"
TYPES = gguf.GGMLQuantizationType
ASKED = [Message("user", "Where do you live, and who was there in 1984?")]
QUICK = Policy(learning=Learning(kl_weight=0.0), recipe="continue")


@pytest.fixture(scope="module")
def tiny():
    model = AutoModelForCausalLM.from_pretrained(TINY, dtype=torch.float32)
    return model, AutoTokenizer.from_pretrained(TINY)


@pytest.fixture(scope="module")
def file(tiny, write_gguf, tmp_path_factory):
    return write_gguf(tmp_path_factory.mktemp("gguf") / "Small-3M.F32.gguf", *tiny)


def base_and_reply(name, root):
    with ParametricMemory.from_pretrained(name, root=root, dtype="float32") as memory:
        return memory.base, memory.without_memory.reply(ASKED, max_tokens=40).text


def test_file_and_folder_say_the_same(file, tmp_path):
    folder = tmp_path / "folder"
    for part in TINY.iterdir():
        if part.is_file():
            (folder / part.name).parent.mkdir(exist_ok=True)
            (folder / part.name).write_bytes(part.read_bytes())
    _, from_file = base_and_reply(file, tmp_path / "root")
    assert from_file == base_and_reply(folder, tmp_path / "root")[1]
    assert len(from_file) > 20


def test_the_identity_is_the_content_and_the_name_is_the_stem(file, tiny, write_gguf, tmp_path):
    copy = tmp_path / "elsewhere" / "Another.gguf"
    copy.parent.mkdir()
    copy.write_bytes(file.read_bytes())
    first, again = (
        base_and_reply(file, tmp_path / "root")[0],
        base_and_reply(copy, tmp_path / "root")[0],
    )
    assert first.same_model(again)
    assert (first.name, again.name) == ("Small-3M.F32", "Another")
    coarse = write_gguf(tmp_path / "Small-3M.Q8_0.gguf", *tiny, precision=TYPES.Q8_0)
    assert not first.same_model(base_and_reply(coarse, tmp_path / "root")[0])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_weights_are_ordinary_ones_in_the_chosen_precision(file, dtype, tmp_path):
    backend = LocalBackend(file, dtype=dtype, device="cpu")
    backend.open()
    assert {weight.dtype for weight in backend.model.parameters()} == {getattr(torch, dtype)}
    backend.model.save_pretrained(tmp_path / "saved")  # raises for a quantised model
    backend.close()


def test_a_memory_learned_on_a_file_loads_in_peft_and_on_a_copy(file, tmp_path):
    with ParametricMemory.from_pretrained(
        file, root=tmp_path / "root", dtype="float32", policy=QUICK
    ) as memory:
        memory["ada"].absorb("Ada keeps bees on the roof of the observatory.")
        adapter = memory["ada"].adapter()
        ours = memory["ada"].probe(ASKED, "On the roof.").with_memory
        prompt = memory.backend.loaded.tokenizer.prompt(ASKED)
        target = memory.backend.token_ids("On the roof.")
    base = AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=torch.float32
    )
    model = PeftModel.from_pretrained(base, adapter)
    ids = torch.tensor([[*prompt, *target]])
    with torch.no_grad():
        rows = model(ids).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
    theirs = float(rows.gather(1, torch.tensor(target)[:, None]).sum())
    assert ours == pytest.approx(theirs, abs=1e-3)
    (tmp_path / "copy.gguf").write_bytes(file.read_bytes())
    with ParametricMemory.from_pretrained(
        tmp_path / "copy.gguf", root=tmp_path / "root", dtype="float32", policy=QUICK
    ) as memory:
        assert memory["ada"].probe(ASKED, "On the roof.").with_memory == ours


def test_another_file_is_another_base_model(file, tiny, write_gguf, tmp_path):
    store = DirectoryStore(tmp_path / "root")
    with ParametricMemory(LocalBackend(file, dtype="float32"), store, QUICK) as memory:
        memory["ada"].absorb("Ada keeps bees.")
    coarse = write_gguf(tmp_path / "coarse.gguf", *tiny, precision=TYPES.Q8_0)
    with (
        ParametricMemory(LocalBackend(coarse, dtype="float32"), store, QUICK) as memory,
        pytest.raises(BaseMismatch, match=r"'Small-3M\.F32'.*'coarse'"),
    ):
        memory.open("ada")


def test_what_lies_beside_the_file_is_not_taken_for_its_own(file, tmp_path):
    copy = tmp_path / "model.gguf"
    copy.write_bytes(file.read_bytes())
    (tmp_path / "chat_template.jinja").write_text("NONSENSE")
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "the"}')
    (tmp_path / "config.json").write_text('{"model_type": "gpt2", "n_layer": 1}')
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": 7}')
    assert base_and_reply(copy, tmp_path / "root")[1] == base_and_reply(file, tmp_path / "root")[1]


def test_files_load_at_once_and_leave_gguf_as_it_was(file):
    before = gguf.GGUFReader, gguf.get_tensor_name_map, gguf_file.reading.tqdm
    backends = [LocalBackend(file, dtype="float32") for _ in range(3)]
    threads = [threading.Thread(target=backend.open) for backend in backends]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {backend.identity.weights for backend in backends} == {backends[0].identity.weights}
    for backend in backends:
        backend.close()
    assert before == (gguf.GGUFReader, gguf.get_tensor_name_map, gguf_file.reading.tqdm)


def test_a_file_is_parsed_once_and_its_table_of_names_is_made_once(file, monkeypatch):
    parsed, tables = [], []
    parse, make_names = gguf.GGUFReader, gguf.get_tensor_name_map
    monkeypatch.setattr(gguf, "GGUFReader", lambda path: parsed.append(path) or parse(path))
    monkeypatch.setattr(
        gguf, "get_tensor_name_map", lambda *names: tables.append(names) or make_names(*names)
    )
    backend = LocalBackend(file, dtype="float32")
    backend.open()
    backend.close()
    assert len(parsed) == 1
    assert len(tables) == 1


def test_no_bar_is_drawn_for_a_local_file(file, capfd):
    backend = LocalBackend(file, dtype="float32")
    backend.open()
    backend.close()
    assert "it/s" not in capfd.readouterr().err


def refused(path):
    with pytest.raises((ModelNotFound, UnsupportedModel)) as caught:
        LocalBackend(path, dtype="float32").open()
    return caught.type, str(caught.value)


@pytest.mark.parametrize(
    ("extra", "words"),
    [({"kind": "rwkv6"}, "'rwkv6'"), ({"split_count": 3}, "one of 3 parts")],
)
def test_a_file_that_transformers_cannot_read_is_named(tiny, write_gguf, tmp_path, extra, words):
    kind, message = refused(write_gguf(tmp_path / "odd.gguf", *tiny, **extra))
    assert kind is UnsupportedModel
    assert words in message


def test_a_file_without_a_tokenizer_is_refused(tiny, write_gguf, tmp_path):
    kind, message = refused(write_gguf(tmp_path / "mute.gguf", tiny[0]))
    assert kind is ModelNotFound
    assert "no tokenizer" in message


def test_an_adapter_is_not_taken_for_a_model(tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "lora.gguf", "llama")
    writer.add_type("adapter")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert "'adapter'" in refused(tmp_path / "lora.gguf")[1]


@pytest.mark.parametrize("share", [0.0, 0.00001, 0.001, 0.3, 0.99])
def test_a_truncated_file_is_refused(file, tmp_path, share):
    content = file.read_bytes()
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(content[: int(share * len(content))])
    kind, message = refused(cut)
    assert kind is ModelNotFound
    assert "GGUF" in message or "cut short" in message


def test_a_missing_file_and_a_file_of_another_kind_are_told_apart(tmp_path):
    assert "There is no file" in refused(tmp_path / "none.gguf")[1]
    (tmp_path / "text.gguf").write_text("hello")
    assert "no GGUF file" in refused(tmp_path / "text.gguf")[1]


def test_a_folder_with_only_a_gguf_file_says_how_to_name_it(file):
    assert str(file) in refused(file.parent)[1]


def test_a_folder_with_only_a_pickle_says_that_it_is_never_read(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    assert "pytorch_model.bin is a pickle file" in refused(tmp_path)[1]
