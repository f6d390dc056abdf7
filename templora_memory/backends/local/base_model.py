"""Loading a frozen base model, and what has to be known about it."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.cache_utils import DynamicCache
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils import logging

from templora_memory import models
from templora_memory.backends.local import gguf_file
from templora_memory.backends.local.lora import batched
from templora_memory.backends.local.train import loss
from templora_memory.domain.manifest import ModelIdentity
from templora_memory.errors import InvalidSetting, ModelError, ModelNotFound, UnsupportedModel

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_VOLATILE = {
    "_name_or_path", "_model_name_or_path", "name_or_path", "transformers_version", "dtype",
    "torch_dtype", "use_cache", "architectures", "_attn_implementation", "attn_implementation",
    "quantization_config",
}  # fmt: skip
_SAMPLE = 64
_DEFAULT_CONTEXT = 2048
_UNBOUNDED = 10**9
_PROBE = 8  # tokens
_NOISE = 5e-3  # relative, float32
_KEEPS_MORE = (
    "{} does not go on from stored keys and values ({}): only decoders with plain attention can "
    "carry a memory."
)


@dataclass(frozen=True, slots=True, eq=False)
class BaseModel:
    """A frozen causal language model and its tokenizer.

    `own_head` says that hidden states times the head's weights are the model's logits; where a
    model changes its logits afterwards (soft caps, scaling), its own forward makes them.
    `checkpointed` layers compute their activations again in the backward pass instead of keeping
    them; they cannot take stored keys and values while a gradient is wanted. `compiled` layers run
    their compiled form while learning.
    """

    name: str
    model: Any
    tokenizer: Any
    layers: dict[str, nn.Module]
    device: torch.device
    dtype: torch.dtype
    context: int
    width: int
    end_tokens: frozenset[int]
    start_token: int | None
    identity: ModelIdentity
    own_head: bool
    keeps_logits: bool
    checkpointed: tuple[nn.Module, ...] = ()
    compiled: tuple[tuple[nn.Module, Any], ...] = ()

    @property
    def head(self) -> nn.Module:
        head: nn.Module = self.model.get_output_embeddings()
        return head

    def hidden(self, ids: Tensor, **inputs: Any) -> Tensor:
        """Hidden states [S, T, hidden] before the head."""
        states: Tensor = self.model.get_decoder()(input_ids=ids, **inputs).last_hidden_state
        return states

    def logits(self, ids: Tensor, *, last: bool, **inputs: Any) -> Tensor:
        """Logits [S, T, vocabulary], or [S, 1, vocabulary] of the last position."""
        extra = {"logits_to_keep": 1} if last and self.keeps_logits else {}
        logits: Tensor = self.model(input_ids=ids, **inputs, **extra).logits
        return logits[:, -1:] if last else logits

    @contextmanager
    def learning(self, rows: batched.Rows) -> Iterator[None]:
        """Around a forward whose gradient is wanted: with these adapters, and compiled layers.

        Checkpointed layers keep no activations.
        """
        for layer in self.checkpointed:
            layer.training = True  # of this module alone; what is inside stays in evaluation
        for layer, call in self.compiled:
            layer._compiled_call_impl = call  # noqa: SLF001  # as Module.compile() does
        try:
            with batched.bound(self.layers, rows) if self.compiled else nullcontext():
                yield
        finally:
            for layer in self.checkpointed:
                layer.training = False
            for layer, _ in self.compiled:
                layer._compiled_call_impl = None  # noqa: SLF001


def load(
    name: str,
    *,
    device: str | None,
    dtype: str | None,
    checkpointing: bool,
    compiled: bool,
    options: Mapping[str, Any],
) -> BaseModel:
    """Load a model and its tokenizer, freeze it, and put the hooks on its layers.

    Raises:
        ModelNotFound: no usable model under this name.
        UnsupportedModel: it cannot carry a memory.
        InvalidSetting: unknown device or precision.
    """
    place, kind = _placement(device, dtype)
    name = models.choose(name)
    path = _path(name)
    trust = bool(options.get("trust_remote_code"))  # never asked for on the terminal
    given = {**place, **options, "trust_remote_code": trust}
    try:
        with _quiet(), _source(path) as (source, of_tokenizer, of_model):
            if of_model and kind == "auto":  # a GGUF file names no precision to load it in
                kind = torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
            tokenizer = AutoTokenizer.from_pretrained(
                source, trust_remote_code=trust, **of_tokenizer
            )
            model, found = AutoModelForCausalLM.from_pretrained(
                source, dtype=kind, use_safetensors=True, output_loading_info=True,
                **{**of_model, **given},
            )  # fmt: skip
    except (torch.OutOfMemoryError, MemoryError, ModelError):
        raise
    except Exception as error:  # damaged files fail in every way there is
        raise ModelNotFound(_advice(name, path, error)) from error
    if missing := sorted(found["missing_keys"]):  # they would be random numbers
        reason = f"{len(missing)} of its weights are missing, such as {missing[0]}"
        raise ModelNotFound(_advice(name, path, ValueError(reason)))
    shown = public_name(name)
    return prepare(model, tokenizer, name=shown, checkpointing=checkpointing, compiled=compiled)


def public_name(name: str) -> str:
    """What people and clients are told a model is called: never where an operator keeps it.

    The stem of a GGUF file, the name of a folder (of a snapshot in the hub's cache: its hub id);
    every other name as it is.
    """
    path = Path(os.path.abspath(name))  # noqa: PTH100  # "." and "..", but no symbolic links
    if not path.exists():
        return name
    if path.is_file():
        return path.stem
    owner = path.parent.parent.name
    if path.parent.name == "snapshots" and owner.startswith("models--"):
        return owner.removeprefix("models--").replace("--", "/")
    return path.name


@contextmanager
def _source(path: str) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """What `from_pretrained` is called with: a name, options of the tokenizer and of the model."""
    if gguf_file.is_gguf(Path(path)):
        with gguf_file.load_options(Path(path)) as options:
            yield options
    else:
        yield path, {}, {}


def prepare(
    model: Any, tokenizer: Any, *, name: str, checkpointing: bool = False, compiled: bool = False
) -> BaseModel:
    """Freeze a loaded model, hook its layers, and find out what has to be known.

    Raises:
        InvalidSetting: `checkpointing` and `compiled` together.
        UnsupportedModel: it cannot carry a memory.
    """
    if checkpointing and compiled:
        raise InvalidSetting("checkpointing and compiled do not go together: choose one of them.")
    model.eval()
    model.requires_grad_(requires_grad=False)
    for asked in ("get_decoder", "get_output_embeddings"):
        if getattr(model, asked, None) is None or getattr(model, asked)() is None:
            raise UnsupportedModel(f"{type(model).__name__} is not a causal language model.")
    if not getattr(tokenizer, "is_fast", False):
        raise UnsupportedModel(
            f"{type(tokenizer).__name__} is not a fast tokenizer: without the places of its tokens "
            "text cannot be cut, and control tokens in it cannot be kept text."
        )
    layers = batched.linear_layers(model)
    first = model.get_input_embeddings().weight
    _check_cache(model, first)
    batched.install(layers)
    config = model.config.get_text_config()
    end = _end_tokens(model, tokenizer)
    start = tokenizer.bos_token_id
    return BaseModel(
        name=name,
        model=model,
        tokenizer=tokenizer,
        layers=layers,
        device=first.device,
        dtype=first.dtype,
        context=_context(config, tokenizer),
        width=int(first.shape[1]),
        end_tokens=end,
        start_token=start,
        identity=_identity(name, model, tokenizer),
        own_head=_own_head(model, first.device),
        keeps_logits="logits_to_keep" in inspect.signature(model.forward).parameters,
        checkpointed=_checkpointed(model) if checkpointing else (),
        compiled=_compiled(model) if compiled else (),
    )


def _decoder_layers(model: Any) -> list[Any]:
    return [m for m in model.get_decoder().modules() if isinstance(m, GradientCheckpointingLayer)]


def _compiled(model: Any) -> tuple[tuple[nn.Module, Any], ...]:
    """The decoder's layers and their compiled forms; each shape is compiled when it first comes.

    Layers are compiled, not the model: they share one program, which takes seconds, not minutes.
    """
    found = _decoder_layers(model)
    if not found:
        raise UnsupportedModel(f"{type(model).__name__} has no layers to compile: leave it out.")
    return tuple((layer, torch.compile(layer._call_impl)) for layer in found)  # noqa: SLF001


def _checkpointed(model: Any) -> tuple[nn.Module, ...]:
    """Let the decoder's layers compute their activations again in the backward pass.

    A device may run backward on a thread of its own, which does not see the adapters that the
    forward was called with; so they are handed over.
    """

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), batched.using(batched.current())

    found = _decoder_layers(model)
    if not found:
        raise UnsupportedModel(
            f"{type(model).__name__} cannot compute its layers again: leave checkpointing out."
        )
    for layer in found:
        layer.gradient_checkpointing = True
        layer._gradient_checkpointing_func = partial(  # noqa: SLF001  # its setter warns for nothing
            checkpoint, use_reentrant=False, context_fn=contexts
        )
    return tuple(found)


def _placement(device: str | None, dtype: str | None) -> tuple[dict[str, Any], Any]:
    if dtype is not None and dtype not in _DTYPES:
        raise InvalidSetting(f"dtype is {dtype!r}: use one of {sorted(_DTYPES)}.")
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device != "auto":
        try:
            kind = torch.device(device).type
        except RuntimeError as error:
            raise InvalidSetting(
                f"device is {device!r}: use cpu, cuda, cuda:1, mps or auto."
            ) from error
        if kind == "cuda" and not torch.cuda.is_available():
            raise InvalidSetting(f"device is {device!r}, but there is no CUDA here: use cpu.")
    chosen: Any = _DTYPES[dtype] if dtype else "auto"
    if dtype is None and device == "cpu":
        chosen = torch.bfloat16 if _quick_bfloat16() else torch.float32
    return {"device_map": device}, chosen


def _quick_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 in hardware; elsewhere it is very slow."""
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, probe, lambda: False)() for probe in probes)


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bar for reading local files; the caller's setting is kept."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _path(name: str) -> str:
    """Where a model lies, or its hub id; a model of the catalog is fetched if it is not there."""
    if name == models.TINY:
        with resources.as_file(resources.files("templora_memory") / "tiny") as folder:
            return str(folder)
    if (entry := models.lookup(name)) is not None:
        return str(models.fetch_on_terminal(entry))
    return name


