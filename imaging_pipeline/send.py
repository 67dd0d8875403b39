"""Send what RESULTS holds and a PACS has not got yet: the DICOM objects that receipts of finished series name."""

import argparse
import logging
import sys
import warnings
from collections.abc import Sequence

from pydantic import ValidationError

from imaging_pipeline.arguments import add_results, add_settings, carry_out, parser_for, settings_of
from imaging_pipeline.console import Screen, show_stopping
from imaging_pipeline.delivery import Delivery
from imaging_pipeline.errors import Code, PipelineError
from imaging_pipeline.identity import known_keys
from imaging_pipeline.outbox import Dispatch, Outbox
from imaging_pipeline.pacs.settings import SendSettings
from imaging_pipeline.pacs.tls import check_files
from imaging_pipeline.results import layout
from imaging_pipeline.results.audit import Audit
from imaging_pipeline.results.last_run import read_last_run
from imaging_pipeline.results.receipt import read_receipts
from imaging_pipeline.round import Exit
from imaging_pipeline.stopping import Stop
from imaging_pipeline.stores import Store, open_store
from imaging_pipeline.stores.store import unreachable

EXAMPLES = """\
examples:
  imaging-pipeline send RESULTS --send ARCHIVE@pacs.example:104
  imaging-pipeline send RESULTS --send https://pacs.example/dicom-web/studies --set send.token_file=token.txt
  imaging-pipeline send RESULTS               # where the last run of RESULTS sent to

exit codes:
  0 everything is there   1 unexpected fault   2 usage or settings   5 stopped by SIGTERM or Ctrl-C
  7 something has not arrived: the same command sends what is left

Not a medical device; not for clinical use.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; its exit code.

    Args:
        argv: Arguments without the program's name; None: those of this process.
    """
    arguments = command_line().parse_args(argv)
    logging.getLogger().addHandler(logging.NullHandler())  # what went wrong is said once, in the summary
    warnings.simplefilter("ignore")
    return carry_out(_send, arguments, interrupted=Exit.STOPPED)


def _send(arguments: argparse.Namespace) -> Exit:
    settings = settings_of(arguments, {"send.destination": arguments.send or None})
    out = open_store(arguments.results, settings.storage)
    _check_receipts(out)
    audit = Audit(out=out, seal_key=known_keys(out, settings.identity).seal_key)
    send = settings.send if settings.send.destination else _as_last_run(out, audit.seal_key)
    check_files(send)
    stop = Stop(show_stopping)
    outbox = Outbox(Delivery(out, send), stopping=lambda: stop.requested)
    with stop.listening(), audit.attending("send", destination=send.destination) as outcome:
        with outbox.open():
            outbox.put(read_receipts(out))
            dispatch = outbox.settle()
        exit_code = _exit_code(dispatch, stopped=stop.requested)
        outcome.update(exit_code=exit_code, sent=dispatch.n_sent, already_sent=dispatch.n_there)
    Screen(quiet=False, verbose=False).dispatch(dispatch)
    return exit_code


def _exit_code(dispatch: Dispatch, *, stopped: bool) -> Exit:
    if not dispatch.falls_short:
        return Exit.OK
    return Exit.STOPPED if stopped else Exit.NOT_SENT


def _check_receipts(out: Store) -> None:
    """Refuse a place that holds no results.

    Raises:
        PipelineError: `usage`, `store-unreachable`.
    """
    try:
        found = next(iter(out.list(layout.RECEIPTS)), None)
    except FileNotFoundError:
        found = None
    except OSError as error:
        raise unreachable(out, error) from None
    if found is None:
        raise PipelineError(Code.USAGE, f"there are no receipts in {out}", "name a folder or URL that holds results")


def _as_last_run(out: Store, seal_key: bytes) -> SendSettings:
    """How the last run into RESULTS sent.

    Raises:
        PipelineError: `usage`, `run-edited`.
    """
    hint = "name a destination by --send, and a folder or URL that holds results"
    try:
        send = SendSettings.model_validate(read_last_run(out, seal_key)["settings"].get("send", {}))
    except PipelineError as error:
        if error.code is not Code.USAGE:
            raise
        raise PipelineError(Code.USAGE, f"{out} does not say where to send to: {error.message}", hint) from None
    except (KeyError, AttributeError, ValidationError) as error:
        raise PipelineError(Code.USAGE, f"{out} does not say where to send to: {error}", hint) from None
    if not send.destination:
        raise PipelineError(Code.USAGE, f"the last run into {out} sent nothing", hint)
    return send


def command_line() -> argparse.ArgumentParser:
    """Options of this command."""
    parser = parser_for("send", __doc__, EXAMPLES)
    add_results(parser)
    parser.add_argument("--send", metavar="DEST", help="AE@host:port, or https://.../studies")
    add_settings(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
