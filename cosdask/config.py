"""The options of a run: CaffeOnSpark's names and spellings, plus cosdask's own.

A :class:`Config` is a plain record. It reads no file and starts nothing; :meth:`Config.check` refuses what cannot work.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NoReturn

from cosdask.errors import ConfigError, did_you_mean

VERBS = ("train", "test", "features")
OUTPUT_FORMATS = ("json", "parquet")
PRECISIONS = ("float32", "tf32", "bfloat16")
PROGRESS_MODES = ("auto", "bar", "lines", "json", "none")

_TRUE = {"true", "yes", "1", "on", ""}
_FALSE = {"false", "no", "0", "off"}


class UnknownOptionError(ConfigError, AttributeError):
    """An option or attribute that a :class:`Config` does not have."""


def _flag(value: Any) -> bool:
    word = str(value).strip().lower()
    if word in _TRUE:
        return True
    if word in _FALSE:
        return False
    raise ValueError("a flag is true or false")


def _whole(value: Any) -> int:
    if isinstance(value, bool) or (isinstance(value, float) and not value.is_integer()):
        raise ValueError("it must be a whole number")
    try:
        return int(value)
    except (TypeError, ValueError):
        raise ValueError("it must be a whole number") from None


def _seconds(value: Any) -> float:
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        seconds = math.nan
    if not math.isfinite(seconds):
        raise ValueError("it must be a number of seconds")
    return seconds


def _text(value: Any) -> str:
    return "" if value is None else str(value)


def _names(value: Any) -> list[str]:
    parts = value.split(",") if isinstance(value, str) else list(value or ())
    return [name for part in parts if (name := str(part).strip())]


def _optional(convert: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: None if value is None else convert(value)


def _option(default: Any, convert: Callable[[Any], Any], text: str, minimum: float | None = None, **extra: Any) -> Any:
    """A dataclass field that knows its conversion, help text and limits; ``choices=`` lists the words allowed."""
    metadata = {"convert": convert, "help": text, "minimum": minimum, **extra}
    return dataclasses.field(default=default, metadata=metadata)


def _names_rules(text: str, metavar: str) -> dict[str, Any]:
    """The metadata of a field that holds names, given as a list or separated by commas."""
    return {"convert": _names, "help": text, "minimum": None, "metavar": metavar}


class _Alias:
    """An attribute of CaffeOnSpark's Python ``Config`` that is another name of one option."""

    def __init__(self, option: str) -> None:
        self.option = option

    def __get__(self, config: Config | None, owner: type) -> Any:
        return self if config is None else getattr(config, self.option)

    def __set__(self, config: Config, value: Any) -> None:
        setattr(config, self.option, value)


