"""Names of files that are not finished yet, and which of those that lie around belong to nobody any more."""

import os
import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from imaging_pipeline.host import machine_tag, process_began

TEMPORARY_PREFIX = ".tmp-"
SCRATCH_PREFIX = "imaging-pipeline-"

STALE_SECONDS = 86_400
"""A file that nobody has written to for a day has no writer: of processes elsewhere there is no other sign."""


def temporary_name(name: str) -> str:
    """Name of a file, beside its place, while it is being written."""
    return f"{TEMPORARY_PREFIX}{_writer()}-{name}"


def scratch_prefix() -> str:
    """How names of this process's files begin in the folder for temporary ones."""
    return f"{SCRATCH_PREFIX}{_writer()}-"


def is_orphan(name: str, modified_at: float) -> bool:
    """Whether the writer of an unfinished file is gone.

    The name tells process and machine (host, its start, and its name space of processes). On this machine the process
    must be gone, or younger than the file: its number was given away again. Files of other machines, which cannot be
    asked, and of older versions, which did not tell, must not have been written to for a day.

    Args:
        name: Without its folder, of `temporary_name` or beginning with `scratch_prefix`.
        modified_at: When it was last written to, in seconds since the epoch.
    """
    if not name.startswith((TEMPORARY_PREFIX, SCRATCH_PREFIX)):
        return False
    writer = name.removeprefix(TEMPORARY_PREFIX).removeprefix(SCRATCH_PREFIX)
    process, _, rest = writer.partition("-")
    if process.isdecimal() and rest.partition("-")[0] == machine_tag():
        began = process_began(int(process))
        return began is None or modified_at < began
    return time.time() - modified_at > STALE_SECONDS


def sweep_scratch() -> int:
    """Remove what processes that are gone have left in this machine's folder for temporary files; how many.

    What another user owns stays.
    """
    removed = 0
    for path in Path(tempfile.gettempdir()).glob(f"{SCRATCH_PREFIX}*"):
        with suppress(OSError):
            if is_orphan(path.name, path.stat().st_mtime):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
                removed += 1
    return removed


def _writer() -> str:
    return f"{os.getpid()}-{machine_tag()}"
