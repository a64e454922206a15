"""Errors come to the client from workers as what they are."""

from __future__ import annotations

import pickle

import pytest
from distributed.core import error_message

from cosdask import errors
from cosdask.config import UnknownOptionError
from cosdask.errors import CosdaskError
from cosdask.proto.net_spec import UnknownBlobError

KINDS = [
    kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, CosdaskError)
] + [UnknownOptionError, UnknownBlobError]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_travels_as_dask_sends_it(kind: type[CosdaskError]) -> None:
    """With its kind, text, place and cause: the driver decides by them whether to go on."""
    try:
        try:
            raise FileNotFoundError(2, "No such file", "weights")
        except OSError as cause:
            raise kind("rank 1: it went wrong.", rank=1, died=True) from cause
    except CosdaskError as error:
        found = pickle.loads(error_message(error)["exception"].data)
    assert type(found) is kind
    assert found.message == "rank 1: it went wrong."
    assert found.where == {"rank": 1, "died": True}
    assert isinstance(found.__cause__, FileNotFoundError)
