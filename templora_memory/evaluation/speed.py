"""The cost of learning and answering, side by side in one run.

Every figure is a ratio of two ways to do the same work on the same machine, measured by turns;
the times beside it are medians of this run and mean nothing on another machine. Everything is
done through `ParametricMemory`, as an application does it. Adapters learn plain text, chunk after
chunk (recipe "continue"); `ReferenceLoop` does the same as the released code does.
"""

from __future__ import annotations

import gc
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from templora_memory._version import __version__
from templora_memory.backends.local import LocalBackend
from templora_memory.domain.messages import Document, Message
from templora_memory.domain.settings import Policy, Sampling
from templora_memory.errors import InvalidSetting, InvalidText
from templora_memory.evaluation._growth import absorb_seconds, open_seconds, start_seconds
from templora_memory.evaluation._newest import newest_reply
from templora_memory.evaluation._plots import lines
from templora_memory.evaluation._provenance import commit, machine, peak_bytes
from templora_memory.evaluation._reference_loop import ReferenceLoop, chunks
from templora_memory.models import TINY
from templora_memory.ports import Adapter, ScoreRequest
from templora_memory.service.answering import HEAD
from templora_memory.service.parametric_memory import ParametricMemory
from templora_memory.stores import DirectoryStore

MEMORIES = 8
ANSWER = 64  # tokens
SMALL_CHUNK = 64
FEWEST_DOCUMENTS = 20
_ENDLESS = Sampling(ignore_end=True)

SHAPES: Mapping[str, Mapping[str, int]] = {
    "121m": {"hidden_size": 896, "intermediate_size": 2432, "num_hidden_layers": 12,
             "num_attention_heads": 14, "num_key_value_heads": 7},
    "1b": {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
           "num_attention_heads": 32, "num_key_value_heads": 8},
    "8b": {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
           "num_attention_heads": 32, "num_key_value_heads": 8},
}  # fmt: skip
"""Llama models with random weights and the embedded model's tokenizer, by name."""
RANDOM_CONTEXT = 8192


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeedSettings:
    """The amounts that are measured.

    Args:
        chunk, context: tokens of a chunk, and before it: the released code has three times as
            many before as in a chunk.
        repeats: of every side of a comparison; the median counts.
        learned: chunks that each repeat learns, each after a full context.
        book: tokens that both ways of learning learn for the comparison of quality; 0: none.
        history: numbers of absorbed tokens after which a turn is timed, growing.
        memories: in a root that is opened.
        documents: learned by one memory of a fake model; the last is timed, and the tenth.
    """

    chunk: int = 256
    context: int = 768
    repeats: int = 5
    learned: int = 8
    book: int = 60_000
    history: tuple[int, ...] = (1_000, 3_000, 10_000, 30_000, 100_000)
    memories: int = 10_000
    documents: int = 100

    def __post_init__(self) -> None:
        if min(self.chunk, self.repeats, self.learned) < 1 or min(self.context, self.book) < 0:
            raise InvalidSetting("speed settings must be positive: " + repr(self))
        if list(self.history) != sorted(set(self.history)) or not self.history:
            raise InvalidSetting(f"history is {self.history}: it must grow.")
        if self.memories < 1 or self.documents < FEWEST_DOCUMENTS:
            raise InvalidSetting(
                f"{self.memories} memories and {self.documents} documents: at least 1 and "
                f"{FEWEST_DOCUMENTS} are needed."
            )


