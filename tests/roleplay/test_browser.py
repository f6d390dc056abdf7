"""The page in a real browser, over the fake backend, and once over the embedded model.

Needs `playwright`, `axe-playwright-python` and a Chromium on the path.
"""

import base64
import contextlib
import json
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

sync_api = pytest.importorskip("playwright.sync_api")
expect = sync_api.expect
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.enable_socket,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the path"),
]
PATIENCE = 120_000  # milliseconds
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAIAAAACCAIAAAD91JpzAAAAFElEQVR4nGNgYGBoaGhgYGBgYGAAAAoDAQGT6kk3"
    "AAAAAElFTkSuQmCC"
)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def fetch(url):
    with urllib.request.urlopen(url) as answer:  # noqa: S310  # our own server
        return answer.read()


class Server:
    """The page in a process of its own."""

    def __init__(self, root, **options):
        self.root = root
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        words = [word for key, value in options.items() for word in (f"--{key}", str(value))]
        command = [sys.executable, str(Path(__file__).with_name("server.py")), str(root)]
        self.process = subprocess.Popen(
            [*command, "--port", str(self.port), *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for line in self.process.stdout:
            if line.strip() == "ready":
                return
        raise RuntimeError(f"the server did not start: {self.process.wait()}")

    def memories(self):
        folder = self.root / "memories"
        return [item for item in folder.iterdir() if item.is_dir() and item.name[0] != "."]

    def stop(self):
        self.process.stdin.close()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    made = Server(tmp_path_factory.mktemp("server"), learn=0.02)
    yield made
    made.stop()


@pytest.fixture(scope="module")
def chromium():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(chromium, server):
    """`open_page()`: a new browser profile with the page open; every request must stay here."""
    contexts, strangers = [], []

    def watch(request):
        if not request.url.startswith((server.url, "data:", "blob:")):
            strangers.append(request.url)

    def open_(url=None, *, context=None, **options):
        options = {"viewport": {"width": 1280, "height": 900}} | options
        if context is None:
            context = chromium.new_context(**options)
            context.on("request", watch)
            contexts.append(context)
        page = context.new_page()
        visit(page, url or server.url)
        return page

    yield open_
    for context in contexts:
        context.close()
    assert strangers == []


def visit(page, url):
    """Open the page and wait until its visit has begun."""
    page.set_default_timeout(PATIENCE)
    page.goto(url)
    expect(page.get_by_label("You play")).to_have_value("You", timeout=PATIENCE)


def see(locator, text):
    expect(locator).to_contain_text(text, timeout=PATIENCE)


def absorb(page, name="Orla"):
    page.get_by_role("button", name=f"Meet {name}").click()
    finish(page)


def finish(page):
    page.get_by_role("button", name="Absorb into weights").click()
    expect(page.get_by_role("button", name=re.compile("^Talk with"))).to_be_visible(
        timeout=PATIENCE
    )


def characters(server):
    """Memories of characters, without those of what one persona told them."""
    return [item for item in server.memories() if "@" not in item.name]


def talk(page):
    page.get_by_role("tab", name="Role-play").click()


def answers(page):
    return page.locator("#chat [data-testid=bot]")


def say(page, text, number=None):
    """Say something and wait for the whole answer; the greeting is the first answer."""
    before = answers(page).count() if number is None else number
    box = page.get_by_label("Your message")
    box.fill(text)
    end = time.monotonic() + PATIENCE / 1000
    while box.input_value() and time.monotonic() < end:
        box.press("Enter")  # leaves the text there while the turn before it has not ended
        with contextlib.suppress(AssertionError):
            expect(box).to_have_value("", timeout=2_000)
    expect(answers(page)).to_have_count(before + 1, timeout=PATIENCE)
    see(answers(page).last, "I see")
    see(page.locator("#status"), "tokens in the prompt")


def card_png(**changes):
    """A V2 card in a picture, as SillyTavern writes it."""
    from templora_memory.importers import Character, to_png  # noqa: PLC0415

    fields = {
        "name": "Nell Harrow",
        "description": "Nell keeps the mill. Nell has a red kite called Wisp.",
        "first_message": "Mind the wheel, {{user}}.",
        "alternate_greetings": ("Flour, or news?",),
    }
    return to_png(Character(**{**fields, **changes}))


def upload(page, name, data):
    page.locator("#upload input[type=file]").set_input_files(
        {"name": name, "mimeType": "application/octet-stream", "buffer": data}
    )


def toast(page, text):
    see(page.locator("[data-testid=toast-body]").last, text)


# --- the fourteen ways through the page ----------------------------------------------------------


def test_a_card_is_uploaded_previewed_absorbed_and_answers(open_page, server):
    page = open_page()
    upload(page, "nell.png", card_png())
    see(page.locator("#preview"), "Nell Harrow")
    see(page.locator("#preview"), "Character Card V2, PNG")
    see(page.locator("#preview"), "2 greetings")
    finish(page)
    see(page.locator("#progress"), "is in the weights")
    see(page.locator("#progress"), "Perplexity")
    page.get_by_role("button", name="Talk with Nell Harrow").click()
    see(answers(page).last, "Mind the wheel, friend.")
    say(page, "Which red kite is called what?", 1)
    see(answers(page).last, "red kite called Wisp")
    page.get_by_role("button", name="What the model sees").click()
    see(page.locator("#prompt"), "tokens in weights")
    expect(page.locator("#prompt")).not_to_contain_text("Wisp")
    assert not [f for f in (server.root / "uploads").rglob("*.png") if f.stat().st_size > 100]


def test_another_greeting_replaces_the_first(open_page):
    page = open_page()
    absorb(page, "Marta")
    talk(page)
    see(answers(page).last, "Wipe your boots")
    page.get_by_role("button", name="Greeting 2").click()
    see(answers(page).last, "You again?")
    say(page, "Hello!", 1)
    expect(page.get_by_role("button", name="Greeting 2")).to_have_count(0)


def test_retry_undo_and_edit_touch_no_weights(open_page, server):
    page = open_page()
    absorb(page)
    before = {f.name for m in server.memories() for f in (m / "revisions").iterdir()}
    talk(page)
    say(page, "Hello there!", 1)
    page.get_by_role("button", name="Retry").last.click()
    see(answers(page).last, "I see")
    page.get_by_role("button", name="Undo").last.click()
    expect(page.get_by_label("Your message")).to_have_value("Hello there!", timeout=PATIENCE)
    expect(answers(page)).to_have_count(1, timeout=PATIENCE)
    say(page, "Which lame goose is called what?", 1)
    page.get_by_role("button", name="Edit").nth(1).click()  # the greeting has the first
    page.locator("#chat textarea").fill("Who is your rival?")
    page.get_by_role("button", name="Submit").click()
    see(page.locator("#chat [data-testid=user]").last, "rival")
    see(answers(page).last, "rival")
    after = {f.name for m in server.memories() for f in (m / "revisions").iterdir()}
    assert after == before


def test_editing_what_was_learned_says_so(open_page):
    page = open_page()
    absorb(page)
    talk(page)
    for number in range(1, 9):
        say(
            page,
            f"This is a long message with the number {number} for you, and more words.",
            number,
        )
    see(page.locator("#status"), re.compile(r"[2-9]\d* messages in weights"))
    page.get_by_role("button", name="Edit").nth(1).click()
    page.locator("#chat textarea").fill("An edited beginning.")
    page.get_by_role("button", name="Submit").click()
    toast(page, "already learned")


def test_two_characters_keep_to_themselves(open_page):
    page = open_page()
    absorb(page, "Marta")
    absorb(page, "Oren")
    talk(page)
    say(page, "Rival?", 1)
    see(answers(page).last, "rival is Marta")
    page.get_by_label("Active character").click()
    page.get_by_role("option", name="Marta Quill").click()
    see(answers(page).last, "Wipe your boots")
    expect(answers(page)).to_have_count(1)
    say(page, "Rival?", 1)
    see(answers(page).last, "rival is Oren")


def test_deleting_asks_once_shows_the_receipt_and_leaves_nothing(open_page, server):
    page = open_page()
    known = set(server.memories())
    absorb(page, "Kestrel")
    assert set(server.memories()) - known
    page.get_by_role("button", name="Delete…").click()
    see(page.locator("#confirm"), "cannot be undone")
    page.get_by_role("button", name="No, keep it").click()
    expect(page.locator("#confirm")).to_be_hidden(timeout=PATIENCE)
    page.get_by_role("button", name="Delete…").click()
    page.get_by_role("button", name="Yes, delete").click()
    see(page.locator("#gone"), "Kestrel is gone")
    see(page.locator("#gone"), "equal to the last bit")
    see(page.locator("#gone"), "manifest.json")
    expect(page.locator("#gone")).not_to_contain_text("differs")
    assert set(server.memories()) == known
    see(page.locator("#mine"), "No characters yet")


def test_a_reload_keeps_the_visit_and_a_closed_tab_ends_it(chromium, tmp_path):
    server = Server(tmp_path, grace=40)
    context = chromium.new_context()
    try:
        page = context.new_page()
        visit(page, server.url)
        absorb(page, "Bram")
        page.reload()
        see(page.locator("#mine"), "Bram Oxley")
        page.close()
        until = time.monotonic() + 120
        while server.memories() and time.monotonic() < until:
            time.sleep(0.2)
        assert server.memories() == []
    finally:
        context.close()
        server.stop()


def test_two_browsers_never_see_each_other(open_page):
    ada, eve = open_page(), open_page()
    absorb(ada, "Ilse")
    eve.reload()
    see(eve.locator("#mine"), "No characters yet")
    talk(eve)
    eve.get_by_label("Your message").fill("Who are you?")
    eve.get_by_label("Your message").press("Enter")
    toast(eve, "Choose a character first")
    assert "Ilse Brandt" not in eve.locator("#chat").inner_text()


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("photo.png", PNG, "no character inside"),
        ("program.png", b"MZ\x90\0" + b"\0" * 100, "This is a program"),
        ("deep.json", b"[" * 100_000, "nested too deeply"),
        ("empty.txt", b" ", "empty"),
        ("bad.templora", b"PK\x03\x04 no", "not an exported memory|damaged|not a"),
    ],
    ids=["photo", "program", "deep", "empty", "memory"],
)
def test_a_bad_file_gives_a_readable_message_and_the_page_goes_on(open_page, name, data, says):
    page = open_page()
    upload(page, name, data)
    see(page.locator("[data-testid=toast-body]").last, re.compile(says))
    expect(page.locator("#preview")).to_be_hidden()
    page.get_by_role("button", name="Meet Marta").click()
    see(page.locator("#preview"), "Marta Quill")


