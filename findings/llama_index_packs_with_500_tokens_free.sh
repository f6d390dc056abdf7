#!/bin/bash
# llama-index-core 0.14.25: the response modes "compact" (the default, also of chat engines that retrieve) and
# "refine" keep 500 tokens free where they pack retrieved text, beside the prompt and the answer, however small
# the window is. A question of four words over a text of six, with an answer of 50 tokens, ends in an error in a
# window of 600 tokens; "simple_summarize" answers. The error names a number that nobody set, and
# get_response_synthesizer has no argument for the 500 (the class CompactAndRefine has: response_padding_size).
#
# Seen: "compact: ValueError: Chunk size -9 is not positive.", "simple_summarize: answered"
# Fails if that changes.
set -euo pipefail
dir=$(mktemp -d) && trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3.11 -m venv env
env/bin/pip install --quiet --disable-pip-version-check llama-index-core==0.14.25
cat > run.py <<'PY'
from llama_index.core.indices.prompt_helper import PromptHelper
from llama_index.core.llms import MockLLM
from llama_index.core.response_synthesizers import ResponseMode, get_response_synthesizer

helper = PromptHelper(context_window=600, num_output=50, tokenizer=str.split)
for mode in (ResponseMode.COMPACT, ResponseMode.REFINE, ResponseMode.SIMPLE_SUMMARIZE):
    synthesizer = get_response_synthesizer(
        llm=MockLLM(max_tokens=50), prompt_helper=helper, response_mode=mode
    )
    try:
        synthesizer.get_response("Where is the key?", ["The key is under the stone."])
        print(f"{mode.value}: answered")
    except ValueError as error:
        print(f"{mode.value}: ValueError: {error}")
PY
env/bin/python run.py 2>/dev/null | tee output
diff output - <<'EXPECTED'
compact: ValueError: Chunk size -9 is not positive.
refine: ValueError: Chunk size -5 is not positive.
simple_summarize: answered
EXPECTED
echo "as described"
