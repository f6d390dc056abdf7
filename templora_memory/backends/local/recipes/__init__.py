"""Recipes: what an absorb trains on. Text in, examples with weights out.

A recipe is a function of a request and tools; `next_token.statements` is one on a page.
"""

from templora_memory.backends.local.recipes.base import (
    Continuation,
    ContinueTexts,
    Example,
    GenerateTexts,
    NameTopics,
    Recipe,
    RecipeTools,
    pack_turns,
)
from templora_memory.backends.local.recipes.next_token import (
    continue_,
    pairs,
    statements,
)
from templora_memory.backends.local.recipes.questions import auto, study
from templora_memory.backends.local.recipes.replay import with_replay

RECIPES: dict[str, Recipe] = {
    "auto": auto,
    "continue": continue_,
    "pairs": pairs,
    "statements": statements,
    "study": study,
}

__all__ = [
    "RECIPES",
    "Continuation",
    "ContinueTexts",
    "Example",
    "GenerateTexts",
    "NameTopics",
    "Recipe",
    "RecipeTools",
    "pack_turns",
    "with_replay",
]
