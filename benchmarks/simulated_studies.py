"""Studies of a realistic spread of sizes, dealt into bins by the project's own code."""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.costs import Costs
from benchmarks.simulated_values import Work
from imaging_pipeline.bins import deal

SIDE = 512
SLICE_MB = (SIDE * SIDE * 2 + 4096) / 1e6
"""16-bit pixels and a header."""
MEAN_MB, SPREAD = 500.0, 0.7
SMALLEST_MB, LARGEST_MB = 25.0, 4000.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """One CT volume.

    Attributes:
        n_slices: Files of 512 x 512 pixels.
    """

    n_slices: int

    @property
    def mb(self) -> float:
        """Megabytes of its files."""
        return self.n_slices * SLICE_MB

    @property
    def mvoxels(self) -> float:
        """Million voxels."""
        return self.n_slices * SIDE * SIDE / 1e6


def make_studies(n: int, seed: int = 0) -> list[Study]:
    """Studies of log-normal size, 500 MB in the mean."""
    chance = random.Random(seed)
    median = math.log(MEAN_MB) - SPREAD**2 / 2
    drawn = [min(max(chance.lognormvariate(median, SPREAD), SMALLEST_MB), LARGEST_MB) for _ in range(n)]
    scale = MEAN_MB * n / sum(drawn)
    return [Study(n_slices=max(round(mb * scale / SLICE_MB), 1)) for mb in drawn]


def deal_studies(studies: Sequence[Study], n_slots: int, bins_per_slot: int) -> list[list[Study]]:
    """What `imaging_pipeline.bins.deal` makes of them, weighed by their voxels."""
    voxels = np.array([study.mvoxels for study in studies])
    return [[studies[place] for place in members.tolist()] for members in deal(voxels, n_slots, bins_per_slot)]


def work_of(study: Study, gpu_s: float, open_file_s: float, costs: Costs) -> Work:
    """Seconds of one study.

    Args:
        study: The study.
        gpu_s: Network and labels of a study of 500 MB; others in proportion to their voxels.
        open_file_s: Seconds that the storage takes to open a file.
        costs: Measured ones.
    """
    return Work(
        mb=study.mb + study.mvoxels * costs.written_mb_per_mvoxel,
        decode_s=study.mb * costs.decode_s_per_mb + study.n_slices * open_file_s,
        gpu_s=study.mvoxels * costs.preprocess_s_per_mvoxel + gpu_s * study.mb / MEAN_MB,
        write_s=study.mvoxels * costs.write_s_per_mvoxel + costs.receipt_s,
    )
