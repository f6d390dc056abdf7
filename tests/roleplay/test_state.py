import dataclasses

import pytest

from templora_memory.apps.roleplay.state import PromptCost


def test_values_of_a_page_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        PromptCost(sent=1, full=2).sent = 3
