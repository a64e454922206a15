"""The older tools by their names and flags: CaffeOnSpark's converters, and Caffe's own."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from typing import Any

from cosdask.cli import clusters
from cosdask.cli.bars import RowBar
from cosdask.config import Config, FlagParser
from cosdask.errors import ConfigError
from cosdask.storage import join

_JAVA = "com.yahoo.ml.caffe.tools."


def find(name: str) -> Callable[[Sequence[str]], int] | None:
    """The tool of a name, with or without CaffeOnSpark's Java package; None where there is none."""
    return TOOLS.get(name.removeprefix(_JAVA))


def _parser(name: str, about: str, usage: str) -> FlagParser:
    flags = FlagParser(
        prog=f"cosdask convert {name}",
        description=about,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage=f"cosdask convert {name} {usage}",
    )
    flags.add_argument("--cluster", default="local", metavar="WHERE", help=clusters.HELP)
    flags.add_options(("overwrite", "progress", "clusterSize"), "cosdask's own flags")
    return flags


def _options(flags: FlagParser, words: Sequence[str]) -> tuple[Config, str]:
    given = vars(flags.parse(words))
    cluster = given.pop("cluster")
    config = Config(**given)
    if not config.imageRoot:
        raise ConfigError("no input: give its folder with -imageRoot", option="imageRoot")
    if not config.output:
        raise ConfigError("no place for the rows: name it with -output", option="output")
    return config, cluster


# CaffeOnSpark's.


def _binary_to(name: str, kind: str | None) -> Callable[[Sequence[str]], int]:
    ids = kind is None
    fields = "file label id" if ids else "file label"

    def tool(words: Sequence[str]) -> int:
        what = "a table with SampleID, id, label, data and encoded" if ids else "a SequenceFile"
        about = f"Write image files and their labels as {what}. The list has lines `{fields}`."
        flags = _parser(name, about, "-imageRoot DIR -labelFile FILE -output DIR [flags]")
        more = ("outputFormat",) if ids else ()
        flags.add_options(("imageRoot", "labelFile", "output", *more, "on_bad_rows"), "CaffeOnSpark's flags")
        config, cluster = _options(flags, words)
        if not config.labelFile:
            raise ConfigError("no list of files: name it with -labelFile", option="labelFile")
        from cosdask.convert import Form, open_input

        skip = config.on_bad_rows == "skip"
        rows = open_input(config.labelFile, "list", root=config.imageRoot, ids=ids, skip=skip)
        form = Form(plain=_TABLE) if ids else Form(key="tuple2")
        return _convert(rows, kind or config.outputFormat, config, cluster, form=form, skip=skip)

    return tool


#: Binary2DataFrame's columns, and those that ImageDataFrame reads.
_TABLE = (
    ("id", "SampleID", "string"),
    ("id", "id", "string"),
    ("label", "label", "int32"),
    ("data", "data", "binary"),
    ("encoded", "encoded", "bool"),
)


def _lmdb_to(name: str, kind: str | None) -> Callable[[Sequence[str]], int]:
    def tool(words: Sequence[str]) -> int:
        what = "a table" if kind is None else "a SequenceFile"
        about = f"Write an LMDB (named by -imageRoot) as {what} with id, label, sizes, encoded and data."
        flags = _parser(name, about, "-imageRoot LMDB -output DIR [flags]")
        more = ("outputFormat",) if kind is None else ()
        flags.add_options(("imageRoot", "output", *more, "lmdb_partitions"), "CaffeOnSpark's flags")
        config, cluster = _options(flags, words)
        from cosdask.convert import open_input

        rows = open_input(config.imageRoot, "lmdb")
        return _convert(rows, kind or config.outputFormat, config, cluster, parts=config.lmdb_partitions)

    return tool


_COCO_FLAGS = (
    "captionFile", "imageRoot", "output", "imageCaptionDFDir", "vocabDir", "vocabSize", "embeddingDFDir",
    "captionLength", "outputFormat",
)  # fmt: skip


