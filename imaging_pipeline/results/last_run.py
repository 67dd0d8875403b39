"""How the last run into a RESULTS was told to work: its settings may say what code is trusted, and where to send."""

import json
from typing import Any

from imaging_pipeline.errors import Code, PipelineError
from imaging_pipeline.results.layout import RUN
from imaging_pipeline.results.seal import FIELD, is_sealed
from imaging_pipeline.stores import Store


def read_last_run(out: Store, seal_key: bytes) -> dict[str, Any]:
    """Content of run.json, as that run wrote it.

    Raises:
        PipelineError: `usage` where there is none, `run-edited` where it was changed.
    """
    try:
        content = json.loads(out.read(RUN))
    except (OSError, ValueError):
        content = None
    if not isinstance(content, dict):
        raise PipelineError(Code.USAGE, f"{out} holds no {RUN} of a run", "name the RESULTS of an earlier run")
    if not is_sealed(content, seal_key):
        hint = "see who could write to it; name settings on the command line of a run, which writes it anew"
        why = "is not as its run wrote it: its seal does not fit"
        if FIELD not in content:
            why = "carries no seal: a version before seals wrote it, or somebody took it away"
        raise PipelineError(Code.RUN_EDITED, f"{out}/{RUN} {why}", hint)
    return content
