#!/bin/bash
# llama-index-core 0.14.25: a language model that gives its tool calls as ToolCallBlocks, LlamaIndex's own
# form of them, gets its object from FunctionCallingProgram; the same program's stream_call gives an
# object without any value and no error. process_streaming_objects looks for calls in
# additional_kwargs["tool_calls"] alone.
#
# Seen: "called: name='Bob'", "streamed: name=None"
# Fails if that changes.
set -euo pipefail
dir=$(mktemp -d) && trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3.11 -m venv env
env/bin/pip install --quiet --disable-pip-version-check llama-index-core==0.14.25
cat > run.py <<'PY'
from llama_index.core.base.llms.types import ChatMessage, ChatResponse, LLMMetadata, ToolCallBlock
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.llms.llm import ToolSelection
from llama_index.core.program.function_program import FunctionCallingProgram
from pydantic import BaseModel


class Guest(BaseModel):
    name: str


def answer():
    call = ToolCallBlock(tool_call_id="1", tool_name="Guest", tool_kwargs={"name": "Bob"})
    return ChatResponse(message=ChatMessage(role="assistant", blocks=[call]), delta="")


def unused(*args, **kwargs):
    raise NotImplementedError


class Caller(FunctionCallingLLM):
    @property
    def metadata(self):
        return LLMMetadata(is_function_calling_model=True, is_chat_model=True)

    def _prepare_chat_with_tools(self, tools, **kwargs):
        return {"messages": []}

    def chat(self, messages, **kwargs):
        return answer()

    def stream_chat(self, messages, **kwargs):
        yield answer()

    def get_tool_calls_from_response(self, response, error_on_no_tool_call=True, **kwargs):
        return [
            ToolSelection(tool_id="1", tool_name=block.tool_name, tool_kwargs=block.tool_kwargs)
            for block in response.message.blocks
            if isinstance(block, ToolCallBlock)
        ]

    complete = stream_complete = achat = acomplete = astream_chat = astream_complete = unused


program = FunctionCallingProgram.from_defaults(
    output_cls=Guest, prompt_template_str="Who comes?", llm=Caller()
)
print("called:", program())
for guest in program.stream_call():
    print("streamed:", guest)
PY
env/bin/python -W ignore run.py 2>/dev/null | tee output
diff output - <<'EXPECTED'
called: name='Bob'
streamed: name=None
EXPECTED
echo "as described"