def _advice(name: str, path: str, error: Exception) -> str:
    reason = (
        str(error).strip().splitlines()[0].rstrip(".")
        if str(error).strip()
        else type(error).__name__
    )
    folder = Path(path)
    if folder.is_file():
        return f"The model in {path} cannot be loaded: {reason}."
    if folder.is_dir():
        if files := sorted(folder.glob("*.gguf")):
            more = f" To use the GGUF file in it, name the file: {files[0]}."
        elif pickles := sorted(folder.glob("*.bin")):
            more = (
                f" {pickles[0].name} is a pickle file, which can run code and is never read: "
                "convert it to safetensors."
            )
        else:
            more = ""
        return (
            f"The model in {path} cannot be loaded: {reason}. The folder needs config.json, "
            f"safetensors weights and a tokenizer, all undamaged.{more}"
        )
    offline = os.environ.get("HF_HUB_OFFLINE", "") not in {"", "0"}
    names = ", ".join(repr(known) for known in (*models.CATALOG, models.TINY))
    return (
        f"There is no usable model {name!r}: {reason}. Give {names}, a "
        "folder in Hugging Face format, a .gguf file, or a hub id"
        + (" (HF_HUB_OFFLINE is set: only models in the cache)." if offline else ".")
    )


def _end_tokens(model: Any, tokenizer: Any) -> frozenset[int]:
    found: set[int] = set()
    for value in (getattr(model.generation_config, "eos_token_id", None), tokenizer.eos_token_id):
        found |= {value} if isinstance(value, int) else set(value or ())
    return frozenset(found)


