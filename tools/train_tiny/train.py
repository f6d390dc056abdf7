"""The training loop: resumable at any step, the same code on two cores and on a GPU."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm
from transformers import LlamaConfig, LlamaForCausalLM

from tools.train_tiny.settings import OptimizerSettings, Phase, Settings

SHARD_BYTES = 16_000_000
PIECE = 1024  # rows of logits at a time: the whole tokens-by-vocabulary matrix does not fit a cache


def build_model(settings: Settings, end: int, end_of_text: int) -> LlamaForCausalLM:
    shape = settings.model
    torch.manual_seed(settings.seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=settings.tokenizer.vocabulary,
            hidden_size=shape.hidden_size,
            intermediate_size=shape.intermediate_size,
            num_hidden_layers=shape.num_hidden_layers,
            num_attention_heads=shape.num_attention_heads,
            num_key_value_heads=shape.num_key_value_heads,
            max_position_embeddings=shape.max_position_embeddings,
            rope_parameters={"rope_type": "default", "rope_theta": shape.rope_theta},
            tie_word_embeddings=True,
            bos_token_id=None,
            pad_token_id=end_of_text,
            eos_token_id=[end, end_of_text],
            attn_implementation="sdpa",
        )
    )


# --- data --------------------------------------------------------------------------------------


class TokenFiles:
    """Random windows from the files that `prepare` wrote; opened as memory maps."""

    def __init__(self, folder: Path, sources: set[str]) -> None:
        self._files = {
            name: tuple(
                np.load(folder / f"{name}.{part}.npy", mmap_mode="r")
                for part in ("tokens", "weights", "starts")
            )
            for name in sorted(sources)
        }

    def window(
        self, source: str, length: int, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """`length` + 1 tokens and loss weights; stories from anywhere, the rest from a document's start."""
        tokens, weights, starts = self._files[source]
        last = len(tokens) - length - 1
        start = (
            int(rng.integers(last))
            if source == "stories"
            else min(int(starts[rng.integers(len(starts))]), last)
        )
        stop = start + length + 1
        return tokens[start:stop].astype(np.int64), weights[start:stop].astype(np.float32)


