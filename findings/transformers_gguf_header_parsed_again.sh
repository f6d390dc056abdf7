#!/bin/bash
# To load a model and its tokenizer from one GGUF file, transformers 5.23.0 parses the file's header
# three times, and makes gguf's table of tensor names anew for every module of the model, by
# recursion over all of them: 33 tables for the two layers here, 397 for a llama of 30 layers. gguf
# turns each token of the vocabulary into arrays of its own, so with 49,152 tokens that was 6 of the
# 12 seconds that loading a 98 MB file took on two cores; sharing one reader and one table in the
# process halved it.
#
# Seen: "readers: 3 of 1 file"
#       "tables of tensor names: 33, all equal"
# Fails if that changes.
set -euo pipefail
dir=$(mktemp -d) && trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3.11 -m venv env
env/bin/pip install --quiet --disable-pip-version-check torch==2.13.0 transformers==5.23.0 gguf==0.19.0 accelerate==1.15.0
cat > make.py <<'PY'
"""A llama of two layers with random weights and a tokenizer of bytes, by gguf's own writer."""
import gguf
import numpy as np
from tokenizers.pre_tokenizers import ByteLevel

WIDTH, MLP, HEADS, LAYERS = 32, 64, 4, 2
words = [*sorted(ByteLevel.alphabet()), "ab", "cd", "<|end|>"]
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
writer.add_vocab_size(len(words))
writer.add_tokenizer_model("gpt2")
writer.add_tokenizer_pre("gpt-2")
writer.add_token_list(words)
writer.add_token_types([gguf.TokenType.NORMAL] * 258 + [gguf.TokenType.CONTROL])
writer.add_token_merges(["a b", "c d"])
writer.add_eos_token_id(258)
shapes = {"token_embd": (len(words), WIDTH), "output": (len(words), WIDTH)}
for layer in range(LAYERS):
    for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
        shapes[f"blk.{layer}.{name}"] = (WIDTH, WIDTH)
    shapes |= {f"blk.{layer}.ffn_{n}": (MLP, WIDTH) for n in ("gate", "up")}
    shapes[f"blk.{layer}.ffn_down"] = (WIDTH, MLP)
for name, shape in shapes.items():
    writer.add_tensor(f"{name}.weight", rng.normal(0, 0.1, shape).astype(np.float32))
norms = [f"blk.{n}.{part}_norm" for n in range(LAYERS) for part in ("attn", "ffn")]
for name in (*norms, "output_norm"):
    writer.add_tensor(f"{name}.weight", np.ones(WIDTH, np.float32))
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()
PY
cat > load.py <<'PY'
import os

import gguf
from transformers import AutoModelForCausalLM, AutoTokenizer

reader, table = gguf.GGUFReader, gguf.get_tensor_name_map
files, tables = [], []


class CountedReader(reader):
    def __init__(self, path, *args, **kwargs):
        files.append(os.path.realpath(path))
        super().__init__(path, *args, **kwargs)


def counted_table(*args):
    tables.append(args)
    return table(*args)


gguf.GGUFReader, gguf.get_tensor_name_map = CountedReader, counted_table
AutoTokenizer.from_pretrained(".", gguf_file="model.gguf")
AutoModelForCausalLM.from_pretrained(".", gguf_file="model.gguf")
print(f"readers: {len(files)} of {len(set(files))} file")
print(f"tables of tensor names: {len(tables)}, {'all equal' if len(set(tables)) == 1 else 'different'}")
PY
env/bin/python make.py
HF_HUB_OFFLINE=1 env/bin/python load.py 2>err | tee output || { tail -3 err; exit 1; }
diff output - <<'EXPECTED'
readers: 3 of 1 file
tables of tensor names: 33, all equal
EXPECTED
echo "as described"
