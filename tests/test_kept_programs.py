"""The cache of compiled programs: a program is there whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest
from jax._src.lru_cache import LRUCache

from cosdask.device import keep_programs_whole


def test_a_program_half_written_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rank that is killed while it writes leaves nothing that another would take for a program."""
    keep_programs_whole()
    cache = LRUCache(str(tmp_path), max_size=-1)

    def write_half(path: Path, value: bytes) -> int:
        with path.open("wb") as file:
            file.write(value[: len(value) // 2])
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", write_half)
        with pytest.raises(KeyboardInterrupt):
            cache.put("step", b"a program")
    assert cache.get("step") is None
    cache.put("step", b"a program")
    assert cache.get("step") == b"a program"


def test_a_program_that_is_kept_stays(tmp_path: Path) -> None:
    """As JAX does it: the first of two that compiled the same is kept."""
    keep_programs_whole()
    cache = LRUCache(str(tmp_path), max_size=-1)
    cache.put("step", b"first")
    cache.put("step", b"second")
    assert cache.get("step") == b"first"
    assert [file.name for file in tmp_path.iterdir()] == ["step-cache"]
