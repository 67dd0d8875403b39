"""A run from its settings to its exit code: stores, lock, audit, runner and rounds, each opened and closed in order."""

import contextlib
import logging
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from imaging_pipeline.console import Screen
from imaging_pipeline.delivery import Delivery
from imaging_pipeline.errors import Code, PipelineError
from imaging_pipeline.events import JsonLines
from imaging_pipeline.host import give_back_large_pieces
from imaging_pipeline.identity import open_keys
from imaging_pipeline.intake.listing import check_studies
from imaging_pipeline.intake.rules import read_rules
from imaging_pipeline.job import Job
from imaging_pipeline.logs import LogFile, log_to
from imaging_pipeline.monitoring import Observer, observing
from imaging_pipeline.outbox import NoOutbox, Outbox
from imaging_pipeline.pacs.tls import check_files
from imaging_pipeline.results import layout
from imaging_pipeline.results.audit import Audit
from imaging_pipeline.results.delta import check_place
from imaging_pipeline.results.lease import hold
from imaging_pipeline.results.sweep import sweep
from imaging_pipeline.round import Exit, Known, Round
from imaging_pipeline.runner import LocalRunner, Runner
from imaging_pipeline.segment.bundle import Bundle, describe
from imaging_pipeline.settings import LOCAL, Settings, is_submitted
from imaging_pipeline.stopping import Stop
from imaging_pipeline.stores import LocalStore, open_store, permissions
from imaging_pipeline.watch import Watch


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a run is to do.

    Attributes:
        studies: Folder or URL of the input.
        out: Folder or URL of RESULTS.
        command: What the audit log calls it.
        dry_run: Say what would be done.
        watch: Look again so many seconds after each pass; None: one pass.
        only: Series to work on, done or not, by key; None: all that are not done.
        quiet: Nothing but the summary.
        verbose: Also name files that are no DICOM.
    """

    studies: str
    out: str
    command: str
    dry_run: bool = False
    watch: float | None = None
    only: frozenset[str] | None = None
    quiet: bool = False
    verbose: bool = False


def execute(request: Request, settings: Settings) -> int:
    """Do it; the exit code.

    Raises:
        PipelineError: Why it cannot be done, or not to its end.
    """
    with permissions(settings.output.file_mode):
        return _execute(request, settings)


def _execute(request: Request, settings: Settings) -> int:
    screen = Screen(quiet=request.quiet, verbose=request.verbose)
    studies = open_store(request.studies, settings.storage)
    out = open_store(request.out, settings.storage, settings.output.file_mode)
    if isinstance(studies, LocalStore):
        check_studies(studies.root)
    elif settings.spark_enabled and settings.intake.transport == "content":
        message = "intake.transport is content, which reads folders; files of stores are opened by URL"
        raise PipelineError(Code.SETTINGS_INVALID, message, "leave intake.transport at path")
    bundle = None if settings.model == layout.VOLUMES_ONLY else describe(settings.model, settings.models)
    _check_device(settings, bundle, dry_run=request.dry_run)
    _check_formats(settings, bundle)
    if settings.index.format == "delta":
        check_place(request.out)
    rules = read_rules(None if bundle is None else bundle.selection, settings.selection.file)
    stop, known = Stop(screen.stopping), Known()
    first = Job(out=out, run_id=_run_id(), settings=settings, bundle=bundle)

    def next_round(runner: Runner, job: Job, run_id: str) -> Round:
        return Round(
            studies=studies,
            job=replace(job, run_id=run_id),
            rules=rules,
            runner=runner,
            screen=screen,
            stop=stop,
            only=request.only,
            known=known,
            outbox=outbox,
            observer=observer,
        )

    @contextlib.contextmanager
    def open_rounds(job: Job) -> Iterator[Iterator[Round]]:
        """Passes on one runner; their logs are in RESULTS when the block ends."""
        dry_run = request.dry_run
        with _logs(job, dry_run=dry_run) as logs, _runner(job, logs, screen, dry_run=dry_run) as runner:
            yield (next_round(runner, job, run_id) for run_id in chain([job.run_id], iter(_run_id, None)))

    give_back_large_pieces()
    with stop.listening(), _held(first, request, stop, screen) as (job, outcome):
        rounds_of = partial(open_rounds, job)
        with _observer(job, request, screen) as observer, _outbox(job, request, stop, screen) as outbox:
            if request.watch is not None:
                exit_code = Watch(rounds_of, request.watch, screen, stop).run()
            else:
                with rounds_of() as rounds:
                    exit_code = _once(next(rounds), dry_run=request.dry_run)
        outcome["exit_code"] = int(exit_code)
    return exit_code


@contextlib.contextmanager
def _held(job: Job, request: Request, stop: Stop, screen: Screen) -> Iterator[tuple[Job, dict[str, Any]]]:
    """RESULTS, made where it is not there, for this run alone; its job with the key of RESULTS, and its audit entry.

    A dry run leaves RESULTS as it is.
    """
    if request.dry_run:
        yield _with_key(job, create=False), {}
        return
    layout.open_results(job.out)
    with hold(job.out, f"{request.command} {job.run_id}", job.settings.lock, screen.say) as lease:
        lease.when_lost(stop.ask)
        if n_swept := sweep(job.out):
            screen.say(f"removed {n_swept} unfinished files and markers of runs that were killed")
        job = _with_key(job, create=True)
        model = {"name": job.model_name, "sha256": "" if job.bundle is None else job.bundle.digest}
        facts = {"run_id": job.run_id, "model": model, "settings_sha256": job.settings.digest()}
        with Audit(out=job.out, seal_key=job.seal_key).attending(request.command, **facts) as outcome:
            yield job, outcome
            lease.check()


def _with_key(job: Job, *, create: bool) -> Job:
    return replace(job, seal_key=open_keys(job.out, job.settings.identity, create=create).seal_key)


def _once(round_: Round, *, dry_run: bool) -> Exit:
    plan = round_.look(dry_run=dry_run)
    round_.tell(plan)
    if not dry_run:
        return round_.work(plan)
    tasks = (task.unpack() for task in chain(plan.todo, plan.done))
    done = plan.done.column("series_key").to_pylist()
    round_.screen.table(tasks, (item.unpack() for item in plan.skipped), plan.given_up, done)
    return plan.exit_code()


@contextlib.contextmanager
def _outbox(job: Job, request: Request, stop: Stop, screen: Screen) -> Iterator[Outbox | NoOutbox]:
    """What sends beside the work, where the settings name a destination; it has ended with the block."""
    send = job.settings.send
    if request.dry_run or not send.destination:
        yield NoOutbox()
        return
    check_files(send)
    watches = request.watch is not None
    outbox = Outbox(Delivery(job.out, send), stopping=lambda: stop.requested, beside=watches)
    with outbox.open():
        yield outbox
    if watches:
        screen.dispatch(outbox.dispatch())


@contextlib.contextmanager
def _observer(job: Job, request: Request, screen: Screen) -> Iterator[Observer]:
    """Who looks on; nobody at a dry run."""
    if request.dry_run:
        yield Observer()
        return
    with observing(job, screen.say, _end_of) as observer:
        yield observer


@contextlib.contextmanager
def _logs(job: Job, *, dry_run: bool) -> Iterator[Path]:
    """Folder of this machine for the run's logs: they are in RESULTS when the block ends, but for a dry run's."""
    if dry_run:
        with tempfile.TemporaryDirectory(prefix="imaging-pipeline-") as scratch:
            yield Path(scratch)
        return
    with job.out.on_disk(layout.LOGS) as folder:
        details, is_text = job.settings.identity.error_details, job.settings.logs.format == "text"
        file = folder / f"{job.run_id}.{'log' if is_text else 'jsonl'}"
        form = None if is_text else JsonLines(job.run_id, details=details)
        log_to(LogFile(file), details=details, form=form)
        try:
            yield folder
        finally:
            log_to(logging.NullHandler())  # the folder may be a temporary one


@contextlib.contextmanager
def _runner(job: Job, logs: Path, screen: Screen, *, dry_run: bool) -> Iterator[Runner]:
    if not job.settings.spark_enabled:
        with contextlib.closing(LocalRunner(logs / f"{job.run_id}.log")) as runner:
            if not dry_run:
                runner.prepare(job)
            yield runner
        return
    from imaging_pipeline.spark import SparkRunner, open_session

    bundle = None if dry_run else job.bundle
    with contextlib.ExitStack() as stack:
        with screen.busy("starting Spark"):
            session = stack.enter_context(open_session(job.settings, logs / f"{job.run_id}.spark.log", bundle))
        spark_runner = SparkRunner(session, job.settings)
        if not dry_run:
            spark_runner.prepare(job)
        yield spark_runner


def _check_device(settings: Settings, bundle: Bundle | None, *, dry_run: bool) -> None:
    """A CUDA device that is asked for on this machine must be here; a cluster's devices are its own business."""
    master = settings.spark.master or ("" if is_submitted() else LOCAL)
    here = not settings.spark_enabled or master.startswith("local[")
    if bundle is not None and here and not dry_run and settings.device.startswith("cuda"):
        from imaging_pipeline.segment.device import pick_device

        pick_device(settings.device)


def _check_formats(settings: Settings, bundle: Bundle | None) -> None:
    if bundle is None and settings.output.dicom_formats:
        message = f"output.formats asks for {', '.join(settings.output.dicom_formats)}, and --model none makes no mask"
        raise PipelineError(Code.SETTINGS_INVALID, message, "name a model, or leave --format away")


def _run_id() -> str:
    return datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%f")[:-3] + "Z"


def _end_of(error: BaseException) -> int:
    return exit_code_of(error) if isinstance(error, PipelineError) else Exit.UNEXPECTED


def exit_code_of(error: PipelineError) -> Exit:
    """What the command ends in when this ends it."""
    return Exit.BUSY if error.code is Code.RESULTS_BUSY else Exit.USAGE
