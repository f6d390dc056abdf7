#!/bin/bash
# langchain-core 1.8.3: RunnableWithMessageHistory adds a turn to the history when its run ends. A stream
# that its reader leaves early (break, or a client that goes away) never ends for it: neither the
# question nor the part of the answer that was read is stored, and nothing is said. The next turn is
# answered as if this one had not been.
#
# Seen: "read to the end: 2 messages stored", "left early: 0 messages stored", the same with astream
# Fails if that changes.
set -euo pipefail
dir=$(mktemp -d) && trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3.11 -m venv env
env/bin/pip install --quiet --disable-pip-version-check langchain-core==1.8.3
cat > run.py <<'PY'
import asyncio
import gc

from langchain_core.chat_history import InMemoryChatMessageHistory
from langchain_core.language_models.fake_chat_models import FakeListChatModel
from langchain_core.runnables.history import RunnableWithMessageHistory

CONFIG = {"configurable": {"session_id": "a"}}


def chain():
    history = InMemoryChatMessageHistory()
    model = FakeListChatModel(responses=["The ferry leaves at nine."])
    return RunnableWithMessageHistory(model, lambda session_id: history), history


def read(pieces):
    talk, history = chain()
    for number, _ in enumerate(talk.stream("When?", CONFIG), 1):
        if number == pieces:
            break
    gc.collect()
    return len(history.messages)


async def aread(pieces):
    talk, history = chain()
    stream, number = talk.astream("When?", CONFIG), 0
    async for _ in stream:
        number += 1
        if number == pieces:
            break
    await stream.aclose()
    return len(history.messages)


print("read to the end:", read(None), "messages stored")
print("left early:", read(3), "messages stored")
print("astream, read to the end:", asyncio.run(aread(None)), "messages stored")
print("astream, left early:", asyncio.run(aread(3)), "messages stored")
PY
env/bin/python -W ignore run.py | tee output
diff output - <<'EXPECTED'
read to the end: 2 messages stored
left early: 0 messages stored
astream, read to the end: 2 messages stored
astream, left early: 0 messages stored
EXPECTED
echo "as described"
