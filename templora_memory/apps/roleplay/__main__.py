"""Start the page on this machine: `python -m templora_memory.apps.roleplay`."""

from __future__ import annotations

import sys

from .serve import main

sys.exit(main())
