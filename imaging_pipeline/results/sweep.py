"""What runs that were killed have left behind, taken away by the next one."""

import json
import logging
import time
from contextlib import suppress

from imaging_pipeline.results.layout import LOGS
from imaging_pipeline.stores import Entry, Store
from imaging_pipeline.stores.temporary import STALE_SECONDS, sweep_scratch

_MARKER = ".stop"


def sweep(out: Store) -> int:
    """Remove unfinished files and stop markers whose runs are gone; how many.

    Unfinished files: see `stores.temporary.is_orphan`. A marker is stale when its run has written how it ended, or
    when it is older than a day: a run that is asked to stop does not begin another series.

    Args:
        out: RESULTS.
    """
    try:
        markers = [entry for entry in out.list(LOGS) if entry.path.endswith(_MARKER)]
        stale = [entry.path for entry in markers if _is_stale(out, entry)]
        n_unfinished = out.sweep()
    except OSError:  # the run itself will say what is wrong with the store
        return 0
    for path in stale:
        with suppress(OSError):
            out.remove(path)
    removed = len(stale) + n_unfinished + sweep_scratch()
    if removed:
        logging.getLogger(__name__).info("%d files of runs that were killed are removed", removed)
    return removed


def _is_stale(out: Store, marker: Entry) -> bool:
    run_id = marker.path.removeprefix(f"{LOGS}/.").removesuffix(_MARKER)
    with suppress(OSError, ValueError, TypeError, KeyError):
        if json.loads(out.read(f"{LOGS}/{run_id}.run.json"))["finished_at"]:
            return True
    return time.time() - marker.modified_at > STALE_SECONDS
