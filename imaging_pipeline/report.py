"""report.html of a RESULTS, written anew: all series on one page, for people."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from imaging_pipeline.console import say, show_error
from imaging_pipeline.errors import Code, PipelineError
from imaging_pipeline.results.index import kind_in
from imaging_pipeline.results.layout import REPORT
from imaging_pipeline.results.page import write_report
from imaging_pipeline.settings import Settings, resolve
from imaging_pipeline.stores import open_store, permissions

EXAMPLES = """\
examples:
  python -m imaging_pipeline.report RESULTS
  python -m imaging_pipeline.report RESULTS --embed      pictures within the page: one file to send to somebody
  python -m imaging_pipeline.report s3://BUCKET/RESULTS

Every run writes it, unless report.enabled is false; this writes it again, with reviews that have come since.

exit codes:
  0 done   2 usage, settings, no RESULTS, or an index that cannot be read
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; its exit code.

    Args:
        argv: Arguments without the program's name; None: those of this process.
    """
    arguments = command_line().parse_args(argv)
    try:
        return _report(arguments.results, resolve(arguments.config, arguments.set), embed=arguments.embed)
    except PipelineError as error:
        show_error(error)
        return 2


def _report(results: str, settings: Settings, *, embed: bool) -> int:
    out = open_store(results, settings.storage, settings.output.file_mode)
    if kind_in(out) is None:
        raise PipelineError(Code.USAGE, f"{out} holds no index", "name a RESULTS that a run has written to")
    with permissions(settings.output.file_mode):
        n_series = write_report(out, settings.report.max_series, embed=embed)
    say(f"{out}/{REPORT}: {n_series} series")
    return 0


def command_line() -> argparse.ArgumentParser:
    """Options of this command."""
    parser = argparse.ArgumentParser(
        prog="python -m imaging_pipeline.report",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("results", metavar="RESULTS", help="folder or URL that runs have written to")
    parser.add_argument("--embed", action="store_true", help="pictures within the page")
    parser.add_argument("--config", metavar="FILE", type=Path, help="YAML file of settings")
    parser.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], help="one setting; may be repeated")
    return parser


if __name__ == "__main__":
    sys.exit(main())
