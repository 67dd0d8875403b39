"""The main job: a folder of DICOM studies in, masks on the scanner's voxels and an index of every series out."""

import argparse
import contextlib
import logging
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import IntEnum
from pathlib import Path
from typing import Any

from imaging_pipeline import __version__
from imaging_pipeline.console import Screen, show_error
from imaging_pipeline.errors import Code, PipelineError
from imaging_pipeline.identity import open_keys
from imaging_pipeline.intake.listing import check_studies
from imaging_pipeline.intake.rules import SelectionRules, read_rules
from imaging_pipeline.intake.selection import select
from imaging_pipeline.intake.series import group_series
from imaging_pipeline.job import Job
from imaging_pipeline.ledger import Ledger, Tally
from imaging_pipeline.partition import skipped_result
from imaging_pipeline.records import SeriesTask, SkippedSeries, Status
from imaging_pipeline.results import layout
from imaging_pipeline.results.receipt import is_done, read_receipt
from imaging_pipeline.runner import LocalRunner, Runner
from imaging_pipeline.segment.bundle import Bundle, describe
from imaging_pipeline.settings import Settings, resolve

EXAMPLES = """\
examples:
  python -m imaging_pipeline.run sample_data/studies --out results
  python -m imaging_pipeline.run STUDIES --out RESULTS --dry-run --no-spark     what would be done, and why
  python -m imaging_pipeline.run STUDIES --out VOLUMES --model none             DICOM to NIfTI, in parallel
  python -m imaging_pipeline.run STUDIES --out RESULTS --set index.format=parquet --master 'local[4]'

exit codes:
  0 all eligible series are done   1 unexpected fault   2 usage, settings or environment
  3 no usable series               4 some series failed

Not a medical device; not for clinical use.
"""


class Exit(IntEnum):
    """Exit codes of the command."""

    OK = 0
    UNEXPECTED = 1
    USAGE = 2
    NOTHING_USABLE = 3
    SOME_FAILED = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a run is going to do."""

    todo: tuple[SeriesTask, ...]
    done: tuple[SeriesTask, ...]
    skipped: tuple[SkippedSeries, ...]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: Arguments without the program's name; None: those of this process.

    Returns:
        The exit code.
    """
    arguments = _parser().parse_args(argv)
    logging.captureWarnings(True)
    try:
        settings = resolve(arguments.config, arguments.set, _options(arguments))
        return _run(arguments, settings)
    except PipelineError as error:
        show_error(error)
        return Exit.USAGE
    except KeyboardInterrupt:
        show_error(PipelineError(Code.USAGE, "interrupted", "run again to go on: what is done stays done"))
        return Exit.UNEXPECTED


def _run(arguments: argparse.Namespace, settings: Settings) -> int:
    start = time.monotonic()
    screen = Screen(quiet=arguments.quiet, verbose=arguments.verbose)
    studies, out = Path(arguments.studies).resolve(), Path(arguments.out).resolve()
    check_studies(studies)
    bundle = None if settings.model == layout.VOLUMES_ONLY else describe(settings.model, settings.models)
    _check_device(settings, bundle, dry_run=arguments.dry_run)
    rules = read_rules(None if bundle is None else bundle.selection, settings.selection.file)
    job = Job(out=out, run_id=_run_id(), settings=settings, bundle=bundle)
    if not arguments.dry_run:
        layout.open_results(out)
        _log_to(out / layout.LOGS / f"{job.run_id}.log")
    with _runner(job, dry_run=arguments.dry_run) as runner:
        tally = Tally()
        plan = _plan(studies, job, rules, runner, tally, screen, dry_run=arguments.dry_run)
        if plan.todo and not arguments.dry_run:
            for line in runner.check_model(job):
                screen.say(line)
        if arguments.dry_run:
            screen.table((*plan.todo, *plan.done), plan.skipped, (task.identity.series_key for task in plan.done))
        else:
            _execute(plan, job, runner, tally, screen)
    if arguments.dry_run:
        return _exit_of_plan(plan)
    screen.summary(tally, time.monotonic() - start)
    return _exit_code(tally)


