"""``cosdask run`` takes CaffeOnSpark's command lines as they are written in its documents."""

from __future__ import annotations

import pytest

from cosdask.cli import jobs
from cosdask.cli.main import main
from cosdask.config import OPTIONS, Config

#: every option of the main program with a value, and what it means here
FLAGS = {
    "-conf": ("solver.prototxt", "solver.prototxt"),
    "-train": ("", True),
    "-test": ("", True),
    "-features": ("accuracy,ip1", ["accuracy", "ip1"]),
    "-label": ("label", "label"),
    "-model": ("file:/data/m.caffemodel", "file:/data/m.caffemodel"),
    "-output": ("hdfs://nn/out", "hdfs://nn/out"),
    "-outputFormat": ("parquet", "parquet"),
    "-devices": ("2", 2),
    "-persistent": ("", True),
    "-weights": ("w.caffemodel", "w.caffemodel"),
    "-snapshot": ("s.solverstate", "s.solverstate"),
    "-connection": ("ethernet", "ethernet"),
    "-resize": ("", True),
    "-clusterSize": ("3", 3),
    "-lmdb_partitions": ("4", 4),
}


#: options that only the tools of ``cosdask convert`` take
OF_TOOLS = {
    "imageRoot", "labelFile", "captionFile", "captionLength", "vocabSize", "imageCaptionDFDir", "vocabDir",
    "embeddingDFDir",
}  # fmt: skip


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Config]:
    """What was asked of the cluster; nothing is run."""
    configs: list[Config] = []
    monkeypatch.setattr(jobs, "run_job", lambda config, cluster: configs.append(config) or 0)
    return configs


def test_all_flags_in_one_call(asked: list[Config]) -> None:
    words = [word for flag, (value, _) in FLAGS.items() for word in (flag, value) if word]
    assert main(["run", *words]) == 0
    for flag, (_, meant) in FLAGS.items():
        assert getattr(asked[0], flag[1:]) == meant, flag


@pytest.mark.parametrize("name", sorted(set(OPTIONS) - OF_TOOLS))
def test_every_option_of_a_config_is_a_flag(name: str, asked: list[Config]) -> None:
    """What documents and error messages name as a remedy can be typed; ``cosdask submit`` passes such words on."""
    field = OPTIONS[name]
    value = (field.metadata.get("choices") or ["3"])[-1]
    plain = isinstance(getattr(Config(), name), bool)
    assert main(["run", f"--{name.replace('_', '-')}", *([] if plain else [value])]) == 0
    assert getattr(asked[0], name) == getattr(Config(**{name: True if plain else value}), name)


@pytest.mark.parametrize(
    ("words", "verbs"),
    [
        ("-train", ("train",)),
        ("-test", ("test",)),
        ("-features a", ("features",)),
        ("-train -test", ("train", "test")),
        ("-train -features a", ("train", "features")),
        ("-test -features a", ("features",)),
        ("-train -test -features a", ("train", "features")),
        ("", ()),
    ],
)
def test_verbs_in_one_call(words: str, verbs: tuple[str, ...], asked: list[Config]) -> None:
    """Training first; features take the place of test; their order on the command line does not matter."""
    for order in (
        words.split(),
        words.replace("-features a", "").split() + (["-features", "a"] if "-f" in words else []),
    ):
        assert main(["run", *order, "-conf", "s", "-model", "m"]) == 0
        assert asked[-1].verbs == verbs


@pytest.mark.parametrize("flag", ["-imageRoot", "-captionFile", "-vocabSize", "--embedding-df-dir"])
def test_flags_of_the_tools_say_where_they_belong(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    """One parser served every program there; here the error names the command."""
    assert main(["run", "-train", flag, "x"]) == 2
    assert "cosdask convert TOOL" in capsys.readouterr().err
