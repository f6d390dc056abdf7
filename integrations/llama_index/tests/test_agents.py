"""Agents and workflows: what they put into the memory, and that a context keeps it."""

import json

import pytest
from llama_index.core.agent.workflow import AgentWorkflow, FunctionAgent, ReActAgent
from llama_index.core.base.llms.types import ChatMessage, ToolCallBlock
from llama_index.core.chat_engine import ContextChatEngine, SimpleChatEngine
from llama_index.core.storage.chat_store.base_db import MessageStatus
from llama_index.core.tools import FunctionTool
from llama_index.core.workflow import Context, JsonSerializer
from templora_memory.errors import LearningFailed, PromptTooLong

from llama_index.memory.templora import TempLoraLLM, TempLoraMemory

SIZE = {"window": 2000, "reply_tokens": 200, "chunk": 48}
ACT = 'Thought: I need the tool.\nAction: look\nAction Input: {"place": "pier"}'
DONE = "Thought: I can answer without using any more tools.\nAnswer: It leaves at nine."
CALL = '<tool_call>\n{"name": "look", "arguments": {"place": "pier"}}\n</tool_call>'


@pytest.fixture
def box(make_box):
    made = make_box(context=4096)
    made.open(**SIZE)
    return made


@pytest.fixture
def memory(box):
    return TempLoraMemory.from_defaults(box.service, "ada", token_limit=120)


@pytest.fixture
def tool():
    def look(place: str) -> str:
        """Look at the timetable of a place."""
        return f"secret marble timetable of the {place}"

    return FunctionTool.from_defaults(look)


@pytest.fixture
def calling(memory):
    return memory.llm.model_copy(update={"is_function_calling_model": True})


def texts(rows):
    return [row.content for row in rows]


def roles(rows):
    return [row.role.value for row in rows]


def react(memory, tool, **settings):
    return ReActAgent(tools=[tool], llm=memory.llm, **settings)


@pytest.mark.parametrize("streaming", [True, False])
def test_an_agents_answers_are_learned_without_thoughts_and_tools(
    memory, tool, box, talk, run, streaming
):
    async def go():
        agent = react(memory, tool, streaming=streaming)
        for number in range(3):
            box.backend.script = [ACT, DONE]
            said = await agent.run(f"When does ferry {number} leave?", memory=memory)
            assert str(said) == "It leaves at nine."

    run(go())
    memory.put_messages(talk(8))
    memory.wait_absorbed()
    assert box.learned[:2] == ["When does ferry 0 leave?", "It leaves at nine."]
    assert "secret" not in str(box.learned)
    assert "Thought" not in str(box.learned)
    assert box.on_disk("secret") == []


def test_a_function_agents_calls_and_results_are_never_learned(
    memory, calling, tool, box, talk, run
):
    async def go():
        agent = FunctionAgent(tools=[tool], llm=calling)
        for number in range(3):
            box.backend.script = [CALL, "It leaves at nine."]
            said = await agent.run(f"When does ferry {number} leave?", memory=memory)
            assert str(said) == "It leaves at nine."

    run(go())
    assert roles(memory.get_all())[:4] == ["user", "assistant", "tool", "assistant"]
    assert memory.get_all()[1].content is None
    memory.put_messages(talk(8))
    memory.wait_absorbed()
    assert box.learned[:2] == ["When does ferry 0 leave?", "It leaves at nine."]
    assert "secret" not in str(box.learned)
    assert box.on_disk("secret") == []
    shown = [m for r in box.backend.requests for m in r.messages]
    assert any(m.role == "tool" and "secret marble" in m.content for m in shown)
    assert any(m.role == "call" and '"look"' in m.content for m in shown)
    assert any(m.role == "system" and "timetable" in m.content for m in shown)


