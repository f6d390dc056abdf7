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


def meet(page, name="Orla"):
    button = page.get_by_role("button", name=f"Meet {name}")
    if not button.is_visible():
        page.get_by_role("button", name="Meet somebody").click()
    button.click()


def absorb(page, name="Orla"):
    meet(page, name)
    see(page.locator("#preview"), name)
    finish(page)


def paste(page, name, bio):
    if not page.get_by_label("Bio").is_visible():
        page.get_by_role("button", name="Bring your own").click()
    page.get_by_label("Name", exact=True).fill(name)
    page.get_by_label("Bio").fill(bio)
    page.get_by_role("button", name="Preview this bio").click()
    see(page.locator("#preview"), bio[:10])


def ask_to_delete(page):
    if not page.get_by_role("button", name="Delete…", exact=True).is_visible():
        page.get_by_role("button", name="This character").click()
    page.get_by_role("button", name="Delete…", exact=True).click()
    see(page.locator("#confirm"), "What goes")


def delete_for_good(page):
    ask_to_delete(page)
    page.get_by_role("button", name="Yes, delete").click()
    page.get_by_role("button", name="Remove now").click()


def finish(page, button="Absorb into weights"):
    page.get_by_role("button", name=button).click()
    see(page.locator("#progress"), "is in the weights")


def characters(server):
    """Memories of characters, without those of what one persona told them."""
    return [item for item in server.memories() if "@" not in item.name]


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
    if not page.locator("#upload").is_visible():
        page.get_by_role("button", name="Bring your own").click()
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
    see(page.locator("#progress"), "Nell Harrow is in the weights")
    page.get_by_role("button", name="How it learned").click()
    see(page.locator("#watch"), "Perplexity")
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
    see(answers(page).last, "Wipe your boots")
    page.get_by_role("button", name="Greeting 2").click()
    see(answers(page).last, "You again?")
    say(page, "Hello!", 1)
    expect(page.get_by_role("button", name="Greeting 2")).to_have_count(0)


def test_retry_undo_and_edit_touch_no_weights(open_page, server):
    page = open_page()
    absorb(page)
    before = {f.name for m in server.memories() for f in (m / "revisions").iterdir()}
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
    say(page, "Rival?", 1)
    see(answers(page).last, "rival is Marta")
    page.get_by_label("Active character").click()
    page.get_by_role("option", name="Marta Quill").click()
    see(answers(page).last, "Wipe your boots")
    expect(answers(page)).to_have_count(1)
    say(page, "Rival?", 1)
    see(answers(page).last, "rival is Oren")


def test_deleting_asks_says_what_goes_and_can_be_undone_until_it_is_removed(open_page, server):
    page = open_page()
    known = set(server.memories())
    absorb(page, "Kestrel")
    say(page, "Hello!", 1)
    assert set(server.memories()) - known
    ask_to_delete(page)
    see(page.locator("#confirm"), "1 chat")
    see(page.locator("#confirm"), "what it learned from You")
    page.get_by_role("button", name="No, keep it").click()
    expect(page.locator("#confirm")).to_be_hidden(timeout=PATIENCE)
    ask_to_delete(page)
    page.get_by_role("button", name="Yes, delete").click()
    see(page.locator("#undo"), "removed for good in")
    see(page.locator("#mine"), "No characters yet")
    expect(page.get_by_role("button", name="Send")).to_be_disabled()
    page.locator("#undo").get_by_role("button", name="Undo").click()
    see(page.locator("#mine"), "Kestrel")
    expect(page.locator("#undo")).to_be_hidden(timeout=PATIENCE)
    expect(answers(page)).to_have_count(2, timeout=PATIENCE)
    delete_for_good(page)
    see(page.locator("#gone"), "Kestrel is gone")
    see(page.locator("#gone"), "equal to the last bit")
    see(page.locator("#gone"), "manifest.json")
    expect(page.locator("#gone")).not_to_contain_text("differs")
    assert set(server.memories()) == known
    see(page.locator("#mine"), "No characters yet")


