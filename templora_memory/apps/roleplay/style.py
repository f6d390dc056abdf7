"""The look of the page: style sheet, emblems, and the policy that keeps requests at home."""

from __future__ import annotations

CSP = (
    '<meta http-equiv="Content-Security-Policy" content="'
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; "
    "connect-src 'self'; media-src 'self' blob:; frame-src 'none'; object-src 'none'; "
    "base-uri 'self'; form-action 'self'"
    '"><meta name="referrer" content="no-referrer">'
)
"""Nothing but this server is ever asked for anything, whatever a card or a model writes."""

CSS = """
:root { --serif: "Iowan Old Style", "Palatino Linotype", Palatino, Georgia, "Noto Serif", serif;
  --line: #e2dacd; --soft: #f1ebe0; --card: #fffdf9; --ink: #2a2622; --quiet: #5d554c;
  --good: #1d6b3f; --bad: #9c2f21; --leaf: #1d5c53; --amber: #8a5a00; }
.dark { --line: #3a352f; --soft: #2a2622; --card: #211e1b; --ink: #ece7df; --quiet: #b5aca0;
  --good: #7fd09f; --bad: #f0998c; --leaf: #7fb6ab; --amber: #e2b866; }
.gradio-container { width: 100% !important; max-width: min(1560px, 100vw) !important; margin: 0 auto !important; padding: 0 !important; box-sizing: border-box !important; }
.gradio-container .main { padding: 0 14px 40px !important; box-sizing: border-box; }
.gradio-container h1 { font: 600 20px/1.15 var(--serif) !important; letter-spacing: -.01em; margin: 0 !important; }
.gradio-container h2 { font: 600 18px/1.25 var(--serif); margin: 2px 0 2px !important; color: var(--ink); }
.gradio-container h3 { font: 600 16px/1.35 var(--serif); margin: 0 0 4px !important; color: var(--ink); }
.t { color: var(--ink); font-size: 15px; line-height: 1.5; overflow-wrap: anywhere; }
.t p { margin: 4px 0; }
.t .quiet, .quiet { color: var(--quiet); }
.t small { color: var(--quiet); font-size: 13px; }
.head { display: flex; gap: 8px 12px; align-items: center; padding: 8px 0 2px; flex-wrap: wrap; }
.head svg { flex: none; width: 28px; height: 28px; } .head .chips { margin: 0 0 0 auto; }
.chips { display: flex; flex-wrap: wrap; gap: 8px; margin: 10px 0 2px; }
.chip { border: 1px solid var(--line); background: var(--card); border-radius: 99px; padding: 2px 11px;
  font-size: 13px; color: var(--quiet); white-space: nowrap; }
.chip b { color: var(--ink); font-weight: 600; }
.meet { display: flex !important; flex-direction: row !important; align-items: center; flex-wrap: nowrap !important; gap: 8px !important; }
.meet > *:first-child { flex: 1 1 auto; min-width: 0 !important; border: 0 !important; } .meet > button { flex: none !important; width: auto !important; min-width: 0 !important; padding: 4px 10px !important; }
.html-container { padding: 0 !important; }
.gradio-container, .gradio-container .main, .gradio-container .wrap, .gradio-container .contain, .gradio-container .tabitem,
.gradio-container .block, .gradio-container .html-container, .gradio-container .prose, .t, .table { min-width: 0 !important; }
.t, .table { max-width: 100%; }
.gradio-container button { white-space: normal; overflow-wrap: anywhere; }
.face { display: flex; gap: 10px; align-items: center; min-width: 0; } .face > span { min-width: 0; flex: 1; }
.face svg, .face img { flex: none; width: 40px; height: 40px; border-radius: 50%; object-fit: cover; }
.face .name { display: block; font: 600 15.5px/1.3 var(--serif); overflow: hidden; text-overflow: ellipsis; display: -webkit-box; -webkit-line-clamp: 2; -webkit-box-orient: vertical; overflow-wrap: anywhere; }
.face .line { display: -webkit-box; -webkit-line-clamp: 1; -webkit-box-orient: vertical; overflow: hidden; color: var(--quiet); font-size: 13px; line-height: 1.35; overflow-wrap: anywhere; }
.state { display: block; color: var(--leaf); font-size: 12.5px; line-height: 1.35; margin: 0; }
.meet .face .line { -webkit-line-clamp: 2; }
.three { display: grid; grid-template-columns: repeat(auto-fit, minmax(210px, 1fr)); gap: 14px; margin-top: 10px; }
.three section { background: var(--soft); border-radius: 12px; padding: 12px 14px; min-width: 0; }
.three ul { margin: 6px 0 0; padding-left: 18px; } .three li { margin: 3px 0; }
.excerpt { white-space: pre-wrap; max-height: 190px; overflow: auto; border-left: 3px solid var(--line);
  padding: 2px 0 2px 12px; margin-top: 10px; color: var(--quiet); }
.warn { color: var(--amber); } .warn::before { content: "⚠ "; }
.bar { height: 10px; border-radius: 6px; background: var(--soft); overflow: hidden; margin: 8px 0; border: 1px solid var(--line); }
.bar i { display: block; height: 100%; background: var(--leaf); border-radius: 6px; transition: width .25s; }
.bar.wait i { width: 30%; animation: slide 1.4s ease-in-out infinite alternate; }
@keyframes slide { from { margin-left: 0 } to { margin-left: 70% } }
@media (prefers-reduced-motion: reduce) { .bar.wait i { animation: none } .bar i { transition: none } }
.table { overflow-x: auto; margin: 8px 0; }
.t table { border-collapse: collapse; width: 100%; font-size: 14.5px; border: 0 !important; }
.t tr { border: 0 !important; background: none !important; }
.t caption { text-align: left; color: var(--quiet); font-size: 13.5px; padding-bottom: 6px; caption-side: top; }
.t th, .t td { text-align: left; padding: 8px 14px 8px 2px !important; border: 0 !important; border-bottom: 1px solid var(--line) !important; vertical-align: top; background: none !important; }
.t th { font-weight: 600; color: var(--quiet); font-size: 13px; }
.t td { overflow-wrap: break-word; min-width: 7ch; }
.probes table { min-width: 560px; } .probes .meter { width: 36px; } .probes td, .probes th { padding-right: 10px !important; }
.t td.n, .t th.n { text-align: right !important; font-variant-numeric: tabular-nums; white-space: nowrap; }
.t mark { background: none; font-weight: 600; color: var(--good); }
.t .no { color: var(--bad); }
.meter { display: inline-block; width: 64px; height: 8px; border-radius: 4px; background: var(--soft);
  border: 1px solid var(--line); overflow: hidden; vertical-align: middle; margin-right: 8px; }
.meter i { display: block; height: 100%; background: var(--leaf); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px; margin: 12px 0; }
.tile { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 12px 14px; }
.tile b { display: block; font: 600 24px/1.2 var(--serif); color: var(--ink); font-variant-numeric: tabular-nums; }
.tile span { color: var(--quiet); font-size: 13px; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(300px, 1fr)); gap: 14px; }
.charts figure, figure.chart { margin: 0; background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 12px 14px; min-width: 0; }
figure svg { width: 100%; height: auto; display: block; }
figcaption { color: var(--quiet); font-size: 13.5px; margin-top: 6px; }
.empty { border: 1.5px dashed var(--line); border-radius: 14px; padding: 26px 18px; text-align: center; color: var(--quiet); }
.prompt { display: grid; gap: 8px; }
.gradio-container .t .prompt section { border: 1px solid var(--line) !important; border-left: 4px solid var(--quiet) !important; border-radius: 10px; background: var(--card); padding: 8px 12px; min-width: 0; }
.gradio-container .t .prompt section.user { border-left-color: #8a5a00 !important; } .gradio-container .t .prompt section.assistant { border-left-color: var(--leaf) !important; }
.prompt header { display: flex; justify-content: space-between; gap: 10px; font-size: 13px; color: var(--quiet); font-weight: 600; }
.prompt div { white-space: pre-wrap; margin-top: 3px; max-height: 220px; overflow: auto; }
.prompt section.gone { border-style: dashed !important; background: var(--soft); }
.gradio-container .t .done { border: 1px solid var(--good) !important; border-left-width: 5px !important; border-color: var(--good) !important; border-radius: 12px; padding: 12px 16px; background: var(--card); }
.t .list { list-style: none; margin: 0; padding: 0; display: grid; gap: 4px; max-height: 46dvh; overflow-y: auto; }
.list button { width: 100%; text-align: start; background: none; border: 1px solid transparent; border-radius: 12px; padding: 7px 8px; cursor: pointer; color: inherit; font-weight: 400; }
.list button:hover { background: var(--soft); } .list button[aria-current] { background: var(--card); border-color: var(--leaf); }
#stage { gap: 14px !important; align-items: flex-start; flex-wrap: nowrap !important; }
#left, #right { gap: 8px !important; } #left { flex: 0 0 262px !important; } #right { flex: 0 0 296px !important; }
#middle { gap: 8px !important; flex: 1 1 0 !important; min-width: 0 !important; }
#who { gap: 8px !important; align-items: flex-end; } #who .block, #who .form { border: 0 !important; box-shadow: none !important; background: none !important; padding: 0 !important; }
#who .form { gap: 8px !important; align-items: flex-end; } #who #keep { padding-bottom: 9px !important; } #who input { text-overflow: ellipsis; }
#talk { gap: 8px !important; display: flex; flex-direction: column; flex-wrap: nowrap !important; min-height: calc(100dvh - 112px); } #talk > * { flex: none !important; }
#talk > #chat { flex: 1 1 300px !important; height: 300px !important; min-height: 300px !important; }
#chat .placeholder-content, #chat .placeholder { text-align: center; padding: 0 8%; }
.gradio-container .t .four section h3 { margin: 0 !important; min-height: 2.7em; } .gradio-container .t .four section p { margin: 4px 0 !important; }
#write { gap: 8px !important; align-items: flex-end; flex-wrap: nowrap !important; } #write button { height: 42px; padding: 0 16px !important; white-space: nowrap; }
#say { padding: 0 !important; border: 0 !important; background: none !important; } #say textarea { min-height: 42px; }
#say label > span { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
#below, #swipes { gap: 8px !important; align-items: center; } #status { flex: 1 1 200px; }
#learning { gap: 8px !important; align-items: center; flex-wrap: nowrap !important; } #learning > *:first-child { flex: 1 1 auto; }
#learning .bar { margin: 0 0 3px; height: 6px; } #learning p { font-size: 13.5px; margin: 0; }
#preview { background: var(--card); border: 1px solid var(--line); border-radius: 14px; padding: 12px 14px; }
.now { display: grid; grid-template-columns: auto 1fr; gap: 4px 12px; margin: 0; font-size: 14px; } .now dt { color: var(--quiet); } .now dd { margin: 0; }
.four { display: grid; grid-template-columns: repeat(auto-fit, minmax(136px, 1fr)); gap: 10px; margin: 8px 0; }
.gradio-container .t .four section { background: var(--card); border: 1px solid var(--line) !important; border-top: 4px solid var(--quiet) !important; border-radius: 10px; padding: 8px 12px; display: flex; flex-direction: column; min-width: 0; }
.gradio-container .t .four section.weights, .gradio-container .t .four section.both { border-top-color: var(--leaf) !important; }
.gradio-container .t .four section.prompt { border-top-color: var(--amber) !important; }
.four section p { flex: 1; } .four footer { display: block !important; color: var(--quiet); font-size: 13px; font-variant-numeric: tabular-nums; }
#confirm, #undo { position: fixed !important; z-index: 60; inset-inline: 0; margin: 0 auto !important; width: min(460px, calc(100vw - 24px)) !important; background: var(--card) !important; box-shadow: 0 10px 40px rgb(0 0 0 / .35) !important; border-radius: 14px; }
#confirm { top: 18vh; max-height: 70vh; overflow: auto; } #undo { bottom: 14px; padding: 10px 14px !important; border: 1px solid var(--line); align-items: center; gap: 8px !important; }
#undo > *:first-child { flex: 1 1 160px; } #undo p { margin: 0; }
#confirm ul { margin: 4px 0; padding-left: 20px; }
#gone { background: var(--card); border: 1px solid var(--line); border-radius: 14px; padding: 12px !important; }
#progress figure { max-width: 620px; margin-top: 12px; }
#forget { max-width: 340px; }
#chat .message { font-size: 16px; line-height: 1.5; overflow-wrap: anywhere; unicode-bidi: plaintext; }
.danger { border: 1px solid var(--bad) !important; border-radius: 14px; padding: 14px !important; }
button:focus-visible, input:focus-visible, textarea:focus-visible, [role=tab]:focus-visible { outline: 3px solid #2b7467 !important; outline-offset: 2px; }
footer { display: none !important; }
@media (max-width: 1180px) {
  #stage { flex-wrap: wrap !important; } #middle { order: 1; flex: 1 1 60% !important; } #left { order: 0; } #right { order: 2; flex: 1 1 100% !important; }
}
@media (max-width: 760px) {
  .gradio-container .main { padding: 0 10px 90px !important; }
  .gradio-container h1 { font-size: 17px !important; } .chip { white-space: normal; } #who .form { flex-wrap: wrap; } #who #keep { flex: 1 1 100%; padding-bottom: 0 !important; }
  #learning { flex-wrap: wrap !important; } .head .chips { margin: 0; } .head { padding: 4px 0 0; gap: 4px 10px; } .head > svg { width: 24px; height: 24px; } .head .chips { gap: 4px; } .head .chip { font-size: 12px; padding: 2px 8px; } .head .chip:nth-child(2) { display: none; }
  #talk { min-height: calc(100dvh - 108px); } #below { gap: 6px !important; } #below button { padding: 0 7px !important; min-width: 0 !important; } #talk > #chat { flex-basis: 240px !important; height: 240px !important; min-height: 240px !important; } #status { flex: 1 1 100% !important; }
  #middle { order: 0; flex: 1 1 100% !important; } #left { order: 1; flex: 1 1 100% !important; } #right { order: 2; }
}
"""  # noqa: E501  # a style sheet reads better unwrapped