@dataclass(slots=True)
class SpeedReport:
    """The result of `speed`, and where it was measured.

    Args:
        ratios: by name, see `docs/results/speed.md`; more is better unless the name ends in
            `_vs_reference` of perplexity, `_vs_1k`, `_vs_10`, `_vs_pass`, `_vs_idle`, `_vs_token`,
            `_vs_weights` or `_vs_adapter`.
        figures: medians of this run: seconds, tokens per second, bytes.
        curves: lists of points for plots.
    """

    model: str
    parameters: int
    settings: SpeedSettings
    ratios: dict[str, float | None] = field(default_factory=dict)
    figures: dict[str, float] = field(default_factory=dict)
    curves: dict[str, list[dict[str, float]]] = field(default_factory=dict)

    def plot(self, folder: Path) -> list[Path]:
        """Draw the curves as SVG files into a folder.

        Raises:
            InvalidSetting: matplotlib is not installed.
        """
        turns, shown = (self.curves[f"turn_by_{kind}_tokens"] for kind in ("absorbed", "prompt"))
        return [
            lines(
                folder / "turn.svg",
                {
                    "history in weights": (turns, "absorbed_tokens", "turn_seconds"),
                    "history in the prompt": (shown, "prompt_tokens", "turn_seconds"),
                },
                title=f"A turn of {ANSWER} tokens, {self.model}",
                x="tokens of history",
                y="seconds",
            ),
            lines(
                folder / "absorb.svg",
                {"absorbing": (turns, "absorbed_tokens", "absorb_seconds_per_chunk")},
                title=f"Learning a chunk of {self.settings.chunk} tokens, {self.model}",
                x="tokens learned before",
                y="seconds",
            ),
        ]

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return {**asdict(self), "version": __version__, "commit": commit(), "machine": machine()}


def speed(
    model: str = TINY,
    *,
    text: str | None = None,
    settings: SpeedSettings | None = None,
    device: str | None = None,
    dtype: str | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> SpeedReport:
    """Measure a model: "templora/tiny", a hub id, a folder, or one of `SHAPES`.

    Args:
        model: which.
        text: a book, for the comparison of quality and as material; None: that comparison is left
            out, and random words are learned.
        settings: how much is measured.
        device: as for `ParametricMemory.from_pretrained`.
        dtype: likewise.
        progress: told what is measured now.

    Raises:
        InvalidText: the book is too short.
        InvalidSetting: the window has no room for chunk and context.
    """
    wanted = settings or SpeedSettings()
    with tempfile.TemporaryDirectory() as root:
        bench = _SpeedBench(_backend(model, device, dtype), Path(root), wanted, text)
        report = bench.report
        with bench:
            for name, measure in (
                ("matrix products", bench.matrix_rate),
                ("absorbing against the reference loop", bench.absorb_vs_reference),
                ("quality against the reference loop", bench.quality),
                ("learning together", bench.batched_learn),
                ("answering together", bench.batched_generate),
                ("turns as the history grows", bench.turns),
                ("the history in the prompt", bench.full_history),
                ("switching adapters", bench.switch),
                ("bytes", bench.sizes),
                ("answering while another memory learns", bench.stall),
                ("decoding against transformers", bench.decode),
                ("peak memory", bench.peak),
                ("starting", bench.start),
                ("many memories and documents", bench.growth),
            ):
                progress(name)
                measure()
        return report


def _backend(model: str, device: str | None, dtype: str | None) -> LocalBackend:
    if model not in SHAPES:
        return LocalBackend(model, device=device, dtype=dtype)
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM  # noqa: PLC0415

    import templora_memory.tiny  # noqa: PLC0415

    tokenizer = AutoTokenizer.from_pretrained(str(Path(templora_memory.tiny.__path__[0])))
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), max_position_embeddings=RANDOM_CONTEXT, bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id, **SHAPES[model],
    )  # fmt: skip
    kind = getattr(torch, dtype or ("bfloat16" if torch.cuda.is_available() else "float32"))
    place = device or ("cuda" if torch.cuda.is_available() else "cpu")
    with torch.device(place):
        made = LlamaForCausalLM(config).to(kind)
    return LocalBackend.of(made, tokenizer, name=f"random-{model}")


