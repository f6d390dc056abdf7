#!/bin/bash
# gradio 6.31.0: the value of a Dropdown is checked against its choices before any handler runs. A page
# whose choices changed while a browser still held an older one (somebody deleted it in another
# tab, or a click was faster than the update) answers every event that has the Dropdown among its
# inputs with an error: the handler, which could say that the choice is gone, is never asked, and
# its own try/except sees nothing. With allow_custom_value=True it is asked.
#
# Seen: "checked: Value: Ben is not in the list of choices: ['Ada'], asked 0 times",
#       "custom values allowed: Ben is gone, asked 1 times"
# Fails if that changes.
set -euo pipefail
dir=$(mktemp -d) && trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3.11 -m venv env
env/bin/pip install --quiet --disable-pip-version-check gradio==6.31.0
cat > run.py <<'PY'
import gradio as gr
from gradio_client import Client


def ask(custom):
    there, asked = ["Ada", "Ben"], []

    def delete():
        there.remove("Ben")
        return gr.Dropdown(choices=there)

    def greet(who):
        asked.append(who)
        return f"Hello {who}" if who in there else f"{who} is gone"

    with gr.Blocks() as page:
        who = gr.Dropdown(there, value="Ben", allow_custom_value=custom)
        said = gr.Textbox()
        gr.Button().click(delete, None, who, api_name="delete")
        gr.Button().click(greet, who, said, api_name="greet")
    _, url, _ = page.launch(prevent_thread_lock=True, show_error=True, quiet=True)
    client = Client(url, verbose=False)
    client.predict(api_name="/delete")
    try:
        answer = client.predict("Ben", api_name="/greet")
    except Exception as error:
        answer = str(error).strip()
    client.close()
    page.close(verbose=False)
    return f"{answer}, asked {len(asked)} times"


print("checked:", ask(custom=False))
print("custom values allowed:", ask(custom=True))
PY
GRADIO_ANALYTICS_ENABLED=False env/bin/python run.py 2>/dev/null | tee output
diff output - <<'EXPECTED'
checked: Value: Ben is not in the list of choices: ['Ada'], asked 0 times
custom values allowed: Ben is gone, asked 1 times
EXPECTED
echo "as described"