def test_a_new_chat_keeps_the_old_one_and_deleting_a_chat_asks(open_page):
    page = open_page()
    absorb(page)
    say(page, "I have a boat.", 1)
    page.get_by_role("button", name="New chat").click()
    expect(answers(page)).to_have_count(1, timeout=PATIENCE)
    expect(page.get_by_role("button", name="Delete chat…")).to_be_disabled()
    say(page, "Something else.", 1)
    page.get_by_label("Chat", exact=True).click()
    page.get_by_role("option", name="I have a boat.").click()
    see(page.locator("#chat"), "I have a boat.")
    page.get_by_role("button", name="Clear").click()  # the bin of the conversation itself
    see(page.locator("#confirm"), "I have a boat.")
    see(page.locator("#chat"), "I have a boat.")  # it is there until the answer
    page.get_by_role("button", name="Yes, delete").click()
    see(page.locator("#chat"), "Something else.")
    page.locator("#undo").get_by_role("button", name="Undo").click()
    see(page.locator("#chat"), "I have a boat.")


def test_what_is_deleted_goes_by_itself_when_the_time_to_undo_it_is_over(chromium, tmp_path):
    server = Server(tmp_path, grace=3)
    context = chromium.new_context()
    try:
        page = context.new_page()
        visit(page, server.url)
        absorb(page, "Bram")
        ask_to_delete(page)
        page.get_by_role("button", name="Yes, delete").click()
        see(page.locator("#gone"), "Bram Oxley is gone")
        expect(page.locator("#undo")).to_be_hidden(timeout=PATIENCE)
        assert server.memories() == []
    finally:
        context.close()
        server.stop()


def test_answers_to_one_message_are_kept_as_swipes(open_page):
    page = open_page()
    absorb(page)
    say(page, "Which lame goose is called what?", 1)
    page.get_by_role("button", name="Retry").last.click()
    toast(page, re.compile("temperature 0.8|said the same again"))
    expect(answers(page)).to_have_count(2, timeout=PATIENCE)


def test_an_answer_goes_on_and_the_users_turn_can_be_written_by_the_model(open_page):
    page = open_page()
    absorb(page)
    go_on, impersonate = (
        page.get_by_role("button", name=name, exact=True) for name in ("Continue", "Impersonate")
    )
    expect(go_on).to_be_disabled()  # a greeting alone answers nothing
    say(page, "Which lame goose is called what?", 1)
    go_on.click()
    see(answers(page).last, re.compile("Button.+I see", re.DOTALL))  # the fake says it again
    expect(answers(page)).to_have_count(2)
    expect(impersonate).to_be_enabled(timeout=PATIENCE)
    impersonate.click()
    box = page.get_by_label("Your message")
    expect(box).to_have_value(re.compile("I see"), timeout=PATIENCE)
    expect(page.get_by_role("button", name="Send")).to_be_enabled(timeout=PATIENCE)
    impersonate.click()
    toast(page, "something in the box already")
    expect(box).to_have_value(re.compile("I see"))
    expect(page.locator("#chat [data-testid=user]")).to_have_count(1)


def test_faces_stand_beside_words_chats_are_found_and_lore_is_written(open_page):
    page = open_page()
    absorb(page, "Marta")
    pictures = page.locator("#chat .avatar-container img")
    expect(pictures.first).to_have_attribute("src", re.compile("^data:image/"), timeout=PATIENCE)
    say(page, "I have a boat called Wren.", 1)
    absorb(page, "Oren")
    page.get_by_role("button", name="Search chats").click()
    page.get_by_label("Words to find").fill("wren")
    page.locator("#found button", has_text="I have a boat").click()
    see(page.locator("#chat"), "I have a boat called Wren.")
    expect(page.get_by_label("Active character")).to_have_value("Marta Quill", timeout=PATIENCE)
    page.get_by_role("button", name="Lorebook").click()
    lore = page.locator("#lorebook")
    lore.get_by_label("Keys, one on each line").fill("attic\nroof")
    lore.get_by_label("Text", exact=True).fill("A ghost lives in the attic.")
    lore.get_by_role("button", name="Save entry").click()
    see(lore.locator("table"), "attic, roof")
    say(page, "What is on the roof?", 2)
    page.get_by_role("button", name="What the model sees").click()
    see(page.locator("#prompt"), "A ghost lives in the attic.")