class _SpeedBench:
    """The measurements; each fills in its part of the report."""

    def __init__(
        self, backend: LocalBackend, root: Path, settings: SpeedSettings, text: str | None
    ) -> None:
        self._backend = backend
        self._store = DirectoryStore(root)
        self._settings = settings
        self._given = text
        self._made = 0
        policy = Policy().changed(
            chunk=settings.chunk,
            recipe="continue",
            learning={"context": settings.context, "document_steps": 0, "replay": 0},  # as the loop
        )
        self._service = ParametricMemory(backend, self._store, policy)
        self.report = SpeedReport(model="", parameters=0, settings=settings)

    def __enter__(self) -> None:
        service = self._service.load()
        base = self._backend.loaded.base  # the reference loop wants the model itself
        self._base = base
        room = base.max_length - self._settings.chunk
        if self._settings.context > room:
            raise InvalidSetting(
                f"A chunk of {self._settings.chunk} and {self._settings.context} tokens of context "
                f"are more than the model's {base.max_length}."
            )
        self.report.model = base.name
        self.report.parameters = sum(p.numel() for p in base.model.parameters())
        self._words = self._material()
        del service

    def __exit__(self, *_: object) -> None:
        self._service.close()

    # --- material --------------------------------------------------------------------------

    def _material(self) -> tuple[str, ...]:
        """Text in pieces of one chunk each."""
        need = max(self._settings.book, *self._settings.history, 4 * ANSWER)
        text = self._given
        if text is None:
            draw = torch.Generator().manual_seed(0)
            ids = torch.randint(300, len(self._base.tokenizer), (need,), generator=draw)
            text = self._backend.loaded.tokenizer.decode(ids.tolist())
        pieces = self._backend.split(text, self._settings.chunk)
        if self._given is not None and len(pieces) * self._settings.chunk < self._settings.book:
            raise InvalidText(
                f"The book has about {len(pieces) * self._settings.chunk} tokens, fewer than the "
                f"{self._settings.book} to learn: give a longer one or ask for fewer."
            )
        return pieces

    def _document(self, count: int, start: int = 0) -> Document:
        """So many chunks as one document; the text goes round."""
        words = self._words
        return Document("".join(words[(start + i) % len(words)] for i in range(count)))

    def _new(self) -> str:
        self._made += 1
        return f"bench-{self._made}"

    def _record(self, name: str, ratio: float | None, **figures: float) -> None:
        self.report.ratios[name] = ratio
        self.report.figures.update(figures)

    # --- learning --------------------------------------------------------------------------

    def matrix_rate(self) -> None:
        """Floating point operations per second of a matrix product, in the better precision."""
        rates = {}
        for kind in (torch.float32, torch.bfloat16):
            rates[kind] = _matrix_rate(self._base.device, kind)
        self.report.figures["matrix_flops"] = max(rates.values())

    def absorb_vs_reference(self) -> None:
        """Seconds per token that comes after a full context.

        Ours through the service, disk and receipt included: a document that goes on where the
        memory's text ends, so that the context before it is run, too.
        """
        settings, learned = self._settings, self._settings.learned
        learning = self._service.policy.learning
        own: list[float] = []
        other: list[float] = []
        self._service[self._new()].absorb(self._document(2))  # warm up
        first = math.ceil(settings.context / settings.chunk) + 1
        for repeat in range(settings.repeats):
            name = self._new()
            self._service[name].absorb(self._document(first, start=repeat * learned))
            more = replace(self._document(learned, start=repeat * learned + first), continues=True)
            began = time.perf_counter()
            report = self._service[name].absorb(more)
            own.append((time.perf_counter() - began) / report.tokens)
            loop = ReferenceLoop(self._base.model, learning)
            ids = self._backend.loaded.tokenizer.encode(
                self._document(first + learned, start=repeat * learned).text
            )
            spent = [
                (loop.learn(before, chunk), len(chunk))
                for before, chunk in chunks(ids, settings.chunk, settings.context)
                if len(before) == settings.context
            ]
            other.append(sum(seconds for seconds, _ in spent) / sum(size for _, size in spent))
        own_rate, other_rate = 1 / statistics.median(own), 1 / statistics.median(other)
        floor = (
            4
            * self.report.parameters
            * learning.steps_per_chunk
            / self.report.figures["matrix_flops"]
        )
        self._record(
            "absorb_vs_reference", own_rate / other_rate,
            absorb_tokens_per_second=own_rate, reference_tokens_per_second=other_rate,
        )  # fmt: skip
        self._record("floor_over_step", floor * own_rate)

    def quality(self) -> None:
        """Perplexity of what follows the book, after learning it in either way."""
        settings = self._settings
        if self._given is None or not settings.book:
            self.report.ratios["ppl_vs_reference"] = None
            return
        count = settings.book // settings.chunk
        text, following = "".join(self._words[:count]), self._words[count : count + 32]
        if not following:
            raise InvalidText("Nothing follows the part of the book to learn: ask for less.")
        name = self._new()
        self._service[name].absorb(Document(text))
        loop = ReferenceLoop(self._base.model, self._service.policy.learning)
        ids = self._backend.loaded.tokenizer.encode(text)
        for before, chunk in chunks(ids, settings.chunk, settings.context):
            loop.learn(before, chunk)
        with tempfile.TemporaryDirectory() as folder:
            loop.save(Path(folder))
            theirs = self._perplexity(following, Adapter(folder=Path(folder), version="loop/1"))
        ours = self._perplexity(
            following, Adapter(folder=self._service[name].adapter(), version="own/1")
        )
        base = self._perplexity(following, None)
        self._record(
            "ppl_vs_reference", ours / theirs,
            ppl_base=base, ppl_memory=ours, ppl_reference=theirs,
        )  # fmt: skip

    def _perplexity(self, pieces: Sequence[str], adapter: Adapter | None) -> float:
        """Of pieces, each after the one before it."""
        scores: list[float] = []
        for before, piece in pairwise(pieces):
            request = ScoreRequest(context=before, target=piece, adapter=adapter)
            scores += self._backend.score([request])[0]
        return math.exp(-sum(scores) / len(scores))

    def batched_learn(self) -> None:
        """Eight memories with small chunks: one after another, and all at once."""
        backend, settings = self._backend, self._settings
        policy = self._service.policy.changed(chunk=SMALL_CHUNK, learning={"context": SMALL_CHUNK})
        small = ParametricMemory(backend, self._store, policy).load()
        pieces = backend.split(self._document(4).text, 4 * SMALL_CHUNK)
        texts = [Document(pieces[i % len(pieces)], f"part {i}") for i in range(MEMORIES)]
        alone: list[float] = []
        together: list[float] = []
        for _ in range(settings.repeats):
            began = time.perf_counter()
            for text in texts:
                small[self._new()].absorb(text)
            alone.append(time.perf_counter() - began)
            began = time.perf_counter()
            jobs = [small[self._new()].absorb(text, wait=False) for text in texts]
            for job in jobs:
                job.wait()
            together.append(time.perf_counter() - began)
        small.wait()
        one, all_ = statistics.median(alone), statistics.median(together)
        self._record(
            "batched_learn", one / all_,
            learn_one_after_another_seconds=one, learn_together_seconds=all_,
        )  # fmt: skip

    # --- answering -------------------------------------------------------------------------

    def _ask(self, name: str | None, words: str, tokens: int) -> float:
        """Seconds of one answer of exactly so many tokens."""
        began = time.perf_counter()
        asked = [Message("user", words)]
        reply = newest_reply(self._service, name, asked, sampling=_ENDLESS, max_tokens=tokens)
        assert reply.completion_tokens == tokens  # noqa: S101  # otherwise times mean nothing
        return time.perf_counter() - began

    def batched_generate(self) -> None:
        """Eight memories answer: one after another, and all at once."""
        names = [self._new() for _ in range(MEMORIES)]
        for number, name in enumerate(names):
            self._service[name].absorb(self._document(1, start=number))
        self._names = names
        alone: list[float] = []
        together: list[float] = []
        for repeat in range(self._settings.repeats):
            began = time.perf_counter()
            for name in names:
                self._ask(name, f"Question {repeat}: what happened?", ANSWER)
            alone.append(time.perf_counter() - began)
            began = time.perf_counter()
            words = f"Question {repeat}: and what then?"
            _at_once([partial(self._ask, name, words, ANSWER) for name in names])
            together.append(time.perf_counter() - began)
        one, all_ = statistics.median(alone), statistics.median(together)
        tokens = MEMORIES * ANSWER
        self._record(
            "batched_generate", one / all_,
            generate_alone_tokens_per_second=tokens / one,
            generate_together_tokens_per_second=tokens / all_,
        )  # fmt: skip

    def turns(self) -> None:
        """A turn of the same memory after more and more absorbed tokens."""
        settings, name, done = self._settings, self._new(), 0
        points, times = [], {}
        for goal in settings.history:
            count = max(1, (goal - done) // settings.chunk)
            report = self._service[name].absorb(
                replace(self._document(count, start=done // settings.chunk), title=str(goal))
            )
            done += report.tokens
            asked = [
                self._ask(name, f"Turn {i} after {goal}?", ANSWER)
                for i in range(settings.repeats + 1)
            ][1:]
            times[goal] = statistics.median(asked)
            points.append({
                "absorbed_tokens": done,
                "turn_seconds": times[goal],
                "absorb_seconds_per_chunk": report.seconds / report.chunks,
            })  # fmt: skip
        self.report.curves["turn_by_absorbed_tokens"] = points
        first, last = settings.history[0], settings.history[-1]
        key = f"turn_{_thousands(last)}_vs_{_thousands(first)}"
        self._record(key, times[last] / times[first], turn_seconds=times[last])

    def full_history(self) -> None:
        """The same turn with more and more history in the prompt instead."""
        settings, points = self._settings, []
        max_tokens = self._base.max_length - ANSWER - 2 * SMALL_CHUNK
        words = "".join(self._words)
        policy = self._service.policy.changed(window=self._base.max_length)
        service = ParametricMemory(self._backend, self._store, policy).load()
        size = min(256, max_tokens)
        while size <= max_tokens:
            history = self._backend.split(words, size)
            times = []
            for repeat in range(settings.repeats):
                began = time.perf_counter()
                shown = history[repeat % len(history)]
                service.without_memory.reply(
                    [Message("user", "What happened then?")], context=shown,
                    sampling=_ENDLESS, max_tokens=ANSWER,
                )  # fmt: skip
                times.append(time.perf_counter() - began)
            points.append({"prompt_tokens": size, "turn_seconds": statistics.median(times)})
            size = max_tokens if size < max_tokens < 2 * size else 2 * size
        self.report.curves["turn_by_prompt_tokens"] = points
        self._record(
            "full_history_vs_turn",
            points[-1]["turn_seconds"] / self.report.figures["turn_seconds"],
            full_history_tokens=points[-1]["prompt_tokens"],
        )

    def switch(self) -> None:
        """An answer of one token by the memory that answered last, or by another warm one."""
        same: list[float] = []
        other: list[float] = []
        names = self._names
        for repeat in range(4 * self._settings.repeats):
            for number, name in enumerate(names[:2]):
                words = f"Question number {repeat} of {number}?"
                other.append(self._ask(name, words + " Please.", 1))
                same.append(self._ask(name, words + " Again.", 1))
        token = 1 / self.report.figures["generate_alone_tokens_per_second"]
        extra = statistics.median(other) - statistics.median(same)
        self._record("switch_vs_token", extra / token, switch_seconds=extra, token_seconds=token)

    def sizes(self) -> None:
        """Bytes that a memory takes, in the process and on disk, over its adapter's own size."""
        name = self._names[0]
        folder = self._service[name].adapter()
        weights = self._backend._weights(Adapter(folder=folder, version="sizes/1"))  # noqa: SLF001
        adapter_bytes = weights.layout.size * weights.flat.element_size()
        disk = sum(path.stat().st_size for path in folder.iterdir())
        gc.collect()
        self._record(
            "resident_vs_adapter", weights.bytes / adapter_bytes, adapter_bytes=adapter_bytes
        )
        self._record("disk_vs_adapter", disk / adapter_bytes, disk_bytes=disk)

    def stall(self) -> None:
        """Time from token to token, with and without another memory that learns meanwhile."""
        idle: list[float] = []
        busy: list[float] = []
        longest: list[float] = []
        for repeat in range(self._settings.repeats):
            idle.append(self._token_seconds(f"Question {repeat}: what happened?")[0])
            job = self._service[self._new()].absorb(self._document(64), wait=False)
            while job.progress is None and not job.done:
                time.sleep(0.005)
            mean, slowest = self._token_seconds(f"Question {repeat}: and what then?")
            busy.append(mean)
            longest.append(slowest)
            job.cancel()
            job.finished()
        self._record(
            "stall_vs_idle", statistics.median(busy) / statistics.median(idle),
            token_seconds_idle=statistics.median(idle),
            token_seconds_beside_learning=statistics.median(busy),
            longest_gap_seconds_beside_learning=statistics.median(longest),
        )  # fmt: skip

    def decode(self) -> None:
        """Tokens per second of one answer of the base model, over transformers' own `generate`."""
        model, tokenizer = self._base.model, self._base.tokenizer
        own: list[float] = []
        other: list[float] = []
        for repeat in range(self._settings.repeats + 1):
            words = f"Question {repeat}: what happened then?"
            own.append(self._ask(None, words, ANSWER))
            ids = self._backend.loaded.tokenizer.prompt([Message("user", words)])
            began = time.perf_counter()
            with torch.no_grad():
                model.generate(
                    torch.tensor([ids], device=self._base.device), do_sample=False,
                    min_new_tokens=ANSWER, max_new_tokens=ANSWER,
                    pad_token_id=tokenizer.pad_token_id or 0,
                )  # fmt: skip
            other.append(time.perf_counter() - began)
        one, plain = statistics.median(own[1:]), statistics.median(other[1:])
        self._record(
            "decode_vs_generate", plain / one,
            decode_tokens_per_second=ANSWER / one, generate_tokens_per_second=ANSWER / plain,
        )  # fmt: skip

    def peak(self) -> None:
        """The most memory of this process so far, over the model's weights in float32."""
        peak, weights = peak_bytes(), 4 * self.report.parameters
        if peak is None:
            self.report.ratios["peak_vs_weights"] = None
        else:
            self._record("peak_vs_weights", peak / weights, peak_bytes=peak)

    def start(self) -> None:
        """A new process that shows the help, or lists no memories, over one that does nothing."""
        repeats = self._settings.repeats
        nothing = start_seconds(None, repeats)
        with tempfile.TemporaryDirectory() as root:
            for name, arguments in (("help", ["--help"]), ("list", ["list", "--root", root])):
                seconds = start_seconds(arguments, repeats)
                self._record(f"{name}_vs_pass", seconds / nothing, **{f"{name}_seconds": seconds})
        self.report.figures["pass_seconds"] = nothing

    def growth(self) -> None:
        """A root of many memories opened, over a process that does nothing; the absorb number N."""
        settings = self._settings
        seconds = open_seconds(settings.memories, settings.repeats)
        self._record(
            f"open_{_thousands(settings.memories)}_vs_pass",
            seconds / self.report.figures["pass_seconds"], open_seconds=seconds,
        )  # fmt: skip
        first, last = absorb_seconds(settings.documents)
        self._record(
            f"absorb_{_thousands(settings.documents)}_vs_10", last / first,
            fake_absorb_seconds=last,
        )  # fmt: skip

    def _token_seconds(self, words: str) -> tuple[float, float]:
        """Mean time from token to token of a long answer, and the longest from text to text."""
        with self._service[self._names[0]].stream(
            [Message("user", words)], revision=HEAD, sampling=_ENDLESS,
            max_tokens=2 * ANSWER,
        ) as stream:  # fmt: skip
            stamps = [time.perf_counter() for _ in stream]
            tokens = stream.reply.completion_tokens
        longest = max(after - before for before, after in pairwise(stamps))
        return (stamps[-1] - stamps[0]) / (tokens - 1), longest


def _at_once(work: Sequence[Callable[[], object]]) -> None:
    """Run all of this on threads; the first error is raised here."""
    with ThreadPoolExecutor(len(work)) as pool:
        for future in [pool.submit(task) for task in work]:
            future.result()


def _matrix_rate(device: torch.device, kind: torch.dtype) -> float:
    """Operations per second of square products; a slow precision is given up soon."""
    best = 0.0
    for size in (128, 256, 512, 1024) + ((4096, 8192) if device.type == "cuda" else ()):
        a, b = (torch.randn(size, size, device=device, dtype=kind) for _ in range(2))
        times = []
        for _ in range(12):
            began = time.perf_counter()
            a @ b
            if device.type == "cuda":
                torch.cuda.synchronize()
            times.append(time.perf_counter() - began)
        best = max(best, 2 * size**3 / statistics.median(times[2:]))
        if sum(times) > 1:
            break
    return best


def _thousands(count: int) -> str:
    return f"{count // 1000}k" if count % 1000 == 0 else str(count)
