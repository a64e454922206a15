"""``cosdask submit``: run a command as an application of YARN's, driver and all."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from cosdask.cli import yarn_flags
from cosdask.config import Config, FlagParser
from cosdask.errors import ConfigError
from cosdask.storage import filesystem, local_path

_ABOUT = """Run a command on YARN: the application has scheduler, workers and driver, so this machine may go.

The solver, its nets, mean files and weights travel along; rows and results must have URLs (hdfs://...). What the
command prints is shown here, and its exit code is this command's."""

_EXAMPLES = """  cosdask submit --workers 4 --environment hdfs:///envs/cosdask.tar.gz --queue research \\
      -- run -conf lenet_solver.prototxt -train -test -model hdfs:///models/lenet.caffemodel -output hdfs:///out/test
  cosdask submit --workers 4 --environment venv:///opt/cosdask --detach -- train --conf ...
  cosdask watch APPLICATION"""

_VERBS = ("run", "train", "test", "features")
#: results and inputs that every container must see
_PLACES = ("model", "output", "snapshot")


def main(words: Sequence[str]) -> int:
    """Runs the verb with the words after it; returns the command's exit code."""
    if "--" not in words and not {"-h", "--help"} & set(words):
        raise ConfigError("cosdask submit FLAGS -- COMMAND: what comes after -- is the command, as in -- run -conf ...")
    split = list(words).index("--") if "--" in words else len(words)
    given = vars(_flags().parse(words[:split]))
    command = list(words[split + 1 :])
    if not command or command[0] not in _VERBS:
        raise ConfigError(f"after -- comes one of {', '.join(_VERBS)} with its flags, not {' '.join(command[:1])!r}")
    return _submit(given, command)


def _submit(given: dict[str, Any], command: list[str]) -> int:
    workers, detach, driver_memory = int(given.pop("workers")), given.pop("detach"), given.pop("driver_memory")
    options = yarn_flags.take(given)
    config = read_command(command)
    deadline, login = options.pop("deadline", 120.0), (options.pop("keytab", None), options.pop("principal", None))
    dry = options.pop("dry_run", False)
    from cosdask.cluster import submission, yarn_client
    from cosdask.cluster.yarn_spec import spec_text, yarn_options

    asked = yarn_options(n_workers=workers, **options)
    if dry:
        print(spec_text(submission.submission(asked, command, "hdfs:///user/USER/.cosdask/JOB", driver_memory)), end="")
        return 0
    folder = submission.new_folder()
    with yarn_client.started_beside(*login) as started:
        try:
            initial = config.train and not (config.snapshot or config.resume)
            words = carried_command(command, config, partial(submission.carry, folder=folder, initial=initial))
            spec, client = submission.submission(asked, words, folder, driver_memory), started()
            application = submission.submit(client, spec)
        except BaseException:
            _remove(folder)
            raise
        if detach:
            note(f"{application} is submitted; to follow it: cosdask watch {application}")
            print(application)
            return 0
        note(f"{application} is submitted; to end it: cosdask kill {application}")
        try:
            return submission.follow(client, application, show, deadline, note)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"it runs on. cosdask watch {application}, or cosdask kill {application}") from None
        except BaseException:
            if submission.runs(client, application):
                note(f"{application} runs on; to follow it: cosdask watch {application}; to end it: cosdask kill")
            else:
                submission.kill(client, application)
            raise


def note(text: str) -> None:
    """Says what is waited for, beside what the driver prints."""
    print(f"cosdask: {text}", file=sys.stderr, flush=True)


def show(text: str) -> None:
    """Prints what came from the driver."""
    sys.stdout.write(text)
    sys.stdout.flush()


def read_command(command: Sequence[str]) -> Config:
    """The options of a command that will run elsewhere.

    Raises:
        ConfigError: what cannot work there: unknown flags, and places on this machine.
    """
    words = list(command[1:])
    if any(word.lstrip("-").split("=")[0] == "cluster" for word in words if word.startswith("-")):
        raise ConfigError("--cluster after --: the command gets the application's own workers", flag="cluster")
    config = Config.from_args(words)
    if command[0] in ("train", "test"):
        setattr(config, command[0], True)
    for name in _PLACES:
        value = getattr(config, name)
        if value and local_path(value) is not None and not value.startswith("file:"):
            raise ConfigError(
                f"-{name} {value} lies on this machine, which the application cannot see; name it by URL (hdfs://...)",
                option=name,
            )
    if command[0] == "run" and not config.output and (config.test or config.features):
        raise ConfigError(
            "results would lie in the driver's container, which goes with the application; name a place for them: "
            "-output hdfs://...",
            option="output",
        )
    config.check()
    return config


def carried_command(command: Sequence[str], config: Config, carry: Callable[[str, str], tuple[str, str]]) -> list[str]:
    """The command with the names of the files that were carried."""
    solver, weights = carry(config.conf, config.weights)
    words = [*command, "--conf", solver]
    return [*words, "--weights", weights] if weights else words


def _remove(folder: str) -> None:
    fs, path = filesystem(folder)
    if fs.exists(path):
        fs.rm(path, recursive=True)


def _flags() -> FlagParser:
    flags = FlagParser(
        prog="cosdask submit",
        description=_ABOUT,
        epilog=f"examples:\n{_EXAMPLES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="cosdask submit [flags] -- run|train|test|features [its flags]",
    )
    flags.add_argument("--workers", required=True, metavar="N", help="worker containers")
    flags.add_argument("--driver-memory", default="1 GiB", metavar="SIZE", help="of the driver's container (1 GiB)")
    flags.add_argument("--detach", action="store_true", help="print the application's id and end here")
    yarn_flags.add_flags(flags)
    return flags
