"""Talking to YARN: a client that ends with its user, waits with deadlines, and errors that say what YARN said."""

from __future__ import annotations

import contextlib
import os
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from cosdask.cluster.yarn_compat import skein
from cosdask.cluster.yarn_logs import application_logs, last_words
from cosdask.cluster.yarn_spec import JAVA_OPTIONS, check_hadoop
from cosdask.errors import ClusterError, ConfigError, CosdaskError, DeadlineError
from cosdask.storage import exists, filesystem

_STARTING = ("NEW", "NEW_SAVING", "SUBMITTED", "ACCEPTED")
_ENDED = ("FINISHED", "FAILED", "KILLED")
#: seconds between two questions to YARN
_PAUSE = 0.25
#: seconds that an application has to be gone once it was told to end
_ENDING = 20.0
#: seconds until Hadoop has gathered the logs of an application that ended
_GATHERING = 15.0


def yarn_client(keytab: str | None = None, principal: str | None = None) -> Any:
    """A ``skein.Client``: a small Java program that ends with this process.

    Args:
        keytab: file to log in to Kerberos with; default: the tickets there are.
        principal: whose keytab it is.

    Raises:
        ConfigError: this machine is no client of a Hadoop, or the keytab is not there.
        ClusterError: the program did not start.
    """
    check_hadoop()
    if bool(keytab) != bool(principal):
        raise ConfigError("keytab and principal belong together: give both or none", option="keytab")
    if keytab and not os.path.isfile(keytab):
        raise ConfigError(f"keytab={keytab}: no such file", option="keytab")
    with warnings.catch_warnings():
        # that its certificates are made on the first use
        warnings.simplefilter("ignore")
        with talking("YARN's client program"):
            return skein().Client(keytab=keytab, principal=principal, log=False, java_options=JAVA_OPTIONS)


@contextlib.contextmanager
def started_beside(keytab: str | None = None, principal: str | None = None) -> Iterator[Callable[[], Any]]:
    """Starts :func:`yarn_client` while the caller does other things, and ends it with the block.

    Yields:
        A function that waits for the client and returns it, or raises what kept it from starting.
    """
    check_hadoop()
    with ThreadPoolExecutor(1, "cosdask-yarn-client") as pool:
        starting = pool.submit(yarn_client, keytab, principal)
        try:
            yield starting.result
        finally:
            if starting.exception() is None:
                starting.result().close()


@contextlib.contextmanager
def talking(what: str) -> Iterator[None]:
    """Turns skein's errors into one message."""
    try:
        yield
    except skein().exceptions.SkeinError as error:
        # the first line may only announce the second
        said = " ".join(line.strip() for line in str(error).splitlines()[:3] if line.strip()) or type(error).__name__
        raise ClusterError(f"{what}: {said[:400]}") from error


def report_of(client: Any, application: str) -> Any:
    """YARN's report of an application.

    Raises:
        ConfigError: there is none of this id.
    """
    try:
        with talking(f"asking YARN for {application}"):
            return client.application_report(application)
    except ValueError as error:
        if isinstance(error, CosdaskError):
            raise
        raise ConfigError(f"YARN knows no {application}: {error}") from error


def wait_until_running(client: Any, application: str, deadline: float) -> None:
    """Waits until the application's master runs.

    Raises:
        ClusterError: it ended; YARN's and the containers' words are in the message.
        DeadlineError: it still waits; says for what.
    """
    ends = time.monotonic() + deadline
    while True:
        report = report_of(client, application)
        state = str(report.state)
        if state == "RUNNING":
            return
        if state not in _STARTING:
            raise ended_error(client, application)
        if time.monotonic() > ends:
            raise DeadlineError(
                f"{application} waits for room in the queue {report.queue} since {deadline:.0f} s (state {state}). "
                f"{_first(report.diagnostics)}{_queue(client, report.queue)} Ask for less, use another queue, or wait "
                "longer (deadline=)."
            )
        time.sleep(_PAUSE)


