"""The index of a RESULTS and its measurements: what they are made of, and how they are made anew of the receipts."""

import argparse
import sys
from collections.abc import Sequence

from imaging_pipeline.arguments import add_results, add_settings, carry_out, parser_for, settings_of
from imaging_pipeline.console import say
from imaging_pipeline.errors import Code, PipelineError
from imaging_pipeline.identity import known_keys
from imaging_pipeline.results import measurements
from imaging_pipeline.results.audit import Audit
from imaging_pipeline.results.index import SERIES
from imaging_pipeline.results.layout import open_results
from imaging_pipeline.results.lease import hold
from imaging_pipeline.results.receipt import read_receipts, receipt_paths
from imaging_pipeline.results.tables import Form, Kind, State, kind_of, open_table
from imaging_pipeline.settings import Settings
from imaging_pipeline.stores import Store, open_store, permissions

EXAMPLES = """\
examples:
  imaging-pipeline index status RESULTS
  imaging-pipeline index rebuild RESULTS
  imaging-pipeline index rebuild RESULTS --set index.format=parquet

rebuild reads nothing but receipts, and the measurements beside the masks. A table that can be read is replaced by one
commit, and who reads an older version goes on reading it; a damaged one is set aside as index.damaged (in object
stores: removed) and written anew. Without --set index.format they stay Delta or Parquet as the index is. While a run is
at work on RESULTS, it waits or is refused.

exit codes:
  0 done   2 usage, settings, no RESULTS, or an index that cannot be read or written
  6 a run is at work on RESULTS
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; its exit code.

    Args:
        argv: Arguments without the program's name; None: those of this process.
    """
    return carry_out(_index, command_line().parse_args(argv))


def _index(arguments: argparse.Namespace) -> int:
    settings = settings_of(arguments)
    out = open_store(arguments.results, settings.storage, settings.output.file_mode)
    wanted = any(text.startswith("index.format=") for text in arguments.set)
    if arguments.verb == "status":
        return _status(out)
    with permissions(settings.output.file_mode):
        return _rebuild(out, settings, settings.index.format if wanted else None)


def _status(out: Store) -> int:
    n_receipts = len(receipt_paths(out))
    for form in (SERIES, measurements.form(out)):
        kind = kind_of(out, form)
        state = None if kind is None else open_table(out, form, kind).state()
        if kind is not None and state is not None:
            say(f"{_words(kind, form, state)}; {n_receipts} receipts")
        elif form is SERIES:
            say(f"no index; {n_receipts} receipts")
    return 0


def _rebuild(out: Store, settings: Settings, wanted: Kind | None) -> int:
    audit = Audit(out=out, seal_key=known_keys(out, settings.identity).seal_key)
    open_results(out)
    kind: Kind = wanted or kind_of(out, SERIES) or settings.index.format
    with (
        hold(out, "index rebuild", settings.lock, say) as lease,
        audit.attending("index rebuild", format=kind) as outcome,
    ):
        n_receipts = len(receipt_paths(out))
        state = _made_anew(out, SERIES, kind, settings)
        lease.check()
        outcome.update(exit_code=0, rows=state.n_rows, index_version=state.version)
        say(f"{_words(kind, SERIES, state)}; from {n_receipts} receipts")
        form = measurements.form(out)
        if kind_of(out, form) is not None or any(receipt.measurements_path for receipt in read_receipts(out)):
            say(_words(kind, form, _made_anew(out, form, kind, settings)))
    if state.n_rows < n_receipts:
        raise PipelineError(
            Code.RECEIPT_DAMAGED,
            f"{n_receipts - state.n_rows} of {n_receipts} receipts cannot be read and have no row",
            "python -m imaging_pipeline.verify RESULTS names them; the next run computes these series anew",
        )
    return 0


def _made_anew(out: Store, form: Form, kind: Kind, settings: Settings) -> State:
    if kind_of(out, form) not in (None, kind):
        out.set_aside(form.folder)
    table = open_table(out, form, kind, settings.index)
    table.rebuild(lambda: read_receipts(out))
    state = table.state()
    assert state is not None
    return state


def _words(kind: Kind, form: Form, state: State) -> str:
    version = "" if state.version is None else f", version {state.version}"
    return f"{kind} {form.folder}: {state.n_rows} rows in {state.n_files} files of {state.size_bytes} bytes{version}"


def command_line() -> argparse.ArgumentParser:
    """Options of this command."""
    parser = parser_for("index", __doc__, EXAMPLES)
    common = argparse.ArgumentParser(add_help=False)
    add_results(common)
    add_settings(common)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    verbs.add_parser("status", parents=[common], help="rows, files, size and version")
    verbs.add_parser("rebuild", parents=[common], help="write it anew from the receipts alone")
    return parser


if __name__ == "__main__":
    sys.exit(main())
