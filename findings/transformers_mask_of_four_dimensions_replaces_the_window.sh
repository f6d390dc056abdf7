#!/bin/bash
# transformers 5.23.0: a model with a sliding window that is handed a causal attention mask of four
# dimensions takes it as it is for every layer, and its window no longer applies: tokens see all that
# the mask shows them. Without a mask, or with one of two dimensions, the window holds. So packed
# examples with a mask of their own train such a model on other attention than it runs with, silently.
#
# Seen: "two dimensions: as without a mask True", "four dimensions: as without a mask False",
#       "four dimensions: as without a window True"
# Fails if that changes.
set -euo pipefail
dir=$(mktemp -d) && trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3.11 -m venv env
env/bin/pip install --quiet --disable-pip-version-check torch==2.13.0 transformers==5.23.0
cat > run.py <<'PY'
import torch
from transformers import MistralConfig, MistralForCausalLM

torch.manual_seed(0)
sizes = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 2,
}
model = MistralForCausalLM(MistralConfig(sliding_window=4, **sizes)).eval()
wide = MistralForCausalLM(MistralConfig(sliding_window=None, **sizes)).eval()
wide.load_state_dict(model.state_dict())
ids = torch.arange(16)[None]
causal = torch.full((16, 16), torch.finfo(torch.float32).min).triu(1)[None, None]
with torch.no_grad():
    plain = model(ids).logits
    flat = model(ids, attention_mask=torch.ones_like(ids)).logits
    full = model(ids, attention_mask=causal).logits
    windowless = wide(ids).logits
print("two dimensions: as without a mask", torch.allclose(flat, plain, atol=1e-5))
print("four dimensions: as without a mask", torch.allclose(full, plain, atol=1e-5))
print("four dimensions: as without a window", torch.allclose(full, windowless, atol=1e-5))
PY
env/bin/python run.py 2>/dev/null | tee output
diff output - <<'EXPECTED'
two dimensions: as without a mask True
four dimensions: as without a mask False
four dimensions: as without a window True
EXPECTED
echo "as described"
