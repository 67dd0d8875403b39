"""Works on failed series of a RESULTS again, with the settings of its last run unless others are named."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from imaging_pipeline import __version__
from imaging_pipeline.console import say, show_error
from imaging_pipeline.errors import Code, PipelineError
from imaging_pipeline.execution import Request, execute, exit_code_of
from imaging_pipeline.identity import known_keys
from imaging_pipeline.records import Status
from imaging_pipeline.results.last_run import read_last_run
from imaging_pipeline.results.receipt import read_receipts
from imaging_pipeline.round import Exit
from imaging_pipeline.settings import IdentitySettings, resolve
from imaging_pipeline.stores import Store, open_store

EXAMPLES = """\
examples:
  python -m imaging_pipeline.rerun RESULTS --failed                         every series that failed
  python -m imaging_pipeline.rerun RESULTS --failed --code out-of-memory --set spark.task_cpus=4
  python -m imaging_pipeline.rerun RESULTS --failed --code worker-crash     those that were given up too
  python -m imaging_pipeline.rerun RESULTS --failed --dry-run               which ones

exit codes: those of imaging_pipeline.run; 0 too where nothing has failed
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: Arguments without the program's name; None: those of this process.

    Returns:
        The exit code.
    """
    arguments = command_line().parse_args(argv)
    try:
        return _rerun(arguments)
    except PipelineError as error:
        show_error(error)
        return exit_code_of(error)


def _rerun(arguments: argparse.Namespace) -> int:
    given = resolve(arguments.config, arguments.set)
    out = open_store(arguments.results, given.storage)
    last = _last_run(out, given.identity)
    settings = resolve(arguments.config, arguments.set, _options(arguments), saved=last["settings"])
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


def _options(arguments: argparse.Namespace) -> dict[str, Any]:
    given = {"spark.master": arguments.master, "device": arguments.device}
    given["spark_enabled"] = False if arguments.no_spark else None
    return {"force": False, **{key: value for key, value in given.items() if value is not None}}


def command_line() -> argparse.ArgumentParser:
    """Options of this command."""
    parser = argparse.ArgumentParser(
        prog="python -m imaging_pipeline.rerun",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("results", metavar="RESULTS", help="folder or URL of an earlier run's results")
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
    parser.add_argument("--config", metavar="FILE", type=Path, help="YAML file of settings over those of the last run")
    parser.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], help="one setting; may be repeated")
    parser.add_argument("--master", metavar="URL", help="Spark master, such as local[4] or spark://host:7077")
    parser.add_argument("--no-spark", action="store_true", help="run in this process, without Java")
    parser.add_argument("--device", metavar="NAME", help="auto, cpu, cuda, cuda:N, or several: cuda:0,cuda:1")
    parser.add_argument("--dry-run", action="store_true", help="show which series would be worked on")
    parser.add_argument("--quiet", action="store_true", help="nothing but the summary")
    parser.add_argument("--version", action="version", version=f"imaging_pipeline {__version__}")
    return parser


if __name__ == "__main__":
    sys.exit(main())
