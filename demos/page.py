"""The role-play page in the browser; the same as `templora demo`.

python demos/page.py
python demos/page.py --model templora/smollm2
"""

from __future__ import annotations

import sys

from templora_memory.apps.roleplay.serve import main

if __name__ == "__main__":
    sys.exit(main())