def wait_for_key(client: Any, application: Any, key: str, deadline: float) -> str:
    """The text that a container of the application puts under a key.

    Raises:
        ClusterError: the application ended before.
        DeadlineError: no text in time; says what the containers do.
    """
    ends = time.monotonic() + deadline
    while True:
        try:
            found = application.kv.get(key)
        except skein().exceptions.SkeinError as error:
            raise ended_error(client, application.id) from error
        if found is not None:
            return str(found.decode())
        if str(report_of(client, application.id).state) in _ENDED:
            raise ended_error(client, application.id)
        if time.monotonic() > ends:
            raise DeadlineError(
                f"{application.id}: no Dask scheduler after {deadline:.0f} s. {containers_in_words(application)}"
            )
        time.sleep(_PAUSE)


def containers_in_words(application: Any) -> str:
    """How many containers of each service are in which state."""
    with talking(f"asking {application.id} for its containers"):
        found = application.get_containers()
    if not found:
        return "It has no containers."
    counts: dict[str, int] = {}
    for container in found:
        label = f"{container.service_name} {str(container.state).lower()}"
        counts[label] = counts.get(label, 0) + 1
    waiting = any(str(container.state) == "REQUESTED" for container in found)
    hint = " Requested containers wait for room: memory, cores or GPUs that no node has free." if waiting else ""
    return f"Its containers: {', '.join(f'{count} {label}' for label, count in counts.items())}.{hint}"


def wait_until_ended(client: Any, application: str, deadline: float = _ENDING) -> Any:
    """The report of an application that was told to end.

    Raises:
        DeadlineError: it has not ended in time.
    """
    ends = time.monotonic() + deadline
    while True:
        report = report_of(client, application)
        if str(report.state) in _ENDED:
            return report
        if time.monotonic() > ends:
            raise DeadlineError(f"{application} did not end within {deadline:.0f} s of being told to.")
        time.sleep(_PAUSE)


def remove_staging(report: Any) -> None:
    """Removes the files that YARN copied for an application that has ended.

    Its master removes them as the last thing it does; one that was killed did not.
    """
    folder = f"hdfs:///user/{report.user}/.skein/{report.id}"
    if exists(folder):
        fs, path = filesystem(folder)
        fs.rm(path, recursive=True)


def ended_error(client: Any, application: str) -> ClusterError:
    """The error for an application that ended when it should not have, with the cause where it can be found."""
    report = wait_until_ended(client, application)
    said = _last_words(application)
    hint = ""
    if "No module named" in said:
        hint = " The environment named lacks it: `cosdask package` makes one that has everything."
    elif "environment/bin" in said or "No such file" in said:
        hint = " Is the environment at the same place on every node?"
    why = said or _first(report.diagnostics).strip() or "YARN says no more."
    return ClusterError(
        f"{application} ended ({report.final_status}): {why}{hint} All it printed: cosdask logs {application}",
        application=application,
    )


def _last_words(application: str) -> str:
    """The last errors in the containers' logs, which Hadoop gathers a moment after the end; "" without any."""

    def ask() -> str:
        try:
            logs = application_logs(application)
        except CosdaskError:
            return ""  # not gathered yet, or never started; what YARN reports is all there is
        return last_words(logs)

    return _ask_until(ask, _GATHERING)


def _ask_until(ask: Callable[[], str], seconds: float) -> str:
    ends = time.monotonic() + seconds
    while True:
        found = ask()
        if found or time.monotonic() > ends:
            return found
        time.sleep(_PAUSE)


def _first(text: str | None) -> str:
    """The first sentence of YARN's diagnostics, with a blank after it."""
    lines = [line.strip() for line in (text or "").splitlines() if line.strip()]
    return f"YARN says: {lines[0][:400]} " if lines else ""


def _queue(client: Any, name: str) -> str:
    with talking(f"asking YARN for the queue {name}"):
        try:
            queue = client.get_queue(name)
        except ValueError:
            return f"There is no queue {name}."
    return f"The queue holds {queue.capacity:g} % of the cluster, {queue.percent_used:g} % of it in use."
