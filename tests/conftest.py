"""Tests of the marker `real` run on the fetched model, and say how to get it where it is not."""

from __future__ import annotations

import pytest

from templora_memory import models


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    asking = [item for item in items if item.get_closest_marker("real")]
    entry = models.CATALOG[models.SMOLLM2]
    if asking and not models.is_cached(entry):
        reason = f"{entry.name} is not on this machine: `templora model get smollm2` fetches it"
        for item in asking:
            item.add_marker(pytest.mark.skip(reason=reason))
