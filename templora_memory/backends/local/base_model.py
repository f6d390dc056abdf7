"""Loading a frozen base model, and its forward passes."""

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
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils import logging

from templora_memory import models
from templora_memory.backends.local import gguf_file
from templora_memory.backends.local.kv_cache import (
    KeyValues,
    cached_key_values,
    dynamic_cache,
)
from templora_memory.backends.local.lora.batched import (
    AdapterBatch,
    bind_adapters,
    current_adapters,
    install_hooks,
    linear_layers,
    use_adapters,
)
from templora_memory.backends.local.train.loss import token_losses
from templora_memory.domain.manifest import ModelIdentity
from templora_memory.errors import InvalidSetting, ModelError, ModelNotFound, UnsupportedModel

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_VOLATILE = {
    "_name_or_path", "_model_name_or_path", "name_or_path", "transformers_version", "dtype",
    "torch_dtype", "use_cache", "architectures", "_attn_implementation", "attn_implementation",
    "quantization_config",
}  # fmt: skip
_SAMPLE = 64  # numbers of each weight that its digest is made of
_DEFAULT_MAX_LENGTH = 2048
_UNBOUNDED = 10**9
_PROBE = 8  # tokens
_NOISE = 5e-3  # relative, float32
_DIVISIBLE = 2  # layers that have an upper part
_NO_PLAIN_CACHE = (
    "{} does not go on from stored keys and values ({}): only decoders with plain attention can "
    "carry a memory."
)


