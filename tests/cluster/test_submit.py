"""``cosdask submit`` and what goes with it: the driver on the cluster, too."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import venv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest_hadoop import applications_running, containers_of, hdfs_folder, run_cosdask, until, yarn_words

import cosdask
from cosdask.cli import submitted
from cosdask.cluster.package import fingerprint, package
from cosdask.cluster.sandbox import Sandbox
from cosdask.cluster.submission import carry
from cosdask.errors import ConfigError, StorageError
from cosdask.proto import read_solver
from cosdask.storage import exists, filesystem, join, read_text
from tests.cluster.needs import needs_hadoop
from tests.parallel.problems import Problem, make_problem

USER_FOLDER = "hdfs:///user/{user}/.cosdask"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--workers", "2", "run"], "what comes after -- is the command"),
        (["--workers", "2", "--", "predict"], "after -- comes one of run, train, test, features"),
        (["--workers", "2", "--", "run", "-conf", "s", "-train", "-model", "m"], "-model m lies on this machine"),
        (
            ["--workers", "2", "--", "run", "-conf", "s", "-test", "-model", "hdfs:///m"],
            "results would lie in the driver's container",
        ),
        (["--workers", "2", "--", "run", "--cluster", "local"], "the command gets the application's own workers"),
        (["--workers", "2", "--", "train", "-modle", "hdfs:///m"], 'Did you mean "model"'),
        (["--workers", "2", "--worker-gpus", "one", "--", "run"], "--worker-gpus one is not a number"),
        (["--workers", "2", "--env", "A", "--", "run"], "write NAME=VALUE"),
    ],
)
def test_what_cannot_run_elsewhere_is_refused_here(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Wrong use costs no application: exit code 2 and one line."""
    assert run_cosdask("submit", *words) == 2
    assert said in capsys.readouterr().err


