"""Corpus and persona world into token files.

`prepare` writes, for each source, a flat `<source>.tokens.npy` (uint16), `<source>.weights.npy`
(uint8 loss weights) and `<source>.starts.npy` (where documents begin). Held-out text goes to
`held_out.jsonl`. The corpus folder holds `stories.jsonl.xz` and `chat.jsonl.xz`.
"""

from __future__ import annotations

import json
import lzma
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, TypeVar

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from tqdm import tqdm

from tools.train_tiny import persona_world as world
from tools.train_tiny.settings import Settings

T = TypeVar("T")

END_OF_TEXT, END, SYSTEM, USER, ASSISTANT = (
    "<|endoftext|>",
    "<|end|>",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
)
SPECIAL = (END_OF_TEXT, END, SYSTEM, USER, ASSISTANT)
MARK = {"system": SYSTEM, "user": USER, "assistant": ASSISTANT}
Document = str | list[world.Turn]

LONGEST_MESSAGE = 420  # characters
_OTHER_NAME = re.compile(r"\[[^\]]*[Nn]ame\]")
_OWN_NAME = re.compile(
    r"(I'm |I am |[Mm]y name is |[Mm]y name's |[Cc]all me |[Tt]his is )\[[^\]]*[Nn]ame\]"
)
_PLAIN = str.maketrans(
    {
        "\u2018": "'",
        "\u2019": "'",
        "\u201c": '"',
        "\u201d": '"',
        "\u2014": " - ",
        "\u2013": "-",
        "\u2026": "...",
        "\u00a0": " ",
        "_": "",
        "*": "",
        "\t": " ",
    }
)


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    with lzma.open(path, "rt", encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def clean_story(text: str) -> str:
    """Prose paragraphs of a Gutenberg book: no front matter, tables, headings or line wraps."""
    text = text.translate(_PLAIN).replace("--", " - ").replace("\r", "")
    paragraphs = []
    for raw in re.split(r"\n\s*\n", text[len(text) // 33 : -len(text) // 50]):
        paragraph = re.sub(r"\s+", " ", raw).strip()
        letters = sum(map(str.islower, paragraph))
        prose = (
            len(paragraph) > 40 and letters > 0.6 * len(paragraph) and paragraph[-1] in ".!?\"':;,"
        )
        if prose and "[" not in paragraph and "Gutenberg" not in paragraph and paragraph.isascii():
            paragraphs.append(paragraph)
    return "\n\n".join(paragraphs)


def difficulty(text: str) -> float:
    """Rough reading difficulty: long words and long sentences (after Flesch, own weights)."""
    words = re.findall(r"[A-Za-z']+", text[:200_000])
    sentences = len(re.findall(r"[.!?]", text[:200_000])) or 1
    return 10 * sum(map(len, words)) / max(1, len(words)) + 0.6 * len(words) / sentences


def stories(corpus: Path, characters: int) -> list[str]:
    """Cleaned books, the easiest first, up to a number of characters."""
    books = [clean_story(str(row["text"])) for row in read_rows(corpus / "stories.jsonl.xz")]
    books = sorted((book for book in books if len(book) > 20_000), key=difficulty)
    kept, total = [], 0
    for book in books:
        if total >= characters:
            break
        kept.append(book)
        total += len(book)
    return kept


def conversations(corpus: Path, rng: Random) -> list[list[world.Turn]]:
    """Dialogues and question rows; questions about the same passage share one prompt."""
    chats: list[list[world.Turn]] = []
    passages: dict[str, list[world.Turn]] = {}
    names = Random(0)
    for row in read_rows(corpus / "chat.jsonl.xz"):
        turns = [(m["role"], m["content"].translate(_PLAIN).strip()) for m in row["messages"]]
        source = str(row["source"])
        if (
            source.startswith("sgd") and rng.random() > 0.2
        ):  # task dialogues would crowd out the rest
            continue
        if any("```" in content or len(content) > LONGEST_MESSAGE for _, content in turns):
            continue  # code and essays are beyond a model of this size
        turns = with_names(turns, names)
        if source.startswith("fairytale"):
            passages.setdefault(str(row["context"]).translate(_PLAIN), []).extend(turns)
        elif source.startswith("persona") and rng.random() < 0.7:
            persona = " ".join(row.get("assistant_persona") or [])
            chats.append([("system", persona.translate(_PLAIN)), *turns] if persona else turns)
        else:
            chats.append(turns)
    for text, turns in passages.items():
        shown = re.sub(r"\s+", " ", text)
        if len(shown) > 3000:
            continue
        asked = [turns[i : i + 2] for i in range(0, len(turns), 2)]
        rng.shuffle(asked)
        flat = [turn for pair in asked for turn in pair]
        flat = [(r, _sentence(c) if r == "assistant" else c) for r, c in flat]
        chats.append([("system", shown), *flat])
    return [
        chat
        for chat in chats
        if chat and all(content and "[" not in content for _, content in chat)
    ]


def with_names(turns: list[world.Turn], rng: Random) -> list[world.Turn]:
    """Invented names for the placeholder "[name]": one for each side of the conversation."""
    own = {role: world.given_name(rng) for role in ("user", "assistant")}
    other = {"user": own["assistant"], "assistant": own["user"]}
    return [
        (
            role,
            _OTHER_NAME.sub(
                other.get(role, ""), _OWN_NAME.sub(partial(_with_name, own[role]), content)
            ),
        )
        for role, content in turns
    ]


def _with_name(name: str, match: re.Match[str]) -> str:
    return str(match[1]) + name


def _sentence(text: str) -> str:
    text = text[:1].upper() + text[1:]
    return text if text.endswith((".", "!", "?")) else text + "."


def render(document: Document) -> str:
    """The text of a document with chat marks, as the chat template of the model writes it."""
    if isinstance(document, str):
        return document
    return "".join(f"{MARK[role]}{content}{END}" for role, content in document)


def special_id(tokenizer: Tokenizer, mark: str) -> int:
    """The id of a chat mark; without it the tokenizer is not the one of this model."""
    found: int | None = tokenizer.token_to_id(mark)
    if found is None:
        raise ValueError(f"The tokenizer has no {mark}: train it again.")
    return found


def encode(
    tokenizer: Tokenizer, document: Document, answer_weight: int
) -> tuple[list[int], list[int]]:
    """Token ids ending in end-of-text, and a loss weight for each of them."""
    close = [special_id(tokenizer, END_OF_TEXT)]
    if isinstance(document, str):
        ids = tokenizer.encode(document).ids + close
        return ids, [1] * len(ids)
    ids, weights = [], []
    for role, content in document:
        part = [
            special_id(tokenizer, MARK[role]),
            *tokenizer.encode(content).ids,
            special_id(tokenizer, END),
        ]
        weight = answer_weight if role == "assistant" else 1
        ids += part
        weights += [1] + [weight] * (len(part) - 1)
    return ids + close, [*weights, 1]


def train_tokenizer(texts: Iterable[str], vocabulary: int) -> Tokenizer:
    """Byte-level BPE; digits one by one, so that numbers can be copied."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocabulary,
            special_tokens=list(SPECIAL),
            show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        ),
    )
    return tokenizer


PERSONA_KINDS = (
    (world.chat_with_bio, 0.30),
    (world.reading, 0.22),
    (world.about_user, 0.08),
    (world.retell, 0.05),
    (world.study, 0.16),
    (world.write_questions, 0.05),
    (world.lookup, 0.07),
    (world.tale, 0.07),
)


def persona_document(rng: Random) -> Document:
    """One document of the persona world, of a kind drawn by fixed weights."""
    kinds, weights = zip(*PERSONA_KINDS, strict=True)
    document: Document = rng.choices(kinds, weights)[0](rng)
    return document


def resident_people(settings: Settings) -> list[world.Persona]:
    """The people whom the model knows by heart."""
    return world.residents(settings.seed + 1, settings.data.residents)


def _write(
    folder: Path,
    source: str,
    tokenizer: Tokenizer,
    documents: Iterable[Document],
    settings: Settings,
) -> int:
    ids: list[np.ndarray] = []
    weights: list[np.ndarray] = []
    starts: list[int] = []
    total = 0
    for document in documents:
        tokens, loss = encode(tokenizer, document, settings.optimizer.answer_weight)
        starts.append(total)
        total += len(tokens)
        ids.append(np.array(tokens, np.uint16))
        weights.append(np.array(loss, np.uint8))
    np.save(folder / f"{source}.tokens.npy", np.concatenate(ids))
    np.save(folder / f"{source}.weights.npy", np.concatenate(weights))
    np.save(folder / f"{source}.starts.npy", np.array(starts, np.int64))
    return total


def prepare(corpus: Path, work: Path, settings: Settings) -> dict[str, int]:
    """Write tokenizer and token files under `work`; returns tokens per source."""
    work.mkdir(parents=True, exist_ok=True)
    rng = Random(settings.seed)
    books = stories(corpus, settings.data.story_characters)
    chats = conversations(corpus, rng)
    held_books, books = _hold_out(books, settings.data.held_out_share, rng)
    held_chats, chats = _hold_out(chats, settings.data.held_out_share, rng)
    with (work / "held_out.jsonl").open("w", encoding="utf-8") as file:
        for book in held_books:
            file.write(json.dumps({"source": "stories", "text": book[:200_000]}) + "\n")
        for chat in held_chats:
            file.write(json.dumps({"source": "chat", "messages": chat}) + "\n")
    path = work / "tokenizer.json"
    if not path.exists():
        train_tokenizer(
            _tokenizer_sample(books, chats, settings), settings.tokenizer.vocabulary
        ).save(str(path))
    tokenizer = Tokenizer.from_file(str(path))
    people = resident_people(settings)
    persona_rng, resident_rng = Random(settings.seed + 2), Random(settings.seed + 3)
    sources: dict[str, Iterable[Document]] = {
        "stories": books,
        "chat": chats,
        "persona": (persona_document(persona_rng) for _ in range(settings.data.persona_documents)),
        "resident": (
            world.resident_document(people, resident_rng)
            for _ in range(settings.data.resident_documents)
        ),
    }
    return {
        name: _write(work, name, tokenizer, tqdm(documents, desc=name), settings)
        for name, documents in sources.items()
    }


def _hold_out(items: Sequence[T], share: float, rng: Random) -> tuple[list[T], list[T]]:
    chosen = set(rng.sample(range(len(items)), max(1, int(len(items) * share))))
    return [x for i, x in enumerate(items) if i in chosen], [
        x for i, x in enumerate(items) if i not in chosen
    ]


def _tokenizer_sample(
    books: Sequence[str], chats: Sequence[list[world.Turn]], settings: Settings
) -> Iterator[str]:
    third = settings.tokenizer.sample_characters // 3
    for source in (books, chats, _personas(settings)):
        used = 0
        for document in source:
            texts = (
                [document[:100_000]]
                if isinstance(document, str)
                else [text for _, text in document]
            )
            for text in texts:
                used += len(text)
                yield text
            if used > third:
                break


def _personas(settings: Settings) -> Iterator[Document]:
    rng = Random(settings.seed + 4)
    while True:
        yield persona_document(rng)
