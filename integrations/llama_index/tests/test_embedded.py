"""The snippets of the README on the embedded model: real weights, a real index, no network.

Nothing here depends on what the model says, only on what it was shown and what it learned.
"""

from pathlib import Path

import pytest
import templora_memory
from llama_index.core import SimpleDirectoryReader
from llama_index.core.agent.react import ReActChatFormatter
from llama_index.core.agent.workflow import ReActAgent
from llama_index.core.callbacks import CallbackManager
from llama_index.core.chat_engine import SimpleChatEngine
from llama_index.core.memory import ChatMemoryBuffer, Memory, VectorMemoryBlock
from llama_index.core.tools import FunctionTool
from llama_index.core.types import PydanticProgramMode
from llama_index.core.vector_stores import SimpleVectorStore
from templora_memory import Learning, ParametricMemory, Policy

from llama_index.memory.templora import (
    PARAMETRIC_CONTEXT_PROMPT,
    ParametricChatStore,
    ParametricMemoryBlock,
    TempLoraLLM,
    TempLoraMemory,
)

QUICK = Policy(
    reply_tokens=12,
    recall_tokens=0,
    learning=Learning(steps_per_chunk=1, document_steps=4, kl_weight=0.0),
)


@pytest.fixture(scope="module")
def pm(tmp_path_factory):
    root = tmp_path_factory.mktemp("memories")
    with ParametricMemory.from_pretrained(root=root, policy=QUICK, device="cpu") as service:
        yield service


@pytest.fixture(autouse=True)
def exact(pm, counting):
    counting(TempLoraLLM(pm).tokenizer_fn)


def facts(count):
    return [f"My dog number {n} is called Rex {n}. What did I say?" for n in range(count)]


def test_retrieval_and_a_remembered_conversation(pm, index, user):
    mem = TempLoraMemory.from_defaults(pm, session_id="alice", token_limit=160)
    chat = index.as_chat_engine(
        chat_mode="condense_plus_context",
        llm=mem.llm,
        memory=mem,
        context_prompt=PARAMETRIC_CONTEXT_PROMPT,
        similarity_top_k=3,
    )
    for fact in facts(5):
        assert isinstance("".join(chat.stream_chat(fact).response_gen), str)
    mem.wait_absorbed()
    assert mem.status().learned > 0
    asked = [user("What did I say my dog is called?")]
    answer = mem.llm.chat(asked)
    assert answer.raw["revision"] == mem.status().revision
    base = mem.llm.for_session(None).chat(asked)
    told = pm["alice"].probe(asked[0].content, mem.get_all()[0].content)
    assert told.with_memory != told.without_memory
    chat.reset()
    after = mem.llm.chat(asked)
    assert (after.message.content, after.raw["revision"]) == (base.message.content, None)
    assert "alice" not in pm.list()


class TextStore(SimpleVectorStore):
    """An in-memory vector store that keeps the text, as `VectorMemoryBlock` needs."""

    stores_text: bool = True

    def add(self, nodes, **kwargs):
        self.__dict__.setdefault("kept", {}).update({node.node_id: node for node in nodes})
        return super().add(nodes, **kwargs)

    def query(self, query, **kwargs):
        query.filters = None  # one session only
        found = super().query(query, **kwargs)
        found.nodes = [self.__dict__["kept"][name] for name in found.ids or []]
        return found


def test_the_block_beside_others_and_an_agent(pm, index, run):
    def kb(question: str) -> str:
        """Ask the knowledge base."""
        return question

    block = ParametricMemoryBlock(pm)
    memory = Memory.from_defaults(
        session_id="bob",
        token_limit=160,
        token_flush_size=40,
        memory_blocks=[
            block,
            VectorMemoryBlock(vector_store=TextStore(), embed_model=index._embed_model, priority=1),
        ],
    )
    llm = TempLoraLLM(pm, session_id="bob")
    agent = ReActAgent(
        tools=[FunctionTool.from_defaults(kb)],
        llm=llm,
        formatter=ReActChatFormatter(system_header="Tools: {tool_names}"),
        streaming=False,
    )

    async def go():
        for fact in facts(6):
            await agent.run(fact, memory=memory, max_iterations=3)

    run(go())
    block.wait()
    assert block.last_error is None
    assert pm["bob"].status().absorbed_messages > 0
    assert memory.get()


def test_the_older_store_and_a_character(pm, tmp_path):
    store = ParametricChatStore(pm, window_tokens=100)
    buffer = ChatMemoryBuffer.from_defaults(
        chat_store=store, chat_store_key="carol", token_limit=100
    )
    engine = SimpleChatEngine.from_defaults(llm=TempLoraLLM(pm, "carol"), memory=buffer)
    for fact in facts(5):
        engine.chat(fact)
    store.wait_absorbed()
    assert store.status("carol").learned > 0
    assert len(store.get_messages("carol")) == 10

    (tmp_path / "elara.txt").write_text("Elara keeps owls in the old mill.")
    mem = TempLoraMemory.from_defaults(pm, session_id="character:elara")
    mem.absorb_documents(SimpleDirectoryReader(str(tmp_path)).load_data())
    mem.wait_absorbed()
    probe = pm["character:elara"].probe("What do you keep?", "Elara keeps owls.")
    assert probe.revision == pm["character:elara"].head().name

    store.delete_messages("carol")
    assert "carol" not in pm.list()


def test_twelve_turns_with_retrieved_text_in_a_window_of_1024(pm, index):
    """Stock limits end in "Chunk size ... is not positive" within a few turns."""
    mem = TempLoraMemory.from_defaults(pm, session_id="dora", token_limit=None)
    chat = index.as_chat_engine(
        chat_mode="context",
        llm=mem.llm,
        memory=mem,
        context_template=PARAMETRIC_CONTEXT_PROMPT,
        similarity_top_k=3,
    )
    for number in range(12):
        chat.chat(f"What about house {number}? " + "It was a long day by the sea. " * 6)
    mem.wait_absorbed()
    assert mem.status().learned > 0
    assert len(mem.get_all()) == 24


class Loaded:
    """The parts that a ``HuggingFaceLLM`` holds, with the embedded model in it."""

    def __init__(self):
        from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: PLC0415

        folder = str(Path(templora_memory.__file__).parent / "tiny")
        self._model = AutoModelForCausalLM.from_pretrained(folder)
        self._tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model_name = "a model of one's own"
        self.generate_kwargs = {"do_sample": False, "pad_token_id": 0}
        self.max_new_tokens, self.stopping_ids = 5, None
        self.system_prompt, self.callback_manager = "", CallbackManager([])
        self.output_parser, self.pydantic_program_mode = None, PydanticProgramMode.DEFAULT


def test_a_loaded_model_is_taken_over_with_its_settings(tmp_path, user):
    llm = TempLoraLLM.from_huggingface_llm(Loaded(), "erin", root=tmp_path, policy=QUICK)
    assert llm.generate_kwargs == {"do_sample": False}
    assert (llm.metadata.num_output, llm.metadata.model_name) == (5, "a model of one's own")
    assert llm.chat([user("Hello?")]).raw["completion_tokens"] <= 5
    llm.service.close()
    with pytest.raises(TypeError, match="a HuggingFaceLLM is needed"):
        TempLoraLLM.from_huggingface_llm(llm)
