"""Reads a PDF from standard input, writes its text as JSON; run as a process of its own.

A hostile PDF can loop or ask for gigabytes, so this process limits its own time and memory.
"""

from __future__ import annotations

import io
import json
import math
import sys

_MEMORY = 1 << 30


def _limit(seconds: float) -> None:
    try:
        import resource  # noqa: PLC0415  # not on every system; the caller's timeout remains
    except ImportError:
        return
    resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(seconds), math.ceil(seconds) + 1))
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))


def main() -> int:
    order = json.loads(sys.argv[1])
    try:
        from pypdf import PdfReader  # noqa: PLC0415  # an extra
    except ImportError:
        sys.stdout.write(json.dumps({"error": "needs_extra"}))
        return 0
    _limit(order["seconds"])
    reader = PdfReader(io.BytesIO(sys.stdin.buffer.read()))
    parts: list[str] = []
    size = 0
    for page in reader.pages[: order["pages"]]:
        parts.append(page.extract_text())
        size += len(parts[-1])
        if size > order["text"]:
            break
    text = "\n\n".join(parts)[: order["text"]]
    sys.stdout.write(json.dumps({"text": text, "cut": len(reader.pages) > len(parts)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
