"""Calls that a type checker must accept; read by `mypy --strict`, never run."""

from templora_memory import (
    Document,
    GenerateOptions,
    Learning,
    Memory,
    Message,
    ParametricMemory,
    Policy,
    ReplyOptions,
    Sampling,
)
from templora_memory.ports import Backend, Store

HISTORY = [Message("user", "Where are your bees?")]


def handle(ada: Memory) -> str:
    report = ada.absorb("Ada keeps bees on the roof of the observatory.")
    job = ada.absorb([Document("She has a cat.", continues=True)], wait=False)
    tokens: int = report.tokens + job.wait().tokens
    reply = ada.reply(HISTORY, context="Today is Monday.", strength=0.5, max_tokens=8)
    with ada.stream(HISTORY, sampling=Sampling(temperature=0.7), recall_tokens=64) as stream:
        text = "".join(stream)
    long = ada.generate("Once", max_tokens=4000, reuse=False).reply
    names = [revision.name for revision in ada.revisions()]
    return f"{tokens} {reply.text} {text} {long.text} {names} {ada.status().head_name}"


def service(memory: ParametricMemory) -> int:
    options: ReplyOptions = {"strength": 0.5, "context": ("a text", Document("another"))}
    writing: GenerateOptions = {"max_tokens": 100}
    memory.without_memory.reply(HISTORY, **options)
    memory["ada"].stream(HISTORY, revision="head", create=False).close()
    memory["ada"].generate(**writing).close()
    window: int = memory.policy.window
    rate: float = memory.policy.learning.learning_rate
    return window + round(rate)


def make(backend: Backend, store: Store) -> ParametricMemory:
    return ParametricMemory(backend, store, Policy(window=512, learning=Learning(r=8)))