@dataclass(frozen=True, slots=True, eq=False)
class BaseModel:
    """A frozen causal language model and its tokenizer.

    Args:
        name: what people are told it is called.
        model, tokenizer: those of transformers.
        layers: the decoder's linear layers by path, each with a hook for LoRAs.
        device, dtype: of the input embeddings.
        max_length: tokens that the model can see at once.
        hidden_size: D.
        eos_token_ids: tokens that end an answer.
        bos_token_id: the token that begins a text, or None.
        identity: what has to match for an adapter to fit.
        plain_lm_head: True if hidden states times the head's weights are the model's logits; where
            a model changes its logits afterwards (soft caps, scaling), its own forward makes them.
        has_logits_to_keep: True if the model's forward can leave out the logits of most positions.
        checkpointed: layers that compute their activations again in the backward pass instead of
            keeping them; they cannot take stored keys and values while a gradient is wanted.
        compiled: layers, and the compiled form that each runs while learning.
        divisible: True if the decoder's layers can run in two parts, see `states_below`.
    """

    name: str
    model: Any
    tokenizer: Any
    layers: dict[str, nn.Module]
    device: torch.device
    dtype: torch.dtype
    max_length: int
    hidden_size: int
    eos_token_ids: frozenset[int]
    bos_token_id: int | None
    identity: ModelIdentity
    plain_lm_head: bool
    has_logits_to_keep: bool
    checkpointed: tuple[nn.Module, ...] = ()
    compiled: tuple[tuple[nn.Module, Any], ...] = ()
    divisible: bool = False

    @property
    def lm_head(self) -> nn.Module:
        """The output head, a frozen linear layer from D to V."""
        lm_head: nn.Module = self.model.get_output_embeddings()
        return lm_head

    @property
    def decode_padding(self) -> int:
        """Columns of padding that every row has while it is decoded.

        Where heads share keys and values, transformers lets PyTorch's attention spread them over
        the heads if there is no mask, and packs the heads itself if there is one. On a processor
        in half precision the former takes five times as long; a mask without padding is dropped.
        """
        config = self.model.config.get_text_config()
        heads = getattr(config, "num_attention_heads", None)
        shared = getattr(config, "num_key_value_heads", heads) != heads
        return int(shared and self.device.type == "cpu" and self.dtype != torch.float32)

    def hidden_states(self, input_ids: Tensor, **inputs: Any) -> Tensor:
        """Return the hidden states [B, S, D] before the head, of input_ids [B, S]."""
        states: Tensor = self.model.get_decoder()(input_ids=input_ids, **inputs).last_hidden_state
        return states

    def states_below(self, layer: int, input_ids: Tensor, **inputs: Any) -> Tensor:
        """Return what decoder layer number `layer` would read [B, S, D], of input_ids [B, S].

        Where no layer below has an adapter, this stays the same while one is trained. Only for a
        `divisible` model, without stored keys and values.
        """
        return states_below(self.model.get_decoder(), layer, input_ids=input_ids, **inputs)

    def states_above(self, layer: int, states: Tensor, **inputs: Any) -> Tensor:
        """Return the hidden states [B, S, D] before the head, of what `states_below` returned."""
        return states_above(self.model.get_decoder(), layer, inputs_embeds=states, **inputs)

    def logits(self, input_ids: Tensor, *, last: bool, **inputs: Any) -> Tensor:
        """Return the logits [B, S, V] of input_ids [B, S]; with `last` [B, 1, V] of the last."""
        extra = {"logits_to_keep": 1} if last and self.has_logits_to_keep else {}
        logits: Tensor = self.model(input_ids=input_ids, **inputs, **extra).logits
        return logits[:, -1:] if last else logits

    @contextmanager
    def learning(self, adapters: AdapterBatch) -> Iterator[None]:
        """Make ready for a forward whose gradient is wanted, and undo it afterwards.

        Checkpointed layers keep no activations; compiled ones run compiled, with these adapters.
        """
        for layer in self.checkpointed:
            layer.training = True  # of this module alone; what is inside stays in evaluation
        for layer, call in self.compiled:
            layer._compiled_call_impl = call  # noqa: SLF001  # as Module.compile() does
        try:
            with bind_adapters(self.layers, adapters) if self.compiled else nullcontext():
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
    device_map, torch_dtype = _placement(device, dtype)
    name = models.choose(name)
    path = _path(name)
    trust = bool(options.get("trust_remote_code"))  # never asked for on the terminal
    given = {**device_map, **options, "trust_remote_code": trust}
    try:
        with _quiet(), _source(path) as (source, of_tokenizer, of_model):
            if of_model and torch_dtype == "auto":  # a GGUF file names no precision to load it in
                torch_dtype = torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
            tokenizer = AutoTokenizer.from_pretrained(
                source, trust_remote_code=trust, **of_tokenizer
            )
            model, report = AutoModelForCausalLM.from_pretrained(
                source, dtype=torch_dtype, use_safetensors=True, output_loading_info=True,
                **{**of_model, **given},
            )  # fmt: skip
    except (torch.OutOfMemoryError, MemoryError, ModelError):
        raise
    except Exception as error:  # damaged files fail in every way there is
        raise ModelNotFound(_advice(name, path, error)) from error
    if missing := sorted(report["missing_keys"]):  # they would be random numbers
        reason = f"{len(missing)} of its weights are missing, such as {missing[0]}"
        raise ModelNotFound(_advice(name, path, ValueError(reason)))
    return prepare(
        model,
        tokenizer,
        name=public_name(name),
        checkpointing=checkpointing,
        compiled=compiled,
    )


