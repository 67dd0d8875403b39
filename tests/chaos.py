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
        with suppress(ProcessLookupError):
            os.killpg(driver.pid, signal.SIGKILL)
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


def _descendants(root: int) -> list[tuple[int, str]]:
    """Processes below one, with their command lines."""
    parents, lines = {}, {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with suppress(OSError, IndexError):
                parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                lines[int(folder.name)] = (
                    (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                )
    found, queue = [], [root]
    while queue:
        parent = queue.pop()
        children = [pid for pid, above in parents.items() if above == parent]
        queue += children
        found += [(pid, lines.get(pid, "")) for pid in children]
    return found
