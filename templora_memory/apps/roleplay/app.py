"""The page: three areas, the handlers behind them, and how it is served."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from templora_memory import ParametricMemory

from . import characters_tab, memory_tab, rendering, talk_tab
from .character_handlers import CharacterHandlers
from .chat_handlers import ChatHandlers
from .components import CHARACTERS, MEMORY, TALK, PageComponents, Updates
from .memory_handlers import MemoryHandlers
from .page_view import PageView
from .studio import Studio
from .style import CSP, CSS
from .theme import theme


class RolePlayBlocks(gr.Blocks):
    """The page as Gradio serves it.

    Attributes:
        studio: the visitors and their characters; open from the start, closed by the caller.
    """

    studio: Studio


def build(
    memory: ParametricMemory, *, home: Path | None, grace: float, idle: float
) -> RolePlayBlocks:
    """Return the page over a memory service, with its studio open."""
    studio = Studio(memory, home=home, grace=grace, idle=idle).open()
    try:
        policy = memory.policy
        blocks = RolePlayBlocks(
            title="Characters that live in weights",
            analytics_enabled=False,
            delete_cache=(60, 600),
        )
        blocks.studio = studio
        with blocks:
            page = _build_components(memory, studio, policy.reply_tokens, policy.window // 2)
            view = PageView(studio, page)
            _wire_tab_life(blocks, page, view, studio)
            CharacterHandlers(studio, page, view).wire()
            ChatHandlers(studio, page, view).wire()
            MemoryHandlers(studio, page, view).wire()
        blocks.queue(max_size=64, default_concurrency_limit=16, api_open=False)
    except BaseException:
        studio.close()
        raise
    return blocks


def _build_components(
    memory: ParametricMemory, studio: Studio, reply_tokens: int, max_tokens: int
) -> PageComponents:
    token, pending = gr.State(""), gr.State("")
    browser = gr.BrowserState("", storage_key="templora-visit", secret=studio.saved.secret())
    gr.HTML(rendering.page_header(memory.base.name, studio.grace))
    with gr.Row(elem_id="who"):
        active = gr.Dropdown([], label="Active character", min_width=220, scale=2)
        persona = gr.Dropdown([], label="You play", min_width=160)
    with gr.Tabs() as tabs:
        with gr.Tab("Characters", id=CHARACTERS):
            characters = characters_tab.build()
        with gr.Tab("Role-play", id=TALK):
            talk = talk_tab.build(min(96, reply_tokens), max_tokens)
        with gr.Tab("Memory", id=MEMORY):
            memories = memory_tab.build()
    return PageComponents(
        token=token,
        pending=pending,
        browser=browser,
        active=active,
        persona=persona,
        tabs=tabs,
        characters_tab=characters,
        talk_tab=talk,
        memory_tab=memories,
    )


def _wire_tab_life(blocks: gr.Blocks, page: PageComponents, view: PageView, studio: Studio) -> None:
    """Connect the opening and the closing of a tab with the visitors."""

    def enter(saved: str, request: gr.Request) -> Updates:
        visitor = studio.visitors.enter(saved, request.session_hash or "")
        actor = next((item for item in visitor.actors.values() if not item.gone), None)
        updates = view.all_updates(visitor, actor, visitor.persona(None))
        return {page.token: visitor.token, page.browser: visitor.token, **updates}

    def leave(request: gr.Request) -> None:
        studio.visitors.leave(request.session_hash or "")

    blocks.load(
        enter,
        page.browser,
        [page.token, page.browser, *view.all_components],
        api_visibility="private",
        show_progress="hidden",
    )
    blocks.unload(leave)


def launch_options() -> dict[str, Any]:
    """Return the arguments of `launch` with which nothing is shared, measured or remembered."""
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