def _coco(words: Sequence[str]) -> int:
    """CaffeOnSpark's CocoDataSetConverter."""
    about = "Write captions in COCO's JSON as a caption table, a vocabulary, and the rows that LRCN is trained on."
    usage = "-captionFile JSON -imageRoot DIR -output DIR -imageCaptionDFDir NAME -vocabDir NAME -embeddingDFDir NAME"
    flags = _parser("CocoDataSetConverter", about, f"{usage} [flags]")
    flags.add_options(_COCO_FLAGS, "CaffeOnSpark's flags")
    given = vars(flags.parse(words))
    cluster = given.pop("cluster")
    config = Config(**given)
    if not config.captionFile:
        raise ConfigError("no captions: name COCO's JSON with -captionFile", option="captionFile")
    if not config.output:
        raise ConfigError("no place for the tables: name their folder with -output", option="output")
    from cosdask.captions import convert_coco
    from cosdask.convert.inputs import absolute

    names = {name: getattr(config, name) for name in ("imageCaptionDFDir", "vocabDir", "embeddingDFDir")}
    places = {name: join(absolute(config.output), part) if part else "" for name, part in names.items()}
    with clusters.connect(cluster, config):
        done = convert_coco(
            absolute(config.captionFile),
            absolute(config.imageRoot) if config.imageRoot else "",
            captions=places["imageCaptionDFDir"],
            vocab=places["vocabDir"],
            embedded=places["embeddingDFDir"],
            vocab_size=config.vocabSize,
            length=config.captionLength,
            form=config.outputFormat,
            overwrite=config.overwrite,
        )
    if config.imageCaptionDFDir:
        print(f"captions: {join(config.output, config.imageCaptionDFDir)} ({done.captions} rows)")
    if done.vocab is not None:
        place = join(config.output, config.vocabDir) if config.vocabDir else "(not saved)"
        print(f"vocabulary: {place} ({done.vocab.classes} classes{', used as it was' if done.vocab_reused else ''})")
    if config.embeddingDFDir:
        print(f"embedded: {join(config.output, config.embeddingDFDir)} ({done.embedded} rows)")
    return 0


def _convert(rows: Any, kind: str, config: Config, cluster: str, **settings: Any) -> int:
    from cosdask.cli.convert import run

    return run(rows, config.output, kind, config, cluster, **settings)


# Caffe's.


def _gflags(words: Sequence[str], switches: Sequence[str]) -> list[str]:
    """Gflags' switches as argparse takes them: ``--gray``, ``-gray=false`` and ``--nogray``, nothing behind them."""
    found = []
    for word in words:
        match = re.fullmatch(r"--?(no)?([a-z_]+)(?:=(.*))?", word)
        if match and match[2] in switches:
            word = f"--{match[2]}={'false' if match[1] else match[3] or 'true'}"
        found.append(word)
    return found


def _switch(word: str) -> bool:
    if word.lower() not in ("true", "t", "1", "yes", "y", "false", "f", "0", "no", "n"):
        raise argparse.ArgumentTypeError(f"{word!r} is neither true nor false")
    return word.lower() in ("true", "t", "1", "yes", "y")


_SWITCHES = {
    "gray": "one channel",
    "shuffle": "put the lines into a random order",
    "check_size": "refuse images of different sizes",
    "encoded": "store encoded images",
}


def _convert_imageset(words: Sequence[str]) -> int:
    """Caffe's convert_imageset."""
    about = "Write image files and their labels as a database, as Caffe's own tool does."
    flags = _parser("convert_imageset", about, "[flags] ROOTFOLDER/ LISTFILE DB_NAME")
    for name in ("root", "list", "database"):
        flags.add_argument(name)
    for name, text in _SWITCHES.items():
        flags.add_argument(f"--{name}", type=_switch, default=False, metavar="BOOL", help=text)
    flags.add_argument("--backend", default="lmdb", choices=("lmdb", "leveldb"))
    flags.add_argument("--resize_width", type=int, default=0, metavar="N")
    flags.add_argument("--resize_height", type=int, default=0, metavar="N")
    flags.add_argument("--encode_type", default="", metavar="FORMAT", help="png, jpg, ...; else as the files are")
    flags.add_options(("seed", "on_bad_rows"), "more of cosdask's own flags")
    given = vars(flags.parse(_gflags(words, tuple(_SWITCHES))))
    cluster = given.pop("cluster")
    own = {
        name: given.pop(name)
        for name in ("overwrite", "progress", "clusterSize", "seed", "on_bad_rows")
        if name in given
    }
    config = Config(output=given["database"], **own)
    from cosdask.convert import open_input

    skip = config.on_bad_rows == "skip"
    shuffle = (config.seed or 0) if given["shuffle"] else None
    rows = open_input(given["list"], "list", root=given["root"], skip=skip, shuffle=shuffle)
    return _convert(rows, given["backend"], config, cluster, pictures=_pictures(given, rows), skip=skip)


