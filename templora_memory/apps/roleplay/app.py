"""The page: what it is made of, the handlers behind it, and how it is served."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from templora_memory import ParametricMemory

from . import characters_panel, chat_panel, deletion_panel, memory_panel, rendering
from .character_handlers import CharacterHandlers
from .chat_handlers import ChatHandlers
from .components import PageComponents, Updates
from .deletion_handlers import DeletionHandlers
from .figures_handlers import FiguresHandlers
from .lorebook_handlers import LorebookHandlers
from .news_handlers import NewsHandlers
from .page_view import PageView
from .preview_handlers import PreviewHandlers
from .studio import Studio
from .style import CSP, CSS
from .theme import theme

_LOOK = 1.0  # seconds between two looks for news


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
            PreviewHandlers(studio, page, view).wire()
            CharacterHandlers(studio, page, view).wire()
            ChatHandlers(studio, page, view).wire()
            FiguresHandlers(studio, page, view).wire()
            DeletionHandlers(studio, page, view).wire()
            LorebookHandlers(studio, page, view).wire()
            NewsHandlers(studio, page, view).wire()
        blocks.queue(max_size=64, default_concurrency_limit=16, api_open=False)
    except BaseException:
        studio.close()
        raise
    return blocks


def _build_components(
    memory: ParametricMemory, studio: Studio, reply_tokens: int, max_tokens: int
) -> PageComponents:
    """Lay the page out: characters, the conversation, memory; figures below."""
    token, pending, seen = gr.State(""), gr.State(""), gr.State(-1)
    chosen, played = gr.State(None), gr.State(None)
    browser = gr.BrowserState("", storage_key="templora-visit", secret=studio.saved.secret())
    timer = gr.Timer(_LOOK)
    gr.HTML(rendering.page_header(memory.base.name, studio.grace))
    with gr.Row(elem_id="stage"):
        with gr.Column(scale=0, min_width=250, elem_id="left"):
            characters = characters_panel.build()
        with gr.Column(scale=1, min_width=320, elem_id="middle"):
            talk = chat_panel.build()
        with gr.Column(scale=0, min_width=280, elem_id="right"):
            memories = memory_panel.build(min(96, reply_tokens), max_tokens)
    with gr.Column(elem_id="under"):
        figures = memory_panel.build_figures()
    deletion = deletion_panel.build()
    return PageComponents(
        token=token,
        chosen=chosen,
        played=played,
        pending=pending,
        seen=seen,
        browser=browser,
        timer=timer,
        characters=characters,
        talk=talk,
        memory=memories,
        figures=figures,
        deletion=deletion,
    )


def _wire_tab_life(blocks: gr.Blocks, page: PageComponents, view: PageView, studio: Studio) -> None:
    """Connect the opening and the closing of a tab with the visitors."""

    def enter(saved: str, request: gr.Request) -> Updates:
        visitor = studio.visitors.enter(saved, request.session_hash or "")
        actor = next((item for item in visitor.actors.values() if not item.gone), None)
        return {
            page.token: visitor.token,
            page.browser: visitor.token,
            page.characters.meet_box: gr.update(open=actor is None),
            **view.all_updates(visitor, actor, visitor.persona(None)),
        }

    def leave(request: gr.Request) -> None:
        studio.visitors.leave(request.session_hash or "")

    blocks.load(
        enter,
        page.browser,
        [page.token, page.browser, page.characters.meet_box, *view.all_components],
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