def test_a_hostile_card_runs_nothing_and_fetches_nothing(open_page):
    evil = (
        '<img src=x onerror="window.PWN=1"><script>window.PWN=1</script>'
        "![x](http://evil.example/p.png) <style>*{display:none}</style>"
        '<a href="javascript:window.PWN=1">hi</a> {{user}}'
    )
    page = open_page()
    data = {"name": f"{evil}Nell", "description": f"Nell mills. {evil}", "first_mes": evil,
            "alternate_greetings": [evil], "creator_notes": evil, "tags": [evil],
            "extensions": {"templora": {"accent": '"><script>window.PWN=1</script>',
                                        "art": "<svg onload=window.PWN=1>", "tagline": evil,
                                        "facts": [{"ask": evil, "answer": evil, "said": evil}]}},
            "character_book": {"entries": [{"keys": ["mill", evil], "content": evil}]}}  # fmt: skip
    card = {"spec": "chara_card_v2", "spec_version": "2.0", "data": data}
    upload(page, "evil.json", json.dumps(card).encode())
    see(page.locator("#preview"), "Nell")
    finish(page)
    talk(page)
    say(page, f"What about the mill? {evil}", 1)
    page.get_by_role("button", name="What the model sees").click()
    page.get_by_role("tab", name="Memory").click()
    see(page.locator("#tiles"), "tokens in the weights")
    assert page.evaluate("window.PWN") is None
    assert page.locator("img[src^=http]").count() == 0
    # fetched or not is checked for every page by `open_page`


