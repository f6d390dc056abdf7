"""The local backend keeps every promise of the ports."""

from __future__ import annotations

import pytest

from templora_memory.backends.local import LocalBackend
from templora_memory.testing.contracts import BackendContract


class TestLocalBackend(BackendContract):
    @pytest.fixture(autouse=True)
    def _parts(self, make_model, make_tokenizer):
        self._model, self._tokenizer = make_model, make_tokenizer

    def make_backend(self):
        model = self._model(max_position_embeddings=1024)
        return LocalBackend.of(model, self._tokenizer(), name="random llama")