def test_output_that_a_tool_returns_directly_is_not_learned(memory, calling, tool, box, talk, run):
    tool.metadata.return_direct = True

    async def go():
        box.backend.script = [CALL]
        await FunctionAgent(tools=[tool], llm=calling).run("Look!", memory=memory)
        box.backend.script = [ACT]
        await react(memory, tool).run("Look again!", memory=memory)

    run(go())
    memory.put_messages(talk(10))
    memory.wait_absorbed()
    assert box.learned[:2] == ["Look!", "Look again!"]
    assert box.on_disk("secret") == []


def test_a_function_agent_needs_a_model_that_calls(memory, tool, run):
    assert memory.llm.metadata.is_function_calling_model is False

    async def go():
        await FunctionAgent(tools=[tool], llm=memory.llm).run("Look!", memory=memory)

    with pytest.raises(Exception, match="must be a FunctionCallingLLM"):
        run(go())


def test_a_context_used_again_keeps_the_memory(memory, tool, box, run):
    async def go():
        agent = react(memory, tool)
        context = Context(agent)
        box.backend.script = [DONE]
        await agent.run("When?", memory=memory, ctx=context)
        box.backend.script = [DONE]
        await agent.run("And now?", ctx=context)
        assert await context.store.get("memory") is memory
        assert len(memory.get_all()) == 4
        stored = json.loads(json.dumps(context.to_dict(serializer=JsonSerializer())))
        again = Context.from_dict(agent, stored, serializer=JsonSerializer())
        box.backend.script = [DONE]
        await agent.run("Once more?", ctx=again)
        assert await again.store.get("memory") is memory

    run(go())
    assert texts(memory.get_all())[::2] == ["When?", "And now?", "Once more?"]


def test_agents_write_into_copies_only(memory, tool, box, run):
    async def go():
        workflow = AgentWorkflow(
            agents=[react(memory, tool, name="one", description="answers")],
            initial_state={"count": 1},
        )
        box.backend.script = [DONE]
        await workflow.run("When does it leave?", memory=memory)

    run(go())
    assert texts(memory.get_all())[0] == "When does it leave?"


def test_a_workflow_of_several_agents_shares_the_memory(memory, calling, tool, box, run):
    async def go():
        workflow = AgentWorkflow(
            agents=[
                FunctionAgent(name="one", description="asks", tools=[tool], llm=calling),
                FunctionAgent(name="two", description="answers", tools=[], llm=calling),
            ],
            root_agent="one",
        )
        handoff = {"name": "handoff", "arguments": {"to_agent": "two", "reason": "yours"}}
        box.backend.script = [f"<tool_call>{json.dumps(handoff)}</tool_call>", "Done."]
        return await workflow.run("Do it.", memory=memory)

    assert str(run(go())) == "Done."
    assert texts(memory.get_all())[0] == "Do it."


def test_a_resent_history_is_learned_once(memory, tool, box, talk, run):
    whole = talk(14)

    async def go():
        agent = react(memory, tool)
        for end in range(2, len(whole), 2):
            box.backend.script = [f"Thought: ok\nAnswer: {whole[end + 1].content}"]
            await agent.run(whole[end].content, chat_history=whole[:end], memory=memory)

    run(go())
    memory.wait_absorbed()
    assert len(box.learned) == len(set(box.learned)) > 8
    assert box.learned == texts(whole)[: len(box.learned)]
    assert len(memory.get_all(MessageStatus.ARCHIVED)) >= len(box.learned) - 2


# --- calls as text -------------------------------------------------------------------------------


def test_a_chat_with_tools_gives_calls(calling, tool, box):
    box.backend.script = [f"I will look. {CALL}"] * 2
    response = calling.chat_with_tools([tool], "When does it leave?")
    (call,) = calling.get_tool_calls_from_response(response)
    assert (call.tool_name, call.tool_kwargs) == ("look", {"place": "pier"})
    assert response.message.content == "I will look."
    pieces = list(calling.stream_chat_with_tools([tool], "When does it leave?"))
    assert "".join(piece.delta for piece in pieces).strip() == "I will look."
    assert all("tool_call" not in (piece.message.content or "") for piece in pieces)
    (call,) = calling.get_tool_calls_from_response(pieces[-1])
    assert call.tool_kwargs == {"place": "pier"}


