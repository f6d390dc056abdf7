#!/bin/bash
# llama-index-core 0.14.25: Memory cuts a conversation to token_limit by counting the text of messages; a
# ToolCallBlock, whose arguments are sent to the model like any text, counts nothing. Twelve messages
# with tool calls of 500 words each come back whole under a limit of 1,000 tokens; of the same words
# as text one does.
#
# Seen: "text: 1 of 12 come back", "tool calls: 12 of 12 come back"
# Fails if that changes.
set -euo pipefail
dir=$(mktemp -d) && trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3.11 -m venv env
env/bin/pip install --quiet --disable-pip-version-check llama-index-core==0.14.25
cat > run.py <<'PY'
from llama_index.core.base.llms.types import ChatMessage, ToolCallBlock
from llama_index.core.memory import Memory

WORDS = "word " * 500


def come_back(make):
    memory = Memory.from_defaults(session_id="a", token_limit=1000)
    for number in range(12):
        memory.put(ChatMessage(role="user", content=f"Write number {number}."))
        memory.put(make())
    return sum(message.role == "assistant" for message in memory.get())


def text():
    return ChatMessage(role="assistant", content=WORDS)


def call():
    block = ToolCallBlock(tool_name="write", tool_kwargs={"text": WORDS})
    return ChatMessage(role="assistant", blocks=[block])


print("text:", come_back(text), "of 12 come back")
print("tool calls:", come_back(call), "of 12 come back")
PY
env/bin/python run.py 2>/dev/null | tee output
diff output - <<'EXPECTED'
text: 1 of 12 come back
tool calls: 12 of 12 come back
EXPECTED
echo "as described"
