"""Measures the newest checkpoint: held-out perplexity, questions about personas, samples.

The weights are measured as they are exported, rounded to bfloat16. Personas, name endings and
question phrasings of the questions never occur in training; the residents' facts do.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor

from tools.train_tiny import persona_world as world
from tools.train_tiny.data import ASSISTANT, END_OF_TEXT, Document, encode, render, resident_people
from tools.train_tiny.export import Trained, load_trained
from tools.train_tiny.settings import Settings
from tools.train_tiny.train import loss_of

ANSWER_WEIGHT = 2  # marks answers in `encode`'s weights; every other token has weight 1
ANSWER_TOKENS = 48
SAMPLE_TOKENS = 96
LESSON_TOKENS = 320
SCORED_ROWS, ANSWERED_ROWS = 8, 32  # at a time
Row = tuple[list[int], list[int]]


@dataclass(frozen=True, slots=True)
class Question:
    """A chat that ends with the user's question, and the fact a right answer contains."""

    chat: list[world.Turn]
    fact: str

    def accepts(self, answer: str) -> bool:
        return bool(re.search(rf"\b{re.escape(self.fact)}\b", answer, re.IGNORECASE))


def evaluate(
    work: Path,
    settings: Settings,
    *,
    people: int = 60,
    each: int = 4,
    windows: int = 24,
    dialogues: int = 90,
) -> dict[str, Any]:
    """Measure, write `evaluation.json` under `work`, and return what was written.

    Args:
        work: the folder with tokenizer, held-out text and checkpoint.
        settings: the settings of the training.
        people: personas per set of questions.
        each: questions per persona.
        windows: story windows of the model's full context for the perplexity.
        dialogues: held-out dialogues for the perplexity.
    """
    trained = load_trained(work, settings)
    torch.manual_seed(settings.seed)
    with _one_thread(), torch.inference_mode():
        figures = {
            "step": trained.step,
            "parameters": trained.model.num_parameters(),
            "perplexity": _perplexities(trained, work, windows, dialogues),
            "questions": [
                _score(trained, what, asked)
                for what, asked in question_sets(settings, people, each).items()
            ],
            "teaching": _teaching(trained, settings, people),
            "samples": _samples(trained, settings),
        }
    (work / "evaluation.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    return figures


@contextmanager
def _one_thread() -> Iterator[None]:
    """Threads that wait for each other lose tenfold against a training on the same cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


# --- perplexity --------------------------------------------------------------------------------


def _perplexities(trained: Trained, work: Path, windows: int, dialogues: int) -> dict[str, float]:
    books: list[Row] = []
    chats: list[Row] = []
    context = trained.model.config.max_position_embeddings
    with (work / "held_out.jsonl").open(encoding="utf-8") as file:
        for row in map(json.loads, file):
            document: Document = row.get("text") or [tuple(turn) for turn in row["messages"]]
            ids, weights = encode(trained.tokenizer, document, ANSWER_WEIGHT)
            if row["source"] == "stories":
                starts = range(0, len(ids) - 1, context)
                books += [(ids[s : s + context], weights[s : s + context]) for s in starts]
            else:
                chats.append((ids[:context], weights[:context]))
    chats = _spread(chats, dialogues)
    answers = [(ids, [int(weight == ANSWER_WEIGHT) for weight in row]) for ids, row in chats]
    chats = [(ids, [1] * len(ids)) for ids, _ in chats]
    return {
        "stories": _perplexity(trained, _spread(books, windows)),
        "dialogues": _perplexity(trained, chats),
        "dialogues, answers only": _perplexity(trained, answers),
    }


def _spread(rows: Sequence[Row], count: int) -> list[Row]:
    """About `count` rows at even distances."""
    return list(rows[:: max(1, len(rows) // count)])


def _perplexity(trained: Trained, rows: Sequence[Row]) -> float:
    total = count = 0.0
    rows = sorted(rows, key=lambda row: len(row[0]))
    for start in range(0, len(rows), SCORED_ROWS):
        some = rows[start : start + SCORED_ROWS]
        width = max(len(ids) for ids, _ in some)
        tokens = torch.tensor([ids + [0] * (width - len(ids)) for ids, _ in some])
        weights = torch.tensor([w + [0] * (width - len(w)) for _, w in some], dtype=torch.float32)
        kept = float(weights[:, 1:].sum())
        total += kept * float(loss_of(trained.model, tokens, weights))
        count += kept
    return math.exp(total / count)


# --- questions ---------------------------------------------------------------------------------


def question_sets(settings: Settings, people: int, each: int) -> dict[str, list[Question]]:
    """Sets of questions by what they measure; "new words" are phrasings that training never saw."""
    rng = Random(settings.seed + 5)
    strangers = [world.draw_persona(rng, held_out=True) for _ in range(people)]
    known = resident_people(settings)
    known = rng.sample(known, min(people, len(known)))
    return {
        f"{'about' if about else 'as'} {what}, {words} words": [
            question
            for persona in group
            for question in _asked(persona, each, rng, about=about, told=told, new=words == "new")
        ]
        for what, group, told in (
            ("a stranger, bio in the prompt", strangers, True),
            ("a stranger, no bio", strangers, False),
            ("a resident, no bio", known, False),
        )
        for about in (False, True)
        for words in ("known", "new")
        if told or group is known or words == "new"
    }


def _asked(
    persona: world.Persona, each: int, rng: Random, *, about: bool, told: bool, new: bool
) -> Iterator[Question]:
    """Questions to a character, or `about` one; `told` puts the bio before them."""
    for key, value in rng.sample(persona.facts, min(each, len(persona.facts))):
        bio = world.bio(persona, rng) if told else ""
        question = world.ask(persona, key, rng, second=not about, held_out=new)
        if about:
            yield Question([("user", f"{bio}\n\n{question}".strip())], value)
        else:
            opening = f"You are {persona.name}. {bio}".strip()
            yield Question([("system", opening), ("user", question)], value)


def _score(trained: Trained, what: str, asked: Sequence[Question]) -> dict[str, Any]:
    answers = _complete(trained, [_prompt(question.chat) for question in asked], ANSWER_TOKENS)
    right = sum(q.accepts(a) for q, a in zip(asked, answers, strict=True))
    examples = [
        {"question": q.chat[-1][1], "fact": q.fact, "answer": a}
        for q, a in zip(asked[:5], answers[:5], strict=True)
    ]
    return {"what": what, "asked": len(asked), "right": right, "examples": examples}


# --- generation --------------------------------------------------------------------------------


def _prompt(document: Document) -> str:
    return document if isinstance(document, str) else render(document) + ASSISTANT


def _complete(trained: Trained, prompts: Sequence[str], tokens: int, **sampling: Any) -> list[str]:
    """Continue every prompt (the longest keep their end), greedily unless told how to sample."""
    pad = trained.tokenizer.token_to_id(END_OF_TEXT)
    room = trained.model.config.max_position_embeddings - tokens
    rows = [trained.tokenizer.encode(prompt).ids[-room:] for prompt in prompts]
    texts = [""] * len(rows)
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    for start in range(0, len(rows), ANSWERED_ROWS):
        some = order[start : start + ANSWERED_ROWS]
        width = max(len(rows[i]) for i in some)
        ids = torch.tensor([[pad] * (width - len(rows[i])) + rows[i] for i in some])
        mask = torch.tensor([[0] * (width - len(rows[i])) + [1] * len(rows[i]) for i in some])
        made: Tensor = trained.model.generate(
            ids, attention_mask=mask, max_new_tokens=tokens, **{"do_sample": False, **sampling}
        )
        for i, row in zip(some, made[:, width:].tolist(), strict=True):
            texts[i] = trained.tokenizer.decode(row).strip()
    return texts


STORIES = ("Once upon a time there was a little fox who", "The old man looked at the sea.")
SAMPLING = {"do_sample": True, "temperature": 0.5, "top_p": 0.9, "top_k": 0}


def _conversations(settings: Settings) -> list[tuple[str, list[str]]]:
    """Six beginnings (system message or nothing) and what the user says, turn by turn."""
    rng = Random(settings.seed + 6)
    one, two, three = (world.draw_persona(rng, held_out=True, facts=(7, 7)) for _ in range(3))
    return [
        ("", ["Hello! How are you today?", "I am fine too. What do you like to do for fun?",
              "That sounds nice. How often do you do that?", "I have to go now. Goodbye!"]),
        (f"You are {one.name}. {world.bio_third(one, rng)}",
         ["Hello. Who are you?", *(world.ask(one, key, rng, second=True) for key, _ in one.facts[:2]),
          "It was nice to talk with you."]),
        (f"You are {two.name}. {world.bio_first(two, rng)}",
         ["Tell me about yourself.", "How are you today?",
          world.ask(two, two.facts[3][0], rng, second=True), "Thank you."]),
        (world.bio_third(three, rng),
         [world.ask(three, key, rng, second=False) for key, _ in three.facts[2:6]]),
        ("", ["My name is Dara Millbrook.", "I keep a lame duck called Bo.", "My favourite food is pear cake.",
              "What pet do I have?"]),
        ("", ["Hi! Do you have any pets?", "What is your favorite food?", "I like that too.",
              "What do you do for a living?"]),
    ]  # fmt: skip


def _samples(trained: Trained, settings: Settings) -> list[dict[str, str]]:
    """Six conversations and two stories, first draw."""
    talks = _conversations(settings)
    chats: list[list[world.Turn]] = [[("system", system)] if system else [] for system, _ in talks]
    for turn in range(len(talks[0][1])):
        for chat, (_, says) in zip(chats, talks, strict=True):
            chat.append(("user", says[turn]))
        prompts = [_prompt(chat) for chat in chats]
        answers = _complete(trained, prompts, ANSWER_TOKENS, **SAMPLING)
        for chat, answer in zip(chats, answers, strict=True):
            chat.append(("assistant", answer))
    shown = [
        {"prompt": "", "text": "\n".join(f"{role}: {content}" for role, content in chat)}
        for chat in chats
    ]
    texts = _complete(trained, STORIES, SAMPLE_TOKENS, **SAMPLING)
    return shown + [{"prompt": p, "text": t} for p, t in zip(STORIES, texts, strict=True)]


# --- the teacher -------------------------------------------------------------------------------


def _teaching(trained: Trained, settings: Settings, people: int) -> dict[str, int]:
    """How true and how complete the questions and answers are that it writes about strangers."""
    rng = Random(settings.seed + 7)
    group = [world.draw_persona(rng, held_out=True, facts=(6, 6)) for _ in range(people)]
    prompts = []
    for persona in group:
        lead = f"Write questions to {persona.given}, and what {persona.given} answers."
        prompts.append(_prompt([("user", f"{lead}\n\n{world.bio(persona, rng)}")]))
    written = _complete(trained, prompts, LESSON_TOKENS)
    answers = true = covered = 0
    for persona, text in zip(group, written, strict=True):
        said = [line for line in text.splitlines() if line.startswith("A:")]
        found = [
            {key for key, value in persona.facts if Question([], value).accepts(line)}
            for line in said
        ]
        answers += len(said)
        true += sum(map(bool, found))
        covered += len(set().union(*found))
    return {
        "answers": answers,
        "true": true,
        "facts": sum(len(persona.facts) for persona in group),
        "covered": covered,
    }
