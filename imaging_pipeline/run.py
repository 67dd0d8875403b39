"""The main job: a folder of DICOM studies in, masks on the scanner's voxels and an index of every series out."""

import argparse
import logging
import sys
from collections.abc import Sequence
from typing import Any

from imaging_pipeline.arguments import (
    add_compute,
    add_quiet,
    add_settings,
    carry_out,
    compute_options,
    parser_for,
    settings_of,
)
from imaging_pipeline.execution import Request, execute
from imaging_pipeline.round import Exit

EXAMPLES = """\
examples:
  imaging-pipeline run sample_data/studies --out results
  imaging-pipeline run STUDIES --out RESULTS --dry-run --no-spark     # what would be done, and why
  imaging-pipeline run STUDIES --out VOLUMES --model none             # DICOM to NIfTI, in parallel
  imaging-pipeline run STUDIES --out RESULTS --format nifti,seg --send ARCHIVE@pacs.example:104
  imaging-pipeline run INTAKE --out RESULTS --watch 60                # again every minute, until stopped
  imaging-pipeline run s3://BUCKET/STUDIES --out s3://BUCKET/RESULTS
  imaging-pipeline run STUDIES --out RESULTS --set index.format=parquet --master 'local[4]'

exit codes:
  0 all eligible series are done   1 unexpected fault   2 usage, settings or environment
  3 no usable series               4 some series failed
  5 stopped by SIGTERM or Ctrl-C before all series were done: run again to go on
  6 another run works on the same RESULTS
  7 all eligible series are done, but not all that --send was to send has arrived

Not a medical device; not for clinical use.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: Arguments without the program's name; None: those of this process.

    Returns:
        The exit code.
    """
    parser = command_line()
    arguments = parser.parse_args(argv)
    if arguments.watch is not None and arguments.dry_run:
        parser.error("--watch and --dry-run exclude each other")
    logging.captureWarnings(True)
    return carry_out(_run, arguments, interrupted=Exit.UNEXPECTED)


def _run(arguments: argparse.Namespace) -> int:
    return execute(_request(arguments), settings_of(arguments, _options(arguments)))


def _request(arguments: argparse.Namespace) -> Request:
    return Request(
        studies=arguments.studies,
        out=arguments.out,
        command="run" if arguments.watch is None else "run --watch",
        dry_run=arguments.dry_run,
        watch=arguments.watch,
        quiet=arguments.quiet,
        verbose=arguments.verbose,
    )


def _options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Named options as settings; None for those that are not given."""
    return {
        **compute_options(arguments),
        "model": arguments.model,
        "segment.tta": arguments.tta or None,
        "models.ensemble": arguments.ensemble or None,
        "output.save_image": arguments.save_image or None,
        "output.formats": _listed(arguments.format),
        "output.save_probabilities": arguments.save_probabilities or None,
        "send.destination": arguments.send,
        "force": arguments.force or None,
    }


def _listed(text: str | None) -> list[str] | None:
    return None if text is None else [item.strip() for item in text.split(",")]


def command_line() -> argparse.ArgumentParser:
    """Options of this command."""
    parser = parser_for("run", __doc__, EXAMPLES)
    parser.add_argument("studies", metavar="STUDIES", help="folder or URL of DICOM files, nested in any way")
    parser.add_argument("--out", metavar="RESULTS", required=True, help="folder or URL for masks, receipts and index")
    parser.add_argument("--model", metavar="NAME", help="bundle name or path, or none for volumes only")
    add_settings(parser)
    add_compute(parser)
    parser.add_argument("--tta", action="store_true", help="average over mirror images, where the model allows it")
    parser.add_argument("--ensemble", action="store_true", help="average the networks of all folds of the model")
    parser.add_argument("--save-image", action="store_true", help="write the volume beside the mask")
    parser.add_argument(
        "--save-probabilities", action="store_true", help="write class probabilities beside the mask (float16, .npy)"
    )
    parser.add_argument("--format", metavar="LIST", help="forms of the mask: nifti,seg,rtstruct,sr (sr needs seg)")
    parser.add_argument("--dry-run", action="store_true", help="show every series and why it is taken or skipped")
    parser.add_argument(
        "--watch", metavar="SECONDS", type=_positive, help="look again so long after each pass, until SIGTERM or Ctrl-C"
    )
    parser.add_argument("--send", metavar="DEST", help="send DICOM outputs to AE@host:port or https://.../studies")
    parser.add_argument("--force", action="store_true", help="compute again what is already done")
    add_quiet(parser)
    parser.add_argument("--verbose", action="store_true", help="also name files that are no DICOM")
    return parser


def _positive(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is no positive number of seconds")
    return seconds


if __name__ == "__main__":
    sys.exit(main())