def test_the_browser_keeps_no_text(open_page):
    page = open_page()
    absorb(page)
    talk(page)
    say(page, "Remember the word marzipan.", 1)
    stored = page.evaluate(
        "async () => JSON.stringify([Object.entries(localStorage), Object.entries(sessionStorage),"
        " (await indexedDB.databases()).map(d => d.name), document.cookie])"
    )
    for text in ("goose", "Fernwick", "marzipan", "lamp keeper"):
        assert text not in stored


def test_the_page_passes_axe(open_page):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page = open_page()
    absorb(page)
    found = []
    for tab in ("Characters", "Role-play", "Memory"):
        page.get_by_role("tab", name=tab).click()
        if tab == "Role-play":
            say(page, "Hello!", 1)
            page.get_by_role("button", name="What the model sees").click()
        page.wait_for_timeout(500)
        for item in axe.run(page).response["violations"]:
            if item["impact"] in {"serious", "critical"}:
                where = [node["target"] for node in item["nodes"]][:4]
                found.append((tab, item["id"], where))
    assert found == []


def test_the_page_works_on_a_phone_and_with_the_keyboard(open_page):
    page = open_page(viewport={"width": 390, "height": 844}, has_touch=True)
    button = page.get_by_role("button", name="Meet Orla")
    button.focus()
    page.keyboard.press("Enter")
    see(page.locator("#preview"), "Orla Fernwick")
    page.get_by_role("button", name="Absorb into weights").focus()
    page.keyboard.press("Enter")
    ready = page.get_by_role("button", name="Talk with Orla Fernwick")
    expect(ready).to_be_visible(timeout=PATIENCE)
    ready.focus()
    page.keyboard.press("Enter")
    say(page, "Which lame goose is called what?", 1)
    for tab in ("Characters", "Role-play", "Memory"):
        page.get_by_role("tab", name=tab).click()
        page.wait_for_timeout(300)
        wide = page.evaluate("document.documentElement.scrollWidth")
        assert wide <= 390, tab