def public_name(name: str) -> str:
    """Return what people and clients are told a model is called: never where an operator keeps it.

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
    """Yield a name for `from_pretrained`, options of the tokenizer, and options of the model."""
    if gguf_file.is_gguf(Path(path)):
        with gguf_file.load_options(Path(path)) as options:
            yield options
    else:
        yield path, {}, {}


def prepare(
    model: Any, tokenizer: Any, *, name: str, checkpointing: bool = False, compiled: bool = False
) -> BaseModel:
    """Freeze a loaded model, hook its layers, and measure what has to be known.

    Raises:
        InvalidSetting: `checkpointing` and `compiled` together.
        UnsupportedModel: it cannot carry a memory.
    """
    if checkpointing and compiled:
        raise InvalidSetting("checkpointing and compiled do not go together: choose one of them.")
    model.eval()
    model.requires_grad_(requires_grad=False)
    keep_gradients(model)
    for method in ("get_decoder", "get_output_embeddings"):
        if getattr(model, method, None) is None or getattr(model, method)() is None:
            raise UnsupportedModel(f"{type(model).__name__} is not a causal language model.")
    if not getattr(tokenizer, "is_fast", False):
        raise UnsupportedModel(
            f"{type(tokenizer).__name__} is not a fast tokenizer: without the offsets of its "
            "tokens text cannot be cut, and control tokens in it cannot be kept text."
        )
    layers = linear_layers(model)
    embeddings = model.get_input_embeddings().weight  # [V, D]
    _check_cache(model, embeddings)
    install_hooks(layers)
    config = model.config.get_text_config()
    return BaseModel(
        name=name,
        model=model,
        tokenizer=tokenizer,
        layers=layers,
        device=embeddings.device,
        dtype=embeddings.dtype,
        max_length=_max_length(config, tokenizer),
        hidden_size=int(embeddings.shape[1]),
        eos_token_ids=_eos_token_ids(model, tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        identity=_identity(name, model, tokenizer),
        plain_lm_head=_plain_lm_head(model, embeddings.device),
        has_logits_to_keep="logits_to_keep" in inspect.signature(model.forward).parameters,
        checkpointed=_checkpointed(model) if checkpointing else (),
        compiled=_compiled(model) if compiled else (),
        divisible=_divisible(model, embeddings),
    )


def keep_gradients(model: Any) -> None:
    """Keep bitsandbytes' 4-bit layers on the way through which gradients flow.

    On processors with AVX-512 bfloat16 they repack their weights at the first forward in evaluation
    mode, for an operation without a backward pass: adapters in the layers below would get no
    gradient, or a wrong one. The base stays in evaluation mode while a memory learns.
    """
    for module in model.modules():
        if getattr(module, "support_avx512bf16_for_cpu", False):
            module.support_avx512bf16_for_cpu = False


def _decoder_layers(model: Any) -> list[Any]:
    """Return the L layers of the decoder that may be compiled or checkpointed."""
    return [m for m in model.get_decoder().modules() if isinstance(m, GradientCheckpointingLayer)]


def _compiled(model: Any) -> tuple[tuple[nn.Module, Any], ...]:
    """Return the decoder's layers and their compiled forms; a shape is compiled when it comes.

    Layers are compiled, not the model: they share one program, which takes seconds, not minutes.
    """
    layers = _decoder_layers(model)
    if not layers:
        raise UnsupportedModel(f"{type(model).__name__} has no layers to compile: leave it out.")
    return tuple((layer, torch.compile(layer._call_impl)) for layer in layers)  # noqa: SLF001


def _checkpointed(model: Any) -> tuple[nn.Module, ...]:
    """Let the decoder's layers compute their activations again in the backward pass.

    A device may run backward on a thread of its own, which does not see the adapters that the
    forward was called with; so they are handed over.
    """

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), use_adapters(current_adapters())

    layers = _decoder_layers(model)
    if not layers:
        raise UnsupportedModel(
            f"{type(model).__name__} cannot compute its layers again: leave checkpointing out."
        )
    for layer in layers:
        layer.gradient_checkpointing = True
        layer._gradient_checkpointing_func = partial(  # noqa: SLF001  # its setter warns for nothing
            checkpoint, use_reentrant=False, context_fn=contexts
        )
    return tuple(layers)


def _placement(device: str | None, dtype: str | None) -> tuple[dict[str, Any], Any]:
    """Return `device_map` as an option, and the dtype to load with or "auto"."""
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
    """Return True if this processor multiplies bfloat16 in hardware; elsewhere it is very slow."""
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, probe, lambda: False)() for probe in probes)


@contextmanager
def _quiet() -> Iterator[None]:
    """Show no progress bar for reading local files; the caller's setting is kept."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _path(name: str) -> str:
    """Return a model's path, or its hub id; one of the catalog is fetched if it is not there."""
    if name == models.TINY:
        with resources.as_file(resources.files("templora_memory") / "tiny") as folder:
            return str(folder)
    if (entry := models.lookup(name)) is not None:
        return str(models.fetch_on_terminal(entry))
    return name


def _advice(name: str, path: str, error: Exception) -> str:
    """Return a message that says why a model cannot be loaded, and what to do."""
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


