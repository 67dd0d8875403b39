"""Receive instances by C-STORE into a folder that a run, or one that watches, takes its studies from."""

import argparse
import logging
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from imaging_pipeline.arguments import add_settings, carry_out, parser_for, settings_of
from imaging_pipeline.console import say
from imaging_pipeline.errors import Code, PipelineError
from imaging_pipeline.stopping import Stop
from imaging_pipeline.stores import is_url

EXAMPLES = """\
examples:
  imaging-pipeline receive --into INTAKE --port 11112
  imaging-pipeline receive --into INTAKE --address 0.0.0.0 --allow CT_SCANNER --allow ROUTER
  imaging-pipeline run INTAKE --out RESULTS --watch 60 --set intake.settle_seconds=60     # beside it

exit codes:
  0 ended by SIGTERM or Ctrl-C   2 usage or settings

Not a medical device; not for clinical use.
"""

_LOOK_SECONDS = 60.0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; its exit code.

    Args:
        argv: Arguments without the program's name; None: those of this process.
    """
    arguments = command_line().parse_args(argv)
    logging.getLogger().addHandler(logging.NullHandler())
    warnings.simplefilter("ignore")  # of values in what comes in: they would tell whose it is
    return carry_out(_receive, arguments)


def _receive(arguments: argparse.Namespace) -> int:
    settings, into = settings_of(arguments, _options(arguments)).receive, arguments.into
    if is_url(into):
        raise PipelineError(Code.USAGE, f"{into} is no folder", "name a folder of this machine by --into")
    from imaging_pipeline.pacs.inbox import open_inbox
    from imaging_pipeline.pacs.listener import listening

    stop = Stop(lambda: None)
    try:
        with stop.listening(), open_inbox(Path(into).resolve(), settings.reserve_mb << 20) as inbox:
            with listening(settings, inbox, say) as port:
                who = ", ".join(settings.allow) or "anybody"
                say(f"{settings.ae_title} listens at {settings.address}:{port} for {who}, into {inbox.root}")
                while not stop.wait(_LOOK_SECONDS):
                    pass
            say("ended")
    except OSError as error:
        message = f"cannot write to {into}: {error.strerror}"
        raise PipelineError(Code.OUT_NOT_WRITABLE, message, "name a folder that you may write to") from None
    return 0


def _options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Named options as settings; None for those that are not given."""
    return {
        "receive.port": arguments.port,
        "receive.address": arguments.address,
        "receive.ae_title": arguments.ae_title,
        "receive.allow": arguments.allow,
    }


def command_line() -> argparse.ArgumentParser:
    """Options of this command."""
    parser = parser_for("receive", __doc__, EXAMPLES)
    parser.add_argument("--into", metavar="STUDIES", required=True, help="folder that instances are filed in")
    parser.add_argument("--port", metavar="N", type=int, help="TCP port; 0: any that is free")
    parser.add_argument("--address", metavar="ADDRESS", help="where to listen, 127.0.0.1 unless said otherwise")
    parser.add_argument("--ae-title", metavar="TITLE", help="what senders have to call us")
    parser.add_argument("--allow", metavar="TITLE", action="append", help="a calling AE title; may be repeated")
    add_settings(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
