"""The sandbox: a real Hadoop that listens on loopback only, and that is gone when it was told to stop."""

from __future__ import annotations

import ipaddress
from pathlib import Path

import fsspec
import psutil
import pytest
from conftest_hadoop import run_cosdask

from cosdask.cluster.sandbox import Sandbox
from cosdask.errors import ConfigError, StorageError
from tests.cluster.needs import needs_hadoop


@needs_hadoop
def test_every_daemon_runs_and_listens_on_loopback_only(hadoop: Sandbox) -> None:
    """HDFS takes a file; no port of any daemon is reachable from another machine."""
    pids = {hadoop.pid(name) for name in hadoop.names()}
    assert None not in pids and len(pids) == 6
    listening = [
        link.laddr.ip
        for pid in pids
        for link in psutil.Process(pid).net_connections("inet")
        if link.status == psutil.CONN_LISTEN
    ]
    assert len(listening) >= 6
    assert all(ipaddress.ip_address(address).is_loopback for address in listening)
    fs, path = fsspec.core.url_to_fs(f"{hadoop.namenode}/try")
    fs.pipe(path, b"rows")
    assert fs.cat(path) == b"rows"


@needs_hadoop
def test_the_command_says_what_runs_and_refuses_a_second_one(
    hadoop: Sandbox, capsys: pytest.CaptureFixture[str]
) -> None:
    """``status`` lists the daemons; ``env`` is what a shell needs; ``start`` in the same folder touches nothing."""
    here = ["--dir", str(hadoop.folder)]
    assert run_cosdask("sandbox", "status", *here) == 0
    assert {line.split()[0] for line in capsys.readouterr().out.splitlines()} == set(hadoop.names())
    assert run_cosdask("sandbox", "env", *here) == 0
    assert f"export HADOOP_CONF_DIR={hadoop.folder}/conf" in capsys.readouterr().out
    assert run_cosdask("sandbox", "start", *here) == 2
    assert "a sandbox runs in" in capsys.readouterr().err
    assert "not running" not in hadoop.status().values()


def test_what_is_not_a_sandbox_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder with other files is refused, an empty one holds no sandbox, and a wrong word is named."""
    assert run_cosdask("sandbox", "status", "--dir", str(tmp_path)) == 2
    assert "no sandbox in" in capsys.readouterr().err
    assert run_cosdask("sandbox", "stat") == 2
    assert 'Did you mean "start" or "status"' in capsys.readouterr().err


@needs_hadoop
def test_a_folder_with_other_files_is_refused(tmp_path: Path) -> None:
    """Nothing of the user's is deleted to make room."""
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(StorageError, match="holds other things"):
        Sandbox.start(tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"
    with pytest.raises(ConfigError, match="at least one"):
        Sandbox.start(tmp_path, datanodes=0)


def test_a_pid_that_now_belongs_to_another_program_is_not_ended(tmp_path: Path) -> None:
    """Processes are known by pid and start time: after a reboot a kept pid may be anybody's."""
    other = psutil.Process()
    processes = {"nn": {"pid": other.pid, "started": "1"}}
    sandbox = Sandbox(tmp_path, {"processes": processes, "datanodes": 1, "nodemanagers": 1})
    assert sandbox.pid("nn") is None
    sandbox.stop()
    assert other.is_running()
