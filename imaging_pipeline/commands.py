"""All commands under one name: `imaging-pipeline COMMAND ...`, or `python -m imaging_pipeline COMMAND ...`."""

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

from imaging_pipeline import __version__

COMMANDS = {
    "run": "segment every series of a folder of DICOM studies, or turn it into NIfTI",
    "rerun": "work on failed series again",
    "query": "ask RESULTS in SQL, or one of the questions that are ready",
    "compare": "masks of two runs or two models against each other",
    "report": "write report.html anew",
    "view": "masks over images in the browser",
    "verify": "whether RESULTS is as its runs wrote it",
    "index": "status of the index, or make it anew from the receipts",
    "send": "send DICOM objects that a PACS has not got yet",
    "receive": "file what a PACS sends into a folder",
    "models": "list, verify, export and seal models",
    "completion": "print the completion of all this for a shell",
}
"""Names of the modules that are commands, and what they do. They are imported when they are asked for."""

_EPILOG = """\
examples:
  imaging-pipeline run STUDIES --out RESULTS --dry-run     # every series, and why it is taken or skipped
  imaging-pipeline run STUDIES --out RESULTS
  imaging-pipeline query RESULTS --flags                   # what somebody should look at
  imaging-pipeline COMMAND --help                          # options, examples and exit codes of a command

Not a medical device; not for clinical use.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; its exit code.

    Args:
        argv: Name of the command and its arguments; None: those of this process.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] not in COMMANDS:
        parser = _names()
        parser.parse_args(words or ["--help"])
        parser.error("name a command first")
    return int(import_module(f"imaging_pipeline.{words[0]}").main(words[1:]))


def _names() -> argparse.ArgumentParser:
    """Names of the commands, without their options: no command is imported for it."""
    parser = argparse.ArgumentParser(
        prog="imaging-pipeline",
        description="From DICOM studies to masks on the scanner's own voxels, and an index that explains every series.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"imaging_pipeline {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, text in COMMANDS.items():
        commands.add_parser(name, help=text, add_help=False)
    return parser