def test_stopping_while_it_learns_leaves_nothing(chromium, tmp_path):
    server = Server(tmp_path, learn=10)
    context = chromium.new_context()
    try:
        page = context.new_page()
        visit(page, server.url)
        page.get_by_role("button", name="Meet Oren").click()
        page.get_by_role("button", name="Absorb into weights").click()
        page.get_by_role("button", name="Stop learning").click()
        see(page.locator("#mine"), "No characters yet")
        until = time.monotonic() + 60
        while server.memories() and time.monotonic() < until:
            time.sleep(0.2)
        assert server.memories() == []
        page.get_by_role("button", name="Meet Oren").click()
        see(page.locator("#preview"), "Oren Vale")
    finally:
        context.close()
        server.stop()


# --- and what else can go wrong ------------------------------------------------------------------


def test_stopping_a_reply_lets_the_chat_go_on(open_page):
    page = open_page()
    absorb(page)
    talk(page)
    page.get_by_label("Your message").fill("Hello!")
    page.get_by_label("Your message").press("Enter")
    page.get_by_role("button", name="Stop", exact=True).click()
    page.wait_for_timeout(500)
    number = answers(page).count()
    say(page, "Which lame goose is called what?", number)


def test_ten_browsers_chat_while_one_of_them_learns(chromium, tmp_path):
    server = Server(tmp_path, learn=0.5)
    contexts = [chromium.new_context() for _ in range(10)]
    try:
        learner, *others = [context.new_page() for context in contexts]
        for number, page in enumerate((learner, *others)):
            visit(page, server.url)
            page.get_by_label("Name", exact=True).fill(f"Keeper {number}")
            told = "Every day was long. " * 400 if page is learner else ""
            page.get_by_label("Bio").fill(f"{told}Keeper has a lantern called Lumen{number}.")
            page.get_by_role("button", name="Preview this bio").click()
            see(page.locator("#preview"), f"Keeper {number}")
        for page in others:
            finish(page)
            talk(page)
        learner.get_by_role("button", name="Absorb into weights").click()
        stop = learner.get_by_role("button", name="Stop learning")
        expect(stop).to_be_visible(timeout=PATIENCE)
        for page in others:  # all of them ask before anybody looks
            page.get_by_label("Your message").fill("Which lantern is called what?")
            page.get_by_label("Your message").press("Enter")
        for number, page in enumerate(others, start=1):
            see(answers(page).last, f"lantern called Lumen{number}.")
            heard = re.findall(r"Lumen\d", page.locator("body").inner_text())
            assert set(heard) == {f"Lumen{number}"}
        expect(stop).to_be_visible()  # it is still learning: nobody waited for it
        stop.click()
        see(learner.locator("#mine"), "No characters yet")
        until = time.monotonic() + 60
        while len(found := characters(server)) != len(others) and time.monotonic() < until:
            time.sleep(0.2)
        assert len(found) == len(others)
    finally:
        for context in contexts:
            context.close()
        server.stop()


