"""Cohorts to plan for: series of mixed and skewed size, and very many of the smallest."""

import shutil
from pathlib import Path

import numpy as np

from sample_data.phantom import CtSpec, write_ct

SMALLEST_MM, LARGEST_MM = 24, 80
"""Edges of a volume, in voxels of 1 mm: what the default model's selection takes."""
LARGE_SHARE = 0.02
"""Share of series that are as large as it gets: eighteen windows, where a common one has one or two."""
FEWEST_SLICES = 3

_MEDIAN_MM, _SPREAD = 34, 0.22
_SIDE = 16
_PATIENT, _UID_TAIL = "PHANTOM-00000000", 8


def make_mixed(folder: Path, n: int, seed: int = 0) -> None:
    """Write MR series whose edges are log-normal, a few of them as large as the model takes.

    Args:
        folder: Where to; a folder for each series, each a study and a patient of its own.
        n: Series.
        seed: Of the sizes.
    """
    rng = np.random.default_rng(seed)
    edges = np.exp(rng.normal(np.log(_MEDIAN_MM), _SPREAD, (n, 3)))
    edges[rng.permutation(n)[: max(round(n * LARGE_SHARE), 1)]] = LARGEST_MM
    for number, (rows, columns, slices) in enumerate(edges.clip(SMALLEST_MM, LARGEST_MM).round().astype(int).tolist()):
        spec = CtSpec(
            shape=(rows, columns, slices),
            spacing_mm=(1.0, 1.0, 1.0),
            modality="MR",
            seed=number,
            patient_id=f"PHANTOM-{number:04d}",
        )
        write_ct(spec, folder / f"series{number:04d}")


def make_smallest(folder: Path, n: int) -> int:
    """Write CT series of three slices of 16 x 16 pixels.

    One series is written by pydicom; the others are its bytes under identifiers of the same width.

    Args:
        folder: Where to; a folder for each series, each a study and a patient of its own.
        n: Series.

    Returns:
        Files written.
    """
    spec = CtSpec(shape=(_SIDE, _SIDE, FEWEST_SLICES), patient_id=_PATIENT)
    model = folder / "model"
    contents = [path.read_bytes() for path in write_ct(spec, model).paths]
    shutil.rmtree(model)
    uids = [spec.study_instance_uid, spec.series_instance_uid, *map(spec.sop_instance_uid, range(FEWEST_SLICES))]
    for number in range(n):
        tail = b"%08d" % (number + 10_000_000)
        series = folder / f"{number // 1000:03d}" / f"{number:05d}"
        series.mkdir(parents=True)
        for k, content in enumerate(contents):
            for uid in uids:
                content = content.replace(uid.encode(), uid.encode()[:-_UID_TAIL] + tail)
            (series / f"{k}.dcm").write_bytes(content.replace(_PATIENT.encode(), b"PHANTOM-" + tail))
    return n * len(contents)
