"""read_net and read_solver: whole files by path or URL."""

from __future__ import annotations

from pathlib import Path

import fsspec
import pytest

from cosdask.errors import ProtoError, StorageError
from cosdask.proto import read_net, read_solver


def test_a_path_and_a_url_are_read_alike(tmp_path: Path) -> None:
    """Every place that storage reads from will do."""
    text = 'name: "n" layer { name: "a" type: "ReLU" }'
    local = tmp_path / "net.prototxt"
    local.write_text(text)
    with fsspec.open("memory://nets/net.prototxt", "w") as file:
        file.write(text)
    assert read_net(local) == read_net(str(local)) == read_net("memory://nets/net.prototxt")


def test_the_file_is_named_in_errors(tmp_path: Path) -> None:
    """Invariant 10: file and place."""
    path = tmp_path / "solver.prototxt"
    path.write_text("base_lr: 0.1\nmomentom: 0.9\n")
    with pytest.raises(ProtoError, match=r'solver\.prototxt:2:1: there is no field "momentom".*"momentum"'):
        read_solver(path)


def test_a_binary_file_in_place_of_a_prototxt(golden: Path) -> None:
    """A caffemodel handed in as the model is called what it is."""
    path = golden / "solvers" / "adam" / "start.caffemodel"
    with pytest.raises(ProtoError, match="binary file, such as a caffemodel, and a prototxt is needed") as caught:
        read_net(path)
    assert caught.value.where["path"] == str(path)


def test_zero_bytes_mark_a_binary_file(tmp_path: Path) -> None:
    """Small binary files may be valid UTF-8."""
    path = tmp_path / "net.prototxt"
    path.write_bytes(b"\x0a\x03net\x28\x00")
    with pytest.raises(ProtoError, match="binary file"):
        read_net(path)


def test_a_missing_file_is_storages_error(tmp_path: Path) -> None:
    """It names what is near."""
    (tmp_path / "train.prototxt").write_text("")
    with pytest.raises(StorageError, match=r"train\.prototxt"):
        read_net(tmp_path / "trian.prototxt")


def test_an_empty_file_is_an_empty_net(tmp_path: Path) -> None:
    """As for protobuf itself; building a net from it is where the error belongs."""
    path = tmp_path / "net.prototxt"
    path.write_text("# nothing yet\n")
    assert not read_net(path).layer
