"""A conversation of hundreds of turns in a small window, with and without a memory.

The same user speaks to three agents: with `ParametricMemoryMiddleware`, with LangChain's
`SummarizationMiddleware`, and with neither (the newest messages that fit). The table says what each
of them sends to the model, and how likely the facts that the user told in the beginning are at the
end, given what the agent then has: its prompt and, for the first, its memory.

    python long_conversation.py --turns 200 --window 1024
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

from langchain.agents import create_agent
from langchain.agents.middleware import (
    AgentMiddleware,
    ModelRequest,
    SummarizationMiddleware,
    wrap_model_call,
)
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import BaseMessage, HumanMessage, SystemMessage, trim_messages
from langchain_core.outputs import LLMResult
from langgraph.checkpoint.memory import InMemorySaver
from templora_memory import Message, ParametricMemory, Policy

from langchain_templora import ChatTempLora
from langchain_templora.middleware import ParametricMemoryMiddleware, thread_memory_id

THREAD = "long"
SYSTEM = "You are a kind listener. Answer in one sentence."
FACTS = (
    ("Where do I live?", "I live in Heron Cove."),
    ("What is my work?", "I work as a lamp keeper."),
    ("What pet do I have?", "I have a lame goose called Button."),
    ("Who is my best friend?", "My best friend is Tamsin."),
    ("What am I afraid of?", "I am afraid of thunder."),
    ("What is my favourite food?", "My favourite food is barley soup."),
    ("What do I always carry?", "I always carry a brass whistle."),
    ("Who was my teacher?", "My teacher was Wenna."),
)
_DOING = ("mended", "painted", "cleaned", "lost", "sold", "found", "carried home", "hid")
_THINGS = ("the gate", "a lantern", "my old boat", "a bell", "the ladder", "a net", "two oars")
_SKIES = ("grey", "bright", "red at sunrise", "white with fog", "full of gulls", "dark with rain")
_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


def user_turns(count: int, *, seed: int = 7) -> list[str]:
    """What the user says: all facts in the first turns, then days of the week, never twice."""
    rng = Random(seed)  # noqa: S311  # the same on every machine, not secret
    said = [f"Let me tell you something. {fact}" for _, fact in FACTS]
    while len(said) < count:
        week, day = len(said) // 7 + 1, _DAYS[len(said) % 7]
        said.append(
            f"On {day} of week {week} I {rng.choice(_DOING)} {rng.choice(_THINGS)}, and the sky "
            f"was {rng.choice(_SKIES)}. What do you say?"
        )
    return said[:count]


@dataclass(eq=False)  # LangChain keeps handlers in sets
class Meter(BaseCallbackHandler):
    """Counts calls of the model, all of them, and tokens."""

    calls: int = 0
    prompt: int = 0
    completion: int = 0

    def on_llm_end(self, response: LLMResult, **_: Any) -> None:
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
        kept = trim_messages(
            request.messages, max_tokens=tokens, token_counter=model, start_on="human"
        )
        return handler(request.override(messages=kept))

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


def likelihood(memory: ParametricMemory, arm: Arm, *, learned: bool) -> float:
    """Nats per token of the facts, each after its question, given what the agent has at the end."""
    shown = [Message("system", SYSTEM)]
    for message in arm.sent:
        role = "assistant" if message.type == "ai" else "user"
        shown.append(
            Message("system" if isinstance(message, SystemMessage) else role, message.text)
        )  # type: ignore[arg-type]
    while shown[-1].role != "assistant" and len(shown) > 1:
        shown.pop()  # the question comes instead of the newest turn
    total, tokens = 0.0, 0
    for question, fact in FACTS:
        probe = memory.probe(thread_memory_id(THREAD), [*shown, Message("user", question)], fact)
        total += probe.with_memory if learned else probe.without_memory
        tokens += probe.tokens
    return total / tokens


def quarters(values: list[float]) -> float:
    """The last quarter over the second: the first still fills the window."""
    size = len(values) // 4
    return statistics.mean(values[-size:]) / statistics.mean(values[size : 2 * size])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="templora/tiny", help="embedded, a hub id or a folder")
    parser.add_argument("--turns", type=int, default=200)
    parser.add_argument("--window", type=int, default=1024, help="tokens of prompt and reply")
    parser.add_argument("--reply", type=int, default=32, help="most tokens of a reply")
    given = parser.parse_args()
    policy = Policy(window=given.window)
    with (
        tempfile.TemporaryDirectory() as folder,
        ParametricMemory.from_pretrained(given.model, root=folder, policy=policy) as memory,
    ):
        model = ChatTempLora(model=given.model, memory=memory, max_tokens=given.reply)
        half, keep = ("tokens", given.window // 2), ("tokens", given.window // 4)
        count = model.get_num_tokens_from_messages
        arms = [
            Arm("memory", [ParametricMemoryMiddleware(memory, trigger=half, keep=keep)]),
            Arm(
                "summary",
                [
                    SummarizationMiddleware(
                        model.model_copy(update={"max_tokens": given.window // 8}),
                        trigger=half,
                        keep=keep,
                        token_counter=count,
                        summary_prompt="Sum up what was said:\n{messages}",
                        trim_tokens_to_summarize=given.window // 2,
                    )
                ],
            ),
            Arm("neither", [newest_that_fit(model, given.window // 2)]),
        ]
        turns = user_turns(given.turns)
        for arm in arms:
            converse(arm, model, turns)
        status = memory.status(thread_memory_id(THREAD))
        print(f"\n{given.turns} turns, window {given.window}; learned: ", end="")
        print(f"{status.absorbed_messages} messages, {status.absorbed_tokens} tokens\n")
        print("| | memory | summary | neither |\n| --- | --- | --- | --- |")
        base = sum(arms[0].seconds)
        facts = [likelihood(memory, arm, learned=arm.name == "memory") for arm in arms]
        without = likelihood(memory, arms[0], learned=False)
        rows = {
            "model calls": [f"{arm.meter.calls}" for arm in arms],
            "prompt tokens, mean": [f"{statistics.mean(arm.prompts):.0f}" for arm in arms],
            "prompt tokens, most": [f"{max(arm.prompts)}" for arm in arms],
            "prompt tokens in all calls": [f"{arm.meter.prompt:,}" for arm in arms],
            "processor time, memory = 1": [f"{sum(arm.seconds) / base:.2f}" for arm in arms],
            "time of a turn, last over second quarter": [
                f"{quarters(arm.seconds):.2f}" for arm in arms
            ],
            "early facts, nats per token": [f"{value:.2f}" for value in facts],
        }
        for name, cells in rows.items():
            print(f"| {name} | {' | '.join(cells)} |")
        print(f"\nearly facts with the same prompt and the base model: {without:.2f}")


if __name__ == "__main__":
    main()
