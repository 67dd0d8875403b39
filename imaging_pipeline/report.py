"""report.html of a RESULTS, written anew: all series on one page, for people."""

import argparse
import sys
from collections.abc import Sequence

from imaging_pipeline.arguments import add_results, add_settings, carry_out, parser_for, settings_of
from imaging_pipeline.console import say
from imaging_pipeline.errors import Code, PipelineError
from imaging_pipeline.results.index import kind_in
from imaging_pipeline.results.layout import REPORT
from imaging_pipeline.results.page import write_report
from imaging_pipeline.stores import open_store, permissions

EXAMPLES = """\
examples:
  imaging-pipeline report RESULTS
  imaging-pipeline report RESULTS --embed      # pictures within the page: one file to send to somebody
  imaging-pipeline report s3://BUCKET/RESULTS

Every run writes it, unless report.enabled is false; this writes it again, with reviews that have come since.

exit codes:
  0 done   2 usage, settings, no RESULTS, or an index that cannot be read
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; its exit code.

    Args:
        argv: Arguments without the program's name; None: those of this process.
    """
    return carry_out(_report, command_line().parse_args(argv))


def _report(arguments: argparse.Namespace) -> int:
    settings = settings_of(arguments)
    out = open_store(arguments.results, settings.storage, settings.output.file_mode)
    if kind_in(out) is None:
        raise PipelineError(Code.USAGE, f"{out} holds no index", "name a RESULTS that a run has written to")
    with permissions(settings.output.file_mode):
        n_series = write_report(out, settings.report.max_series, embed=arguments.embed)
    say(f"{out}/{REPORT}: {n_series} series")
    return 0


def command_line() -> argparse.ArgumentParser:
    """Options of this command."""
    parser = parser_for("report", __doc__, EXAMPLES)
    add_results(parser)
    parser.add_argument("--embed", action="store_true", help="pictures within the page")
    add_settings(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
