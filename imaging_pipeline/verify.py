"""Whether a RESULTS is as its runs wrote it: outputs, receipts, index and audit log held against each other."""

import argparse
import sys
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

from imaging_pipeline.console import progress, say, show_error
from imaging_pipeline.errors import PipelineError
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
from imaging_pipeline.settings import Settings, resolve
from imaging_pipeline.stores import open_store

EXAMPLES = """\
examples:
  python -m imaging_pipeline.verify RESULTS
  python -m imaging_pipeline.verify s3://BUCKET/RESULTS
  python -m imaging_pipeline.verify RESULTS --set identity.secret_file=SECRET    where its runs were given one

It reads every output once, several at a time, and changes nothing.

exit codes:
  0 everything is as it was written   1 something is not: a line for each   2 usage, settings or no RESULTS
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; its exit code.

    Args:
        argv: Arguments without the program's name; None: those of this process.
    """
    arguments = command_line().parse_args(argv)
    try:
        return _verify(arguments.results, resolve(arguments.config, arguments.set))
    except PipelineError as error:
        show_error(error)
        return 2


def _verify(results: str, settings: Settings) -> int:
    out = open_store(results, settings.storage)
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
    parser = argparse.ArgumentParser(
        prog="python -m imaging_pipeline.verify",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("results", metavar="RESULTS", help="folder or URL that runs have written to")
    parser.add_argument("--config", metavar="FILE", type=Path, help="YAML file of settings")
    parser.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], help="one setting; may be repeated")
    return parser


if __name__ == "__main__":
    sys.exit(main())
