"""What may become of lorebooks; apart from their readers, so that help needs none of them."""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

LoreUse: TypeAlias = Literal["recall", "learn", "ignore"]
LORE_USES: tuple[LoreUse, ...] = get_args(LoreUse)
