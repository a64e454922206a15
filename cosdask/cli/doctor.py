"""``cosdask doctor``: whether a run can work here."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from cosdask.cli import clusters, yarn_flags
from cosdask.config import Config, FlagParser

_ABOUT = """Look at this machine, its Hadoop and a cluster's workers, and say what would keep a run from working.

Without --cluster only this machine, its Hadoop, and the --environment where one is named. The exit code is 1 where
something must be mended first."""

_EXAMPLES = """  cosdask doctor
  cosdask doctor --environment hdfs:///envs/cosdask.tar.gz --queue research --worker-memory 16GiB
  cosdask doctor --cluster yarn[2] --environment hdfs:///envs/cosdask.tar.gz
  cosdask doctor --cluster tcp://scheduler:8786"""


def main(words: Sequence[str]) -> int:
    """Runs the verb with the words after it; returns the exit code."""
    flags = FlagParser(
        prog="cosdask doctor",
        description=_ABOUT,
        epilog=f"examples:\n{_EXAMPLES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    flags.add_argument("--cluster", default="", metavar="WHERE", help=clusters.HELP)
    flags.add_argument("--no-hadoop", action="store_true", help="leave HDFS and YARN out")
    yarn_flags.add_flags(flags)
    given = vars(flags.parse(words))
    hadoop = not given.pop("no_hadoop")
    where = clusters.Where(given.pop("cluster"), yarn_flags.take(given))
    from cosdask.cluster import doctor
    from cosdask.cluster.doctor_archive import check_environment

    findings = []

    def tell(finding: doctor.Finding) -> None:
        findings.append(finding)
        print(finding, flush=True)

    for finding in doctor.check_machine("client", doctor.facts()):
        tell(finding)
    for finding in doctor.check_hadoop(wanted=where.yarn) if hadoop else ():
        tell(finding)
    for finding in check_environment(where.yarn.get("environment", "")):
        tell(finding)
    hadoop = hadoop and not any(finding.state == doctor.BAD for finding in findings)
    if where.word:
        with clusters.connect(where, Config()) as client:
            for finding in doctor.check_workers(client, hadoop):
                tell(finding)
    bad = [finding for finding in findings if finding.state == doctor.BAD]
    print(f"{len(bad)} thing(s) to mend before a run can work" if bad else "a run can work here")
    return 1 if bad else 0