def repeated(
    length: int, vocabulary: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A random sequence that comes again and again: nothing but copying predicts it."""
    period = int(rng.integers(6, max(8, length // 2)))
    once = rng.integers(5, vocabulary, period)  # bytes too: digits must be copied
    tokens = np.tile(once, length // period + 2)[: length + 1]
    weights = np.ones(length + 1, np.float32)
    weights[: period + 1] = 0.0
    return tokens.astype(np.int64), weights


def batch(files: TokenFiles, phase: Phase, settings: Settings, step: int) -> tuple[Tensor, Tensor]:
    """Tokens and loss weights [rows, length + 1] of one step; the same step gives the same batch."""
    rng = np.random.default_rng([settings.seed, step])
    names = sorted(phase.mixture)
    shares = np.array([phase.mixture[name] for name in names])
    rows = [
        repeated(phase.length, settings.tokenizer.vocabulary, rng)
        if name == "repeat"
        else files.window(name, phase.length, rng)
        for name in rng.choice(names, phase.rows, p=shares / shares.sum())
    ]
    tokens, weights = zip(*rows, strict=True)
    return torch.from_numpy(np.stack(tokens)), torch.from_numpy(np.stack(weights))


def phase_of(settings: Settings, step: int) -> Phase:
    done = 0.0
    for phase in settings.phase:
        done += phase.share
        if step < done * settings.run.steps:
            return phase
    return settings.phase[-1]


# --- optimizer ---------------------------------------------------------------------------------


def orthogonalize(matrix: Tensor) -> Tensor:
    """Five Newton-Schulz steps towards the nearest orthogonal matrix (Muon, Jordan et al. 2024)."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x: Tensor = matrix.mT if matrix.size(-2) > matrix.size(-1) else matrix
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if matrix.size(-2) > matrix.size(-1) else x


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised, for matrices; in the parameters' own precision (float32 here).

    torch's own Muon rounds to bfloat16, which a processor without bfloat16 units computes slowly.
    """

    def __init__(self, parameters: list[nn.Parameter], rate: float, weight_decay: float) -> None:
        super().__init__(parameters, {"lr": rate, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]  # no closure: nothing here asks for one
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[nn.Parameter]] = {}
            for parameter in group["params"]:
                by_shape.setdefault(parameter.shape, []).append(parameter)
            for shape, parameters in by_shape.items():
                updates = []
                for parameter in parameters:
                    gradient = parameter.grad
                    if gradient is None:
                        raise ValueError("A step before a backward pass.")
                    momentum = self.state[parameter].setdefault(
                        "momentum", torch.zeros_like(parameter)
                    )
                    momentum.lerp_(gradient, 0.05)
                    updates.append(gradient.lerp(momentum, 0.95))
                steps = orthogonalize(torch.stack(updates)) * max(1.0, shape[0] / shape[1]) ** 0.5
                for parameter, update in zip(parameters, steps, strict=True):
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    parameter.add_(update, alpha=-group["lr"])


def optimizers(model: nn.Module, settings: OptimizerSettings) -> tuple[Muon, torch.optim.AdamW]:
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    return (
        Muon(matrices, settings.matrix_rate, settings.weight_decay),
        torch.optim.AdamW(
            others, lr=settings.other_rate, betas=(0.9, 0.95), weight_decay=0.0, fused=True
        ),
    )


def rate_factor(settings: Settings, step: int) -> float:
    """Warm-up, then constant, then linear down to a twentieth."""
    total, decay = settings.run.steps, settings.optimizer.decay_share
    down = (total - step) / max(1.0, decay * total)
    return min(1.0, (step + 1) / settings.optimizer.warmup_steps, max(0.05, down))


# --- checkpoints -------------------------------------------------------------------------------


def save_checkpoint(
    folder: Path, step: int, model: nn.Module, parts: tuple[torch.optim.Optimizer, ...]
) -> None:
    """Weights and optimizer state in safetensors shards; replaces the checkpoint before it."""
    tensors = {f"model.{name}": p.detach() for name, p in model.named_parameters()}
    for index, optimizer in enumerate(parts):
        for slot, state in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer{index}.{slot}.{key}": value for key, value in state.items()}
    fresh = folder.with_name(folder.name + ".new")
    fresh.mkdir(parents=True, exist_ok=True)
    for number, shard in enumerate(_shards(tensors)):
        save_file(
            {key: value.contiguous().cpu() for key, value in shard.items()},
            fresh / f"{number:03}.safetensors",
        )
    (fresh / "state.json").write_text(json.dumps({"step": step}), encoding="utf-8")
    old = folder.with_name(folder.name + ".old")
    if folder.exists():
        folder.rename(old)
    fresh.rename(folder)
    if old.exists():
        for file in old.iterdir():
            file.unlink()
        old.rmdir()


def _shards(tensors: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    shard: dict[str, Tensor] = {}
    size = 0
    for key, value in tensors.items():
        if shard and size + value.nbytes > SHARD_BYTES:
            yield shard
            shard, size = {}, 0
        shard[key] = value
        size += value.nbytes
    yield shard


def load_checkpoint(
    folder: Path, model: nn.Module, parts: tuple[torch.optim.Optimizer, ...]
) -> int:
    """Restore what `save_checkpoint` wrote; returns the step to go on with."""
    tensors: dict[str, Tensor] = {}
    for shard in sorted(folder.glob("*.safetensors")):
        tensors |= load_file(shard)
    own = dict(model.named_parameters())
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(tensors[f"model.{name}"])
    for index, optimizer in enumerate(parts):
        prefix = f"optimizer{index}."
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            if key.startswith(prefix):
                slot, name = key.removeprefix(prefix).split(".", 1)
                state.setdefault(int(slot), {})[name] = value
        optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    return int(json.loads((folder / "state.json").read_text(encoding="utf-8"))["step"])


def load_weights(folder: Path, model: nn.Module) -> None:
    """The weights of an exported model, for a run that goes on from it."""
    stored = load_file(folder / "model.safetensors")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(stored[name])


# --- the loop ----------------------------------------------------------------------------------


def loss_of(model: LlamaForCausalLM, tokens: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean of next-token losses, with the logits made a piece at a time."""
    hidden = model.model(input_ids=tokens[:, :-1], use_cache=False).last_hidden_state.flatten(0, 1)
    labels, weight = tokens[:, 1:].flatten(), weights[:, 1:].flatten()
    total: Tensor = hidden.new_zeros(())
    for start in range(0, len(labels), PIECE):
        cut = slice(start, start + PIECE)
        loss = functional.cross_entropy(
            model.lm_head(hidden[cut]).float(), labels[cut], reduction="none"
        )
        total = total + (loss * weight[cut]).sum()
    return total / weight.sum()


def train(
    work: Path, settings: Settings, *, minutes: float | None, start: Path | None = None
) -> int:
    """Train until the settings' steps or `minutes` are over; returns the steps done so far.

    Args:
        work: token files and tokenizer; checkpoints and the log go there.
        settings: of the run.
        minutes: stop after this long, with a checkpoint.
        start: a model folder whose weights the first step begins with; a checkpoint under `work`
            goes before it. None: random weights.
    """
    marks = json.loads((work / "tokenizer.json").read_text(encoding="utf-8"))["added_tokens"]
    ids = {row["content"]: row["id"] for row in marks}
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = build_model(settings, ids["<|end|>"], ids["<|endoftext|>"]).to(device)
    parts = optimizers(model, settings.optimizer)
    base_rates = [[group["lr"] for group in part.param_groups] for part in parts]
    folder = work / "checkpoint"
    step = 0
    if folder.exists():
        step = load_checkpoint(folder, model, parts)
    elif start is not None:
        load_weights(start, model)
    compute = torch.compile(loss_of) if settings.run.compile else loss_of
    sources = {name for phase in settings.phase for name in phase.mixture} - {"repeat"}
    files = TokenFiles(work, sources)
    started, seen, smooth = time.monotonic(), 0, None
    log = (work / "log.jsonl").open("a", encoding="utf-8")
    bar = tqdm(total=settings.run.steps, initial=step, desc="train", disable=None)
    while step < settings.run.steps:
        if minutes is not None and time.monotonic() - started > 60 * minutes:
            break
        phase = phase_of(settings, step)
        tokens, weights = (x.to(device) for x in batch(files, phase, settings, step))
        factor = rate_factor(settings, step)
        for part, rates in zip(parts, base_rates, strict=True):
            for group, rate in zip(part.param_groups, rates, strict=True):
                group["lr"] = rate * factor
        with torch.autocast("cuda", torch.bfloat16, enabled=device.type == "cuda"):
            loss = compute(model, tokens, weights)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for part in parts:
            part.step()
            part.zero_grad()
        step += 1
        seen += tokens.numel()
        value = float(loss.detach())
        smooth = value if smooth is None else 0.98 * smooth + 0.02 * value
        speed = seen / (time.monotonic() - started)
        bar.update()
        bar.set_postfix(loss=f"{smooth:.3f}", tokens_per_s=f"{speed:.0f}")
        if step % settings.run.checkpoint_every == 0 or step == settings.run.steps:
            save_checkpoint(folder, step, model, parts)
            log.write(
                json.dumps(
                    {"step": step, "loss": smooth, "tokens_per_s": speed, "pid": os.getpid()}
                )
                + "\n"
            )
            log.flush()
    bar.close()
    log.close()
    save_checkpoint(folder, step, model, parts)
    return step
