"""Settings: how much stays in the prompt, how much leaves at once, how it is learned.

Frozen values. `None` means "derive it from the model"; `Policy.resolve` does that once, when the
service opens, and returns a `ResolvedPolicy`, which has a number everywhere.
Presets: `default`, and `reference`, the released Temp-LoRA algorithm exactly.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal, TypeAlias, get_args

from templora_memory.domain.suggestions import did_you_mean
from templora_memory.errors import InvalidSetting

Targets: TypeAlias = Literal["all-linear", "mlp", "attention"]
Layers: TypeAlias = Literal["all", "upper-half", "upper-third"]
Schedule: TypeAlias = Literal["constant", "linear", "released"]
PRESETS = ("default", "reference")
RECIPES = ("auto", "continue", "pairs", "statements", "study")
DEFAULT_WINDOW = 4096  # tokens; longer prompts cost more than they give a memory in weights
_TOKENS_MIN = 16
_WINDOW_TO_RECALL = 16  # of how many tokens of the window one is for passages
_RECALL_MIN = 32  # tokens of a passage of a sentence or two: with less, none would fit
_SEED_LIMIT = 2**63
MAX_LOGPROBS = 20
"""Most of the likeliest tokens that are reported at each place of a reply, as OpenAI."""
_RATE = 5e-4  # of a model of width 2000
_WIDTH_EXPONENT = (
    0.78  # how the best rate falls with the width: measured on Llama, taken for others
)
_WIDTH_EXPONENTS = dict.fromkeys(("qwen2", "qwen2_moe", "qwen3", "qwen3_moe"), 0.0775)


def positive(name: str, value: float | None, *, zero: bool = False, none: bool = False) -> None:
    """Refuse what is not a number over zero; `zero` and `none` allow these.

    Raises:
        InvalidSetting: with the value.
    """
    if value is None and none:
        return
    if not _is_number(value) or (value or 0) < 0 or not (value or zero):
        minimum = "zero or more" if zero else "more than zero"
        raise InvalidSetting(f"{name} is {value!r}: it must be a number, {minimum}.")


def finite(name: str, value: float) -> None:
    """Refuse what is not a finite number.

    Raises:
        InvalidSetting: with the value.
    """
    if not _is_number(value):
        raise InvalidSetting(f"{name} is {value!r}: it must be a number.")


def _is_number(value: object) -> bool:
    """Return whether a value is a finite number; True and False are none."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return math.isfinite(value)


