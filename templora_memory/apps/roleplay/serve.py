"""Start the page on this machine, and stop it cleanly."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

from templora_memory import ParametricMemory, TemploraError
from templora_memory.errors import InputError, InvalidSetting
from templora_memory.models import TINY

LOOPBACK = "127.0.0.1"
_HEARTBEAT = "5"  # seconds in which a closed tab is noticed


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    command_line = _Parser(
        prog="templora demo", description="Role-play with characters that live in weights."
    )
    command_line.add_argument(
        "--model",
        default=TINY,
        help="templora/tiny, templora/smollm2, auto, a hub id, a folder or a .gguf file",
    )
    command_line.add_argument(
        "--root",
        type=Path,
        default=Path(os.environ.get("TEMPLORA_DEMO_ROOT") or Path.home() / ".templora-demo"),
        help="folder of the page's memories (default: $TEMPLORA_DEMO_ROOT or ~/.templora-demo)",
    )
    command_line.add_argument("--device", default=None, help="cpu, cuda, mps or auto")
    command_line.add_argument(
        "--port", type=int, default=None, help="default: the first free from 7860"
    )
    command_line.add_argument("--host", default=LOOPBACK, help="another address needs --auth")
    command_line.add_argument(
        "--auth", default=None, metavar="NAME:PASSWORD", help="ask for a password"
    )
    command_line.add_argument(
        "--grace", type=float, default=60.0, help="seconds after the last tab closed"
    )
    command_line.add_argument(
        "--idle", type=float, default=1800.0, help="seconds without any action"
    )
    command_line.add_argument("--open", action="store_true", help="open the browser")
    command_line.add_argument(
        "--json",
        action="store_true",
        help="once it is served, write its address and model as one JSON document to standard "
        "output, and nothing else",
    )
    return command_line


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until interrupted, and return the exit code; an error is a line on standard error."""
    try:
        return run(arguments)
    except TemploraError as error:
        sys.stderr.write(f"templora: {' '.join(str(error).split())}\n")
        return 2 if isinstance(error, InputError) else 1


def run(arguments: Sequence[str] | None = None) -> int:
    """Serve until interrupted, and return 0.

    Raises:
        InvalidSetting: an option cannot be used, or there is no free port or no place to write.
        TemploraError: the model cannot be loaded, or another server uses the folder.
    """
    options = parser().parse_args(arguments)
    name, mark, password = (options.auth or "").partition(":")
    if options.auth and not (name and mark and password):
        raise InvalidSetting("--auth is NAME:PASSWORD.")
    if options.host != LOOPBACK and not options.auth:
        raise InvalidSetting(
            f"--host {options.host} lets other machines in: give --auth NAME:PASSWORD as well, "
            f"or leave it at {LOOPBACK}."
        )
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        return _serve(options, (name, password) if options.auth else None)
    except KeyboardInterrupt:
        return 0
    except OSError as error:  # no free port, no place to write
        raise InvalidSetting(f"{error} (see --port and --root)") from error


class _Parser(argparse.ArgumentParser):
    """Says what is wrong as everything else here does, and leaves ending to the caller."""

    def error(self, message: str) -> NoReturn:
        raise InvalidSetting(f"{message}. See templora demo --help.")


def _clear(homes: Path, *, but: Path) -> None:
    """Remove what visitors of a killed server had sent; nobody else serves this home now."""
    for folder in homes.iterdir():
        if folder != but:
            shutil.rmtree(folder)


def _say_ready(options: argparse.Namespace, url: str, model: str, seconds: float) -> None:
    if options.json:
        report = {"url": url, "model": model, "root": str(options.root)}
        sys.stdout.write(json.dumps({**report, "seconds": round(seconds, 1)}, indent=2) + "\n")
        sys.stdout.flush()
        return
    sys.stderr.write(
        f"Ready after {seconds:.0f} s: open {url}\n"
        "Ctrl-C stops the server and discards temporary characters.\n"
    )


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _serve(options: argparse.Namespace, auth: tuple[str, str] | None) -> int:
    started = time.monotonic()
    if not options.json:
        sys.stderr.write(f"Loading {options.model} ...\n")
    options.root.mkdir(parents=True, exist_ok=True, mode=0o700)
    homes = options.root / "uploads"
    homes.mkdir(exist_ok=True, mode=0o700)
    with tempfile.TemporaryDirectory(dir=homes) as uploads:
        # Gradio reads these when it is imported, which happens below
        os.environ["GRADIO_TEMP_DIR"] = uploads
        os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
        os.environ.setdefault("GRADIO_HEARTBEAT_INTERVAL", _HEARTBEAT)
        os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
        from . import build_app, launch_options  # noqa: PLC0415

        memory = ParametricMemory.from_pretrained(
            options.model, root=options.root / "memories", device=options.device
        )
        with memory:
            app = build_app(
                memory, home=options.root / "page", grace=options.grace, idle=options.idle
            )
            _clear(homes, but=Path(uploads))
            try:
                _, url, _ = app.launch(
                    server_name=options.host,
                    server_port=options.port,
                    auth=auth,
                    inbrowser=options.open,
                    prevent_thread_lock=True,
                    **launch_options(),
                )
                _say_ready(options, url, memory.base.name, time.monotonic() - started)
                while True:
                    time.sleep(3600)
            finally:
                app.close(verbose=False)
                app.studio.close()
