"""The people of `templora bench recall`: held-out personas, each with a bio and ten questions.

Names and combinations of facts never occur in training; the questions are worded as in training,
because the measurement is about people, not about wording.
"""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

from tools.train_tiny import persona_world as world

FACTS = 10


def write_people(target: Path, *, count: int = 24, seed: int = 1107) -> int:
    """Write `count` people as JSON; bios take turns in style. Returns how many."""
    rng = Random(seed)
    people = []
    for number in range(count):
        persona = world.draw_persona(rng, held_out=True, facts=(FACTS, FACTS))
        tell = world.BIOS[number % len(world.BIOS)]
        people.append({
            "name": persona.name,
            "bio": tell(persona, rng),
            "questions": [
                {"ask": world.ask(persona, key, rng, second=True), "fact": value}
                for key, value in persona.facts
            ],
        })  # fmt: skip
    target.write_text(json.dumps(people, indent=1) + "\n", encoding="utf-8")
    return count
