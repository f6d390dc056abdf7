import copy
import sys
from pathlib import Path

import pytest
import torch
from peft import get_peft_model

from templora_memory import Document, Policy
from templora_memory.backends.local import LocalBackend
from templora_memory.ports import Adapter, LearningControl, LearnRequest

DEMOS = Path(__file__).parents[2] / "demos"
CHUNK, CONTEXT, SEED = 24, 16, 5
TEXT = (
    "Ada keeps bees on the roof of the old observatory. Her cat is called Pim, and he is grey. "
    "Every spring she counts the hives, and every autumn she sells the honey."
)[: 5 * CHUNK]


@pytest.fixture
def flat_loop(monkeypatch):
    monkeypatch.syspath_prepend(str(DEMOS))
    import flat_loop  # noqa: PLC0415  # a script, found through the path set above

    yield flat_loop
    sys.modules.pop("flat_loop")


def test_the_reference_preset_has_the_losses_of_the_flat_loop(
    flat_loop, make_model, make_tokenizer, tmp_path
):
    model, tokenizer = make_model("llama"), make_tokenizer()
    ids = tokenizer(TEXT, add_special_tokens=False).input_ids
    chunks = [ids[start : start + CHUNK] for start in range(0, len(ids), CHUNK)]
    assert len(chunks) == 5
    expected = flat_loop.temp_lora(copy.deepcopy(model), chunks, context=CONTEXT, seed=SEED)

    torch.manual_seed(SEED)
    get_peft_model(copy.deepcopy(model), flat_loop.LORA).save_pretrained(tmp_path / "start")
    backend = LocalBackend.of(model, tokenizer)
    backend.open()
    policy = Policy.preset("reference", learning={"context": CONTEXT, "seed": SEED})
    request = LearnRequest(
        items=(Document(TEXT),),
        before=(),
        start=Adapter(folder=tmp_path / "start", version="m/start"),
        chunk=CHUNK,
        recipe="continue",
        settings=policy.learning,
    )
    (tmp_path / "into").mkdir()
    stats = backend.learn(request, into=tmp_path / "into", control=LearningControl())
    backend.close()

    assert [chunk.nll_before for chunk in stats.chunks] == pytest.approx(expected[::2], abs=1e-3)


def test_the_flat_loop_leaves_the_base_model_bit_for_bit(flat_loop, make_model):
    model = make_model("llama").eval()
    ids = torch.arange(20)[None]
    before = model(input_ids=ids).logits
    flat_loop.temp_lora(model, [list(range(20)), list(range(20, 40))], context=8)
    assert torch.equal(model(input_ids=ids).logits, before)


def test_the_flat_loop_learns_nothing_from_the_first_chunk_alone(flat_loop, make_model):
    # the released warm-up: the rate is zero until the schedule has stepped once
    losses = flat_loop.temp_lora(make_model("llama"), [list(range(20))] * 3, context=0, seed=1)
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)  # B is zero: dropout changes nothing
    assert losses[4] < losses[2]
