"""Works on failed series of a RESULTS again, with the settings of its last run unless others are named."""

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from imaging_pipeline.arguments import (
    add_compute,
    add_quiet,
    add_results,
    add_settings,
    carry_out,
    compute_options,
    parser_for,
    settings_of,
)
from imaging_pipeline.console import say
from imaging_pipeline.errors import Code
from imaging_pipeline.execution import Request, execute
from imaging_pipeline.identity import known_keys
from imaging_pipeline.records import Status
from imaging_pipeline.results.last_run import read_last_run
from imaging_pipeline.results.receipt import read_receipts
from imaging_pipeline.round import Exit
from imaging_pipeline.settings import IdentitySettings
from imaging_pipeline.stores import Store, open_store

EXAMPLES = """\
examples:
  imaging-pipeline rerun RESULTS --failed                          # every series that failed
  imaging-pipeline rerun RESULTS --failed --code out-of-memory --set spark.task_cpus=4
  imaging-pipeline rerun RESULTS --failed --code worker-crash      # those that were given up too
  imaging-pipeline rerun RESULTS --failed --dry-run                # which ones

exit codes: those of imaging_pipeline.run; 0 too where nothing has failed
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: Arguments without the program's name; None: those of this process.

    Returns:
        The exit code.
    """
    return carry_out(_rerun, command_line().parse_args(argv), interrupted=Exit.UNEXPECTED)


def _rerun(arguments: argparse.Namespace) -> int:
    given = settings_of(arguments)
    out = open_store(arguments.results, given.storage)
    last = _last_run(out, given.identity)
    options = {"force": False, **compute_options(arguments)}
    settings = settings_of(arguments, options, saved=last["settings"])
    failed = _failed(out, last["model"]["name"], frozenset(arguments.code))
    if not failed:
        say(f"nothing to do: no series failed{' with ' * bool(arguments.code)}{' or '.join(arguments.code)}")
        return Exit.OK
    request = Request(
        studies=arguments.studies or last["studies"],
        out=arguments.results,
        command="rerun",
        dry_run=arguments.dry_run,
        only=failed,
        quiet=arguments.quiet,
    )
    return execute(request, settings)


def _last_run(out: Store, identity: IdentitySettings) -> dict[str, Any]:
    content = read_last_run(out, known_keys(out, identity).seal_key)
    return {"settings": content["settings"], "model": content["model"], "studies": content.get("studies", "")}


def _failed(out: Store, model: str, codes: frozenset[str]) -> frozenset[str]:
    """Keys of series that failed with one of these codes; with any, where none is named."""
    return frozenset(
        receipt.identity.series_key
        for receipt in read_receipts(out)
        if receipt.status is Status.FAILED
        and receipt.model_name == model
        and (not codes or receipt.reason_code in codes)
    )


def command_line() -> argparse.ArgumentParser:
    """Options of this command."""
    parser = parser_for("rerun", __doc__, EXAMPLES)
    add_results(parser)
    parser.add_argument("--failed", action="store_true", required=True, help="series that failed in their last try")
    parser.add_argument(
        "--code",
        action="append",
        default=[],
        choices=[code.value for code in Code],
        metavar="CODE",
        help="only those that failed for this reason; may be repeated",
    )
    parser.add_argument("--studies", metavar="STUDIES", help="where the input lies now; else where it lay")
    add_settings(parser)
    add_compute(parser)
    parser.add_argument("--dry-run", action="store_true", help="show which series would be worked on")
    add_quiet(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