@dataclasses.dataclass(init=False, repr=False)
class Config:
    """The options of one run.

    Keywords are CaffeOnSpark's option names, with or without the leading dash, and the options that cosdask adds.
    Values are converted to the option's type when they are set: ``features="ip1, ip2"`` becomes ``["ip1", "ip2"]``.

    Raises:
        ConfigError: for an unknown option (with the nearest names) or a value that does not fit its option.

    Example:
        >>> config = Config(conf="lenet_solver.prototxt", features="ip1, ip2", clusterSize="2")
        >>> config.features, config.clusterSize, config.outputFormat
        (['ip1', 'ip2'], 2, 'json')
        >>> Config(modle="lenet.caffemodel")
        Traceback (most recent call last):
            ...
        cosdask.config.UnknownOptionError: unknown option "modle". Did you mean "model"?
    """

    # CaffeOnSpark's options.
    conf: str = _option("", _text, "solver prototxt; it names the network", metavar="FILE")
    train: bool = _option(False, _flag, "train, and save the model at --model")
    test: bool = _option(False, _flag, "test the model over every row of the TEST data")
    features: list[str] = dataclasses.field(
        default_factory=list, metadata=_names_rules("blobs to extract, separated by commas", metavar="BLOBS")
    )
    label: str = _option("", _text, "blob added to the features as the last column", metavar="BLOB")
    model: str = _option("", _text, "model file: written by training, read by test and features", metavar="URI")
    output: str = _option("", _text, "where results go: a text file of test, a directory of features", metavar="URI")
    outputFormat: str = _option("json", _text, "file format of the features", choices=OUTPUT_FORMATS)
    devices: int = _option(1, _whole, "GPUs a worker; the prototxt's batch_size is per device", minimum=1)
    persistent: bool = _option(
        False, _flag, "keep rows of other filesystems on the workers' local disks after the first read"
    )
    weights: str = _option("", _text, "model to start training from (fine-tuning)", metavar="URI")
    snapshot: str = _option("", _text, "solver state to go on from", metavar="URI")
    connection: str = _option("", _text, "accepted and ignored: the network is chosen by the device")
    resize: bool = _option(False, _flag, "resize each image to the data layer's height and width")
    clusterSize: int | None = _option(None, _optional(_whole), "workers to use; all of them if not given", minimum=1)
    lmdb_partitions: int | None = _option(None, _optional(_whole), "partitions made from an LMDB", minimum=1)
    transform_thread_per_device: int = _option(
        1, _whole, "threads a device that decode and crop in training; 1: as many as the rank has", minimum=1
    )
    imageRoot: str = _option("", _text, "converters: folder of images, or of an LMDB", metavar="URI")
    labelFile: str = _option("", _text, "converters: list of files and labels", metavar="URI")
    captionFile: str = _option("", _text, "converters: captions in COCO's JSON", metavar="URI")
    captionLength: int = _option(20, _whole, "words in a caption vector", minimum=1)
    vocabSize: int = _option(-1, _whole, "words kept in the vocabulary; -1 keeps all", minimum=-1)
    imageCaptionDFDir: str = _option("", _text, "name added to --output for the caption table")
    vocabDir: str = _option("", _text, "name added to --output for the vocabulary")
    embeddingDFDir: str = _option("", _text, "name added to --output for the embedded table")

    # cosdask's own options.
    overwrite: bool = _option(False, _flag, "replace outputs that exist")
    resume: bool = _option(False, _flag, "go on from the last whole snapshot of this model's run")
    seed: int | None = _option(
        None, _optional(_whole), "random seed; else the solver's random_seed, else drawn", minimum=0
    )
    global_batch_norm: bool = _option(False, _flag, "BatchNorm over all workers' batches together, not each its own")
    global_loss: bool = _option(False, _flag, "losses divided by all workers' labels together, not each its own")
    shuffle: bool = _option(False, _flag, "visit training rows in a new order each epoch; else in storage order")
    precision: str = _option(
        "float32", _text, "of products: exact as Caffe, or on GPUs tf32 or bfloat16", choices=PRECISIONS
    )
    threads: int | None = _option(None, _optional(_whole), "CPU threads a rank; else shared out evenly", minimum=1)
    min_workers: int | None = _option(None, _optional(_whole), "start when this many workers are there", minimum=1)
    worker_deadline: float = _option(60.0, _seconds, "seconds to wait for workers", minimum=0)
    worker_silence: float = _option(
        60.0, _seconds, "seconds without a sign of life after which a worker counts as lost", minimum=1
    )
    interface: str = _option(
        "", _text, "network interface, or network as in 10.1.0.0/16, on which ranks meet; else Dask's", metavar="NAME"
    )
    rank_silence: float = _option(
        30.0, _seconds, "seconds without a sign of life after which a rank is ended as hung", minimum=1
    )
    step_deadline: float = _option(
        1800.0, _seconds, "seconds that one step may take, compiling included, before the rank is ended", minimum=1
    )
    checkpoint_seconds: float = _option(
        300.0, _seconds, "seconds between automatic checkpoints, which restarts begin from; 0 makes none", minimum=0
    )
    on_nan: str = _option("stop", _text, "what to do about a loss that is not a number", choices=("stop", "warn"))
    batch_is_global: bool = _option(False, _flag, "divide the prototxt's batch_size among all devices of all workers")
    scale_lr: str = _option(
        "none", _text, "what the number of devices does to the learning rate", choices=("none", "linear")
    )
    warmup: int = _option(0, _whole, "iterations in which a scaled learning rate grows to its full value", minimum=0)
    wire: str = _option("float32", _text, "number format of gradients between ranks", choices=("float32", "bfloat16"))
    on_bad_rows: str = _option("error", _text, "what to do about a row that cannot be read", choices=("error", "skip"))
    allow_modules: list[str] = dataclasses.field(
        default_factory=list, metadata=_names_rules("Python modules that the prototxt may name", metavar="NAMES")
    )
    tensorboard: bool = _option(False, _flag, "write TensorBoard's event files into the run folder")
    progress: str = _option("auto", _text, "how progress is shown", choices=PROGRESS_MODES)

    # Names of CaffeOnSpark's Python attributes.
    protoFile = _Alias("conf")
    modelPath = _Alias("model")
    outputPath = _Alias("output")
    snapshotModelFile = _Alias("weights")
    snapshotStateFile = _Alias("snapshot")
    isTraining = _Alias("train")
    isTest = _Alias("test")
    isRddPersistent = _Alias("persistent")

    def __init__(self, **options: Any) -> None:
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, default_of(field))
        for name, value in options.items():
            setattr(self, name.lstrip("-"), value)

    def __setattr__(self, name: str, value: Any) -> None:
        field = OPTIONS.get(name)
        if field is not None:
            object.__setattr__(self, name, _converted(field, value))
        elif name in _ATTRIBUTES:
            object.__setattr__(self, name, value)
        else:
            raise _unknown("option", name)

    def __getattr__(self, name: str) -> NoReturn:
        # Reached only for names that do not exist; copy and pickle probe dunder names and need a plain answer.
        if name.startswith("__"):
            raise AttributeError(name)
        raise _unknown("attribute", name)

    @property
    def isFeature(self) -> bool:
        """Whether features are to be extracted; set it to False to forget the feature names."""
        return bool(self.features)

    @isFeature.setter
    def isFeature(self, value: Any) -> None:
        if not _flag(value):
            self.features = []
        elif not self.features:
            raise ConfigError('isFeature = True names no blobs; set features="blob1,blob2" instead', option="features")

    @property
    def verbs(self) -> tuple[str, ...]:
        """What was asked for, in the order it is done; features take the place of test when both are asked for."""
        after = "features" if self.features else "test" if self.test else ""
        return tuple(verb for verb in ("train" if self.train else "", after) if verb)

    def check(self, *verbs: str) -> list[str]:
        """Refuses, before any work starts, what cannot work.

        Args:
            *verbs: what will be done, of "train", "test" and "features"; without any, what the flags ask for.

        Returns:
            Notes on options that have no effect, for the user to see.

        Raises:
            ConfigError: names the option that is missing or contradicts another, and what to give instead.
        """
        asked = verbs or self.verbs
        if not asked:
            raise ConfigError("nothing to do: give at least one of -train, -test or -features BLOBS", option="train")
        if not self.conf:
            raise ConfigError("no solver: give its prototxt with -conf FILE", option="conf")
        if not self.model:
            self._refuse_missing_model(asked[0])
        if self.resume and self.snapshot:
            message = "--resume finds the last snapshot by itself and -snapshot names one: give only one of them"
            raise ConfigError(message, option="resume")
        if self.min_workers and self.clusterSize and self.min_workers > self.clusterSize:
            message = f"--min-workers {self.min_workers} is more than -clusterSize {self.clusterSize}"
            raise ConfigError(message, option="min_workers")
        return self._notes(asked)

    def _refuse_missing_model(self, verb: str) -> NoReturn:
        if verb == "train":
            raise ConfigError("-train without -model: say where the model goes, with -model FILE", option="model")
        raise ConfigError(f"-{verb} without -model: name the trained model to use, with -model FILE", option="model")

    def _notes(self, asked: Sequence[str]) -> list[str]:
        notes = []
        if self.features and self.test and "features" in asked:
            notes.append("-test is left out because -features is given; run again with -test alone for test results")
        if self.connection:
            notes.append(f"-connection {self.connection} has no effect: GPUs meet through NCCL, CPUs through sockets")
        if self.label and "features" not in asked:
            notes.append(f"-label {self.label} has no effect without -features")
        if self.resume and self.weights and "train" in asked:
            notes.append(f"-weights {self.weights} has no effect with --resume: the run's snapshot has its own")
        if "train" not in asked:
            unused = [name for name in ("weights", "snapshot", "resume") if getattr(self, name)]
            notes.extend(f"-{name} has no effect without -train" for name in unused)
        return notes

    def to_dict(self) -> dict[str, Any]:
        """All options as JSON-able values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, options: Mapping[str, Any]) -> Config:
        """The inverse of :meth:`to_dict`.

        Raises:
            ConfigError: for names or values that are not options.
        """
        return cls(**options)

    @classmethod
    def from_args(cls, args: Sequence[str]) -> Config:
        """Reads CaffeOnSpark's flags, spelled with one dash or two.

        Args:
            args: words of a command line; ``--cluster-size 2``, ``-clusterSize 2`` and ``-clusterSize=2`` are the same.

        Raises:
            ConfigError: for an unknown flag (with the nearest names), a word that belongs to no flag, a missing value.

        Example:
            >>> Config.from_args(["-train", "-conf", "solver.prototxt", "--seed", "7"])
            Config(conf='solver.prototxt', train=True, seed=7)
        """
        parser = FlagParser(prog="cosdask run", add_help=False)
        parser.add_options(OPTIONS)
        return cls(**vars(parser.parse(args)))

    def __str__(self) -> str:
        return "\n".join(f"{name}:{value}" for name, value in self.to_dict().items())

    def __repr__(self) -> str:
        changed = [
            f"{name}={getattr(self, name)!r}"
            for name, field in OPTIONS.items()
            if getattr(self, name) != default_of(field)
        ]
        return f"Config({', '.join(changed)})"


#: Every option by name: dataclass fields whose metadata hold ``help``, ``convert``, ``minimum`` and ``choices``.
OPTIONS: dict[str, dataclasses.Field[Any]] = {field.name: field for field in dataclasses.fields(Config)}

_ATTRIBUTES = {name for name, value in vars(Config).items() if isinstance(value, _Alias | property)}

#: Attributes of CaffeOnSpark's ``Config`` that are read from the prototxt, and where they are found now.
_MOVED = {
    "netParam": "cosdask.proto.read_solver(config.conf)",
    "solverParameter": "cosdask.proto.read_solver(config.conf)",
    "train_data_layer_id": 'cosdask.get_source(config, phase="TRAIN")',
    "test_data_layer_id": 'cosdask.get_source(config, phase="TEST")',
}


def _unknown(what: str, name: str) -> UnknownOptionError:
    if name in _MOVED:
        return UnknownOptionError(f'a Config has no "{name}"; use {_MOVED[name]}', option=name)
    hint = did_you_mean(name, [*OPTIONS, *sorted(_ATTRIBUTES)])
    return UnknownOptionError(f'unknown {what} "{name}".{hint or " print(config) lists all options."}', option=name)


def default_of(field: dataclasses.Field[Any]) -> Any:
    """The default value of an option's field; a new list for list options."""
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def _converted(field: dataclasses.Field[Any], value: Any) -> Any:
    rules = field.metadata
    try:
        result = rules["convert"](value)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"option {field.name}: {value!r} does not fit; {error}", option=field.name) from None
    minimum, choices = rules["minimum"], rules.get("choices")
    if minimum is not None and result is not None and not result >= minimum:
        raise ConfigError(f"option {field.name}: {value!r} is too small; the least is {minimum}", option=field.name)
    if choices and result not in choices:
        listed = ", ".join(choices)
        hint = did_you_mean(result, choices)
        raise ConfigError(f'option {field.name}: "{result}" is not one of {listed}.{hint}', option=field.name)
    return result


