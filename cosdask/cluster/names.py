"""Names on which the parts of an application on YARN agree; loaded by all of them, so it loads nothing itself."""

from __future__ import annotations

#: services of the application
SCHEDULER, WORKER, DRIVER = "dask.scheduler", "dask.worker", "cosdask.driver"
#: the scheduler's handler that a cluster object calls to show that it is there
SIGN_OF_LIFE = "cosdask-sign-of-life"
#: names under which TLS files lie in a container
TLS_FILES = {"tls_ca_file": "tls-ca.pem", "tls_cert": "tls-cert.pem", "tls_key": "tls-key.pem"}
#: what driver and follower tell each other in the application's key-value store: the lines printed
#: so far, the exit code, and that it was read
OUTPUT, EXIT, SEEN = "cosdask.output.", "cosdask.exit", "cosdask.seen"
#: how often Dask's schedulers, nannies and workers measure their event loops; its own 20 ms take some 3 % of a core for
#: each of them, from ranks on the same cores
TICK = "500ms"


def output_key(number: int) -> str:
    """The key of a part of what the driver printed; keys sort as they were printed.

    Example:
        >>> output_key(9) < output_key(10)
        True
    """
    return f"{OUTPUT}{number:08d}"
