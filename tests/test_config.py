"""The options: CaffeOnSpark's names and spellings, and what is refused before work starts."""

from __future__ import annotations

import copy
import json
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cosdask.config import OPTIONS, Config, FlagParser
from cosdask.errors import ConfigError

CAFFE_ON_SPARK = """
    conf train test features label model output outputFormat devices persistent weights snapshot connection resize
    clusterSize lmdb_partitions imageRoot labelFile captionFile captionLength vocabSize imageCaptionDFDir vocabDir
    embeddingDFDir transform_thread_per_device
"""


def test_every_option_of_caffe_on_spark_is_there() -> None:
    assert set(CAFFE_ON_SPARK.split()) <= set(OPTIONS)


def test_defaults_are_caffe_on_sparks_where_design_keeps_them() -> None:
    config = Config()
    assert (config.outputFormat, config.devices, config.captionLength, config.vocabSize) == ("json", 1, 20, -1)
    assert config.clusterSize is None  # all workers
    assert config.features == [] and not config.train and not config.test


def test_one_dash_two_dashes_and_other_spellings_agree() -> None:
    words = ["-conf", "s.prototxt", "-train", "-model", "m.caffemodel", "-clusterSize", "2", "-lmdb_partitions", "4"]
    expected = Config(conf="s.prototxt", train=True, model="m.caffemodel", clusterSize=2, lmdb_partitions=4)
    assert Config.from_args(words) == expected
    assert Config.from_args([w.replace("-", "--", 1) if w.startswith("-") else w for w in words]) == expected
    kebab = ["--conf=s.prototxt", "--train", "--model=m.caffemodel", "--cluster-size", "2", "--lmdb-partitions", "4"]
    assert Config.from_args(kebab) == expected


def test_feature_names_are_trimmed() -> None:
    assert Config.from_args(["-features", " ip1, ip2 ,"]).features == ["ip1", "ip2"]


def test_a_negative_number_is_a_value_and_not_a_flag() -> None:
    assert Config.from_args(["-vocabSize", "-1"]).vocabSize == -1


def test_a_value_with_an_equals_sign_stays_whole() -> None:
    assert Config.from_args(["-model=s3://b/x=1/m"]).model == "s3://b/x=1/m"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["-trian"], 'unknown flag "-trian". Did you mean "train"'),
        (["-tra"], 'unknown flag "-tra"'),
        (["-conf"], "--conf: expected one argument"),
        (["-conf", "-train"], "--conf: expected one argument"),
        (["-features", "ip1,", "ip2"], 'the word "ip2" belongs to no flag'),
        (["-devices", "two"], "option devices: 'two' does not fit; it must be a whole number"),
        (["-devices", "0"], "the least is 1"),
        (["-outputFormat", "parket"], 'Did you mean "parquet"'),
        (["--worker-deadline", "inf"], "a number of seconds"),
        (["-train=maybe"], "--train"),
    ],
)
def test_wrong_flags_are_named_with_a_remedy(words: list[str], told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Config.from_args(words)
    assert told in caught.value.message


def test_unknown_keywords_and_attributes_name_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r'unknown option "clustersize".*"clusterSize"'):
        Config(clustersize=2)
    config = Config()
    with pytest.raises(ConfigError, match='"modelPath"'):
        config.modelPat = "m"
    with pytest.raises(ConfigError, match=r'unknown attribute "modle".*"model"'):
        config.modle  # noqa: B018
    assert not hasattr(config, "_repr_html_")


def test_caffe_on_sparks_python_attributes_are_the_same_options() -> None:
    config = Config(**{"-conf": "s.prototxt"})
    config.modelPath, config.outputPath, config.isRddPersistent = "m", "o", "True"
    config.snapshotModelFile, config.snapshotStateFile = "w", "s"
    assert config.protoFile == "s.prototxt"
    assert (config.model, config.output, config.persistent, config.weights, config.snapshot) == (
        "m",
        "o",
        True,
        "w",
        "s",
    )
    config.features = ["ip1"]
    assert config.isFeature
    config.isFeature = False
    assert config.features == []


def test_is_feature_without_names_is_refused() -> None:
    with pytest.raises(ConfigError, match="names no blobs"):
        Config().isFeature = True


def test_attributes_read_from_the_prototxt_say_where_they_went() -> None:
    with pytest.raises(ConfigError, match="read_solver"):
        Config().solverParameter  # noqa: B018


def test_printing_lists_every_option_a_line() -> None:
    lines = str(Config(features="ip1", model="a:b")).splitlines()
    assert [line.split(":")[0] for line in lines] == list(OPTIONS)
    assert "model:a:b" in lines


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"conf": "s"}, "at least one of -train, -test or -features"),
        ({"train": True, "model": "m"}, "-conf FILE"),
        ({"conf": "s", "train": True}, "-train without -model"),
        ({"conf": "s", "test": True}, "-test without -model"),
        ({"conf": "s", "features": "ip1"}, "-features without -model"),
        ({"conf": "s", "train": True, "model": "m", "resume": True, "snapshot": "x"}, "only one of them"),
        ({"conf": "s", "train": True, "model": "m", "min_workers": 3, "clusterSize": 2}, "more than -clusterSize"),
    ],
)
def test_what_cannot_work_is_refused_up_front(options: dict[str, object], told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Config(**options).check()
    assert told in caught.value.message


def test_snapshot_works_alone() -> None:
    assert Config(conf="s", train=True, model="m", snapshot="x.solverstate").check() == []


def test_features_win_over_test_with_a_note() -> None:
    config = Config(conf="s", train=True, test=True, features="ip1", model="m")
    assert config.verbs == ("train", "features")
    assert any("-test is left out" in note for note in config.check())


def test_options_without_effect_are_noted() -> None:
    config = Config(conf="s", test=True, model="m", connection="infiniband", weights="w", label="label")
    notes = "\n".join(config.check())
    assert "-connection infiniband has no effect" in notes
    assert "-weights has no effect without -train" in notes
    assert "-label label has no effect" in notes


def test_a_method_call_is_checked_without_its_flag() -> None:
    """The API says what it does by the method called; flags need not be set."""
    assert Config(conf="s", model="m").check("train") == []


@given(
    st.fixed_dictionaries(
        {},
        optional={
            **{name: st.text() for name in ("conf", "model", "output", "label")},
            "features": st.lists(st.text(st.characters(categories=["L", "N"]), min_size=1)),
            "train": st.booleans(),
            "seed": st.none() | st.integers(0, 2**40),
            "worker_deadline": st.floats(0, 1e6),
        },
    )
)
def test_a_config_survives_json_pickle_and_copy(options: dict[str, object]) -> None:
    config = Config(**options)
    assert Config.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert pickle.loads(pickle.dumps(config)) == config
    assert copy.deepcopy(config) == config


def test_from_dict_refuses_what_is_no_option() -> None:
    with pytest.raises(ConfigError, match="unknown option"):
        Config.from_dict({"colour": "red"})


def test_lists_of_two_configs_are_not_shared() -> None:
    first, second = Config(), Config()
    first.features.append("ip1")
    assert second.features == []


def test_help_shows_every_option_added() -> None:
    parser = FlagParser(prog="p")
    parser.add_options(["conf", "outputFormat", "worker_deadline"])
    text = " ".join(parser.format_help().split())
    assert "--conf FILE" in text and "json, parquet (default json)" in text and "(default 60.0)" in text