class FlagParser(argparse.ArgumentParser):
    """``argparse`` with CaffeOnSpark's spelling: long names after one dash or two, errors as :class:`ConfigError`.

    Case, ``-`` and ``_`` inside a flag's name make no difference, so ``-clusterSize`` and ``--cluster-size`` agree;
    shortened names are refused, since a new option could change what they mean.
    """

    def __init__(self, **keywords: Any) -> None:
        super().__init__(allow_abbrev=False, **keywords)

    def add_options(self, names: Iterable[str], group: str = "options") -> None:
        """Adds options of :class:`Config` by name; flags that are not given leave no trace in the result."""
        section = self.add_argument_group(group)
        for name in names:
            rules = OPTIONS[name].metadata
            keywords: dict[str, Any] = {"dest": name, "default": argparse.SUPPRESS, "help": _help_text(OPTIONS[name])}
            if rules["convert"] is _flag:
                keywords["action"] = "store_true"
            else:
                keywords["metavar"] = rules.get("metavar") or _placeholder(rules)
            section.add_argument(f"--{name.replace('_', '-')}", **keywords)

    def parse(self, words: Sequence[str]) -> argparse.Namespace:
        """Parses all words.

        Raises:
            ConfigError: names the first word that is no flag, and the nearest flags.
        """
        known = {_squeezed(flag): flag for flag in self._option_string_actions}
        result, rest = self.parse_known_args([_respelled(word, known) for word in words])
        if rest:
            self._refuse(rest[0])
        return result

    def _refuse(self, word: str) -> NoReturn:
        if not word.startswith("-"):
            message = f'the word "{word}" belongs to no flag; lists such as -features a,b take no blanks unless quoted'
            raise ConfigError(f"{message}. See {self.prog} --help", flag=word)
        name = word.split("=")[0].lstrip("-")
        if _squeezed(name) in _CONVERTERS:
            message = f'the flag "-{name}" belongs to CaffeOnSpark\'s tools: cosdask convert TOOL -{name} ...'
            raise ConfigError(f"{message} See {self.prog} --help", flag=name)
        flags = [flag.lstrip("-") for flag in self._option_string_actions]
        raise ConfigError(f'unknown flag "-{name}".{did_you_mean(name, flags)} See {self.prog} --help', flag=name)

    def error(self, message: str) -> NoReturn:
        """Raises what argparse would print before leaving the process."""
        raise ConfigError(f"{message.replace('argument --', 'flag --')}. See {self.prog} --help")


