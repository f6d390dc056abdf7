"""The pictures of the page in the documentation, taken anew: docs/images/app-*.png.

python -m tools.page_pictures [FOLDER]

Serves the page on the embedded model with an empty folder, lets a bundled character be learned,
talks with it in a headless Chromium, and takes pictures on the way. Needs the group `browser` and
Chromium (`make test-browser` installs both). Look at them before you commit them.
"""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright

IMAGES = Path(__file__).parents[1] / "docs" / "images"
QUESTIONS = ("Who is your best friend?", "What is your favourite food?")
COMPARED = "Who is your rival?"
_TIMEOUT_MS = 600_000
_COLOURS = 128
_GAP = 20  # pixels between pictures side by side
_CALM = "*, *::before, *::after { animation: none !important; caret-color: transparent !important }"
_TOAST_MS = 15_000  # until every note has gone


def main(folder: Path = IMAGES) -> int:
    """Take all pictures; return the exit status."""
    with tempfile.TemporaryDirectory() as root:
        program = subprocess.Popen(  # noqa: S603  # ourselves
            [sys.executable, "-m", "templora_memory.apps.roleplay", "--json", "--root", root],
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(
                    executable_path=shutil.which("chromium"), args=["--no-sandbox"]
                )
                _take(browser, _address(program), folder)
                browser.close()
        finally:
            program.terminate()
            program.wait()
    return 0


def _address(program: subprocess.Popen[str]) -> str:
    """Wait until the page is served, and return where."""
    said = ""
    for line in program.stdout or ():
        said += line
        if line.startswith("}"):
            return str(json.loads(said)["url"])
    raise SystemExit(f"The page ended with {program.wait()} before it was served.")


def _take(browser: Browser, url: str, folder: Path) -> None:
    context = browser.new_context(viewport={"width": 1280, "height": 813})
    page = _open(context.new_page(), url)
    phone = _open(context.new_page(), url, width=390, height=844)
    phones = [_shot(phone)]
    page.get_by_role("button", name="Meet Orla").click()
    page.get_by_role("button", name="Absorb into weights").click()
    expect(page.locator("#progress")).to_contain_text("is in the weights")
    for number, question in enumerate(QUESTIONS, start=1):
        page.get_by_label("Your message").fill(question)
        page.get_by_label("Your message").press("Enter")
        expect(page.locator("#chat [data-testid=bot]")).to_have_count(number + 1)
        expect(page.locator("#status")).to_contain_text(f"{2 * number + 1} messages")
    page.wait_for_timeout(_TOAST_MS)
    page.evaluate("window.scrollTo(0, 0)")
    _save(_shot(page), folder / "app-characters.png")

    page.get_by_role("button", name="How it learned").click()
    _save(_shot(page, "#watching"), folder / "app-learned.png")
    page.get_by_role("button", name="How it learned").click()
    page.get_by_role("button", name="Dismiss").click()

    page.get_by_label("Your message").fill(COMPARED)
    page.get_by_role("button", name="Compare four ways").click()
    page.get_by_role("button", name="Answer four ways").click()
    expect(page.locator("#compared footer b")).to_have_count(4)
    expect(page.get_by_role("button", name="Answer four ways")).to_be_enabled()
    _save(_shot(page, "#compared"), folder / "app-compare.png")
    page.get_by_label("Your message").fill("")
    page.get_by_role("button", name="Compare four ways").click()

    page.get_by_role("button", name="What the model sees").click()
    page.wait_for_timeout(1000)
    _save(_shot(page, "#sees"), folder / "app-role-play.png")
    page.get_by_role("button", name="What the model sees").click()
    page.get_by_role("button", name="What was learned").click()
    page.wait_for_timeout(1000)
    _save(_shot(page, "#figures"), folder / "app-memory.png")

    phone = _open(phone, url, width=390, height=844)
    phone.get_by_label("Active character").scroll_into_view_if_needed()
    phones.append(_shot(phone))
    dark = _open(phone, f"{url}?__theme=dark", width=390, height=844)
    dark.locator("#left").scroll_into_view_if_needed()
    dark.evaluate("document.getElementById('left').scrollIntoView()")
    phones.append(_shot(dark))
    _save(_beside(phones), folder / "app-phone.png")


def _open(page: Page, url: str, *, width: int = 1280, height: int = 813) -> Page:
    page.set_default_timeout(_TIMEOUT_MS)
    expect.set_options(timeout=_TIMEOUT_MS)
    page.set_viewport_size({"width": width, "height": height})
    page.goto(url)
    expect(page.get_by_label("You play")).to_have_value("You")
    page.add_style_tag(content=_CALM)
    return page


def _shot(page: Page, part: str = "") -> Image.Image:
    """Return a picture of the screen, or of one part of the page."""
    page.wait_for_timeout(500)
    data = page.locator(part).screenshot() if part else page.screenshot()
    return Image.open(io.BytesIO(data)).convert("RGB")


def _beside(pictures: Sequence[Image.Image]) -> Image.Image:
    width = sum(item.width for item in pictures) + _GAP * (len(pictures) - 1)
    both = Image.new("RGB", (width, max(item.height for item in pictures)), "white")
    left = 0
    for item in pictures:
        both.paste(item, (left, 0))
        left += item.width + _GAP
    return both


def _save(picture: Image.Image, path: Path) -> None:
    few = picture.quantize(_COLOURS, dither=Image.Dither.NONE)  # a tenth of the bytes
    few.save(path, optimize=True)
    sys.stdout.write(f"{path}: {picture.width} x {picture.height}, {path.stat().st_size:,} bytes\n")


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:])))