@pytest.mark.parametrize(
    "said",
    [
        '{"name": "look", "parameters": {"place": "pier"}}',
        '[{"name": "look", "arguments": "{\\"place\\": \\"pier\\"}"}]',
        '<tool_call>{"name": "look", "arguments": {"place": "pier"}}',
    ],
)
def test_other_spellings_of_a_call_are_read(calling, tool, box, said):
    box.backend.script = [said]
    response = calling.chat_with_tools([tool], "When?")
    (call,) = calling.get_tool_calls_from_response(response)
    assert (call.tool_name, call.tool_kwargs) == ("look", {"place": "pier"})


@pytest.mark.parametrize(
    "said",
    [
        "It leaves at nine.",
        '<tool_call>{"name": "look", "arguments": {</tool_call>',
        '<tool_call>{"name": "fly", "arguments": {}}</tool_call>',
        '{"name": "look", "arguments": 5}',
        "[1, 2]",
    ],
)
def test_what_is_no_call_stays_text(calling, tool, box, said):
    box.backend.script = [said, said]
    response = calling.chat_with_tools([tool], "When?")
    assert response.message.content == said
    assert calling.get_tool_calls_from_response(response, error_on_no_tool_call=False) == []
    with pytest.raises(ValueError, match="called no tool"):
        calling.get_tool_calls_from_response(response)
    pieces = list(calling.stream_chat_with_tools([tool], "When?"))
    assert "".join(piece.delta for piece in pieces) == said


def test_a_tool_can_be_demanded(calling, tool, box):
    calling.chat_with_tools([tool], "When?", tool_required=True)
    calling.chat_with_tools([tool], "When?", tool_choice="look")
    for request in box.backend.requests:
        assert "Now call look: answer with the JSON" in request.messages[0].content
        held = json.loads(request.sampling.schema)
        assert held["properties"]["name"] == {"const": "look"}
        assert held["properties"]["arguments"]["required"] == ["place"]
    with pytest.raises(ValueError, match="tool_choice is 'fly'"):
        calling.chat_with_tools([tool], "When?", tool_choice="fly")


def test_several_calls_at_once(calling, tool, box):
    box.backend.script = [CALL + CALL]
    response = calling.chat_with_tools([tool], "When?", allow_parallel_tool_calls=True)
    blocks = [b for b in response.message.blocks if isinstance(b, ToolCallBlock)]
    assert len({block.tool_call_id for block in blocks}) == 2


def test_one_call_where_no_more_are_allowed(calling, tool, box):
    box.backend.script = [CALL + CALL] * 2
    response = calling.chat_with_tools([tool], "When?", allow_parallel_tool_calls=False)
    assert len(calling.get_tool_calls_from_response(response)) == 1
    stream = calling.stream_chat_with_tools([tool], "When?", allow_parallel_tool_calls=False)
    assert len(calling.get_tool_calls_from_response([*stream][-1])) == 1


def test_a_plain_model_object_takes_part_too(memory, service_llm, tool, box, run):
    async def go():
        box.backend.script = [DONE]
        return await ReActAgent(tools=[tool], llm=service_llm).run("Hi?", memory=memory)

    assert str(run(go())) == "It leaves at nine."
    assert isinstance(memory.get()[0], ChatMessage)


@pytest.fixture
def service_llm(box):
    return TempLoraLLM(box.service, "ada")


# --- a prompt that does not fit as it is sent ----------------------------------------------------


@pytest.fixture
def small(make_box):
    made = make_box(context=400)
    made.open(window=400, reply_tokens=50, chunk=48)
    return made


@pytest.fixture
def described():
    """Tools whose descriptions take most of the window."""

    def act(query: str) -> str:
        """Act."""
        return f"done: {query[:4]}"

    return [
        FunctionTool.from_defaults(act, name=f"tool_{n}", description="word " * 40)
        for n in range(5)
    ]


