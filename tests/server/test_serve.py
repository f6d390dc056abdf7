"""`templora serve` and `templora key`, as a person types them."""

import json
import os
import re
import signal
import subprocess
import sys

import httpx
import pytest

from templora_memory.cli import main


def run(capsys, *words, code=0):
    found = main(words)
    out, err = capsys.readouterr()
    assert found == code, err
    return out, err


def test_a_key_is_shown_once_and_kept_as_a_digest(capsys, tmp_path):
    file = tmp_path / "keys.json"
    out, _ = run(capsys, "key", "alice", "--keys", str(file))
    key = out.strip()
    assert key.startswith("templora-")
    assert key not in file.read_text()
    out, _ = run(capsys, "key", "bob", "--keys", str(file), "--json")
    assert set(json.loads(out)) == {"namespace", "key", "file"}
    assert set(json.loads(file.read_text())) == {"alice", "bob"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--host", "0.0.0.0"], "no API key: make one"),  # noqa: S104
        (["--keys", "nowhere.json"], "cannot be read"),
        (["--api-key", "short"], "at least 16"),
        (["--api-key", "k" * 20, "--keys", "keys.json"], "not both"),
        (["--origin", "*"], "one by one"),
        (["--timeout", "0"], "reply_seconds is 0.0"),
        (["--learning-share", "2"], "learning_share is 2.0"),
        (["--ray", "--learning-share", "2"], "learning_share is 2.0"),
        (["--replicas", "2"], "need --ray"),
    ],
)
def test_misuse_is_one_line(capsys, words, said):
    _, err = run(capsys, "serve", *words, code=2)
    assert said in err
    assert err.count("\n") == 1


@pytest.mark.slow
@pytest.mark.enable_socket
def test_one_command_serves_the_embedded_model(tmp_path):
    program = "import sys; from templora_memory.cli import main; sys.exit(main())"
    words = [sys.executable, "-c", program, "serve", "--port", "0", "--json"]
    words += ["--root", str(tmp_path), "--device", "cpu"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            url = json.loads("".join(process.stdout.readline() for _ in range(3)))["url"]
            assert re.fullmatch(r"http://127\.0\.0\.1:\d+/v1", url)
            with httpx.Client(base_url=url, timeout=300) as client:
                models = client.get("/models").json()["data"]
                talk = [
                    {"role": "user", "content": "Where do you live?"},
                    {"role": "assistant", "content": "I live in Salt Harbour."},
                ]
                job = client.post("/memories/ada/absorb?wait=60", json={"messages": talk}).json()
                asked = {
                    "model": f"{models[0]['id']}:ada",
                    "messages": [*talk, {"role": "user", "content": "Where is that?"}],
                    "max_tokens": 12,
                }
                whole = client.post("/chat/completions", json=asked).json()
                streamed = client.post("/chat/completions", json={**asked, "stream": True}).text
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)
    assert job["state"] == "succeeded"
    assert whole["templora"]["absorbed_tokens"] == job["report"]["tokens"] > 0
    assert whole["usage"]["completion_tokens"] > 0
    events = [json.loads(line[6:]) for line in streamed.splitlines() if line.startswith("data: {")]
    said = "".join(one["choices"][0]["delta"].get("content", "") for one in events)
    assert said == whole["choices"][0]["message"]["content"]
