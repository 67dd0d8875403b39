"""Opens what looks on at a run, and closes it."""

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from imaging_pipeline.job import Job
from imaging_pipeline.monitoring.journal import Journal
from imaging_pipeline.monitoring.observer import Observer, Observers


@contextmanager
def observing(job: Job, say: Callable[[str], None], exit_code_of: Callable[[BaseException], int]) -> Iterator[Observer]:
    """Those who look on at a run as its settings say, until the block ends.

    Args:
        job: The run.
        say: Takes a line of news.
        exit_code_of: What the command ends in when an error ends it.
    """
    with ExitStack() as stack:
        observers: list[Observer] = [Journal()]
        if job.settings.metrics.enabled:
            try:
                observers += _metered(job, say, stack)
            except Exception:  # no figure is worth a run
                logging.getLogger(__name__).exception("the run is not metered")
        all_of_them = Observers(observers)
        try:
            yield all_of_them
        except BaseException as error:
            all_of_them.broke_off(exit_code_of(error))
            raise


def _metered(job: Job, say: Callable[[str], None], stack: ExitStack) -> list[Observer]:
    from prometheus_client import CollectorRegistry

    from imaging_pipeline.monitoring.backlog import Backlog
    from imaging_pipeline.monitoring.carried import Carried, samples_in
    from imaging_pipeline.monitoring.devices import Devices
    from imaging_pipeline.monitoring.endpoint import serving
    from imaging_pipeline.monitoring.meter import Meter
    from imaging_pipeline.monitoring.metrics import Metrics
    from imaging_pipeline.monitoring.named import Named
    from imaging_pipeline.monitoring.textfile import PATH, Textfile

    wanted, metrics, backlog = job.settings.metrics, Metrics(), Backlog(job.out)
    try:
        before = samples_in(job.out.read(PATH).decode())
    except (OSError, UnicodeDecodeError):
        before = {}
    metrics.adopt(before)
    published = CollectorRegistry()
    for collector in (Carried(metrics.registry, before), backlog, Devices()):
        published.register(Named(collector, wanted.name))
    textfile = Textfile(published, job.out, wanted.textfile)
    stack.enter_context(textfile.kept_up(wanted.write_seconds))
    if wanted.port:
        stack.enter_context(serving(published, wanted, say))
    return [Meter(job, metrics, backlog), textfile]