def caller(service, **settings):
    memory = TempLoraMemory.from_defaults(service, "ada", **settings)
    return memory, memory.llm.model_copy(update={"is_function_calling_model": True})


def test_tool_descriptions_count_in_the_budget(small, described, run):
    memory, calling = caller(small.service, rag_token_reserve=0)
    told = [f"Fact {number}: {'bees ' * 15}" for number in range(7)]

    async def go():
        for fact in told:
            await FunctionAgent(tools=described, llm=calling).run(fact, memory=memory)

    run(go())
    assert max(small.backend.count(r.messages) for r in small.backend.requests) <= 350
    shown = [m.content for m in small.backend.requests[-1].messages if m.role == "user"]
    assert [*small.learned[::2], *shown] == told
    assert 0 < len(shown) < 5
    assert memory.status().pending == 0


def test_without_learning_by_itself_the_oldest_turns_are_left_out(small, described, run, caplog):
    memory, calling = caller(small.service, rag_token_reserve=0, absorb="manual")

    async def go():
        for number in range(5):
            fact = f"Fact {number}: {'bees ' * 15}"
            await FunctionAgent(tools=described, llm=calling).run(fact, memory=memory)

    run(go())
    assert "left out of it for now" in caplog.text
    assert small.learned == []
    assert len(memory.get_all()) == 10
    memory.absorb_now()
    assert len(small.learned) == 8


def test_an_agent_that_writes_through_a_tool_never_runs_over(small, described, run):
    memory, calling = caller(small.service, rag_token_reserve=0)
    body = {"name": "tool_0", "arguments": {"query": "word " * 35}}

    async def go():
        agent = FunctionAgent(tools=described[:2], llm=calling)
        for number in range(5):
            small.backend.script = [f"<tool_call>{json.dumps(body)}</tool_call>", f"Done {number}."]
            await agent.run(f"Write note {number}.", memory=memory)

    run(go())
    assert small.learned[:2] == ["Write note 0.", "Done 0."]
    assert "word" not in str(small.learned)


def test_failed_learning_leaves_turns_out_and_learns_them_later(small, described, run, caplog):
    memory, calling = caller(small.service, rag_token_reserve=0)
    broken = [True]

    def fail():
        if broken[0]:
            raise LearningFailed("The loss became NaN.")

    small.backend._on_learn = fail

    async def go(numbers):
        for number in numbers:
            fact = f"Fact {number}: {'bees ' * 15}"
            await FunctionAgent(tools=described, llm=calling).run(fact, memory=memory)

    run(go(range(4)))
    assert "left out of it for now" in caplog.text
    assert memory.status().last_error
    broken[0] = False
    run(go(range(4, 6)))
    memory.wait_absorbed()
    assert [text[:6] for text in small.learned[::2]][:3] == ["Fact 0", "Fact 1", "Fact 2"]


def test_a_session_goes_on_after_a_turn_that_was_too_long(small):
    memory, llm = caller(small.service, rag_token_reserve=0)
    engine = SimpleChatEngine.from_defaults(llm=llm, memory=memory)
    engine.chat("Hello, I am Ada.")
    with pytest.raises(PromptTooLong):
        engine.chat("bees " * 420)
    engine.chat("Who am I?")
    assert "bees" not in small.backend.requests[-1].messages[0].content
    assert memory.status().last_error is None


def test_the_newest_exchange_leaves_where_the_coming_message_needs_its_place(
    make_box, index, counting
):
    box = make_box(context=1100)
    memory, llm = caller(box.open(window=1100, reply_tokens=50, chunk=48))
    counting(llm.tokenizer_fn)
    retriever = index.as_retriever(similarity_top_k=2)
    engine = ContextChatEngine.from_defaults(retriever=retriever, llm=llm, memory=memory)
    engine.chat("bees " * 400)
    assert box.learned == []
    for _ in range(2):  # not in the memory before it is answered
        engine.chat("flowers " * 60)
    assert box.learned[0].split()[0] == "bees"
