"""The page: three areas, the handlers behind them, and how it is served."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from templora_memory import ParametricMemory

from . import _characters_tab, _memory_tab, _show, _talk_tab
from ._characters import CharacterHandlers
from ._chatting import ChatHandlers
from ._look import CSP, CSS
from ._memories import MemoryHandlers
from ._page import CHARACTERS, MEMORY, TALK, Page, Updates
from ._studio import Studio
from ._theme import theme
from ._view import View


def build(
    memory: ParametricMemory, *, home: Path | None, grace: float, idle: float
) -> tuple[gr.Blocks, Studio]:
    """The page and the studio behind it; the studio opens when the page is made."""
    studio = Studio(memory, home=home, grace=grace, idle=idle).open()
    try:
        policy = memory.policy
        with gr.Blocks(
            title="Characters that live in weights",
            analytics_enabled=False,
            delete_cache=(60, 600),
        ) as blocks:
            page = _layout(memory, studio, policy.reply_tokens, policy.window // 2)
            view = View(studio, page)
            _life(blocks, page, view, studio)
            CharacterHandlers(studio, page, view).wire()
            ChatHandlers(studio, page, view).wire()
            MemoryHandlers(studio, page, view).wire()
        blocks.queue(max_size=64, default_concurrency_limit=16, api_open=False)
    except BaseException:
        studio.close()
        raise
    return blocks, studio


def _layout(memory: ParametricMemory, studio: Studio, reply: int, most: int) -> Page:
    token, pending = gr.State(""), gr.State("")
    browser = gr.BrowserState("", storage_key="templora-visit", secret=studio.kept.secret())
    gr.HTML(_show.head(memory.base.name, studio.grace))
    with gr.Row(elem_id="who"):
        active = gr.Dropdown([], label="Active character", min_width=220, scale=2)
        persona = gr.Dropdown([], label="You play", min_width=160)
    with gr.Tabs() as tabs:
        with gr.Tab("Characters", id=CHARACTERS):
            characters = _characters_tab.build()
        with gr.Tab("Role-play", id=TALK):
            talk = _talk_tab.build(min(96, reply), most)
        with gr.Tab("Memory", id=MEMORY):
            remember = _memory_tab.build()
    return Page(
        token=token,
        pending=pending,
        browser=browser,
        active=active,
        persona=persona,
        tabs=tabs,
        c=characters,
        t=talk,
        m=remember,
    )


def _life(blocks: gr.Blocks, page: Page, view: View, studio: Studio) -> None:
    """A tab opens, a tab closes."""

    def enter(saved: str, request: gr.Request) -> Updates:
        visitor = studio.visitors.enter(saved, request.session_hash or "")
        actor = next((item for item in visitor.actors.values() if not item.gone), None)
        shown = view.whole(visitor, actor, visitor.persona(None))
        return {page.token: visitor.token, page.browser: visitor.token, **shown}

    def leave(request: gr.Request) -> None:
        studio.visitors.leave(request.session_hash or "")

    blocks.load(
        enter,
        page.browser,
        [page.token, page.browser, *view.everything],
        api_visibility="private",
        show_progress="hidden",
    )
    blocks.unload(leave)


def launch_options() -> dict[str, Any]:
    """How the page must be served: nothing shared, nothing measured, nothing remembered."""
    return {
        "share": False,
        "run_history": False,  # Gradio would keep bios and chats in the browser
        "enable_monitoring": False,
        "mcp_server": False,
        "pwa": False,
        "ssr_mode": False,
        "show_error": False,
        "footer_links": [],
        "allowed_paths": [],
        "max_file_size": "64mb",
        "state_session_capacity": 500,
        "head": CSP,
        "css": CSS,
        "theme": theme(),
        "quiet": True,
    }
