"""A conversation of hundreds of turns in a small window, with and without a memory.

The same user speaks to three agents: with `ParametricMemoryMiddleware`, with LangChain's
`SummarizationMiddleware`, and with neither (the newest messages that fit). The table says what each
of them sends to the model, and how likely the user's own sentences of long ago are at the end,
given what the agent then has: its prompt and, for the first, its memory. Sentences of the same form
that the user never said show how much of that is form and how much is memory. Then the thread is
forgotten, and the folder of the memories is searched for what was told.

    python long_conversation.py --turns 200 --window 1024
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, Literal, cast

from langchain.agents import create_agent
from langchain.agents.middleware import (
    AgentMiddleware,
    ModelRequest,
    SummarizationMiddleware,
    wrap_model_call,
)
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import (
    AnyMessage,
    BaseMessage,
    HumanMessage,
    MessageLikeRepresentation,
    convert_to_messages,
    trim_messages,
)
from langchain_core.outputs import LLMResult
from langgraph.checkpoint.memory import InMemorySaver
from templora_memory import Message, ParametricMemory, Policy
from templora_memory.models import TINY

from langchain_templora import ChatTempLora
from langchain_templora.middleware import ParametricMemoryMiddleware, thread_memory_id

THREAD = "long"
SYSTEM = "You are a kind listener. Answer in one sentence."
PROBES = 24
_DOING = ("mended", "painted", "cleaned", "lost", "sold", "found", "carried home", "hid")
_THINGS = ("the gate", "a lantern", "my old boat", "a bell", "the ladder", "a net", "two oars")
_SKIES = ("grey", "bright", "red at sunrise", "white with fog", "full of gulls", "dark with rain")
_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


def day_sentence(number: int, rng: Random) -> str:
    """Return the user's sentence about one day; no day comes twice."""
    day, week = _DAYS[number % 7], number // 7 + 1
    return (
        f"On {day} of week {week} I {rng.choice(_DOING)} {rng.choice(_THINGS)}, and the sky was "
        f"{rng.choice(_SKIES)}."
    )


def asked(number: int) -> str:
    """Return the question about a day."""
    return f"What did I do on {_DAYS[number % 7]} of week {number // 7 + 1}?"


@dataclass(eq=False)  # LangChain keeps handlers in sets
class Meter(BaseCallbackHandler):
    """Counts calls of the model, all of them, and tokens."""

    calls: int = 0
    prompt: int = 0
    completion: int = 0

    def on_llm_end(self, response: LLMResult, **_: Any) -> None:
        """Add up the tokens of a call of the model."""
        message: Any = response.generations[0][0]
        used = message.message.usage_metadata or {}
        self.calls += 1
        self.prompt += used.get("input_tokens", 0)
        self.completion += used.get("output_tokens", 0)


@dataclass
class Arm:
    """One agent and what was seen of it."""

    name: str
    middleware: list[AgentMiddleware[Any, Any, Any]]
    meter: Meter = field(default_factory=Meter)
    prompts: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    sent: list[BaseMessage] = field(default_factory=list)


def newest_that_fit(model: ChatTempLora, tokens: int) -> AgentMiddleware[Any, Any, Any]:
    """No memory at all: the request keeps the newest turns that fit."""

    @wrap_model_call
    def trimmed(request: ModelRequest[Any], handler: Callable[..., Any]) -> Any:
        trimmed_messages = trim_messages(
            request.messages, max_tokens=tokens, token_counter=model, start_on="human"
        )
        return handler(request.override(messages=cast("list[AnyMessage]", trimmed_messages)))

    return trimmed


def seen(arm: Arm) -> AgentMiddleware[Any, Any, Any]:
    """Notes what is really sent, innermost."""

    @wrap_model_call
    def note(request: ModelRequest[Any], handler: Callable[..., Any]) -> Any:
        arm.sent = list(request.messages)
        return handler(request)

    return note


def converse(arm: Arm, model: ChatTempLora, turns: list[str]) -> None:
    """Let the user speak to the agent of an arm."""
    agent: Any = create_agent(
        model,
        tools=[],
        system_prompt=SYSTEM,
        middleware=[*arm.middleware, seen(arm)],
        checkpointer=InMemorySaver(),
    )
    config: Any = {"configurable": {"thread_id": THREAD}, "callbacks": [arm.meter]}
    for number, text in enumerate(turns):
        began = time.process_time()  # of all threads: learning counts
        state = agent.invoke({"messages": [HumanMessage(text)]}, config)
        arm.seconds.append(time.process_time() - began)
        arm.prompts.append(state["messages"][-1].usage_metadata["input_tokens"])
        if number % 20 == 19:  # noqa: PLR2004  # now and then
            print(f"{arm.name}: turn {number + 1}, prompt {arm.prompts[-1]} tokens", flush=True)