def _eos_token_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    ids: set[int] = set()
    for value in (getattr(model.generation_config, "eos_token_id", None), tokenizer.eos_token_id):
        ids |= {value} if isinstance(value, int) else set(value or ())
    return frozenset(ids)


def _max_length(config: Any, tokenizer: Any) -> int:
    for value in (getattr(config, "max_position_embeddings", None), tokenizer.model_max_length):
        if isinstance(value, int) and 0 < value < _UNBOUNDED:
            return value
    return _DEFAULT_MAX_LENGTH


def _plain_lm_head(model: Any, device: torch.device) -> bool:
    """Return True if lm_head(hidden) is the model's logits; measured, because families differ."""
    lm_head = model.get_output_embeddings()
    if not isinstance(lm_head, nn.Linear):
        return False
    ids = torch.arange(5, device=device)[None] % model.get_input_embeddings().weight.shape[0]
    with torch.no_grad():
        logits = lm_head(model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state)
        return torch.equal(logits, model(input_ids=ids, use_cache=False).logits)


def _divisible(model: Any, weight: Tensor) -> bool:
    """Return True if the upper layers go on from the states below them to the same hidden states.

    Measured, because families differ in what they do to embeddings before the first layer: some
    scale them, some add positions. A model whose layers are of several kinds counts them from the
    first; it stays whole.
    """
    decoder = model.get_decoder()
    layers = getattr(decoder, "layers", None)
    kinds = getattr(model.config.get_text_config(), "layer_types", None) or ["one"]
    if not isinstance(layers, nn.ModuleList) or len(layers) < _DIVISIBLE or len(set(kinds)) > 1:
        return False
    ids = torch.arange(_PROBE, device=weight.device)[None] * 7 % weight.shape[0]  # [1, S]
    inputs = {"position_ids": torch.arange(_PROBE, device=weight.device)[None], "use_cache": False}
    half = len(layers) // 2
    try:
        with torch.no_grad():
            whole = decoder(input_ids=ids, **inputs).last_hidden_state
            below = states_below(decoder, half, input_ids=ids, **inputs)
            return torch.equal(whole, states_above(decoder, half, inputs_embeds=below, **inputs))
    except torch.OutOfMemoryError:
        raise
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, RuntimeError):
        return False  # such a model learns as well, only slower


class _Capture(nn.Module):
    """In place of a layer: keeps what it would have read."""

    states: Tensor

    def __init__(self, like: nn.Module) -> None:
        super().__init__()
        self._like = [like]  # no submodule: it stays where it is

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:  # what a decoder asks its layers for, such as their kind
            return getattr(self._like[0], name)

    def forward(self, hidden_states: Tensor, *_: Any, **__: Any) -> Tensor:
        """Keep and return the states."""
        self.states = hidden_states
        return hidden_states


@contextmanager
def _with_layers(decoder: Any, layers: Sequence[nn.Module]) -> Iterator[None]:
    """Let a decoder run only these layers."""
    whole = decoder.layers
    decoder.layers = nn.ModuleList(layers)
    try:
        yield
    finally:
        decoder.layers = whole


def states_below(decoder: Any, layer: int, **inputs: Any) -> Tensor:
    """Return what a decoder's layer number `layer` would read [B, S, D]."""
    capture = _Capture(decoder.layers[layer])
    with _with_layers(decoder, [*decoder.layers[:layer], capture]):
        decoder(**inputs)
    return capture.states


def states_above(decoder: Any, layer: int, **inputs: Any) -> Tensor:
    """Return what a decoder makes [B, S, D] of what its layer number `layer` reads."""
    with _with_layers(decoder, decoder.layers[layer:]):
        states: Tensor = decoder(**inputs).last_hidden_state
    return states


