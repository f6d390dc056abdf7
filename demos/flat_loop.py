"""Temp-LoRA as published (arXiv 2401.11504), flat, on plain transformers and peft.

One function, so that one can see at a glance what `templora_memory` does with more care. It is
also the reference: the preset "reference" gives the same losses on the same tokens.

    python demos/flat_loop.py book.txt --model templora_memory/tiny --chunk 256 --context 256
    python demos/flat_loop.py book.txt --model templora_memory/tiny --write 2
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, TaskType, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    get_constant_schedule_with_warmup,
)

LORA = LoraConfig(
    r=64,
    lora_alpha=64,
    lora_dropout=0.05,
    target_modules="all-linear",  # every linear layer but the head
    task_type=TaskType.CAUSAL_LM,
)
IGNORED = -100  # the label of tokens that are seen and not learned


def temp_lora(
    model: Any,
    chunks: Iterable[list[int]],
    *,
    context: int = 1024,
    seed: int = 42,
    epochs: int = 2,
) -> list[float]:
    """Learn chunks of token ids one after the other; the model is the base again afterwards.

    Returns the loss of every optimizer step, in nats per token: `epochs` numbers a chunk. A chunk
    of a lazy iterable is drawn after the one before it was learned, so it may come from the model.
    """
    torch.manual_seed(seed)  # of the adapter's start values
    lora = get_peft_model(model, LORA)
    trained = [weight for weight in lora.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=5e-5, eps=1e-7, weight_decay=0.0)
    schedule = get_constant_schedule_with_warmup(optimizer, num_warmup_steps=2)
    past: list[int] = []
    losses: list[float] = []
    for chunk in chunks:
        before = past[max(0, len(past) - context) :]
        ids = torch.tensor([before + chunk], device=lora.device)
        labels = torch.tensor([[IGNORED] * len(before) + chunk], device=lora.device)
        lora.train()
        for _ in range(epochs):
            torch.manual_seed(seed + len(losses))  # of dropout in this optimizer step
            loss = lora(input_ids=ids, labels=labels, use_cache=False).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
        schedule.step()  # once a chunk, as released: the rate is 0, then half, then whole
        lora.eval()
        past += chunk
    lora.unload()
    return losses


def own_text(model: Any, prompt: list[int], *, chunk: int, count: int) -> Iterator[list[int]]:
    """The prompt, then chunks that the model writes with what it has learned by then."""
    text = prompt
    yield prompt
    for _ in range(count):
        shown = torch.tensor([text[-chunk:]], device=model.device)
        written = model.generate(
            input_ids=shown,
            attention_mask=torch.ones_like(shown),
            min_new_tokens=chunk,
            max_new_tokens=chunk,
            do_sample=False,
            repetition_penalty=1.12,
        )
        new = written[0, shown.shape[1] :].tolist()
        text = text + new
        yield new


def main() -> None:
    """Run the loop over a file, and print the perplexities."""
    parser = argparse.ArgumentParser(description="Temp-LoRA in a flat loop.")
    parser.add_argument("text", type=Path, help="a UTF-8 text file")
    parser.add_argument("--model", required=True, help="a folder or a hub id")
    parser.add_argument("--chunk", type=int, default=1024, help="tokens per update")
    parser.add_argument("--context", type=int, default=1024, help="tokens seen before a chunk")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--write", type=int, help="learn the first chunk and write this many more")
    options = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32).eval()
    ids = tokenizer(options.text.read_text(encoding="utf-8"), verbose=False).input_ids
    chunks: Iterable[list[int]] = (
        ids[start : start + options.chunk] for start in range(0, len(ids), options.chunk)
    )
    if options.write is not None:
        chunks = _shown(
            tokenizer,
            own_text(model, ids[: options.chunk], chunk=options.chunk, count=options.write),
        )
    losses = temp_lora(model, chunks, context=options.context, seed=options.seed)
    for number, loss in enumerate(losses[::2]):
        print(f"chunk {number:4d}  perplexity before learning it {math.exp(loss):10.2f}")


def _shown(tokenizer: Any, chunks: Iterable[list[int]]) -> Iterator[list[int]]:
    for chunk in chunks:
        print(tokenizer.decode(chunk), end="\n\n")
        yield chunk


if __name__ == "__main__":
    main()
