"""A quantised base, an adapter in float32: it learns, answers, and the base stays as it is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers

import templora_memory.tiny
from templora_memory import Document, Message, ParametricMemory, Policy
from templora_memory.backends.local import LocalBackend
from templora_memory.backends.local.base_model import keep_gradients
from templora_memory.stores import DirectoryStore

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*will be cast:UserWarning"),
]
BIO = "The keeper of the light at Vellin is Oda Marn. Oda Marn keeps three white goats."


def four_bits():
    pytest.importorskip("bitsandbytes")
    return transformers.BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=torch.float32)


def eight_bits():
    pytest.importorskip("bitsandbytes")
    return transformers.BitsAndBytesConfig(load_in_8bit=True)


def torchao_eight_bits():
    quantisation = pytest.importorskip("torchao.quantization")
    return transformers.TorchAoConfig(quant_type=quantisation.Int8WeightOnlyConfig())


@pytest.mark.parametrize("make", [four_bits, eight_bits, torchao_eight_bits])
def test_a_memory_learns_on_a_quantised_base(make, tmp_path):
    folder = Path(templora_memory.tiny.__path__[0])
    backend = LocalBackend(folder, device="cpu", dtype="float32", quantization_config=make())
    policy = Policy(recipe="continue").changed(learning={"document_steps": 6})
    with ParametricMemory(backend, DirectoryStore(tmp_path), policy) as memory:
        layer = next(iter(backend.loaded.base.layers.values()))
        before = bytes(layer.weight.detach().dequantize().numpy().tobytes())
        report = memory["oda"].absorb(Document(BIO))
        assert report.perplexity_after < report.perplexity_before
        reply = memory["oda"].reply([Message("user", "Who is Oda Marn?")], max_tokens=4)
        assert reply.completion_tokens
        assert memory["oda"].forget().files
        assert bytes(layer.weight.detach().dequantize().numpy().tobytes()) == before


def test_gradients_flow_through_layers_of_four_bits():
    """Also where a processor has a faster way, which has no backward pass."""
    bitsandbytes = pytest.importorskip("bitsandbytes")
    layer = bitsandbytes.nn.Linear4bit(64, 64, bias=False, compute_dtype=torch.float32).to("cpu")
    layer.support_avx512bf16_for_cpu = True  # as on such a processor
    keep_gradients(torch.nn.Sequential(layer.eval()))
    with torch.no_grad():
        layer(torch.ones(2, 64))  # the forward that would repack the weights
    inputs = torch.ones(2, 64, requires_grad=True)
    layer(inputs).sum().backward()
    weight = bitsandbytes.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
    assert torch.allclose(inputs.grad, weight.sum(0).expand(2, -1), atol=1e-4)
