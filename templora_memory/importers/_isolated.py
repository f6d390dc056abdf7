"""Reads a document from standard input, writes its text as JSON; run as a process of its own.

A hostile PDF or DOCX can loop or ask for gigabytes, so this process limits its own time and memory.
It is told what to read by its one argument, and opens no file and no address.
"""

from __future__ import annotations

import io
import json
import math
import re
import sys
from collections.abc import Callable
from typing import Any

_MEMORY = 1 << 30
_CODE_PAGE = re.compile(rb"\\ansicpg(\d{3,5})")


def _limit(seconds: float) -> None:
    try:
        import resource  # noqa: PLC0415  # not on every system; the caller's timeout remains
    except ImportError:
        return
    resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(seconds), math.ceil(seconds) + 1))
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))


def _pdf(data: bytes, order: dict[str, Any]) -> dict[str, Any]:
    from pypdf import PdfReader  # noqa: PLC0415  # an extra

    _limit(order["seconds"])
    reader = PdfReader(io.BytesIO(data))
    parts: list[str] = []
    size = 0
    for page in reader.pages[: order["pages"]]:
        parts.append(page.extract_text())
        size += len(parts[-1])
        if size > order["text"]:
            break
    cut = len(reader.pages) > len(parts) or size > order["text"]
    if size > order["text"]:
        parts[-1] = parts[-1][: order["text"] - size]
    title = reader.metadata.title if reader.metadata else None
    return {"pages": parts, "title": title if isinstance(title, str) else "", "cut": cut}


def _docx(data: bytes, order: dict[str, Any]) -> dict[str, Any]:
    import mammoth  # noqa: PLC0415  # an extra

    _limit(order["seconds"])
    pictures = 0

    def unseen(image: object) -> dict[str, str]:
        nonlocal pictures
        del image
        pictures += 1
        return {}

    done = mammoth.convert_to_html(
        io.BytesIO(data),
        convert_image=mammoth.images.img_element(unseen),
        external_file_access=False,
        include_embedded_style_map=False,
    )
    return {"html": done.value, "pictures": pictures}


def _rtf(data: bytes, order: dict[str, Any]) -> dict[str, Any]:
    from striprtf.striprtf import rtf_to_text  # noqa: PLC0415  # an extra

    _limit(order["seconds"])
    page = _CODE_PAGE.search(data[:2000])
    encoding = f"cp{page[1].decode()}" if page else "cp1252"
    try:
        text = data.decode(encoding, errors="replace")
    except LookupError:
        encoding = "cp1252"
        text = data.decode(encoding, errors="replace")
    return {"text": rtf_to_text(text, encoding=encoding, errors="replace")}


_READERS: dict[str, Callable[[bytes, dict[str, Any]], dict[str, Any]]] = {
    "pdf": _pdf,
    "docx": _docx,
    "rtf": _rtf,
}


def main() -> int:
    """Read what the first argument says; the answer is a JSON object."""
    order = json.loads(sys.argv[1])
    data = sys.stdin.buffer.read()
    try:
        answer = _READERS[order["kind"]](data, order)
    except ImportError:
        answer = {"error": "needs_extra"}
    sys.stdout.write(json.dumps(answer))
    return 0


if __name__ == "__main__":
    sys.exit(main())
