"""The addresses that a server may bind."""

import pytest

from templora_memory.errors import InvalidSetting
from templora_memory.server import serve
from templora_memory.testing import FakeBackend


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7", "example.com"])  # noqa: S104
def test_without_a_key_nothing_but_this_machine_is_served(tmp_path, host):
    with pytest.raises(InvalidSetting, match="no API key: make one"):
        serve(FakeBackend(), tmp_path, host=host)
