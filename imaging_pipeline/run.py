"""The main job: a folder of DICOM studies in, masks on the scanner's voxels and an index of every series out."""

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from imaging_pipeline import __version__
from imaging_pipeline.console import show_error
from imaging_pipeline.errors import Code, PipelineError
from imaging_pipeline.execution import Request, execute, exit_code_of
from imaging_pipeline.round import Exit
from imaging_pipeline.settings import resolve

EXAMPLES = """\
examples:
  python -m imaging_pipeline.run sample_data/studies --out results
  python -m imaging_pipeline.run STUDIES --out RESULTS --dry-run --no-spark     what would be done, and why
  python -m imaging_pipeline.run STUDIES --out VOLUMES --model none             DICOM to NIfTI, in parallel
  python -m imaging_pipeline.run INTAKE --out RESULTS --watch 60                again every minute, until stopped
  python -m imaging_pipeline.run s3://BUCKET/STUDIES --out s3://BUCKET/RESULTS
  python -m imaging_pipeline.run STUDIES --out RESULTS --set index.format=parquet --master 'local[4]'

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
    try:
        return execute(_request(arguments), resolve(arguments.config, arguments.set, _options(arguments)))
    except PipelineError as error:
        show_error(error)
        return exit_code_of(error)
    except KeyboardInterrupt:
        show_error(PipelineError(Code.USAGE, "interrupted", "run again to go on: what is done stays done"))
        return Exit.UNEXPECTED


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
    """Named options as settings; those not given leave the setting alone."""
    named: dict[str, Callable[[], Any]] = {
        "model": lambda: arguments.model,
        "device": lambda: arguments.device,
        "spark.master": lambda: arguments.master,
        "spark_enabled": lambda: False if arguments.no_spark else None,
        "segment.tta": lambda: True if arguments.tta else None,
        "models.ensemble": lambda: True if arguments.ensemble else None,
        "output.save_image": lambda: True if arguments.save_image else None,
        "output.formats": lambda: _listed(arguments.format),
        "output.save_probabilities": lambda: True if arguments.save_probabilities else None,
        "send.destination": lambda: arguments.send,
        "force": lambda: True if arguments.force else None,
    }
    return {key: value() for key, value in named.items() if value() is not None}


def _listed(text: str | None) -> list[str] | None:
    return None if text is None else [item.strip() for item in text.split(",")]


def command_line() -> argparse.ArgumentParser:
    """Options of this command."""
    parser = argparse.ArgumentParser(
        prog="python -m imaging_pipeline.run",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("studies", metavar="STUDIES", help="folder or URL of DICOM files, nested in any way")
    parser.add_argument("--out", metavar="RESULTS", required=True, help="folder or URL for masks, receipts and index")
    parser.add_argument("--model", metavar="NAME", help="bundle name or path, or none for volumes only")
    parser.add_argument("--config", metavar="FILE", type=Path, help="YAML file of settings")
    parser.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], help="one setting; may be repeated")
    parser.add_argument("--master", metavar="URL", help="Spark master, such as local[4] or spark://host:7077")
    parser.add_argument("--no-spark", action="store_true", help="run in this process, without Java")
    parser.add_argument("--device", metavar="NAME", help="auto, cpu, cuda, cuda:N, or several: cuda:0,cuda:1")
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
    parser.add_argument("--quiet", action="store_true", help="nothing but the summary")
    parser.add_argument("--verbose", action="store_true", help="also name files that are no DICOM")
    parser.add_argument("--version", action="version", version=f"imaging_pipeline {__version__}")
    return parser


def _positive(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is no positive number of seconds")
    return seconds


if __name__ == "__main__":
    sys.exit(main())