_EMBLEMS = {
    "lamp": (
        '<path d="M28 54 31 26h10l3 28z" fill="#fff"/>'
        '<path d="M29.5 40h13M30.4 32h11" stroke="{c}" stroke-width="3"/>'
        '<rect x="29" y="19" width="14" height="8" rx="1.5" fill="#ffd67a"/>'
        '<path d="M28 19h16l-8-6z" fill="#fff"/>'
        '<path d="M45 21l13-5v12zM27 21l-13-5v12z" fill="#ffd67a" opacity=".55"/>'
    ),
    "inn": (
        '<path d="M20 27h25v24a5 5 0 0 1-5 5H25a5 5 0 0 1-5-5z" fill="#fff"/>'
        '<path d="M45 32h5a6 6 0 0 1 6 6v4a6 6 0 0 1-6 6h-5" fill="none" stroke="#fff" '
        'stroke-width="4"/><path d="M18 27a6 6 0 0 1 7-8 8 8 0 0 1 14 0 6 6 0 0 1 7 8z" '
        'fill="#ffe2b0"/><path d="M27 34v15M33 34v15M39 34v15" stroke="{c}" stroke-width="2.5"/>'
    ),
    "boat": (
        '<path d="M14 43h44l-8 12H22z" fill="#fff"/>'
        '<path d="M35 14v26H18z" fill="#fff" opacity=".9"/>'
        '<path d="M38 20v20h15z" fill="#ffd67a"/><path d="M10 60q6-5 13 0t13 0 13 0 13 0" '
        'fill="none" stroke="#fff" stroke-width="2.5" opacity=".7"/>'
    ),
    "leaf": (
        '<path d="M18 54C14 30 30 16 58 15c1 28-14 42-36 39z" fill="#fff"/>'
        '<path d="M16 58C26 44 36 34 48 25M28 44v-13M36 36h-1V25M30 43h14M38 35h11" fill="none" '
        'stroke="{c}" stroke-width="2.5"/>'
    ),
    "star": (
        '<circle cx="36" cy="36" r="21" fill="none" stroke="#fff" stroke-width="3"/>'
        '<path d="M36 12l5 19 19 5-19 5-5 19-5-19-19-5 19-5z" fill="#fff"/>'
        '<circle cx="36" cy="36" r="4" fill="{c}"/>'
    ),
    "bridge": (
        '<path d="M10 30h52v8H10z" fill="#fff"/><path d="M13 38h7v16h-7zM52 38h7v16h-7zM20 '
        '54V48a16 12 0 0 1 32 0v6h-5v-5a11 8 0 0 0-22 0v5z" fill="#fff"/>'
        '<path d="M10 24h52" stroke="#ffe2b0" stroke-width="3"/>'
        '<path d="M14 24v7M24 24v7M36 24v7M48 24v7M58 24v7" stroke="#ffe2b0" stroke-width="2.5"/>'
    ),
}
_COLOURS = ("#2f6f63", "#8a4b2a", "#2b5a8c", "#5d7a2e", "#6a4c93", "#7a6a2a", "#8c2f4b", "#3d5163")


def emblem(art: str, accent: str, letter: str, seed: int) -> str:
    """A round picture: an emblem of ours, or a letter. `letter` must be escaped."""
    colour = accent or _COLOURS[seed % len(_COLOURS)]
    inner = _EMBLEMS.get(art, "").replace("{c}", colour) or (
        '<text x="36" y="47" text-anchor="middle" font-size="32" font-family="Georgia, serif" '
        f'fill="#fff">{letter}</text>'
    )
    return (
        '<svg viewBox="0 0 72 72" aria-hidden="true"><circle cx="36" cy="36" r="36" '
        f'fill="{colour}"/>{inner}</svg>'
    )


LOGO = (
    '<svg width="58" height="58" viewBox="0 0 72 72" aria-hidden="true"><rect width="72" '
    'height="72" rx="18" fill="#1d5c53"/><path d="M18 22h36M36 22v32" stroke="#fff" '
    'stroke-width="7" stroke-linecap="round"/><circle cx="54" cy="50" r="5" fill="#ffd67a"/>'
    '<circle cx="20" cy="44" r="3.5" fill="#fff" opacity=".55"/><circle cx="26" cy="56" r="2.5" '
    'fill="#fff" opacity=".35"/></svg>'
)