def likelihood(
    memory: ParametricMemory, arm: Arm, days: Sequence[int], said: Sequence[str], *, learned: bool
) -> float:
    """Nats per token of what was said of some days, given what the agent has at the end."""
    shown = [Message("system", SYSTEM)]
    for message in arm.sent:
        role: Any = {"ai": "assistant", "human": "user"}.get(message.type, message.type)
        shown.append(Message(role, str(message.text)))
    while shown[-1].role != "assistant" and len(shown) > 1:
        shown.pop()  # the question comes instead of the newest turn
    total, tokens = 0.0, 0
    for day in days:
        question = [*shown, Message("user", asked(day))]
        probe = memory[thread_memory_id(THREAD)].probe(question, said[day])
        total += probe.with_memory if learned else probe.without_memory
        tokens += probe.tokens
    return total / tokens


def on_disk(folder: str, said: Sequence[str]) -> str:
    """Return how many files are under a folder, and how many of them hold a sentence."""
    texts = [path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()]
    holding = sum(any(sentence.encode() in text for sentence in said) for text in texts)
    return f"{len(texts)} files, {holding} with what was told"


def quarters(values: list[float]) -> float:
    """The last quarter over the second: the first still fills the window."""
    size = len(values) // 4
    return statistics.mean(values[-size:]) / statistics.mean(values[size : 2 * size])


def main() -> None:
    """Run the example."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=TINY, help="a name, a hub id, a folder or a .gguf file")
    parser.add_argument("--turns", type=int, default=200)
    parser.add_argument("--window", type=int, default=1024, help="tokens of prompt and reply")
    parser.add_argument("--reply", type=int, default=32, help="most tokens of a reply")
    arguments = parser.parse_args()
    policy = Policy(window=arguments.window)
    with (
        tempfile.TemporaryDirectory() as folder,
        ParametricMemory.from_pretrained(arguments.model, root=folder, policy=policy) as memory,
    ):
        model = ChatTempLora(model=arguments.model, memory=memory, max_tokens=arguments.reply)
        half: tuple[Literal["tokens"], int] = ("tokens", arguments.window // 2)
        keep: tuple[Literal["tokens"], int] = ("tokens", arguments.window // 4)

        def count(messages: Iterable[MessageLikeRepresentation]) -> int:
            return model.get_num_tokens_from_messages(convert_to_messages(messages))

        arms = [
            Arm("memory", [ParametricMemoryMiddleware(memory, trigger=half, keep=keep)]),
            Arm(
                "summary",
                [
                    SummarizationMiddleware(
                        model.model_copy(update={"max_tokens": arguments.window // 8}),
                        trigger=half,
                        keep=keep,
                        token_counter=count,
                        summary_prompt="Sum up what was said:\n{messages}",
                        trim_tokens_to_summarize=arguments.window // 2,
                    )
                ],
            ),
            Arm("neither", [newest_that_fit(model, arguments.window // 2)]),
        ]
        rng, other = Random(7), Random(8)  # noqa: S311  # the same everywhere, not secret
        said = [day_sentence(number, rng) for number in range(arguments.turns)]
        unsaid = [day_sentence(number, other) for number in range(arguments.turns)]
        for arm in arms:
            converse(arm, model, said)
        status = memory[thread_memory_id(THREAD)].status()
        print(f"\n{arguments.turns} turns, window {arguments.window}; learned: ", end="")
        print(f"{status.absorbed_messages} messages, {status.absorbed_tokens} tokens\n")
        print("| | memory | summary | neither |\n| --- | --- | --- | --- |")
        base = sum(arms[0].seconds)
        # only days that left every prompt: the newest half of the window's worth of turns is out
        gone = status.absorbed_messages // 2 - arguments.window // 32
        spread = [max(0, gone) * step // PROBES for step in range(PROBES)]
        days = [day for day in dict.fromkeys(spread) if said[day] != unsaid[day]]
        facts = [likelihood(memory, arm, days, said, learned=arm.name == "memory") for arm in arms]
        others = [
            likelihood(memory, arm, days, unsaid, learned=arm.name == "memory") for arm in arms
        ]
        without = likelihood(memory, arms[0], days, said, learned=False)
        rows = {
            "model calls": [f"{arm.meter.calls}" for arm in arms],
            "prompt tokens, mean": [f"{statistics.mean(arm.prompts):.0f}" for arm in arms],
            "prompt tokens, most": [f"{max(arm.prompts)}" for arm in arms],
            "prompt tokens in all calls": [f"{arm.meter.prompt:,}" for arm in arms],
            "processor time, memory = 1": [f"{sum(arm.seconds) / base:.2f}" for arm in arms],
            "time of a turn, last over second quarter": [
                f"{quarters(arm.seconds):.2f}" for arm in arms
            ],
            "what was told, nats per token": [f"{value:.3f}" for value in facts],
            "the same days, never told so": [f"{value:.3f}" for value in others],
        }
        for name, cells in rows.items():
            print(f"| {name} | {' | '.join(cells)} |")
        print(f"\nwhat was told, with the memory's prompt but without it: {without:.3f}")
        print(f"on disk: {on_disk(folder, said)}; ", end="")
        memory[thread_memory_id(THREAD)].forget()
        print(f"after forgetting the thread: {on_disk(folder, said)}")


if __name__ == "__main__":
    main()
