"""What ``run``, ``train``, ``test`` and ``features`` share: flags, refusals before work starts, and the work itself."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from cosdask.cli import clusters, yarn_flags
from cosdask.config import Config, FlagParser
from cosdask.errors import ConfigError, NetError, did_you_mean
from cosdask.storage import exists, join, local_path, missing, refuse_overwrite, run_folder_for

WORKERS = (
    "clusterSize", "min_workers", "worker_deadline", "worker_silence", "rank_silence", "step_deadline", "devices",
    "precision", "threads", "wire", "interface", "lmdb_partitions", "transform_thread_per_device", "connection",
)  # fmt: skip
TRAINING = (
    "weights", "snapshot", "resume", "seed", "shuffle", "persistent", "checkpoint_seconds", "on_nan", "batch_is_global",
    "global_batch_norm", "global_loss", "scale_lr", "warmup", "tensorboard",
)  # fmt: skip
DATA = ("resize", "on_bad_rows", "allow_modules")


def parser(verb: str, about: str, examples: str) -> FlagParser:
    """A verb's parser with what all these verbs have: ``--help``, ``--cluster`` and an example that can be copied."""
    result = FlagParser(
        prog=f"cosdask {verb}",
        description=about,
        epilog=f"examples:\n{examples}\n\nFlags work with one dash or two: -clusterSize 2, --cluster-size 2.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage=f"cosdask {verb} [flags]",
    )
    result.add_argument("--cluster", default="local", metavar="WHERE", help=clusters.HELP)
    yarn_flags.add_flags(result)
    return result


def parse(flags: FlagParser, words: Sequence[str], **fixed: Any) -> tuple[Config, clusters.Where]:
    """The options and the cluster of a command line.

    Args:
        flags: the verb's parser.
        words: the words after the verb.
        **fixed: options that the verb itself sets.
    """
    given = vars(flags.parse(words))
    where = clusters.Where(given.pop("cluster"), yarn_flags.take(given))
    return Config(**{**given, **fixed}), where


def run_job(config: Config, cluster: str | clusters.Where) -> int:
    """Does what the options ask for: training first, then features or test.

    Raises:
        ConfigError, StorageError, NetError: before any work starts, for what cannot work.
    """
    for note in config.check():
        print(f"cosdask: note: {note}", file=sys.stderr)
    refuse_outputs(config)
    _allow_modules(config)
    validate = check_files(config)
    if isinstance(cluster, clusters.Where) and cluster.yarn.get("dry_run"):
        print(clusters.dry_run(cluster, config), end="")
        return 0
    with clusters.connect(cluster, config) as client:
        from cosdask.parallel import CaffeOnDask

        job = CaffeOnDask(client, config)
        if "features" in config.verbs:
            job.check_output()
        for verb in config.verbs:
            if verb == "train":
                _train(job, config, validate)
            elif verb == "test":
                _test(job, config)
            else:
                _features(job, config)
    return 0


def _allow_modules(config: Config) -> None:
    if config.allow_modules:
        from cosdask.nn import allow_python_layers

        allow_python_layers(config.allow_modules)


def refuse_outputs(config: Config) -> None:
    """Stops before work starts when an output named on the command line is there and may not be replaced.

    Raises:
        StorageError: names the output.
    """
    if "train" in config.verbs:
        refuse_overwrite(config.model, config.overwrite)
    if config.output and config.verbs[-1] != "train":
        refuse_overwrite(config.output, config.overwrite)


def check_files(config: Config) -> bool:
    """Reads the solver and what it names, so that a wrong name is found before training and not after it.

    Returns:
        Whether training has interleaved validation: ``test_interval`` and the first ``test_iter`` are not 0.

    Raises:
        StorageError: the model to test, or weights or a snapshot to start from, are missing.
        ProtoError, SolverError, NetError: the files cannot be read, a net cannot work or has no data in its phase, or
            the test net lacks a blob of ``-features`` or ``-label``.
        WeightsError: weights do not fit the net.
    """
    from cosdask.cli.nets import check_nets
    from cosdask.proto import initial_weights, read_solver

    solver = read_solver(config.conf)
    validate = bool(solver.test_interval and len(solver.test_iter) and solver.test_iter[0])
    weights = _check_inputs(config, initial_weights(solver, config.conf))
    check_nets(config.conf, "train" in config.verbs, validate or config.verbs[-1] != "train", weights)
    if "features" in config.verbs:
        _check_blobs(config)
    return validate


def _check_inputs(config: Config, named: list[str]) -> list[str]:
    """Stops where weights or a state to start from are missing; the weights that lie on this machine.

    Args:
        config: the options.
        named: the weights that the solver names, which count where nothing else says what to begin from.
    """
    train = "train" in config.verbs
    weights = [path.strip() for path in config.weights.split(",") if path.strip()] if train else [config.model]
    if train and not weights and not config.snapshot:
        weights = named
    if train and config.resume:
        weights = []  # the run's snapshot has its own
    for path in [*weights, *([config.snapshot] if train and config.snapshot else [])]:
        if not exists(path):
            raise missing(path, "file" if train else "model")
    return [path for path in weights if local_path(path)]


def _check_blobs(config: Config) -> None:
    from cosdask.cli.nets import test_blobs

    known = test_blobs(config.conf)
    for name in [*config.features, config.label]:
        if name and name not in known:
            hint = did_you_mean(name, known) or f" It has {', '.join(known)}."
            raise NetError(f'the TEST net of {config.conf} makes no blob "{name}".{hint}', blob=name)


def _train(job: Any, config: Config, validate: bool) -> None:
    if not validate:
        job.train()
        print(f"model: {config.model}")
        return
    job.train_with_validation()
    print(f"model: {config.model}")
    print(f"validations: {join(run_folder_for(config.model), 'validation.csv')}")


def _test(job: Any, config: Config) -> None:
    from cosdask.cli.results import result_text, write_test_result

    outputs = job.test()
    print(result_text(outputs), end="")
    if config.output:
        write_test_result(outputs, config.output)
        print(f"results: {config.output}")


def _features(job: Any, config: Config) -> None:
    from cosdask.data import write_table

    if not config.output:
        raise ConfigError("no place for the features: name a directory with -output DIR", option="output")
    rows = write_table(job.features(), config.output, config.outputFormat, config.overwrite)
    print(f"features: {config.output} ({rows} rows)")
