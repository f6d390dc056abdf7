"""Packages that load their modules late: every public name is there, and nothing else."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

PACKAGES = ["templora_memory", "templora_memory.stores"]


@pytest.mark.parametrize("name", PACKAGES)
def test_every_public_name_is_there(name):
    package = importlib.import_module(name)
    for public in package.__all__:
        assert getattr(package, public) is not None
    assert set(package.__all__) <= set(dir(package))


@pytest.mark.parametrize("name", PACKAGES)
def test_a_class_is_the_one_of_its_module(name):
    package = importlib.import_module(name)
    for public in package.__all__:
        value = getattr(package, public)
        if isinstance(value, type):
            assert getattr(importlib.import_module(value.__module__), value.__name__) is value


@pytest.mark.parametrize("name", PACKAGES)
def test_a_name_that_is_not_there_is_an_attribute_error(name):
    package = importlib.import_module(name)
    assert not hasattr(package, "Nothing")
    with pytest.raises(AttributeError, match=f"{name}.*Nothing"):
        _ = package.Nothing


def test_star_and_submodules_are_there_at_once():
    code = (
        "from templora_memory import *; from templora_memory import errors as found; "
        "import templora_memory; "
        "assert templora_memory.errors is errors is found; "
        "assert Message('user', 'Hello.').role == 'user'"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