def _context(config: Any, tokenizer: Any) -> int:
    for value in (getattr(config, "max_position_embeddings", None), tokenizer.model_max_length):
        if isinstance(value, int) and 0 < value < _UNBOUNDED:
            return value
    return _DEFAULT_CONTEXT


def _own_head(model: Any, device: torch.device) -> bool:
    """Whether head(hidden) gives the model's logits; measured, because families differ."""
    head = model.get_output_embeddings()
    if not isinstance(head, nn.Linear):
        return False
    ids = torch.arange(5, device=device)[None] % model.get_input_embeddings().weight.shape[0]
    with torch.no_grad():
        own = head(model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state)
        return torch.equal(own, model(input_ids=ids, use_cache=False).logits)


def _check_cache(model: Any, weight: Tensor) -> None:
    """Refuse a model that sees what comes later, or keeps more than keys and values.

    Its answers would be wrong without an error, so it is measured: two halves of a text, the
    second after the stored cache of the first, give the logits of the whole.
    """
    ids = torch.arange(_PROBE, device=weight.device)[None] * 7 % weight.shape[0]
    places, half = torch.arange(_PROBE, device=weight.device)[None], _PROBE // 2
    cache = stored_cache(None)
    found: list[Tensor] = []
    try:
        with torch.no_grad():
            whole = model(input_ids=ids, use_cache=False).logits.float()
            for part in (slice(half), slice(half, None)):
                inputs = {"input_ids": ids[:, part], "position_ids": places[:, part]}
                out = model(**inputs, past_key_values=cache, use_cache=True)
                found.append(out.logits.float())
                cache = stored_cache(pairs_of(cache))
            wrong = float((torch.cat(found, dim=1) - whole).norm() / whole.norm())
    except torch.OutOfMemoryError:
        raise
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise UnsupportedModel(_KEEPS_MORE.format(type(model).__name__, error)) from error
    exact = weight.dtype == torch.float32 and not getattr(model, "is_quantized", False)
    if wrong > (_NOISE if exact else 20 * _NOISE):
        raise UnsupportedModel(
            _KEEPS_MORE.format(type(model).__name__, f"its logits change by {wrong:.1%}")
        )


