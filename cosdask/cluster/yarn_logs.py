"""What the containers of an application printed, through Hadoop's own reader (``yarn logs``).

skein's reader looks where Hadoop 3.3 and later no longer put the files.
"""

from __future__ import annotations

import re
import subprocess

from cosdask.errors import ConfigError, DeadlineError, StorageError

_CONTAINER = re.compile(r"^Container: (\S+) on (\S+?)(?:[_:]\d+)?\s*$")
_FILE = re.compile(r"^LogType:\s*(\S+)\s*$")
_APPLICATION = re.compile(r"application_\d+_\d+")


def check_application_id(name: str) -> str:
    """The id itself, where it has the form of one.

    Raises:
        ConfigError: it has not.

    Example:
        >>> check_application_id("application_1700000000000_0001")
        'application_1700000000000_0001'
    """
    if not _APPLICATION.fullmatch(name):
        raise ConfigError(f'"{name}" is no application id; they look like application_1700000000000_0001')
    return name


def application_logs(application: str, user: str = "", deadline: float = 60) -> dict[str, str]:
    """What each container of a running or finished application printed, by ``container host file``.

    Args:
        application: its id.
        user: whose it is; "" for this user.
        deadline: seconds that Hadoop's reader may take.

    Raises:
        ConfigError: not an id, or no ``yarn`` command.
        StorageError: Hadoop has no logs of it; its own words are in the message.
        DeadlineError: no answer in time.
    """
    command = ["yarn", "logs", "-applicationId", check_application_id(application)]
    command += ["-appOwner", user] if user else []
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=deadline, stdin=subprocess.DEVNULL
        )
    except FileNotFoundError as error:
        raise ConfigError("there is no yarn command on PATH; it comes with Hadoop's client (bin/yarn)") from error
    except subprocess.TimeoutExpired as error:
        raise DeadlineError(f"`yarn logs` of {application} did not end within {deadline:.0f} s") from error
    # beside what a container printed Hadoop keeps the scripts that started it, with their environment
    found = {key: text for key, text in split_logs(done.stdout).items() if key.endswith(".log")}
    if not found:
        said = [line for line in (done.stdout + done.stderr).splitlines() if line and " INFO " not in line]
        raise StorageError(f"no logs of {application}: {said[-1] if said else 'the yarn command said nothing'}")
    return found


def split_logs(text: str) -> dict[str, str]:
    """The parts of what ``yarn logs`` prints.

    Example:
        >>> printed = '''Container: container_1_0001_01_000002 on 127.0.0.2_40123
        ... LogAggregationType: AGGREGATED
        ... ====
        ... LogType:dask.worker.log
        ... LogLastModifiedTime:Mon Jan 01 00:00:00 +0000 2024
        ... LogLength:3
        ... LogContents:
        ... hey
        ...
        ... End of LogType:dask.worker.log
        ... '''
        >>> split_logs(printed)
        {'container_1_0001_01_000002 127.0.0.2 dask.worker.log': 'hey'}
    """
    found: dict[str, list[str]] = {}
    container, name, inside = "", "", False
    for line in text.splitlines():
        if inside:
            if line.startswith(f"End of LogType:{name}"):
                inside = False
            else:
                found[f"{container} {name}"].append(line)
        elif match := _CONTAINER.match(line):
            container = f"{match[1]} {match[2]}"
        elif match := _FILE.match(line):
            name = match[1]
        elif line.startswith("LogContents:"):
            inside = True
            found[f"{container} {name}"] = []
    return {key: "\n".join(lines).strip("\n") for key, lines in found.items()}


#: how the last line of a Python's, a bash's and an exec's complaint looks
_COMPLAINT = re.compile(
    r"^(\w+\.)*\w*(Error|Exception|Interrupt|Exit)\b|No module named|No such file|: not found|Permission denied"
)


def last_words(logs: dict[str, str], most: int = 3) -> str:
    r"""The most telling lines: the last complaint of each of our containers, each once.

    Example:
        >>> last_words({"c1 node dask.worker.log": "starting\nValueError: no"})
        'ValueError: no'
    """
    told = []
    for key, text in logs.items():
        found = [line.strip() for line in text.splitlines() if _COMPLAINT.search(line)]
        if found and "application.master" not in key:
            told.append(found[-1])
    return "; ".join(list(dict.fromkeys(told))[:most])
