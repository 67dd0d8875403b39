"""A viewer of a RESULTS in the browser: images with masks over them, and a verdict on each."""

import argparse
import getpass
import sys
from collections.abc import Sequence
from contextlib import suppress

from imaging_pipeline.arguments import add_results, add_settings, carry_out, parser_for, settings_of
from imaging_pipeline.console import say
from imaging_pipeline.errors import Code, PipelineError
from imaging_pipeline.results.index import kind_in
from imaging_pipeline.settings import Settings
from imaging_pipeline.stores import open_store, permissions
from imaging_pipeline.viewer.library import read_script
from imaging_pipeline.viewer.server import open_server
from imaging_pipeline.viewer.shown import Shown

EXAMPLES = """\
examples:
  imaging-pipeline view RESULTS
  imaging-pipeline view RESULTS --port 8765 --reviewer "Dr. Example"

Open the address that it prints in a browser on this machine (from elsewhere: ssh -L PORT:127.0.0.1:PORT HOST, with
--port). `make viewer` fetches what it draws with, once. Verdicts are rows of RESULTS/reviews, a Delta table. Images are
shown where runs were told to --save-image.

exit codes:
  0 ended by Ctrl-C   2 usage, settings, no RESULTS, or the library for drawing is missing
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; its exit code.

    Args:
        argv: Arguments without the program's name; None: those of this process.
    """
    return carry_out(_view, command_line().parse_args(argv))


def _view(arguments: argparse.Namespace) -> int:
    settings = settings_of(arguments)
    with permissions(settings.output.file_mode), suppress(KeyboardInterrupt):
        _serve(arguments, settings)
    return 0


def _serve(arguments: argparse.Namespace, settings: Settings) -> None:
    library = read_script()
    out = open_store(arguments.results, settings.storage, settings.output.file_mode)
    if kind_in(out) is None:
        raise PipelineError(Code.USAGE, f"{out} holds no index", "name a RESULTS that a run has written to")
    shown = Shown(out, arguments.reviewer)
    try:
        server, guard = open_server(shown, library, arguments.port)
    except OSError as error:
        message = f"port {arguments.port} of 127.0.0.1 cannot be opened: {error.strerror}"
        raise PipelineError(Code.USAGE, message, "leave --port away, or name another one") from None
    with server:
        say(f"{shown.refresh()} series of {out}: open {guard.url}\nCtrl-C ends it")
        sys.stdout.flush()
        server.serve_forever()


def command_line() -> argparse.ArgumentParser:
    """Options of this command."""
    parser = parser_for("view", __doc__, EXAMPLES)
    add_results(parser)
    parser.add_argument("--port", metavar="N", type=int, default=0, help="of 127.0.0.1; default: one that is free")
    parser.add_argument(
        "--reviewer", metavar="NAME", default=_user(), help="who the verdicts are of; default: the user"
    )
    add_settings(parser)
    return parser


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # containers run as numbers without names
        return "unknown"


if __name__ == "__main__":
    sys.exit(main())