def whole(name: str, value: int | None, *, zero: bool = False, none: bool = False) -> None:
    """Like `positive`, and refuse fractions."""
    positive(name, value, zero=zero, none=none)
    if value is not None and not isinstance(value, int):
        raise InvalidSetting(f"{name} is {value!r}: it must be a whole number.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Learning:
    """The settings that a chunk is trained into the adapter with.

    Args:
        r, lora_alpha: LoRA rank and scale; the branch is multiplied by lora_alpha / r
            (lora_alpha / sqrt(r) with `use_rslora`, arXiv 2312.03732).
        lora_dropout: of the input of the LoRA branch while learning.
        target_modules: which linear layers: all but the output head, only those of the MLP blocks,
            only those of attention, or explicit module name endings.
        layers_to_transform: which decoder layers of these: all, the upper half or third (below no
            gradient is needed, and a text that comes again is not run again), or a tuple of their
            numbers from 0.
        learning_rate: of AdamW; None: 5e-4 * (2000 / width) ** e for a model of that hidden width,
            with e of its family: 0.78 for Llama, 0.0775 for Qwen, as found for LoRA with alpha 32
            ("LoRA Without Regret", Thinking Machines, 2025, and the table of tinker-cookbook).
            Other families get Llama's, without anybody having measured it: try half and twice.
        steps_per_chunk: optimizer steps per chunk (each chunk is one batch).
        context: tokens before the chunk that the model sees without being trained on them
            (L_T of the paper); None: as many as the chunk has.
        context_gradient: keep the context inside the graph, as the released code does; otherwise
            it enters as keys and values without gradient, which is cheaper and slightly different.
        reuse_context: take the keys and values of the context over from the newest forward of the
            chunk before, until the model's positions are used up (the paper's cache reuse);
            otherwise run the context again for every chunk.
        document_steps: optimizer steps that a document standing alone (not `continues`) gets at
            least in all: a bio of one chunk is passed over that often, a book
            `steps_per_chunk` times.
        stop_loss: a document that is passed over again and again counts as learned, and gets no
            more than one further pass, once the mean loss of a pass, each example's before its
            step and weighted as it is learned, is at most this, in nats per token. 0:
            `document_steps` decide alone.
        kl_weight: while a short document is passed over more than `steps_per_chunk` times, each
            step adds this times KL(base || memory) on neutral text, prose or everyday questions
            with the beginnings of answers, in nats per token, so that they stay as likely as before
            ("Learning without Forgetting", 1606.09282). 0: none, which is faster, recalls a little
            more, and answers everything with what it has learned.
        replay: chunks of earlier text that are learned again for each new chunk, 0.25 being one for
            every four; half of them drawn evenly from all that the memory has learned, half from
            its sources in turn (a document, the conversation), however short. They keep early text
            from fading ("On Tiny Episodic Memories in Continual Learning", 1902.10486) and cost as
            much as new ones. 0: none.
        damp_repeats: divide the weight of a token by how often the eight tokens that end in it have
            come in this text, so that the model does not learn its own loops (2607.03441).
        scale_short: multiply the rate of a chunk shorter than the policy's by its share of it.
            Adam's step is as large for five tokens as for a thousand, and would push older
            knowledge out; so the same text moves the adapter as far in one piece as in many.
        even_chunks: cut a text into chunks of equal size near the policy's chunk; otherwise every
            chunk has exactly that size but the last, which may be a few noisy tokens.
        lr_scheduler_type: "linear": while a short document is passed over again and again, the rate
            falls from one and a half to a tenth of it over `document_steps`; elsewhere it is
            constant, because nobody knows how much is still to come. "constant". "released": zero
            on the first chunk, half on the second (a warm-up that the released code steps once per
            chunk).
        carry_optimizer: go on with AdamW's moments in the next absorb, also after a restart.
        adam_beta1, adam_beta2, adam_epsilon, weight_decay: of AdamW.
        max_grad_norm: the gradient is scaled down to this norm.
        measure: score chunks again after their last step, for the receipt (one more forward).
        measure_every: of a text that is passed once, this one chunk in so many is scored; of one
            that is passed over in rounds, every chunk in the last round.
        seed: of the adapter's start values and of dropout.
    """

    r: int = 16
    lora_alpha: float = 32.0
    use_rslora: bool = False
    lora_dropout: float = 0.0
    target_modules: Targets | tuple[str, ...] = "all-linear"
    layers_to_transform: Layers | tuple[int, ...] = "upper-half"
    learning_rate: float | None = None
    steps_per_chunk: int = 2
    context: int | None = None
    context_gradient: bool = False
    reuse_context: bool = True
    document_steps: int = 120
    stop_loss: float = 0.03
    kl_weight: float = 1.0
    replay: float = 0.25
    damp_repeats: bool = True
    scale_short: bool = True
    even_chunks: bool = True
    lr_scheduler_type: Schedule = "linear"
    carry_optimizer: bool = False
    adam_beta1: float = 0.9
    adam_beta2: float = 0.99
    adam_epsilon: float = 1e-8
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    measure: bool = True
    measure_every: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("r", "steps_per_chunk", "measure_every"):
            whole(f"learning.{name}", getattr(self, name))
        for name in ("lora_alpha", "learning_rate", "adam_epsilon", "max_grad_norm"):
            none = name == "learning_rate"  # derived from the model
            positive(f"learning.{name}", getattr(self, name), none=none)
        for name in ("weight_decay", "stop_loss", "kl_weight", "replay"):
            positive(f"learning.{name}", getattr(self, name), zero=True)
        whole("learning.document_steps", self.document_steps, zero=True)
        whole("learning.context", self.context, zero=True, none=True)
        whole("learning.seed", self.seed, zero=True)
        for name in ("lora_dropout", "adam_beta1", "adam_beta2"):
            value = getattr(self, name)
            positive(f"learning.{name}", value, zero=True)
            if value >= 1:
                raise InvalidSetting(f"learning.{name} is {value!r}: it must be below 1.")
        if self.lr_scheduler_type not in get_args(Schedule):
            raise InvalidSetting(
                f"learning.lr_scheduler_type is {self.lr_scheduler_type!r}: use one of "
                f"{get_args(Schedule)}."
            )
        targets: object = self.target_modules
        named = isinstance(targets, tuple) and targets and all(isinstance(t, str) for t in targets)
        if not named and targets not in get_args(Targets):
            raise InvalidSetting(
                f"learning.target_modules is {self.target_modules!r}: use one of "
                f"{get_args(Targets)} or a tuple of module name endings."
            )

        layers: object = self.layers_to_transform
        numbered = isinstance(layers, tuple) and layers and all(type(n) is int for n in layers)
        if not numbered and layers not in get_args(Layers):
            raise InvalidSetting(
                f"learning.layers_to_transform is {layers!r}: use one of {get_args(Layers)} or a "
                "tuple of layer numbers."
            )

    @property
    def scale(self) -> float:
        """The factor of the LoRA branch: lora_alpha / r, or lora_alpha / sqrt(r)."""
        return self.lora_alpha / (math.sqrt(self.r) if self.use_rslora else self.r)


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedLearning(Learning):
    """Learning settings whose every number is known, as `Policy.resolve` makes them."""

    learning_rate: float
    context: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelLimits:
    """The limits of a backend's model.

    Args:
        max_length: tokens of the longest sequence that it was trained with.
        hidden_size: width of its hidden states; None: not known.
        model_type: transformers' name of its family ("llama"); None: not known.
        recipes: names of the recipes that it can train with.
    """

    max_length: int
    hidden_size: int | None = None
    model_type: str | None = None
    recipes: tuple[str, ...] = RECIPES


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The settings that a service treats its memories with.

    Args:
        window: tokens the model sees at once, prompt and reply together. At most the length the
            model was trained with.
        reply_tokens: maximum of tokens of a reply; the prompt gets `window - reply_tokens`.
        chunk: tokens that leave the window before one update (the paper's delta).
        keep_turns: newest turns that stay in the prompt verbatim, at least 1.
        recipe: what an absorb trains on. "continue": next-token training on the text, as
            published. "pairs": the same, but of conversations only the assistant's messages are
            learned (source and approved translation). "statements": a short document sentence by
            sentence, each as something the assistant says, because many passes over plain text
            would make a chat model forget where its answers end; the rest as "continue". "study":
            every fact of a short document as the answer to many questions, of which the model
            writes some, in the voice of `Document.character`; other questions in every pass. "auto"
            (the default): short documents are studied, everything else continued. A backend may
            know more.
        learning: how.
        health_kl: by how much KL(base || memory) on neutral text, in nats per token, a new
            revision may exceed that of the one it goes on from; one with more is not committed
            (`Unhealthy`). None: no limit. It needs `learning.measure`.
        gate: how unsure of its answer a memory may be to be used at full strength, in nats per
            token over the first twelve tokens that it would say; from there its strength falls
            to 0 at twice as much. A memory of facts is sure where it was told something, so other
            questions are left to the base model; 0.5 suits the embedded model. It costs these
            tokens and one pass. Not for style or free talk, of which no answer is sure. None: no
            gate.
        recall_tokens: maximum of tokens of a prompt that passages of what the memory was told may
            take, for facts that must be exact: those that fit the newest message best by its words
            (full-text search, BM25), by the speaker and by the time that it asks for. None: a
            sixteenth of the window, which leaves the turns nearly all of it; 0 where that is too
            little for a passage (windows below 512), and in the preset "reference". 0: none.
        question_gate: how much of a question must be found in what the memory was told, from 0 to
            1 (`Reply.coverage`); with less, the prompt asks (in English) to say that it was not
            told. Only messages with a question mark are gated. None, the
            default: the prompt never asks for it, because every threshold that catches questions
            about what was never told also takes some that were (docs/results/retrieval.md).
        keep_revisions: newest revisions that stay on disk for edits and rollback.
        ttl: seconds without use after which the start-up sweep forgets a memory; None: never. The
            clock of the machine decides: one that jumps far ahead forgets early.
        author_limit: characters that one author may teach one memory, by documents of theirs
            (`Document.author`) and by messages of users under their name (`Message.name`); more is
            refused (`NotAdmitted`). Text without an author is the application's own and free. None:
            no limit.
    """

    window: int | None = None
    reply_tokens: int | None = None
    chunk: int | None = None
    keep_turns: int = 2
    recipe: str = "auto"
    learning: Learning = field(default_factory=Learning)
    health_kl: float | None = 2.0
    gate: float | None = None
    recall_tokens: int | None = None
    question_gate: float | None = None
    keep_revisions: int = 4
    ttl: float | None = None
    author_limit: int | None = None

    def __post_init__(self) -> None:
        for name in ("window", "reply_tokens", "chunk", "author_limit"):
            whole(name, getattr(self, name), none=True)
        for name in ("keep_turns", "keep_revisions"):
            whole(name, getattr(self, name))
        whole("recall_tokens", self.recall_tokens, zero=True, none=True)
        for name in ("ttl", "health_kl", "gate", "question_gate"):
            positive(name, getattr(self, name), none=True)
        if self.question_gate is not None and self.question_gate > 1:
            raise InvalidSetting(f"question_gate is {self.question_gate!r}: it must be at most 1.")
        if self.question_gate is not None and self.recall_tokens == 0:
            raise InvalidSetting(
                f"question_gate is {self.question_gate!r} and recall_tokens 0: nothing is searched "
                "then, so leave one of the two out."
            )
        learning: object = self.learning
        if not isinstance(learning, Learning):
            raise InvalidSetting(f"learning is {learning!r}: it must be Learning(...).")
        recipe: object = self.recipe
        if not isinstance(recipe, str) or not recipe:
            raise InvalidSetting(f"recipe is {recipe!r}: use one of {RECIPES}, or your own.")
        if self.chunk and self.window and self.chunk > self.window:
            raise InvalidSetting(
                f"chunk is {self.chunk} tokens, more than the window of {self.window}: "
                "make the chunk smaller."
            )
        taken = (self.reply_tokens or 0) + (self.recall_tokens or 0)
        if self.window and taken >= self.window:
            raise InvalidSetting(
                f"reply_tokens is {self.reply_tokens}, recall_tokens {self.recall_tokens}, the "
                f"window {self.window}: no room is left for the prompt."
            )

    @classmethod
    def preset(cls, name: str, **changes: Any) -> Policy:
        """Return a named policy, with changes to its fields.

        "reference" is the released algorithm (arXiv 2401.11504; rank and alpha 64, dropout 0.05,
        every linear layer but the head, AdamW 5e-5 with epsilon 1e-7, two epochs per chunk of
        1024 after 1024 tokens of context inside the graph, its warm-up, its carried optimizer).

        Raises:
            InvalidSetting: unknown preset or field.
        """
        if name not in PRESETS:
            raise InvalidSetting(
                f"Unknown preset {name!r}: use one of {PRESETS}.{did_you_mean(name, PRESETS)}"
            )
        base = (
            cls()
            if name == "default"
            else cls(recipe="continue", health_kl=None, learning=_REFERENCE, recall_tokens=0)
        )
        return base.changed(**changes)

    def changed(self, **changes: Any) -> Policy:
        """Return a copy with some fields replaced; a mapping for `learning` replaces in it.

        Raises:
            InvalidSetting: unknown field.
        """
        inner = changes.get("learning")
        if isinstance(inner, Mapping):
            _known(Learning, inner, "learning.")
            changes = {**changes, "learning": replace(self.learning, **inner)}
        _known(Policy, changes, "")
        return replace(self, **changes)

    def resolve(self, limits: ModelLimits) -> ResolvedPolicy:
        """Return the same policy with every number that depends on the model filled in.

        Raises:
            InvalidSetting: a window larger than the model's, a window with no room left, or a
                recipe that the backend does not know.
        """
        if self.recipe not in limits.recipes:
            raise InvalidSetting(f"recipe is {self.recipe!r}: use one of {limits.recipes}.")
        window = self.window or min(limits.max_length, DEFAULT_WINDOW)
        if window > limits.max_length:
            raise InvalidSetting(
                f"window is {window} tokens, but the model was trained with {limits.max_length}: "
                "use a smaller window; older text belongs to the memory."
            )
        if window < _TOKENS_MIN:
            raise InvalidSetting(f"window is {window} tokens: at least {_TOKENS_MIN} are needed.")
        reply = self.reply_tokens or min(256, window // 4)
        chunk = self.chunk or min(1024, max(_TOKENS_MIN // 2, window // 4))
        context = self.learning.context
        if context is None:
            context = min(chunk, window - 1)
        context = max(0, min(context, limits.max_length - chunk))
        exponent = _WIDTH_EXPONENTS.get(limits.model_type or "", _WIDTH_EXPONENT)
        rate = self.learning.learning_rate or float(
            f"{_RATE * (2000 / (limits.hidden_size or 2000)) ** exponent:.1e}"
        )
        learning = {**_values(self.learning), "context": context, "learning_rate": rate}
        recall = self.recall_tokens
        if recall is None:
            room = min(window // _WINDOW_TO_RECALL, window - reply - 1)
            recall = room if room >= _RECALL_MIN else 0
        numbers = {
            "window": window,
            "reply_tokens": reply,
            "chunk": chunk,
            "recall_tokens": recall,
        }
        return ResolvedPolicy(  # constructing checks the numbers against each other
            **{**_values(self), **numbers, "learning": ResolvedLearning(**learning)}
        )

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, for reports."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedPolicy(Policy):
    """A policy whose every number is known, as `Policy.resolve` makes it."""

    window: int
    reply_tokens: int
    chunk: int
    recall_tokens: int
    learning: ResolvedLearning


def _values(settings: Policy | Learning) -> dict[str, Any]:
    return {item.name: getattr(settings, item.name) for item in fields(settings)}


def _known(kind: type[Policy | Learning], values: Mapping[str, Any], prefix: str) -> None:
    names = [item.name for item in fields(kind)]
    if unknown := [prefix + key for key in values if key not in names]:
        known = [prefix + name for name in names]
        raise InvalidSetting(
            f"Unknown settings {unknown}: use {known}.{did_you_mean(unknown[0], known)}"
        )


_REFERENCE = Learning(
    r=64,
    lora_alpha=64.0,
    lora_dropout=0.05,
    target_modules="all-linear",
    layers_to_transform="all",
    learning_rate=5e-5,
    steps_per_chunk=2,
    context=1024,
    context_gradient=True,
    document_steps=0,
    stop_loss=0.0,
    kl_weight=0.0,
    replay=0.0,
    damp_repeats=False,
    scale_short=False,
    even_chunks=False,
    lr_scheduler_type="released",
    carry_optimizer=True,
    adam_beta2=0.999,
    adam_epsilon=1e-7,
    measure_every=1,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """The choice of the next token. Temperature 0 is greedy and ignores top_p, top_k and seed.

    Args:
        temperature: 0 or more.
        top_p: keep the most likely tokens that together have this probability, in (0, 1].
        top_k: keep this many tokens; 0 keeps all.
        min_p: drop tokens less likely than this share of the likeliest one, in [0, 1]; 0 keeps all.
        repetition_penalty: over 1 makes tokens of prompt and reply less likely (CTRL, 1909.05858).
        frequency_penalty: taken off the logit of a token for each time that the reply has it.
        presence_penalty: taken off the logit of every token that the reply has.
        logprobs: how many of the likeliest tokens to report at each place, at most 20, beside the
            one that was chosen, with log-probabilities before any of these settings
            (`Reply.logprobs`); None: nothing. Texts of unlimited length have none.
        seed: of the random numbers; None draws a fresh one.
        stop: texts that end the reply; they are not part of it.
        ignore_end: forbid the model's end token (text of unlimited length).
        schema: JSON schema, as JSON text of an object, that the reply follows; None: free text. A
            reply that reaches `max_tokens` first is cut off. Needs the extra `json`.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logprobs: int | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    ignore_end: bool = False
    schema: str | None = None

    def __post_init__(self) -> None:
        positive("temperature", self.temperature, zero=True)
        positive("top_p", self.top_p)
        whole("top_k", self.top_k, zero=True)
        positive("repetition_penalty", self.repetition_penalty)
        whole("seed", self.seed, zero=True, none=True)
        if self.seed is not None and self.seed >= _SEED_LIMIT:
            raise InvalidSetting(f"seed is {self.seed!r}: it must be below 2 ** 63.")
        positive("min_p", self.min_p, zero=True)
        for name in ("top_p", "min_p"):
            if getattr(self, name) > 1:
                raise InvalidSetting(f"{name} is {getattr(self, name)!r}: it must be at most 1.")
        for name in ("frequency_penalty", "presence_penalty"):
            finite(name, getattr(self, name))
        whole("logprobs", self.logprobs, zero=True, none=True)
        if self.logprobs is not None and self.logprobs > MAX_LOGPROBS:
            raise InvalidSetting(f"logprobs is {self.logprobs!r}: at most {MAX_LOGPROBS} are told.")
        if self.schema is not None:
            _check_schema(self.schema)
        stops: object = self.stop
        if not isinstance(stops, tuple) or not all(isinstance(s, str) and s for s in stops):
            raise InvalidSetting(f"stop is {self.stop!r}: it must be a tuple of non-empty strings.")


def _check_schema(schema: str) -> None:
    try:
        fits = isinstance(json.loads(schema), dict)
    except (TypeError, ValueError):
        fits = False
    if not fits:
        raise InvalidSetting(f"schema is {schema!r}: it must be the JSON text of a JSON schema.")
