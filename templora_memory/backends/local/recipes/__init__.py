"""Recipes: what an absorb trains on. Text in, examples with weights out."""

from templora_memory.backends.local.recipes._continue import continue_
from templora_memory.backends.local.recipes._example import Example, Recipe
from templora_memory.backends.local.recipes._statements import statements

RECIPES: dict[str, Recipe] = {"continue": continue_, "statements": statements}

__all__ = ["RECIPES", "Example", "Recipe"]