def _plan(
    studies: Path, job: Job, rules: SelectionRules, runner: Runner, tally: Tally, screen: Screen, *, dry_run: bool
) -> Plan:
    """Read headers, group and select series, and set aside what RESULTS already holds."""
    keys = open_keys(job.out, job.settings.identity, create=not dry_run)
    rows = runner.headers(studies, job.out, rules.keywords())
    planes = [row.plane for row in rows if row.plane is not None]
    others = [row.skipped for row in rows if row.skipped is not None]
    tally.files = Counter(item.code.value for item in others)
    tally.files["dicom"] = len({plane.path for plane in planes})
    grouped = group_series(planes, keys, job.settings)
    tally.duplicates = grouped.n_duplicates
    screen.files(tally, ((item.path, f"{item.code}: {item.message}") for item in others))
    tasks, refused = select(grouped.tasks, grouped.heads, rules, job.model_name)
    done = {task.identity.series_key for task in tasks if not job.settings.force and _already_done(task, job)}
    return Plan(
        todo=tuple(task for task in tasks if task.identity.series_key not in done),
        done=tuple(task for task in tasks if task.identity.series_key in done),
        skipped=(*grouped.skipped, *refused),
    )


def _already_done(task: SeriesTask, job: Job) -> bool:
    key = task.identity.series_key
    receipt = read_receipt(job.out, key, job.model_name)
    wanted = job.fingerprint(task.identity)
    output = job.settings.output
    return is_done(job.out, receipt, wanted, with_image=output.save_image, with_probabilities=output.save_probabilities)


def _execute(plan: Plan, job: Job, runner: Runner, tally: Tally, screen: Screen) -> None:
    """Work through the plan; every result goes to the screen and, in batches, into the index."""
    tally.already_done = len(plan.done)
    ledger = Ledger(job)
    for item in plan.skipped:
        result = skipped_result(item, job)
        tally.results.append(result)
        ledger.record_skipped(result)
    for task in plan.done:
        ledger.keep(task.identity)
    screen.start(len(plan.todo))
    exit_code = Exit.UNEXPECTED
    try:
        for result in runner.results(list(plan.todo), job) if plan.todo else ():
            tally.results.append(result)
            screen.result(result)
            ledger.record(result)
        exit_code = _exit_code(tally)
    finally:
        screen.stop()
        ledger.close(tally, exit_code)


@contextlib.contextmanager
def _runner(job: Job, *, dry_run: bool) -> Iterator[Runner]:
    if not job.settings.spark_enabled:
        yield LocalRunner()
        return
    from imaging_pipeline.spark import SparkRunner, open_session

    with tempfile.TemporaryDirectory(prefix="imaging-pipeline-") as scratch:
        folder = Path(scratch) if dry_run else job.out / layout.LOGS
        with open_session(job.settings, folder / f"{job.run_id}.spark.log") as session:
            yield SparkRunner(session, job.settings)


def _exit_of_plan(plan: Plan) -> Exit:
    """What a run would end in if every series that is taken were done."""
    if any(item.code.is_failure for item in plan.skipped):
        return Exit.SOME_FAILED
    return Exit.OK if plan.todo or plan.done else Exit.NOTHING_USABLE


def _exit_code(tally: Tally) -> Exit:
    if tally.of(Status.FAILED):
        return Exit.SOME_FAILED
    return Exit.OK if tally.of(Status.DONE) or tally.already_done else Exit.NOTHING_USABLE


def _check_device(settings: Settings, bundle: Bundle | None, *, dry_run: bool) -> None:
    """A CUDA device that is asked for on this machine must be here; a cluster's devices are its own business."""
    here = not settings.spark_enabled or settings.spark.master.startswith("local[")
    if bundle is not None and here and not dry_run and settings.device.startswith("cuda"):
        from imaging_pipeline.segment.device import pick_device

        pick_device(settings.device)


def _run_id() -> str:
    return datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%f")[:-3] + "Z"


def _log_to(path: Path) -> None:
    """Warnings and tracebacks go to the run's log, never to the screen."""
    handler = logging.FileHandler(path, encoding="utf-8", delay=True)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.getLogger().handlers[:] = [handler]
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)  # it logs a traceback for every plugin that fails
    warnings.simplefilter("once")


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
        "output.save_probabilities": lambda: True if arguments.save_probabilities else None,
        "force": lambda: True if arguments.force else None,
    }
    return {key: value() for key, value in named.items() if value() is not None}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m imaging_pipeline.run",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("studies", metavar="STUDIES", help="folder of DICOM files, nested in any way")
    parser.add_argument("--out", metavar="RESULTS", required=True, help="folder for masks, receipts and index")
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
    parser.add_argument("--dry-run", action="store_true", help="show every series and why it is taken or skipped")
    parser.add_argument("--force", action="store_true", help="compute again what is already done")
    parser.add_argument("--quiet", action="store_true", help="nothing but the summary")
    parser.add_argument("--verbose", action="store_true", help="also name files that are no DICOM")
    parser.add_argument("--version", action="version", version=f"imaging_pipeline {__version__}")
    return parser


if __name__ == "__main__":
    sys.exit(main())
