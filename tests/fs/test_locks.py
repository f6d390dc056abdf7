"""Locks on files, between threads and processes."""

import shutil

import pytest

from templora_memory.fs import locks
from templora_memory.fs.locks import hold


def test_a_lock_ends_with_its_block_and_excludes_others(tmp_path):
    path = tmp_path / "lock"
    with hold(path, seconds=1), pytest.raises(TimeoutError), hold(path, seconds=0):
        pass
    with hold(path, seconds=0):
        path.unlink()
        with hold(path, seconds=0):  # another file: whoever held the old one held nothing
            pass
    shutil.rmtree(tmp_path)
    with pytest.raises(FileNotFoundError), hold(path, seconds=1):
        pass


def test_a_lock_file_removed_while_locking_it_is_not_held(tmp_path, monkeypatch):
    path, real, tries = tmp_path / "lock", locks._try, []

    def remove_first(handle):
        if not tries:
            path.unlink()
        tries.append(handle)
        return real(handle)

    monkeypatch.setattr(locks, "_try", remove_first)
    with hold(path, seconds=1), pytest.raises(TimeoutError), hold(path, seconds=0):
        pass
    assert len(tries) == 3
