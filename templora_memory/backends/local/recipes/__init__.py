"""Recipes: what an absorb trains on. Text in, examples with weights out.

A recipe is a function of a request and tools; `_statements` is one on a page.
"""

from templora_memory.backends.local.recipes._continue import continue_, pairs
from templora_memory.backends.local.recipes._distill import distill
from templora_memory.backends.local.recipes._example import (
    Example,
    Expect,
    Recipe,
    Soft,
    Tools,
    Write,
)
from templora_memory.backends.local.recipes._replay import with_replay
from templora_memory.backends.local.recipes._statements import statements
from templora_memory.backends.local.recipes._study import auto, study

RECIPES: dict[str, Recipe] = {
    "auto": auto,
    "continue": continue_,
    "distill": distill,
    "pairs": pairs,
    "statements": statements,
    "study": study,
}

__all__ = ["RECIPES", "Example", "Expect", "Recipe", "Soft", "Tools", "Write", "with_replay"]
