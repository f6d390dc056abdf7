"""From the newest checkpoint to a model folder in the Hugging Face format.

`export` writes weights in bfloat16, the tokenizer, the chat template and a model card whose figures
come from `evaluation.json`. It only reads the work folder, so it may run while training goes on.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from string import Template
from tempfile import TemporaryDirectory
from typing import Any

import torch
from tokenizers import Tokenizer
from transformers import GenerationConfig, LlamaForCausalLM

from tools.train_tiny.data import END, END_OF_TEXT, SPECIAL, special_id
from tools.train_tiny.settings import Settings
from tools.train_tiny.train import build_model, load_checkpoint

ATTEMPTS = 20
CARD = Path(__file__).with_name("model_card.md")
CHAT_TEMPLATE = """\
{%- for message in messages -%}
    {%- if message.role in ['system', 'tool'] -%}
        {{- '<|system|>' -}}
    {%- elif message.role in ['user', 'assistant'] -%}
        {{- '<|' ~ message.role ~ '|>' -}}
    {%- else -%}
        {{- raise_exception('unknown role ' ~ message.role) -}}
    {%- endif -%}
    {{- message.content ~ '<|end|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<|assistant|>' -}}
{%- endif -%}
"""


@dataclass(frozen=True, slots=True)
class Trained:
    """What a checkpoint holds: the weights as exported (rounded to bfloat16), in float32."""

    step: int
    model: LlamaForCausalLM
    tokenizer: Tokenizer


def load_trained(work: Path, settings: Settings) -> Trained:
    """Read the newest checkpoint under `work`, also while training replaces it."""
    tokenizer = Tokenizer.from_file(str(work / "tokenizer.json"))
    model = build_model(settings, special_id(tokenizer, END), special_id(tokenizer, END_OF_TEXT))
    with TemporaryDirectory() as place:
        copy = Path(place) / "checkpoint"
        _copy_checkpoint(work / "checkpoint", copy)
        step = load_checkpoint(copy, model, ())
    return Trained(step, model.to(torch.bfloat16).to(torch.float32).eval(), tokenizer)


def _copy_checkpoint(folder: Path, copy: Path) -> None:
    """Copy a checkpoint; one that was replaced meanwhile is copied again."""
    for _ in range(ATTEMPTS):
        try:
            before = (folder / "state.json").read_text(encoding="utf-8")
            shutil.copytree(folder, copy)
            if (folder / "state.json").read_text(encoding="utf-8") == before:
                return
        except (FileNotFoundError, shutil.Error):  # between two renames, or files just removed
            time.sleep(0.5)
        shutil.rmtree(copy, ignore_errors=True)
    raise FileNotFoundError(f"no whole checkpoint in {folder}: run train first.")


def export(work: Path, into: Path, settings: Settings) -> dict[str, int]:
    """Write the model folder `into`; returns the step and the bytes of all its files."""
    trained = load_trained(work, settings)
    into.mkdir(parents=True, exist_ok=True)
    ends = [special_id(trained.tokenizer, mark) for mark in (END, END_OF_TEXT)]
    trained.model.generation_config = GenerationConfig(eos_token_id=ends, pad_token_id=ends[1])
    trained.model.to(torch.bfloat16).save_pretrained(into)
    (into / "model.safetensors").chmod(0o644)  # written for its owner alone
    shutil.copyfile(work / "tokenizer.json", into / "tokenizer.json")
    _write_json(into / "tokenizer_config.json", _tokenizer_config(settings))
    (into / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")
    (into / "README.md").write_text(
        model_card(trained, settings, _measured(work, trained.step)), encoding="utf-8"
    )
    return {"step": trained.step, "bytes": sum(file.stat().st_size for file in into.iterdir())}


def _tokenizer_config(settings: Settings) -> dict[str, Any]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": None,
        "eos_token": END,
        "pad_token": END_OF_TEXT,
        "additional_special_tokens": list(SPECIAL[2:]),
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": settings.model.max_position_embeddings,
        "padding_side": "left",
    }


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


# --- the card ----------------------------------------------------------------------------------


def _measured(work: Path, step: int) -> dict[str, Any] | None:
    """The evaluation of exactly these weights, if there is one."""
    path = work / "evaluation.json"
    if not path.exists():
        return None
    figures = json.loads(path.read_text(encoding="utf-8"))
    return figures if figures["step"] == step else None


def model_card(trained: Trained, settings: Settings, figures: dict[str, Any] | None) -> str:
    """The card: fixed prose, with numbers from the settings, the weights and the evaluation."""
    parameters = trained.model.num_parameters()
    return Template(CARD.read_text(encoding="utf-8")).substitute(
        parameters=f"{parameters:,}",
        millions=f"{parameters / 1e6:.1f}",
        megabytes=f"{2 * parameters / 1e6:.1f}",
        vocabulary=settings.tokenizer.vocabulary,
        layers=settings.model.num_hidden_layers,
        hidden=settings.model.hidden_size,
        inner=settings.model.intermediate_size,
        heads=settings.model.num_attention_heads,
        shared=settings.model.num_key_value_heads,
        context=settings.model.max_position_embeddings,
        story_millions=f"{settings.data.story_characters / 1e6:.0f}",
        persona_documents=f"{settings.data.persona_documents:,}",
        resident_documents=f"{settings.data.resident_documents:,}",
        residents=settings.data.residents,
        step=f"{trained.step:,}",
        steps=f"{settings.run.steps:,}",
        tokens=f"{_tokens_seen(settings, trained.step) / 1e6:.1f}",
        phases=_phases(settings),
        note=settings.run.note,
        matrix_rate=settings.optimizer.matrix_rate,
        other_rate=settings.optimizer.other_rate,
        warmup=settings.optimizer.warmup_steps,
        decay=f"{settings.optimizer.decay_share:.0%}",
        answer_weight=settings.optimizer.answer_weight,
        seed=settings.seed,
        figures=_figures(figures),
        samples=_samples(figures),
    )


def _tokens_seen(settings: Settings, step: int) -> float:
    total, done = 0.0, 0.0
    for phase in settings.phase:
        steps = phase.share * settings.run.steps
        total += max(0.0, min(steps, step - done)) * phase.rows * phase.length
        done += steps
    return total


def _phases(settings: Settings) -> str:
    rows = [
        f"| {phase.share:.0%} | {phase.rows} x {phase.length} | "
        + ", ".join(f"{name} {share:.0%}" for name, share in phase.mixture.items())
        + " |"
        for phase in settings.phase
    ]
    return "\n".join(["| steps | tokens a step | mixture |", "| --- | --- | --- |", *rows])


def _figures(figures: dict[str, Any] | None) -> str:
    if figures is None:
        return "Not measured for these weights."
    rows = [f"| {name} | {value:.1f} |" for name, value in figures["perplexity"].items()]
    table = ["| held-out text | perplexity |", "| --- | --- |", *rows, ""]
    rows = [
        f"| {row['what']} | {row['right']} of {row['asked']} ({row['right'] / row['asked']:.0%}) |"
        for row in figures["questions"]
    ]
    taught = figures["teaching"]
    true, covered = (
        f"{taught['true']} of {taught['answers']}",
        f"{taught['covered']} of {taught['facts']}",
    )
    rows.append(f"| answers that it wrote itself about a text, true to it | {true} |")
    rows.append(f"| facts of these texts in its answers | {covered} |")
    return "\n".join([*table, "| questions | right |", "| --- | --- |", *rows])


def _samples(figures: dict[str, Any] | None) -> str:
    if figures is None:
        return "None for these weights."
    return "\n\n".join(
        f"```text\n{row['prompt']} [...] {row['text']}\n```"
        if row["prompt"]
        else f"```text\n{row['text']}\n```"
        for row in figures["samples"]
    )
