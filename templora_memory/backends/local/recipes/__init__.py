"""Recipes: what an absorb trains on. Text in, examples with weights out.

A recipe is a function of a request and tools; `_statements` is one on a page.
"""

from templora_memory.backends.local.recipes.base import (
    Example,
    Expect,
    Recipe,
    Soft,
    Tools,
    Write,
)
from templora_memory.backends.local.recipes.distill import distill
from templora_memory.backends.local.recipes.next_token import continue_, pairs
from templora_memory.backends.local.recipes.questions import auto, study
from templora_memory.backends.local.recipes.replay import with_replay
from templora_memory.backends.local.recipes.statements import statements

RECIPES: dict[str, Recipe] = {
    "auto": auto,
    "continue": continue_,
    "distill": distill,
    "pairs": pairs,
    "statements": statements,
    "study": study,
}

__all__ = ["RECIPES", "Example", "Expect", "Recipe", "Soft", "Tools", "Write", "with_replay"]
