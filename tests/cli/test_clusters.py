"""``--cluster``: which workers a command uses."""

from __future__ import annotations

import socket

import pytest

from cosdask.cli.clusters import connect, local_workers
from cosdask.config import Config
from cosdask.errors import ConfigError, DeadlineError


def test_the_number_of_workers_comes_from_the_brackets_or_from_cluster_size() -> None:
    assert local_workers("local", None) is None
    assert local_workers("local", 3) == 3
    assert local_workers("local[4]", None) == 4
    assert local_workers("local[4]", 2) == 4
    assert local_workers("local[*]", None) is None


@pytest.mark.parametrize("word", ["", "Local", "local[]", "local[-1]", "local[2]x", "yarm"])
def test_words_that_name_no_cluster_are_refused(word: str) -> None:
    with pytest.raises(ConfigError, match="names no cluster"):
        local_workers(word, None)


def test_more_workers_than_there_are_is_refused() -> None:
    with pytest.raises(ConfigError, match="more than the 2 workers"):
        local_workers("local[2]", 3)


def test_a_scheduler_that_does_not_answer_is_named_within_the_deadline() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(DeadlineError, match=address), connect(address, Config(worker_deadline=0.2)):
        pass