def _help_text(field: dataclasses.Field[Any]) -> str:
    """The option's help with its choices and default, where it has a telling one."""
    text = str(field.metadata["help"])
    choices = field.metadata.get("choices")
    if choices:
        text += f": {', '.join(choices)}"
    default = default_of(field)
    shown = default not in ("", None, False) and default != []
    return f"{text} (default {default})" if shown else text


def _placeholder(rules: Mapping[str, Any]) -> str:
    if rules.get("choices"):
        return "WORD"
    return "N" if rules["minimum"] is not None else "WORD"


def _squeezed(flag: str) -> str:
    return flag.lstrip("-").replace("-", "").replace("_", "").lower()


#: Options that only CaffeOnSpark's tools have; there one parser served every program.
_CONVERTERS = {
    _squeezed(name)
    for name in (
        "imageRoot", "labelFile", "captionFile", "captionLength", "vocabSize", "imageCaptionDFDir", "vocabDir",
        "embeddingDFDir",
    )
}  # fmt: skip


def _respelled(word: str, known: Mapping[str, str]) -> str:
    """A flag in its registered spelling; other words, negative numbers among them, as they are."""
    match = re.fullmatch(r"--?([A-Za-z][\w-]+)(=.*)?", word, re.DOTALL)
    if not match:
        return word
    return known.get(_squeezed(match[1]), f"--{match[1]}") + (match[2] or "")