def _identity(name: str, model: Any, tokenizer: Any) -> ModelIdentity:
    config = {k: v for k, v in model.config.to_dict().items() if k not in _VOLATILE}
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        words = json.dumps(tokenizer.get_vocab(), sort_keys=True)
    else:
        rules = json.loads(backend.to_str())
        words = json.dumps({k: v for k, v in rules.items() if k not in {"padding", "truncation"}})
    return ModelIdentity(
        name=name,
        revision=getattr(model.config, "_commit_hash", None),
        config=_sha(json.dumps(config, sort_keys=True, default=str).encode()),
        tokenizer=_sha(words.encode()),
        weights=weights_digest(model),
    )


def weights_digest(model: nn.Module) -> str:
    """Hash over evenly spaced samples of every weight, rounded to bfloat16."""
    digest = hashlib.sha256()
    for name, weight in sorted(model.named_parameters()):
        if weight.is_meta:  # offloaded: its values are not at hand
            digest.update(f"{name} {tuple(weight.shape)}".encode())
            continue
        values = weight.detach()
        if type(values) is not Tensor:  # a quantised one, which knows few operations
            values = values.dequantize()
        flat = values.flatten()
        step = max(1, len(flat) // _SAMPLE)
        sample = flat[::step][:_SAMPLE].to("cpu", torch.bfloat16)
        digest.update(name.encode())
        digest.update(sample.view(torch.int16).numpy().tobytes())
    return digest.hexdigest()


def _sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def stored_cache(pairs: Sequence[tuple[Tensor, Tensor]] | None) -> DynamicCache:
    """A fresh cache over stored keys and values.

    Always a new one: a forward appends to the cache it is given. Without a configuration every
    layer keeps everything; sliding windows are the mask's business, so no token is ever dropped.
    """
    return DynamicCache(ddp_cache_data=list(pairs)) if pairs else DynamicCache()


def pairs_of(cache: DynamicCache) -> list[tuple[Tensor, Tensor]]:
    """Keys and values of each layer [S, heads, T, width]."""
    return [(layer.keys, layer.values) for layer in cache.layers]


def pad_left(states: Tensor, width: int) -> Tensor:
    """Keys or values [S, heads, T, size] with zeros before them, T becoming `width`."""
    missing = width - states.shape[2]
    if missing == 0:
        return states
    zeros = states.new_zeros(*states.shape[:2], missing, states.shape[3])
    return torch.cat([zeros, states], dim=2)


def losses(base: BaseModel, ids: Tensor, labels: Tensor, keep: Tensor, **inputs: Any) -> Tensor:
    """Loss of the labelled positions [n] of one row, without gradient.

    Args:
        base: the model.
        ids: [1, T].
        labels: next tokens of the kept positions [n].
        keep: positions whose next token is wanted [n].
        inputs: cache, mask, positions.
    """
    with torch.no_grad():
        if base.own_head:
            return loss.token_losses(base.hidden(ids, **inputs)[0, keep], base.head, labels)
        rows = base.logits(ids, last=False, **inputs)[0, keep].float().log_softmax(-1)
        return -rows.gather(1, labels[:, None]).squeeze(1)
