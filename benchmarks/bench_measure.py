"""What is measured of labels, ours and SimpleITK's, on a volume of 512 x 512 x 400 voxels; they take turns.

    python -m benchmarks.bench_measure [--quick] [--rounds N]

Each run is a process of its own: seconds are those of measuring alone, after a first small call (imports, and machine
code that numba keeps on disk), memory is the most that the process held beyond mask and image.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imaging_pipeline.results.measure import Measurement, measure
from imaging_pipeline.segment.labels import Label
from imaging_pipeline.volume import Volume

SHAPE = (512, 512, 400)
QUICK = (128, 128, 100)
AFFINE = np.diag([0.8, 0.8, 1.5, 1.0])
SYSTEMS = ("imaging_pipeline", "SimpleITK")


def scene(shape: tuple[int, ...], n_labels: int) -> tuple[NDArray[np.uint8], NDArray[np.int16]]:
    """Ellipsoids that fill about a third of the volume, the image in the order of its planes, the mask in ours."""
    rng = np.random.default_rng(n_labels)
    mask = np.zeros(shape, np.uint8)
    radius = np.array(shape) * 0.5 * (0.75 / n_labels) ** (1 / 3)
    for label in range(1, n_labels + 1):
        half = radius * rng.uniform(0.7, 1.3, 3)
        centre = rng.uniform(half, np.array(shape) - half)
        low, high = np.floor(centre - half).astype(int), np.ceil(centre + half).astype(int)
        box = tuple(slice(max(a, 0), min(b, n)) for a, b, n in zip(low, high, shape, strict=True))
        axes = np.ogrid[box]
        squares = (((axis - c) / h) ** 2 for axis, c, h in zip(axes, centre, half, strict=True))
        mask[box][sum(squares) <= 1] = label
    planes = rng.integers(-1024, 3071, (shape[2], shape[1], 1), np.int16) + np.arange(shape[0], dtype=np.int16)
    return mask, planes.transpose(2, 1, 0)


def ours(mask: NDArray[np.uint8], image: NDArray[np.int16], n_labels: int) -> list[tuple[float, ...]]:
    labels = [Label(index=index, name=f"label {index}") for index in range(1, n_labels + 1)]
    found = measure(Volume(array=mask, affine=AFFINE), Volume(array=image, affine=AFFINE), labels)
    return [_told(item) for item in found if item.n_voxels]


def _told(item: Measurement) -> tuple[float, ...]:
    return item.label, item.volume_ml, item.mean or 0.0, item.p50 or 0.0, item.first_i or 0, item.last_k or 0


def theirs(mask: NDArray[np.uint8], image: NDArray[np.int16], _: int) -> list[tuple[float, ...]]:
    """Shape, and intensity with a histogram for the median; it counts no components."""
    import SimpleITK

    labels, values = (SimpleITK.GetImageFromArray(array.transpose(2, 1, 0)) for array in (mask, image))
    for each in (labels, values):
        each.SetSpacing(tuple(np.diag(AFFINE)[:3]))
    shapes, intensities = SimpleITK.LabelShapeStatisticsImageFilter(), SimpleITK.LabelIntensityStatisticsImageFilter()
    shapes.ComputePerimeterOff()
    intensities.SetNumberOfBins(4096)
    shapes.Execute(labels)
    intensities.Execute(labels, values)
    told = []
    for label in shapes.GetLabels():
        first_i, _, first_k, _, _, n_k = shapes.GetBoundingBox(label)
        volume, mean, median = (
            shapes.GetPhysicalSize(label) / 1000,
            intensities.GetMean(label),
            intensities.GetMedian(label),
        )
        told.append((label, volume, mean, median, first_i, first_k + n_k - 1))
    return told


def run(system: str, n_labels: int, *, quick: bool) -> None:
    work = ours if system == SYSTEMS[0] else theirs
    work(*scene((16, 16, 8), 2), 2)
    mask, image = scene(QUICK if quick else SHAPE, n_labels)
    before = _resident_mb()
    began = time.perf_counter()
    told = work(mask, image, n_labels)
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": seconds, "mb": max(peak - before, 0.0), "told": told}))


def _resident_mb() -> float:
    with open("/proc/self/statm") as stream:
        return int(stream.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def _difference(first: list[list[float]], second: list[list[float]]) -> str:
    pairs = np.array(first), np.array(second)
    off = np.abs(pairs[0] - pairs[1]).max(axis=0)
    return f"ml {off[1]:.2g}, mean {off[2]:.2g}, median {off[3]:.2g}, box {off[4:].max():.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", nargs=2, metavar=("SYSTEM", "LABELS"))
    arguments = parser.parse_args()
    if arguments.one:
        run(arguments.one[0], int(arguments.one[1]), quick=arguments.quick)
        return
    for n_labels in (14, 104):
        taken: dict[str, list[dict[str, Any]]] = {system: [] for system in SYSTEMS}
        for _ in range(arguments.rounds):
            for system in SYSTEMS:
                command = [sys.executable, "-m", "benchmarks.bench_measure", "--one", system, str(n_labels)]
                done = subprocess.run(
                    [*command, *["--quick"] * arguments.quick], check=True, capture_output=True, text=True
                )
                taken[system].append(json.loads(done.stdout))
        for system, runs in taken.items():
            seconds, mb = (statistics.median(run[key] for run in runs) for key in ("seconds", "mb"))
            rounds = ", ".join(f"{run['seconds']:.2f}" for run in runs)
            print(f"{n_labels} labels, {system}: {seconds:.2f} s ({rounds}), {mb:.0f} MiB")
        print("largest differences:", _difference(taken[SYSTEMS[0]][0]["told"], taken[SYSTEMS[1]][0]["told"]))


if __name__ == "__main__":
    main()