def test_a_chat_log_becomes_history(open_page):
    from templora_memory import Message  # noqa: PLC0415
    from templora_memory.importers import ChatLog, chat_to_jsonl  # noqa: PLC0415

    lines = [Message("user", "I sold my boat."), Message("assistant", "At last."),
             Message("user", "Guess to whom."), Message("assistant", "To Jory?")]  # fmt: skip
    page = open_page()
    upload(page, "chat.jsonl", chat_to_jsonl(ChatLog(messages=tuple(lines))))
    see(page.locator("#preview"), "Absorb or choose a character first")
    absorb(page)
    upload(page, "chat.jsonl", chat_to_jsonl(ChatLog(messages=tuple(lines))))
    page.get_by_role("button", name="Use as history").click()
    expect(page.get_by_role("button", name=re.compile("^Talk with"))).to_be_visible(
        timeout=PATIENCE
    )
    talk(page)
    expect(answers(page)).to_have_count(2, timeout=PATIENCE)
    say(page, "Yes.", 2)
    see(page.locator("#status"), "2 messages in weights")


def test_long_names_and_other_scripts_fit(open_page):
    page = open_page(viewport={"width": 390, "height": 844})
    for name, bio in (
        ("Wolfeschlegelsteinhausenbergerdorff" * 3, "He lives at the lake."),
        ("ליאורה בת־ים", "ליאורה גרה ליד הים. יש לה חתול."),
        ("灯台守の春子", "春子は灯台に住んでいます。猫を飼っています。"),
    ):
        page.get_by_label("Name", exact=True).fill(name)
        page.get_by_label("Bio").fill(bio)
        page.get_by_role("button", name="Preview this bio").click()
        see(page.locator("#preview"), bio[:10])
        finish(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
    expect(page.locator("#mine article")).to_have_count(3)


def test_nothing_is_served_that_should_not_be(server):
    config = json.loads(fetch(f"{server.url}/config"))
    assert config["analytics_enabled"] is False
    public = [d["api_name"] for d in config["dependencies"] if d.get("api_visibility") == "public"]
    assert public == []
    for path in ("/monitoring", "/gradio_api/mcp/", "/gradio_api/runs"):
        with pytest.raises(urllib.error.HTTPError):
            fetch(server.url + path)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"model": "templora/tiny"}, id="embedded"),
        pytest.param(
            {"model": "templora/smollm2", "recipe": "statements", "steps": 4},
            id="pretrained",
            marks=pytest.mark.real,
        ),
    ],
)
def test_a_real_model_learns_answers_and_forgets(chromium, tmp_path, options):
    server = Server(tmp_path, **options)
    context = chromium.new_context()
    try:
        page = context.new_page()
        visit(page, server.url)
        page.get_by_role("button", name="Meet Orla").click()
        page.get_by_role("button", name="Absorb into weights").click()
        ready = page.get_by_role("button", name="Talk with Orla Fernwick")
        expect(ready).to_be_visible(timeout=600_000)
        ready.click()
        page.get_by_label("Your message").fill("What pet do you have?")
        page.get_by_label("Your message").press("Enter")
        expect(page.locator("#status")).to_contain_text("tokens in the prompt", timeout=PATIENCE)
        page.get_by_role("tab", name="Characters").click()
        page.get_by_role("button", name="Delete…").click()
        page.get_by_role("button", name="Yes, delete").click()
        see(page.locator("#gone"), "equal to the last bit")
        assert server.memories() == []
    finally:
        context.close()
        server.stop()
