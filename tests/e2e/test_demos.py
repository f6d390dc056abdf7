"""The demos run as a visitor runs them, on the embedded model."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from templora_memory import Document, ParametricMemory, Policy
from templora_memory.stores import DirectoryStore
from templora_memory.testing import FakeBackend

DEMOS = Path(__file__).parents[2] / "demos"


@pytest.fixture
def character(monkeypatch):
    monkeypatch.syspath_prepend(str(DEMOS))
    import character  # noqa: PLC0415  # a script, found through the path set above

    yield character
    sys.modules.pop("character")


def test_the_character_has_at_least_twelve_facts_and_each_stands_in_the_bio(character):
    assert len(character.FACTS) >= 12
    told = character.bio().lower()
    for fact in character.FACTS:
        assert fact.answer.lower().removeprefix("to ") in told
        assert fact.answer.lower().split()[-1] in fact.sentence.lower()


def test_the_conversation_is_long_deterministic_and_never_repeats_a_day(character):
    messages = character.conversation()
    assert len(messages) == 300
    assert messages == character.conversation()
    facts = {fact.question for fact in character.FACTS}
    days = [m.content for m in messages if m.role == "user" and m.content not in facts]
    assert len(set(days)) == len(days) == 100


def test_the_bio_is_a_document(character):
    assert Document(character.bio())


def test_the_terminal_demo_forgets_exactly_and_says_what_it_did():
    found = subprocess.run(
        [sys.executable, str(DEMOS / "terminal_demo.py"), "--turns", "30"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    assert "bit for bit as before: yes" in found.stdout
    assert "files left: 0" in found.stdout


@pytest.mark.long
def test_a_character_stays_herself_for_sixty_turns():
    """Through a window of 512 tokens: two thirds of the facts at least, in either half."""
    found = subprocess.run(
        [sys.executable, str(DEMOS / "long_chat.py"), "--quiet"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    first, second = re.findall(r"(\d+) of 15", found.stdout)
    assert int(first) >= 10
    assert int(second) >= 10
    longest = int(re.search(r"prompt (\d+) tokens", " ".join(found.stdout.split())).group(1))
    assert longest < 512


def test_the_flat_loop_reads_a_file(tmp_path):
    book = tmp_path / "book.txt"
    book.write_text("Once there was a keeper who lived by the sea. " * 6, encoding="utf-8")
    model = DEMOS.parent / "templora_memory" / "tiny"
    sizes = ("--chunk", "24", "--context", "24")
    found = subprocess.run(
        [sys.executable, str(DEMOS / "flat_loop.py"), str(book), "--model", str(model), *sizes],
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    assert "chunk    1" in found.stdout


def run(name, *arguments, folder=None):
    """A demo as a visitor starts it; its text on one line."""
    done = subprocess.run(
        [sys.executable, str(DEMOS / f"{name}.py"), *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return " ".join(done.stdout.split())


@pytest.mark.slow
def test_retrieval_and_memory_answer_together_in_short_prompts():
    shown = run("rag_beside_memory")
    assert "both are worth it: yes" in shown
    assert "an answer follows its list: yes" in shown
    assert "learned or kept of the lists: nothing" in shown


@pytest.mark.slow
def test_a_character_from_a_card_is_played_and_deleted(tmp_path):
    shown = run("role_play", folder=tmp_path)  # from anywhere
    assert "files left: 0" in shown
    assert "bit for bit as before: yes" in shown
    assert "the character is as before: yes" in shown


def test_the_assistants_prompt_stays_short_for_500_turns(monkeypatch, tmp_path):
    """What it remembers takes minutes; `python demos/assistant.py` fails if that is nothing."""
    monkeypatch.syspath_prepend(str(DEMOS))
    import assistant  # noqa: PLC0415  # a script, found through the path set above

    history = assistant.conversation(500)
    policy = Policy(window=256, reply_tokens=16, chunk=64)  # in words of the fake
    with ParametricMemory(FakeBackend(), DirectoryStore(tmp_path), policy) as memory:
        turns = assistant.live_through(memory, history)
        assert memory.backend.count(history) > 4_000
        assert max(turn.prompt for turn in turns) <= policy.window - policy.reply_tokens
        assert [turn.number for turn in turns] == list(range(20, 501, 20))
        assert turns[-1].learned > 3_500
        assert memory[assistant.ID].status().absorbed_messages > 900
    sys.modules.pop("assistant")


@pytest.mark.slow
def test_in_the_town_news_is_known_to_those_who_were_told_and_to_nobody_else():
    shown = run("npc_town")
    assert "LEAK" not in shown
    known, told = re.search(r"known of what was told: (\d+) of (\d+)", shown).groups()
    assert int(known) >= 0.6 * int(told)
    assert "Pia forgotten: marta@pia, oren@pia" in shown


@pytest.mark.slow
def test_a_translation_project_becomes_consistent():
    shown = run("translation")
    assert "terms are consistent: yes" in shown
    assert "every step made the approved text likelier: yes" in shown