def _pictures(given: dict[str, Any], rows: Any) -> Any:
    """What Caffe's tool does to images: pixels in color unless told otherwise; encoded files stay as they are."""
    from cosdask.convert import Pictures
    from cosdask.convert.job import first_shape
    from cosdask.convert.pictures import KEEP

    size = {"height": given["resize_height"], "width": given["resize_width"]}
    if given["encode_type"] or given["encoded"]:
        kind = given["encode_type"].lower().replace("jpeg", "jpg") or KEEP
        pictures = Pictures(**size, gray=given["gray"], encode=kind)
    else:
        pictures = Pictures(**size, gray=given["gray"], color=not given["gray"], decode=True)
    return first_shape(pictures, rows) if given["check_size"] else pictures


def _compute_image_mean(words: Sequence[str]) -> int:
    """Caffe's compute_image_mean."""
    about = "Write the mean image of a database as a binaryproto file, as Caffe's own tool does."
    flags = _parser("compute_image_mean", about, "[flags] INPUT_DB [OUTPUT_FILE]")
    flags.add_argument("database")
    flags.add_argument("file", nargs="?", default="")
    flags.add_argument("--backend", default="lmdb", choices=("lmdb", "leveldb"))
    given = vars(flags.parse(words))
    from cosdask.cli.mean import run

    own = {name: given[name] for name in ("overwrite", "progress", "clusterSize") if name in given}
    return run(given["database"], given["backend"], given["file"], Config(**own), given["cluster"])


def _extract_features(words: Sequence[str]) -> int:
    """Caffe's extract_features."""
    about = """Run a net over batches of its TEST data and write blobs as databases of floats, as Caffe's own tool does.

It runs in this process, on the device that JAX finds; `cosdask features` is the same on a cluster, as a table."""
    usage = "WEIGHTS NET BLOB[,BLOB...] DATABASE[,DATABASE...] NUM_MINI_BATCHES DB_TYPE [CPU|GPU] [DEVICE_ID=N]"
    flags = _parser("extract_features", about, usage)
    for name in ("weights", "net", "blobs", "databases"):
        flags.add_argument(name)
    flags.add_argument("batches", type=int)
    flags.add_argument("kind", choices=("lmdb", "leveldb"))
    flags.add_argument("device", nargs="*")
    given = flags.parse(words)
    for word in given.device:
        if not re.fullmatch(r"CPU|GPU|(DEVICE_ID=)?\d+", word):
            raise ConfigError(f'the word "{word}" has no meaning here; the last ones are CPU or GPU, and DEVICE_ID=N')
    config = Config(**{name: value for name, value in vars(given).items() if name in ("overwrite", "progress")})
    from cosdask.convert import extract_features

    names, outputs = given.blobs.split(","), given.databases.split(",")
    with RowBar(config.progress, "extracting", "batches") as bar:
        rows = extract_features(
            given.weights, given.net, names, outputs, given.batches, given.kind, config.overwrite, bar
        )
    for blob, output in zip(names, outputs, strict=True):
        print(f"{output}: {rows} rows of {blob}")
    return 0


TOOLS: dict[str, Callable[[Sequence[str]], int]] = {
    "Binary2Sequence": _binary_to("Binary2Sequence", "sequence"),
    "Binary2DataFrame": _binary_to("Binary2DataFrame", None),
    "LMDB2Sequence": _lmdb_to("LMDB2Sequence", "sequence"),
    "LMDB2DataFrame": _lmdb_to("LMDB2DataFrame", None),
    "CocoDataSetConverter": _coco,
    "convert_imageset": _convert_imageset,
    "compute_image_mean": _compute_image_mean,
    "extract_features": _extract_features,
}