def _check_cache(model: Any, weight: Tensor) -> None:
    """Refuse a model that sees what comes later, or keeps more than keys and values.

    Its answers would be wrong without an error, so it is measured: two halves of a text, the
    second after the stored cache of the first, give the logits of the whole.
    """
    ids = torch.arange(_PROBE, device=weight.device)[None] * 7 % weight.shape[0]  # [1, S]
    position_ids, half = torch.arange(_PROBE, device=weight.device)[None], _PROBE // 2
    cache = dynamic_cache(None)
    halves: list[Tensor] = []
    try:
        with torch.no_grad():
            logits = model(input_ids=ids, use_cache=False).logits.float()  # [1, S, V]
            for part in (slice(half), slice(half, None)):
                inputs = {"input_ids": ids[:, part], "position_ids": position_ids[:, part]}
                out = model(**inputs, past_key_values=cache, use_cache=True)
                halves.append(out.logits.float())
                cache = dynamic_cache(cached_key_values(cache))
            error_share = float((torch.cat(halves, dim=1) - logits).norm() / logits.norm())
    except torch.OutOfMemoryError:
        raise
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise UnsupportedModel(_NO_PLAIN_CACHE.format(type(model).__name__, error)) from error
    exact = weight.dtype == torch.float32 and not getattr(model, "is_quantized", False)
    if error_share > (_NOISE if exact else 20 * _NOISE):
        raise UnsupportedModel(
            _NO_PLAIN_CACHE.format(type(model).__name__, f"its logits change by {error_share:.1%}")
        )


def _identity(name: str, model: Any, tokenizer: Any) -> ModelIdentity:
    """Return hashes of what has to stay the same for an adapter to fit."""
    config = {k: v for k, v in model.config.to_dict().items() if k not in _VOLATILE}
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        vocabulary = json.dumps(tokenizer.get_vocab(), sort_keys=True)
    else:
        rules = json.loads(backend.to_str())
        vocabulary = json.dumps(
            {k: v for k, v in rules.items() if k not in {"padding", "truncation"}}
        )
    return ModelIdentity(
        name=name,
        revision=getattr(model.config, "_commit_hash", None),
        config=_sha(json.dumps(config, sort_keys=True, default=str).encode()),
        tokenizer=_sha(vocabulary.encode()),
        weights=weights_digest(model),
    )


def weights_digest(model: nn.Module) -> str:
    """Return a hash over evenly spaced samples of every weight, rounded to bfloat16."""
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


def prefill(base: BaseModel, ids: Sequence[int], adapters: AdapterBatch | None = None) -> KeyValues:
    """Return keys and values [1, H, P, E] of each layer for P tokens; empty: of none."""
    if not ids:
        return []
    cache = dynamic_cache(None)
    with torch.no_grad(), use_adapters(adapters):
        tokens = torch.tensor([list(ids)], device=base.device)  # [1, P]
        base.hidden_states(tokens, past_key_values=cache, use_cache=True)
    return cached_key_values(cache)


def label_losses(
    base: BaseModel, input_ids: Tensor, labels: Tensor, label_positions: Tensor, **inputs: Any
) -> Tensor:
    """Return the loss of each labelled position [T] of one row, without gradient.

    Args:
        base: the model.
        input_ids: [1, S].
        labels: next tokens of these positions [T].
        label_positions: positions whose next token is wanted [T].
        inputs: cache, mask, positions.
    """
    rows = torch.zeros_like(label_positions)
    places = torch.stack([rows, label_positions], 1)  # [T, 2]
    return label_losses_at(base, input_ids, labels, places, **inputs)


def label_losses_at(
    base: BaseModel, input_ids: Tensor, labels: Tensor, places: Tensor, **inputs: Any
) -> Tensor:
    """Return the loss of each labelled position [T] of a batch, without gradient.

    Args:
        base: the model.
        input_ids: [B, S].
        labels: next tokens of these positions [T].
        places: row and column of each position whose next token is wanted [T, 2].
        inputs: cache, mask, positions.
    """
    labelled = places[:, 0], places[:, 1]
    with torch.no_grad():
        if base.plain_lm_head:
            hidden = base.hidden_states(input_ids, **inputs)[labelled]  # [T, D]
            return token_losses(hidden, base.lm_head, labels)
        logits = base.logits(input_ids, last=False, **inputs)[labelled]  # [T, V]
        return -logits.float().log_softmax(-1).gather(1, labels[:, None]).squeeze(1)
