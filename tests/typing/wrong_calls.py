"""Calls that a type checker must refuse, each at a line that says with which error code."""

from templora_memory import Learning, Memory, Message, ParametricMemory

HISTORY = [Message("user", "Where are your bees?")]


def handle(ada: Memory) -> None:
    ada.reply(HISTORY, contxt="Today is Monday.")  # error: call-arg
    ada.reply(HISTORY, max_token=8)  # error: call-arg
    ada.stream(HISTORY, strenght=0.5)  # error: call-arg
    ada.stream(HISTORY, strength="half")  # error: arg-type
    ada.generate("Once", max_token=4000)  # error: call-arg
    ada.generate("Once")  # error: call-arg
    ada.generate("Once", max_tokens=4000, sampling=0.7)  # error: arg-type
    ada.absorb("A text.", waits=False)  # error: call-overload
    print(ada.status().head)  # error: attr-defined


def service(memory: ParametricMemory) -> None:
    memory["ada"].reply(HISTORY, contxt="Today is Monday.")  # error: call-arg
    memory["ada"].stream(HISTORY, max_token=8)  # error: call-arg
    memory.without_memory.reply(HISTORY, strenght=0.5)  # error: call-arg
    memory["ada"].generate(max_tokens=100, reuses=True)  # error: call-arg
    memory.reply("ada", HISTORY)  # error: attr-defined
    memory[None].reply(HISTORY)  # error: index
    memory.forget("ada")  # error: call-arg
    memory.policy.window = 8  # error: misc
    Learning(rank=8)  # error: call-arg