def test_a_dry_run_prints_the_whole_application(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Scheduler, workers and driver, with the command as it was given; every word of it, and nothing is asked of YARN.

    ``COSDASK_WRITE_GOLDEN=1`` writes the file that is compared with; read it before it is kept.
    """
    where = ["--workers", "3", "--environment", "python:///opt/bin/python3", "--queue", "research", "--dry-run"]
    command = ["train", "--conf", "solver.prototxt", "--model", "hdfs:///m.caffemodel"]
    assert run_cosdask("submit", *where, "--", *command) == 0
    text, kept = capsys.readouterr().out, Path(__file__).parent / "specifications" / "submitted.yaml"
    if os.environ.get("COSDASK_WRITE_GOLDEN"):
        kept.write_text(text)
    assert text == kept.read_text()


@pytest.mark.parametrize(
    "program",
    [
        "from cosdask.cluster import submission, yarn_client; from cosdask.cli import main, submit; "
        "main.main(['submit', '--workers', '1', '--environment', 'python:///p', '--dry-run', '--', "
        "'train', '--conf', 's', '--model', 'hdfs:///m'])",
        "import cosdask.cli.submitted",
        "import cosdask.cluster.yarn_container",
    ],
)
def test_what_only_passes_things_on_loads_nothing_that_computes(program: str) -> None:
    """Each start of JAX or of Dask's scheduler takes a core for a second or two before the first step."""
    heavy = "{'jax', 'pandas', 'pyarrow', 'distributed', 'cv2'}"
    done = subprocess.run(
        [sys.executable, "-c", f"{program}; import sys; print({heavy} & set(sys.modules) or 'none', file=sys.stderr)"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0 and done.stderr == "none\n", done.stderr


def test_a_dry_run_of_workers_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """``--cluster yarn --dry-run`` is the specification of ``YarnCluster``; its flags fit no other cluster."""
    made = make_problem(tmp_path / "problem")
    words = ["train", "--conf", str(made.solver), "--model", made.model, "--environment", "python:///opt/python"]
    assert run_cosdask(*words, "--cluster", "yarn[2]", "--dry-run") == 0
    assert capsys.readouterr().out == cosdask.YarnCluster.dry_run(2, environment="python:///opt/python")
    assert run_cosdask(*words, "--cluster", "local") == 2
    assert "did you mean --cluster yarn?" in capsys.readouterr().err
    assert run_cosdask(*words, "--cluster", "yarn") == 2
    assert "how many workers?" in capsys.readouterr().err


def test_weights_that_the_solver_names_travel_along(tmp_path: Path) -> None:
    """They lie beside the solver, and only a training that begins from them needs them."""
    (tmp_path / "net.prototxt").write_text('layer { name: "data" type: "Input" top: "data" }')
    conf, there = tmp_path / "solver.prototxt", str(tmp_path / "there")
    conf.write_text('net: "net.prototxt" weights: "first.caffemodel, second.caffemodel"\n')
    for name in ("first", "second"):
        (tmp_path / f"{name}.caffemodel").write_bytes(name.encode())
    solver, given = carry(str(conf), "", there)
    carried = read_solver(solver).weights
    assert [read_text(path) for path in carried] == ["first", "second"]
    assert all(path.startswith(there) for path in carried) and given == ""
    (tmp_path / "first.caffemodel").unlink()
    with pytest.raises(StorageError, match=r"first\.caffemodel"):
        carry(str(conf), "", there)
    solver, _ = carry(str(conf), "", there, initial=False)
    assert not read_solver(solver).weights
    solver, given = carry(str(conf), str(tmp_path / "second.caffemodel"), there)
    assert not read_solver(solver).weights and read_text(given) == "second"


class _Application:
    """An application's store, in a dict."""

    def __init__(self) -> None:
        self.kv: dict[str, bytes] = {}


@pytest.mark.slow
def test_the_driver_starts_its_command_before_the_scheduler_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    """The child loads while the scheduler starts, gets its address then, and its words and exit code are passed on."""
    application = _Application()
    with submitted.started(["nosuch"]) as process:
        assert process.poll() is None
        code, last = submitted.run(process, "tcp://node:1", submitted.Relay(application))
    assert code == 2 and 'unknown verb "nosuch"' in last
    assert last in b"".join(application.kv.values()).decode()
    # a driver that finds no scheduler leaves no child behind
    with pytest.raises(SystemExit), submitted.started(["--version"]) as process:
        raise SystemExit("no Dask scheduler told its address within 60 s")
    assert process.poll() is not None


def test_the_environment_is_packed_once_with_cosdask_in_it(tmp_path: Path) -> None:
    """The archive runs from any place, holds a cosdask that was installed from a checkout, and is made once."""
    root = tmp_path / "env"
    venv.create(root, with_pip=False)
    place = root / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
    (place / "_cosdask.pth").write_text("/home/me/cosdask\n")
    name, made = package(str(tmp_path / "archives"), str(root))
    assert made and fingerprint(root) in name
    assert package(str(tmp_path / "archives"), str(root)) == (name, False)
    with tarfile.open(name) as archive:
        archive.extractall(tmp_path / "elsewhere", filter="fully_trusted")
    program = "import cosdask; print(cosdask.__file__, cosdask.errors.did_you_mean('ax', ['a']))"
    python = tmp_path / "elsewhere" / "bin" / "python"
    done = subprocess.run(
        [python, "-P", "-c", program], env={"PATH": "/usr/bin"}, cwd="/", capture_output=True, text=True, timeout=60
    )
    assert done.stdout.startswith(str(tmp_path / "elsewhere")), done.stderr
    (place / "other-1.dist-info").mkdir()
    (place / "other-1.dist-info" / "RECORD").write_text("other.py,sha256=x,1\n")
    assert fingerprint(root) not in name
    with pytest.raises(ConfigError, match="is no virtual environment"):
        package(str(tmp_path), str(tmp_path))


@needs_hadoop
@pytest.mark.timeout(600)
def test_a_submitted_job_gives_what_a_local_cluster_gives(
    hadoop: Sandbox, problem: Problem, local: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """Training and test with the driver on YARN: the same numbers, its output here, its exit code, nothing left."""
    model, output = (join(hdfs_folder(hadoop), name) for name in ("submitted/small.caffemodel", "submitted/result"))
    # the solver lies here, its rows in HDFS: it is carried
    solver = problem.folder / "carried_solver.prototxt"
    solver.write_text(read_text(join(hdfs_folder(hadoop), "solver.prototxt")))
    command = ["run", "-conf", str(solver), "-train", "-test", "-model", model, "-output", output]
    assert run_cosdask("submit", "--workers", "2", *yarn_words(), "--", *command) == 0
    said = capsys.readouterr()
    assert "Iteration 29" in said.out and f"model: {model}" in said.out
    net = cosdask.Net.from_text(read_text(join(hdfs_folder(hadoop), "net.prototxt")), phase="TRAIN")
    found = net.to_blobs(net.load(model) or net.params)
    for name, blobs in local["params"].items():
        for mine, other in zip(found[name], blobs, strict=True):
            np.testing.assert_array_equal(mine, other)
    lines = dict(line.split(": ") for line in read_text(output).splitlines())
    assert {name: float(value) for name, value in lines.items()} == local["test"]
    application = said.err.split("cosdask: ")[1].split()[0]
    assert _carried_left() == []
    until(lambda: not containers_of(hadoop, application), 30)
    # what it printed can be read later, by itself and as the command's end
    assert run_cosdask("watch", application) == 0
    assert capsys.readouterr().out == said.out
    assert run_cosdask("logs", application) == 0
    assert "Iteration 29" in capsys.readouterr().out
    assert run_cosdask("apps", "--all") == 0
    assert f"{application}  SUCCEEDED" in capsys.readouterr().out


@pytest.mark.long
@needs_hadoop
@pytest.mark.timeout(600)
def test_a_detached_job_that_fails_and_one_that_is_killed(
    hadoop: Sandbox, problem: Problem, capsys: pytest.CaptureFixture[str]
) -> None:
    """The exit code and the message come with ``watch``; ``kill`` leaves no container and no file."""
    solver = join(hdfs_folder(hadoop), "solver.prototxt")
    wrong = ["test", "--conf", solver, "--model", join(hdfs_folder(hadoop), "nosuch.caffemodel")]
    assert run_cosdask("submit", "--workers", "1", *yarn_words(), "--detach", "--", *wrong) == 0
    first = capsys.readouterr().out.strip()
    assert run_cosdask("watch", first) == 1
    assert "nosuch.caffemodel" in capsys.readouterr().out
    # the same again, from what Hadoop kept
    assert run_cosdask("watch", first) == 1
    assert "nosuch.caffemodel" in capsys.readouterr().out
    model = join(hdfs_folder(hadoop), "killed/small.caffemodel")
    long = ["train", "--conf", solver, "--model", model]
    assert run_cosdask("submit", "--workers", "1", *yarn_words(), "--detach", "--", *long) == 0
    second = capsys.readouterr().out.strip()
    assert second in applications_running()
    assert run_cosdask("kill", second) == 0
    assert "is ended" in capsys.readouterr().out
    until(lambda: not containers_of(hadoop, second), 30)
    assert _carried_left() == []
    assert run_cosdask("watch", "application_1700000000000_0001") == 2
    assert "YARN knows no application_1700000000000_0001" in capsys.readouterr().err


def _carried_left() -> list[str]:
    folder = USER_FOLDER.format(user=os.environ["HADOOP_USER_NAME"])
    if not exists(folder):
        return []
    fs, path = filesystem(folder)
    return list(fs.ls(path, detail=False))
