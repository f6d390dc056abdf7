"""The code that README and how-to show first runs, over the fake backend."""

import re
from pathlib import Path

import pytest
from templora_memory import ParametricMemory, Policy
from templora_memory.stores import DirectoryStore
from templora_memory.testing import FakeBackend

ROOT = Path(__file__).parents[1]
PAGES = {
    "README.md": (ROOT / "README.md", 2048),
    "how-to": (ROOT.parents[1] / "docs" / "how-to" / "llama_index.md", 96),
}


@pytest.mark.parametrize("name", PAGES)
def test_the_first_block_runs(name, tmp_path, monkeypatch, capsys, counting):
    page, window = PAGES[name]
    if not page.exists():
        pytest.skip("the distribution alone has no such page")
    block = re.findall(r"```(?:python|py)\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)[
        0
    ]
    services = []

    def fake(_model="fake", *, root, policy=None):
        assert policy is None or policy.reply_tokens == 64
        policy = Policy(window=window, reply_tokens=24, chunk=16)
        services.append(ParametricMemory(FakeBackend(context=window), DirectoryStore(root), policy))
        return services[-1]

    monkeypatch.setattr(ParametricMemory, "from_pretrained", fake)
    monkeypatch.chdir(tmp_path)
    assert counting is not None  # puts the tokenizer back that the page sets
    exec(block, {})  # noqa: S102  # our own pages
    assert capsys.readouterr().out.strip()
    services[0].close()
