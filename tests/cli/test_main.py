"""The command: exit codes, and one clear message for whatever goes wrong."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cosdask.cli import main as command
from cosdask.cli.main import VERBS, main
from cosdask.errors import ConfigError, RankError

SOLVER = 'net: "net.prototxt"\nbase_lr: 0.01\nlr_policy: "fixed"\nmax_iter: 10\ntest_iter: 1\ntest_interval: 5\n'
NET = """
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 1 dim: 4 dim: 4 } } }
layer { name: "ip1" type: "InnerProduct" bottom: "data" top: "ip1" inner_product_param { num_output: 3 } }
layer { name: "prob" type: "Softmax" bottom: "ip1" top: "prob" }
"""


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a solver and its net, as the working directory."""
    (tmp_path / "solver.prototxt").write_text(SOLVER)
    (tmp_path / "net.prototxt").write_text(NET)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run_verb(monkeypatch: pytest.MonkeyPatch, action: Any) -> int:
    monkeypatch.setattr(command.importlib, "import_module", lambda name: SimpleNamespace(main=action))
    return main(["train"])


def test_help_names_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"\n  {verb} " in text for verb in VERBS)


def test_no_verb_prints_the_help_and_is_wrong_use(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "cosdask VERB" in capsys.readouterr().out


@pytest.mark.parametrize("verb", ["run", "train", "test", "features", "predict"])
def test_every_verb_explains_itself_with_an_example(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([verb, "--help"]) == 0
    text = capsys.readouterr().out
    assert "--model" in text and f"  cosdask {verb} " in text


@pytest.mark.parametrize("verb", ["run", "train", "test", "features", "predict"])
def test_one_dash_help_works_too(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([verb, "-help"]) == 0


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("cosdask ")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("trian", 'unknown verb "trian". Did you mean "train"'),
        ("-conf s.prototxt -train", "cosdask run -conf"),
        ("run -conf solver.prototxt -trian", 'unknown flag "-trian". Did you mean "train"'),
        ("run -conf solver.prototxt -train", "-train without -model"),
        ("run -conf solver.prototxt -model m.caffemodel", "nothing to do"),
        ("run -train -model m.caffemodel", "-conf FILE"),
        ("train --conf solver.prototxt --model m --cluster lokal", 'Did you mean "local"'),
        ("train --conf solver.prototxt --model m --cluster local[0]", "has no workers"),
        ("train --conf solver.prototxt --model m --features ip1", 'unknown flag "-features"'),
        ("features --conf solver.prototxt --model m --output o", "--features ip1,ip2"),
        ("features --conf solver.prototxt --model m --features ip1", "--output DIR"),
        ("predict a.png --net net.prototxt", "--model"),
        ("predict a.png --net net.prototxt --model m --top 0", "at least 1"),
    ],
)
def test_wrong_use_is_one_message_with_the_remedy(
    words: str, told: str, files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words.split()) == 2
    said = capsys.readouterr()
    assert said.err.startswith("cosdask: error: ") and told in said.err
    assert "Traceback" not in said.err and said.err.count("\n") == 1
    assert sorted(path.name for path in files.iterdir()) == ["net.prototxt", "solver.prototxt"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("train --conf solver.prototx --model m", "solver.prototxt"),
        ("test --conf solver.prototxt --model m.caffemodel", "no such model"),
        ("predict a.png --net net.prototx --model m", "net.prototxt"),
        ("predict a.png --net net.prototxt --model m.caffemodel", "m.caffemodel"),
        ("run -conf solver.prototxt -features ip11 -train -model m", 'Did you mean "ip1"'),
        ("run -conf solver.prototxt -features ip1 -label lable -train -model m", 'no blob "lable"'),
    ],
)
def test_wrong_names_are_found_before_any_work(
    words: str, told: str, files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words.split()) == 1
    said = capsys.readouterr().err
    assert told in said and "Traceback" not in said
    assert sorted(path.name for path in files.iterdir()) == ["net.prototxt", "solver.prototxt"]


@pytest.mark.parametrize(
    ("words", "output"),
    [
        ("train --conf solver.prototxt --model there", "there"),
        ("run -conf solver.prototxt -train -test -model new -output there", "there"),
        ("run -conf solver.prototxt -train -features ip1 -model new -output there", "there"),
        ("run -conf solver.prototxt -train -test -model new", "output"),
    ],
)
def test_outputs_that_exist_are_refused_before_any_work(
    words: str, output: str, files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (files / output).write_text("kept")
    assert main(words.split()) == 1
    assert "--overwrite" in capsys.readouterr().err
    assert (files / output).read_text() == "kept" and not (files / "new").exists()


def test_an_error_of_the_run_is_its_message(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(words: list[str]) -> int:
        raise RankError("rank 1 on node3: loss is nan at iteration 7")

    assert run_verb(monkeypatch, fail) == 1
    assert capsys.readouterr().err == "cosdask: error: rank 1 on node3: loss is nan at iteration 7\n"


def test_debug_shows_where_an_error_came_from(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(words: list[str]) -> int:
        raise ConfigError("wrong")

    monkeypatch.setenv("COSDASK_DEBUG", "1")
    assert run_verb(monkeypatch, fail) == 2
    assert "Traceback" in capsys.readouterr().err
    monkeypatch.setenv("COSDASK_DEBUG", "0")
    assert main(["train", "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_an_interrupted_run_says_where_the_snapshot_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(words: list[str]) -> int:
        raise KeyboardInterrupt("snapshot lenet_iter_70.solverstate")

    assert run_verb(monkeypatch, stop) == 130
    assert capsys.readouterr().err == "cosdask: interrupted: snapshot lenet_iter_70.solverstate\n"


def test_a_mistake_of_ours_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error that is none of cosdask's own is a defect: its traceback is what a report needs."""

    def fail(words: list[str]) -> int:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_verb(monkeypatch, fail)


def test_help_and_wrong_flags_answer_without_loading_jax() -> None:
    code = (
        "import sys; from cosdask.cli.main import main; main(['--help']); main(['run', '-trian']); "
        "sys.exit('jax' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60).returncode == 0
