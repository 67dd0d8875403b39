"""Whether a RESULTS is as its runs wrote it: outputs, receipts, index and audit log held against each other."""

import argparse
import sys
from collections.abc import Sequence
from itertools import chain

from imaging_pipeline.arguments import add_results, add_settings, carry_out, parser_for, settings_of
from imaging_pipeline.console import progress, say
from imaging_pipeline.identity import known_keys
from imaging_pipeline.results.audit import Audit
from imaging_pipeline.results.check import (
    Flaw,
    check_files,
    check_index,
    check_last_run,
    check_log,
    check_measurements,
    check_receipts,
)
from imaging_pipeline.results.receipt import receipt_paths
from imaging_pipeline.stores import open_store

EXAMPLES = """\
examples:
  imaging-pipeline verify RESULTS
  imaging-pipeline verify s3://BUCKET/RESULTS
  imaging-pipeline verify RESULTS --set identity.secret_file=SECRET    # where its runs were given one

It reads every output once, several at a time, and changes nothing.

exit codes:
  0 everything is as it was written   1 something is not: a line for each   2 usage, settings or no RESULTS
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; its exit code.

    Args:
        argv: Arguments without the program's name; None: those of this process.
    """
    return carry_out(_verify, command_line().parse_args(argv))


def _verify(arguments: argparse.Namespace) -> int:
    settings = settings_of(arguments)
    out = open_store(arguments.results, settings.storage)
    audit = Audit(out=out, seal_key=known_keys(out, settings.identity).seal_key)
    paths = receipt_paths(out)
    with progress("receipts", len(paths)) as advance:
        told = check_receipts(out, audit.seal_key, paths, advance)
    log, breaks = check_log(audit, told.run_ids)
    found = (
        *(told.flaws, check_files(out, told.outputs)),
        *(check_index(out, told.rows), check_measurements(out, told.measured)),
    )
    n_flaws = 0
    for flaw in chain(*found, check_last_run(out, audit.seal_key), breaks):
        n_flaws += 1
        say(_line(flaw))
    for text in log.unended:
        say(f"note    {text}: no end, it was killed or is still at work")
    counts = f"{len(paths)} receipts, {len(told.outputs)} outputs, {log.n_lines} lines of the audit log"
    say(f"{counts}: " + (f"{n_flaws} not as written" if n_flaws else "all as written"))
    return 1 if n_flaws else 0


def _line(flaw: Flaw) -> str:
    return f"{flaw.code}: {flaw.message}; {flaw.hint}"


def command_line() -> argparse.ArgumentParser:
    """Options of this command."""
    parser = parser_for("verify", __doc__, EXAMPLES)
    add_results(parser)
    add_settings(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