def test_four_answers_stand_side_by_side_and_change_no_chat(open_page):
    page = open_page()
    absorb(page)
    say(page, "Which lame goose is called what?", 1)
    page.get_by_role("button", name="Compare four ways").click()
    page.get_by_role("button", name="Answer four ways").click()
    expect(page.locator("#compared footer b")).to_have_count(4, timeout=PATIENCE)
    see(page.locator("#compared .weights"), "Button")
    see(page.locator("#compared .prompt"), "Button")
    expect(page.locator("#compared .neither")).not_to_contain_text("Button")
    see(page.locator("#compared"), "no earlier message")
    expect(answers(page)).to_have_count(2)


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
    expect(eve.get_by_role("button", name="Send")).to_be_disabled()
    eve.get_by_label("Your message").fill("Who are you?")
    eve.get_by_label("Your message").press("Enter")
    toast(eve, "Choose a character first")
    expect(eve.locator("[data-testid=toast-body].info")).to_have_count(1)  # a note, no error
    expect(eve.locator("#chat .error")).to_have_count(0)
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
    meet(page, "Orla")
    see(page.locator("#preview"), "Orla Fernwick")
    upload(page, name, data)
    see(page.locator("[data-testid=toast-body]").last, re.compile(says))
    expect(page.locator("#preview")).to_be_hidden(timeout=PATIENCE)  # also the one before it
    meet(page, "Marta")
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
    say(page, f"What about the mill? {evil}", 1)
    page.get_by_role("button", name="What the model sees").click()
    page.get_by_role("button", name="What was learned").click()
    see(page.locator("#tiles"), "tokens in the weights")
    assert page.evaluate("window.PWN") is None
    assert page.locator("img[src^=http]").count() == 0
    # fetched or not is checked for every page by `open_page`


def test_the_browser_keeps_no_text(open_page):
    page = open_page()
    absorb(page)
    say(page, "Remember the word marzipan.", 1)
    stored = page.evaluate(
        "async () => JSON.stringify([Object.entries(localStorage), Object.entries(sessionStorage),"
        " (await indexedDB.databases()).map(d => d.name), document.cookie])"
    )
    for text in ("goose", "Fernwick", "marzipan", "lamp keeper"):
        assert text not in stored


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_page_passes_axe(open_page, server, theme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page = open_page(f"{server.url}/?__theme={theme}")
    found = []

    def check(where):
        page.wait_for_timeout(500)
        for item in axe.run(page).response["violations"]:
            if item["impact"] in {"serious", "critical"}:
                nodes = [node["target"] for node in item["nodes"]]
                # Gradio's toasts are buttons with a button inside
                nodes = [target for target in nodes if target != [".toast-header"]][:4]
                found.extend([(where, item["id"], nodes)] if nodes else [])

    check("empty")
    meet(page)
    see(page.locator("#preview"), "Orla")
    check("preview")
    finish(page)
    say(page, "Hello!", 1)
    for name in (
        *("How it learned", "Compare four ways", "What the model sees", "What was learned"),
        *("Receipts of this visit", "This character", "Settings", "Play somebody else"),
        *("Lorebook", "Notes for the prompt", "Bring your own", "Search chats"),
    ):
        page.get_by_role("button", name=name).click()
    page.get_by_role("button", name="Answer four ways").click()
    expect(page.locator("#compared footer b")).to_have_count(4, timeout=PATIENCE)
    check("open")
    ask_to_delete(page)
    check("question")
    page.get_by_role("button", name="Yes, delete").click()
    see(page.locator("#undo"), "removed for good")
    check("undo")
    assert found == []


def test_the_page_works_on_a_phone_and_with_the_keyboard(open_page):
    page = open_page(viewport={"width": 390, "height": 844}, has_touch=True)
    button = page.get_by_role("button", name="Meet Orla")
    button.focus()
    page.keyboard.press("Enter")
    see(page.locator("#preview"), "Orla Fernwick")
    page.get_by_role("button", name="Absorb into weights").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_label("Your message")).to_be_focused(timeout=PATIENCE)
    see(page.locator("#progress"), "is in the weights")
    say(page, "Which lame goose is called what?", 1)
    page.evaluate("window.scrollTo(0, 0)")
    box = page.locator("#say").bounding_box()
    assert box["y"] + box["height"] <= 844  # also under the news of what was learned
    order = ("#chat", "#say", "#left", "#right")
    above = [page.locator(name).bounding_box()["y"] for name in order]
    assert above == sorted(above)  # the chat first
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_the_box_to_write_in_is_in_the_first_screen(open_page):
    for width, height in ((1366, 813), (390, 844)):
        page = open_page(viewport={"width": width, "height": height})
        chat, box = page.locator("#chat").bounding_box(), page.locator("#say").bounding_box()
        assert chat["y"] < 0.3 * height
        assert box["y"] + box["height"] <= height


