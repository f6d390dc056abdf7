"""Base models in one GGUF file, as far as transformers reads them, and each file read once.

The weights are dequantised when the file is loaded: what learns and answers is an ordinary model in
the chosen precision.
"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gguf
from transformers import GgufConfig, modeling_gguf_pytorch_utils as reading
from transformers.modeling_gguf_pytorch_utils import GGUF_SUPPORTED_ARCHITECTURES

from templora_memory.errors import ModelNotFound, UnsupportedModel

_MAGIC = b"GGUF"
_PATCHING = threading.Lock()  # two loads at once would put back each other's replacements
_NO_ARCHITECTURES = {"general", "tokenizer"}  # tables of transformers beside those of models
ARCHITECTURES = tuple(sorted(set(GGUF_SUPPORTED_ARCHITECTURES) - _NO_ARCHITECTURES))
"""Architectures that transformers reads from GGUF, by llama.cpp's names."""


def is_gguf(path: Path) -> bool:
    """Return True if a path means a GGUF file: by its name, or by its first bytes."""
    if path.suffix.lower() == ".gguf":
        return True
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(_MAGIC)) == _MAGIC


@contextmanager
def load_options(path: Path) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Yield what `from_pretrained` needs: a folder, options of the tokenizer and of the model.

    Inside the ``with`` block the file is parsed once, where transformers does so three times.

    Raises:
        ModelNotFound: no such file, or not a whole GGUF file with a tokenizer.
        UnsupportedModel: no causal language model, or one that transformers cannot read.
    """
    with _parsed_once():
        _check(path)
        file = {"gguf_file": path.name}
        yield str(path.parent), file, {**file, "quantization_config": GgufConfig(dequantize=True)}


@contextmanager
def _parsed_once() -> Iterator[None]:
    """Let everybody who opens the same GGUF file meanwhile share one reader.

    Parsing takes seconds (every token of the vocabulary is an array of its own), and so do the
    tables of tensor names, which transformers makes anew for every part of a model.
    """
    readers: dict[tuple[int, int], gguf.GGUFReader] = {}

    def reader(path: str | os.PathLike[str]) -> gguf.GGUFReader:
        status = Path(path).stat()
        key = status.st_dev, status.st_ino
        if key not in readers:
            readers[key] = parse(path)
        return readers[key]

    with _PATCHING:
        parse = gguf.GGUFReader
        replacements: tuple[tuple[Any, str, object], ...] = (
            (gguf, "GGUFReader", reader),
            (gguf, "get_tensor_name_map", functools.cache(gguf.get_tensor_name_map)),
            (reading, "tqdm", lambda tensors, **_: tensors),  # heeds no switch of transformers
        )
        originals = [(module, name, getattr(module, name)) for module, name, _ in replacements]
        try:
            for module, name, replacement in replacements:
                setattr(module, name, replacement)
            yield
        finally:
            for module, name, original in originals:
                setattr(module, name, original)


def _check(path: Path) -> None:
    """Refuse a file that transformers would fail on, in words that name the reason."""
    if not path.is_file():
        raise ModelNotFound(f"There is no file {path}: give the path of a .gguf file.")
    with path.open("rb") as file:
        if file.read(len(_MAGIC)) != _MAGIC:
            raise ModelNotFound(f"{path} is no GGUF file: it does not begin with GGUF.")
    try:
        reader = gguf.GGUFReader(path)
        kind, architecture, parts = (
            None if (field := reader.get_field(name)) is None else field.contents()
            for name in ("general.type", "general.architecture", "split.count")
        )
    except Exception as error:  # damaged files fail in every way there is
        raise ModelNotFound(
            f"{path} is damaged or was cut short ({error}): fetch or copy it again."
        ) from error
    if kind not in {None, "model"}:
        raise UnsupportedModel(f"{path} holds a {kind!r}, not a model: give the base model's file.")
    if parts not in {None, 0, 1}:
        raise UnsupportedModel(
            f"{path} is one of {parts} parts: join them first (llama-gguf-split --merge)."
        )
    if architecture not in ARCHITECTURES:
        raise UnsupportedModel(
            f"{path} holds a model of architecture {architecture!r}, which transformers does not "
            f"read from GGUF: use the model's folder in Hugging Face format. It reads: "
            f"{', '.join(ARCHITECTURES)}."
        )
    if reader.get_field("tokenizer.ggml.tokens") is None:
        raise ModelNotFound(
            f"{path} has no tokenizer in it: use a file that was converted with one."
        )
