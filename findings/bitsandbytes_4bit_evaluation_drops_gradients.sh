#!/bin/bash
# bitsandbytes 0.50.2, processors with AVX-512 bfloat16 only: the first forward of a Linear4bit in
# evaluation mode, on an input that wants no gradient, repacks its weights for an operation without a
# backward pass, and every later forward uses it, also of inputs that do want a gradient. The output
# still says requires_grad=True, backward() raises nothing, and what is below gets no gradient at all:
# a LoRA in a lower layer of a frozen model in evaluation mode learns nothing. Only torch's warning of
# a missing autograd kernel tells. In training mode the same layers pass the gradient on.
#
# Seen: "training: output wants gradient True, gradient below arrives"
#       "evaluation: output wants gradient True, gradient below None"
# Fails if that changes. Says so and passes where the processor lacks the feature.
set -euo pipefail
if ! grep -qw avx512_bf16 /proc/cpuinfo; then
  echo "This processor has no AVX-512 bfloat16: nothing to see."
  exit 0
fi
dir=$(mktemp -d) && trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3.11 -m venv env
env/bin/pip install --quiet --disable-pip-version-check torch==2.13.0 bitsandbytes==0.50.2
cat > run.py <<'PY'
import warnings

import bitsandbytes as bnb
import torch

warnings.simplefilter("ignore")
for mode in ("training", "evaluation"):
    torch.manual_seed(0)
    layers = [bnb.nn.Linear4bit(64, 64, bias=False, compute_dtype=torch.float32) for _ in range(2)]
    model = torch.nn.Sequential(*layers).to("cpu").train(mode == "training")
    with torch.no_grad():
        model(torch.ones(1, 64))  # as any answer before the first training step
    below = torch.ones(64, requires_grad=True)
    output = model(below[None] * torch.ones(1, 64))
    output.sum().backward()
    gradient = "None" if below.grad is None else "arrives" if below.grad.abs().sum() else "zero"
    print(f"{mode}: output wants gradient {output.requires_grad}, gradient below {gradient}")
PY
env/bin/python run.py 2>/dev/null | tee output
diff output - <<'EXPECTED'
training: output wants gradient True, gradient below arrives
evaluation: output wants gradient True, gradient below None
EXPECTED
echo "as described"
