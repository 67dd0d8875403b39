"""Kills what it finds of a run, at random but by a seed: workers, executors, the driver."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

KINDS = {
    "worker": "imaging_pipeline.workers.child",
    "spark worker": "pyspark.daemon",
    "executor": "CoarseGrainedExecutorBackend",
}


class Chaos:
    """A killer with a seed.

    Attributes:
        kills: Victims by kind.
    """

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self.kills: Counter[str] = Counter()

    def run(self, command: Sequence[object], env: dict[str, str], n_kills: int) -> int:
        """Run a command, with so many kills on its way once series are at work; its exit code.

        Args:
            command: What to run.
            env: Its environment.
            n_kills: Of workers and executors; then, if it still runs, the driver.
        """
        with subprocess.Popen(
            [*map(str, command)], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        ) as driver:
            while driver.poll() is None and not _victims(driver.pid, "worker"):
                time.sleep(0.05)
            while driver.poll() is None and n_kills:
                time.sleep(self._random.uniform(0.1, 1.5))
                n_kills -= self._kill_one(driver.pid)
            if driver.poll() is None:
                time.sleep(self._random.uniform(0.1, 1.0))
                driver.kill()
                self.kills["driver"] += 1
            code = driver.wait()
        while orphans := _session(driver.pid):  # daemons of Spark have process groups of their own
            for pid in orphans:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.02)
        return code

    def _kill_one(self, driver: int) -> bool:
        kinds = [kind for kind in KINDS if _victims(driver, kind)]
        if not kinds:
            return False
        kind = self._random.choice(kinds)
        pid = self._random.choice(_victims(driver, kind) or [0])
        with suppress(ProcessLookupError):
            if pid:
                os.kill(pid, signal.SIGKILL)
                self.kills[kind] += 1
                return True
        return False


def _victims(driver: int, kind: str) -> list[int]:
    return [pid for pid, line in _descendants(driver) if KINDS[kind] in line]


def _session(leader: int) -> list[int]:
    """Living processes of a session."""
    return [pid for pid, (state, _, _, session) in _stats().items() if int(session) == leader and state != "Z"]


def _stats() -> dict[int, list[str]]:
    """State, parent, process group and session of every process."""
    found = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with suppress(OSError, IndexError):
                found[int(folder.name)] = (folder / "stat").read_text().rpartition(")")[2].split()[:4]
    return found


def _descendants(root: int) -> list[tuple[int, str]]:
    """Processes below one, with their command lines."""
    parents, lines = {}, {}
    for pid, (_, parent, _, _) in _stats().items():
        with suppress(OSError):
            line = Path(f"/proc/{pid}/cmdline").read_bytes()
            parents[pid], lines[pid] = int(parent), line.replace(b"\0", b" ").decode(errors="replace")
    found, queue = [], [root]
    while queue:
        parent = queue.pop()
        children = [pid for pid, above in parents.items() if above == parent]
        queue += children
        found += [(pid, lines.get(pid, "")) for pid in children]
    return found
