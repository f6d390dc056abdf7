"""Limits of a server are checked when they are set."""

import pytest

from templora_memory.errors import InvalidSetting
from templora_memory.server import ServerSettings


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_running": 0}, {"max_waiting": -1}, {"max_jobs": True}, {"max_body_bytes": 1.5},
        {"name": " "}, {"reply_seconds": 0}, {"queue_seconds": float("nan")}, {"grace_seconds": -1},
        {"reply_seconds": "1"}, {"origins": ("*",)},
    ],
)  # fmt: skip
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(InvalidSetting, match=next(iter(wrong))):
        ServerSettings(**wrong)