def test_stopping_a_slow_model_says_so_until_the_character_is_gone(chromium, tmp_path):
    server = Server(tmp_path, learn=14)  # longer than anybody's patience
    context = chromium.new_context()
    try:
        page = context.new_page()
        visit(page, server.url)
        meet(page, "Oren")
        see(page.locator("#preview"), "on this machine")  # how long it takes
        page.get_by_role("button", name="Absorb into weights").click()
        see(page.locator("#status"), "the card stands in the prompt")
        say(page, "Hello!", 1)  # it can be talked with meanwhile
        see(page.locator("#progress"), re.compile("is learning|reads the text"))
        page.get_by_role("button", name="Stop learning").click()
        see(page.locator("#mine"), "stopping")
        see(page.locator("#progress"), "Stopping")
        expect(page.get_by_role("button", name="Send")).to_be_disabled()
        page.wait_for_timeout(3000)
        see(page.locator("#mine"), "stopping")
        see(page.locator("#mine"), "No characters yet")
        toast(page, "has learned nothing and is gone")
        assert server.memories() == []
        expect(page.get_by_label("Active character")).to_have_value("")
        meet(page, "Oren")
        see(page.locator("#preview"), "Oren Vale")
        expect(page.locator(".error")).to_have_count(0)
    finally:
        context.close()
        server.stop()


def test_a_page_that_missed_a_deletion_is_told_and_goes_on(open_page):
    page = open_page()
    absorb(page)
    other = open_page(context=page.context)
    see(other.locator("#mine"), "Orla Fernwick")
    page.route("**/gradio_api/queue/**", lambda route: route.abort())  # it hears nothing now
    ask_to_delete(other)
    other.get_by_role("button", name="Yes, delete").click()
    see(other.locator("#mine"), "No characters yet")
    page.unroute("**/gradio_api/queue/**")
    see(page.locator("#mine"), "No characters yet")
    expect(page.get_by_label("Active character")).to_have_value("", timeout=PATIENCE)
    meet(page, "Marta")
    see(page.locator("#preview"), "Marta Quill")
    expect(page.locator("#chat .error")).to_have_count(0)


def test_learning_goes_on_over_a_reload(chromium, tmp_path):
    server = Server(tmp_path, learn=1)
    context = chromium.new_context()
    try:
        page = context.new_page()
        visit(page, server.url)
        meet(page, "Oren")
        page.get_by_role("button", name="Absorb into weights").click()
        see(page.locator("#mine"), "learning")
        page.reload()
        see(page.locator("#mine"), "learning")
        see(page.locator("#progress"), "Oren Vale is in the weights")
    finally:
        context.close()
        server.stop()


def test_an_imported_memory_is_there_to_talk_with(open_page):
    page = open_page()
    absorb(page)
    page.get_by_role("button", name="This character").click()
    page.get_by_role("button", name="Prepare download").click()
    with page.expect_download() as download:
        page.locator("#manage a[download]").first.click()
    upload(page, "Orla_again.templora", Path(download.value.path()).read_bytes())
    see(page.locator("#mine"), "Orla again")
    expect(page.get_by_label("Active character")).to_have_value("Orla again", timeout=PATIENCE)
    see(page.locator("#chat"), "Say something to Orla again")
    say(page, "Which lame goose is called what?", 0)
    see(answers(page).last, "Button")


# --- and what else can go wrong ------------------------------------------------------------------


def test_stopping_a_reply_lets_the_chat_go_on(open_page):
    page = open_page()
    absorb(page)
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
            told = "Every day was long. " * 400 if page is learner else ""
            paste(page, f"Keeper {number}", f"{told}Keeper has a lantern called Lumen{number}.")
        for page in others:
            finish(page)
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
    see(page.locator("#status"), "4 messages")
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
        paste(page, name, bio)
        finish(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
    expect(page.locator("#mine li")).to_have_count(3)


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
        meet(page)
        page.get_by_role("button", name="Absorb into weights").click()
        expect(page.locator("#progress")).to_contain_text("is in the weights", timeout=600_000)
        page.get_by_label("Your message").fill("What pet do you have?")
        page.get_by_label("Your message").press("Enter")
        expect(page.locator("#status")).to_contain_text("tokens in the prompt", timeout=PATIENCE)
        delete_for_good(page)
        see(page.locator("#gone"), "equal to the last bit")
        assert server.memories() == []
    finally:
        context.close()
        server.stop()
