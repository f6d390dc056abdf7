#!/bin/bash
# transformers 5.23.0 loads a GGUF file on a processor into ordinary float layers (every one is
# torch.nn.Linear, every weight float32), and still calls the model quantised: save_pretrained
# raises ValueError. With GgufConfig(dequantize=True) the same layers with the same weights come
# out, and the model can be saved. Whoever wants to train on it, export it or merge an adapter into
# it has to ask for dequantize even where the default has dequantised everything already.
#
# Seen: "default: Linear float32 quantised True save ValueError"
#       "dequantize: Linear float32 quantised False save ok"
#       "same weights: True"
# Fails if that changes.
set -euo pipefail
dir=$(mktemp -d) && trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3.11 -m venv env
env/bin/pip install --quiet --disable-pip-version-check torch==2.13.0 transformers==5.23.0 gguf==0.19.0 accelerate==1.15.0
cat > make.py <<'PY'
"""A llama of two layers with random weights, in Q8_0, written by gguf's own writer."""
import gguf
import numpy as np

WIDTH, MLP, HEADS, WORDS, LAYERS = 64, 128, 4, 96, 2
rng = np.random.default_rng(0)
writer = gguf.GGUFWriter("model.gguf", "llama")
writer.add_name("random")
writer.add_block_count(LAYERS)
writer.add_context_length(128)
writer.add_embedding_length(WIDTH)
writer.add_feed_forward_length(MLP)
writer.add_head_count(HEADS)
writer.add_head_count_kv(HEADS)
writer.add_layer_norm_rms_eps(1e-6)
writer.add_rope_dimension_count(WIDTH // HEADS)
writer.add_vocab_size(WORDS)
shapes = {"token_embd": (WORDS, WIDTH), "output": (WORDS, WIDTH)}
for layer in range(LAYERS):
    for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
        shapes[f"blk.{layer}.{name}"] = (WIDTH, WIDTH)
    shapes |= {f"blk.{layer}.ffn_{n}": (MLP, WIDTH) for n in ("gate", "up")}
    shapes[f"blk.{layer}.ffn_down"] = (WIDTH, MLP)
kind = gguf.GGMLQuantizationType.Q8_0
for name, shape in shapes.items():
    weight = gguf.quantize(rng.normal(0, 0.1, shape).astype(np.float32), kind)
    writer.add_tensor(f"{name}.weight", weight, raw_dtype=kind)
norms = [f"blk.{n}.{part}_norm" for n in range(LAYERS) for part in ("attn", "ffn")]
for name in (*norms, "output_norm"):
    writer.add_tensor(f"{name}.weight", np.ones(WIDTH, np.float32))
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()
PY
cat > load.py <<'PY'
import torch
from transformers import AutoModelForCausalLM, GgufConfig

models = {}
for name, extra in (("default", {}), ("dequantize", {"quantization_config": GgufConfig(dequantize=True)})):
    model = AutoModelForCausalLM.from_pretrained(".", gguf_file="model.gguf", dtype=torch.float32, **extra)
    models[name] = model
    kinds = {type(part).__name__ for label, part in model.named_modules() if label.endswith("_proj")}
    kinds |= {str(weight.dtype).removeprefix("torch.") for weight in model.parameters()}
    try:
        model.save_pretrained(name)
        saved = "ok"
    except ValueError as error:
        saved = type(error).__name__
    print(f"{name}: {' '.join(sorted(kinds))} quantised {model.is_quantized} save {saved}")
pairs = zip(models["default"].parameters(), models["dequantize"].parameters(), strict=True)
print("same weights:", all(torch.equal(one, other) for one, other in pairs))
PY
env/bin/python make.py
HF_HUB_OFFLINE=1 env/bin/python load.py 2>/dev/null | tee output
diff output - <<'EXPECTED'
default: Linear float32 quantised True save ValueError
dequantize: Linear float32 quantised False save ok
same weights: True
EXPECTED
echo "as described"
