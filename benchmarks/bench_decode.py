"""A DICOM folder into a volume on oriented axes with its affine, against what else reads one.

    python -m benchmarks.bench_decode [--quick] [--json FILE]

Ours, SimpleITK, dicom2nifti and MONAI's PydicomReader leave the volume in memory; dcm2niix writes an uncompressed
NIfTI file into memory-backed storage. One thread and a fresh process each. Reading headers and sorting slices is in
everybody's time, starting Python and importing libraries is apart; dcm2niix is a program, so all of it counts.
"""

import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from shutil import rmtree

import nibabel as nib
import numpy as np
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from benchmarks.agreement import AFFINE_TOLERANCE_MM
from benchmarks.harness import Options, Row, interleave, parse_options, report, summarise
from benchmarks.measure import Command, Measurement, measure
from benchmarks.peer_account import Account, read_account
from sample_data.phantom import CtSpec, WrittenSeries, write_ct

OURS, DCM2NIIX = "imaging_pipeline", "dcm2niix"
SYSTEMS = {OURS: OURS, DCM2NIIX: DCM2NIIX, "SimpleITK": "simpleitk", "dicom2nifti": "dicom2nifti", "MONAI": "monai"}
SYNTAXES = {
    "implicit LE": ImplicitVRLittleEndian,
    "big endian": ExplicitVRBigEndian,
    "deflated": DeflatedExplicitVRLittleEndian,
    "RLE": RLELossless,
    "JPEG lossless .57": JPEGLossless,
    "JPEG lossless .70": JPEGLosslessSV1,
    "JPEG-LS lossless": JPEGLSLossless,
    "JPEG 2000 lossless": JPEG2000Lossless,
}
UNCOMPRESSED_GOAL, OTHERS_GOAL, MEMORY_GOAL = 2.0, 1.0, 1.3
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A series on disk, and where its readers leave what they make.

    Attributes:
        name: What the table calls it.
        written: Files and what is true of them.
        scratch: Folder for accounts, logs and volumes.
    """

    name: str
    written: WrittenSeries
    scratch: Path

    @property
    def int16_mb(self) -> float:
        """MiB of the voxels as 16-bit numbers, the least that a reader can hold."""
        rows, columns, n = self.written.spec.shape
        return rows * columns * n * 2 / 2**20

    def account(self, system: str, number: int) -> Path:
        """Figures of a system in a round."""
        return self.scratch / f"{SYSTEMS[system]}_{number}.json"

    def volume(self, system: str) -> Path:
        """What a system read."""
        name = "volume.nii" if system == DCM2NIIX else f"{SYSTEMS[system]}.nii"
        return self.scratch / name


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    options = parse_options(__doc__ or "", argv)
    rows: list[Row] = []
    notes: list[str] = []
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="bench-decode-", dir=memory if memory.is_dir() else None) as scratch:
        for case in _cases(options, Path(scratch)):
            found, said = _measure(case, options)
            rows += found
            notes += said
    report("bench_decode", rows, options, [*_goals(rows), *notes, *_explanations()])


def _cases(options: Options, scratch: Path) -> Iterator[Case]:
    """One series at a time; its files are gone when the next one is asked for."""
    n_uncompressed, n_other = (60, 20) if options.quick else (400, 100)
    sizes = {"explicit LE": (ExplicitVRLittleEndian, n_uncompressed)}
    sizes |= {name: (syntax, n_other) for name, syntax in SYNTAXES.items()}
    for name, (syntax, n) in sizes.items():
        spec = CtSpec(shape=(512, 512, n), spacing_mm=(0.8, 0.8, 1.0), transfer_syntax=syntax)
        with tempfile.TemporaryDirectory(prefix="bench-decode-files-") as folder:
            (scratch / "made").mkdir()
            written = write_ct(spec, Path(folder))
            yield Case(name=f"{n} slices, {name}", written=written, scratch=scratch / "made")
            rmtree(scratch / "made")


def _measure(case: Case, options: Options) -> tuple[list[Row], list[str]]:
    """Rows of a case, and what its refusing readers said."""
    print(case.name, flush=True)
    agrees, refusals = _check(case)
    runs = interleave(
        {system: partial(_command, case, system) for system in agrees},
        options.repeats or (3 if options.quick else 7),
    )
    accounts = {
        system: [read_account(case.account(system, number)) for number in range(len(measured))]
        for system, measured in runs.items()
    }
    work = {system: [_work(item) for item in told] for system, told in accounts.items()}
    figures: dict[str, dict[str, float | int | str]] = {
        system: {
            "cpu_s": statistics.median(item.cpu_seconds for item in told),
            "whole_process_s": statistics.median(run.seconds for run in runs[system]),
            "start_up_s": 0.0 if system == DCM2NIIX else _start_up(runs[system], told),
            "memory_ratio": statistics.median((item.peak_mb - item.base_mb) / case.int16_mb for item in told),
            "agrees": agrees[system],
        }
        for system, told in accounts.items()
    }
    peer = DCM2NIIX if DCM2NIIX in work else OURS
    rows = summarise(case.name, work, peer=peer, figures=figures)
    notes = [f"{case.name}: {system} refuses, {said}" for system, said in refusals.items()]
    return rows, [*notes, f"{case.name}: ratios against {OURS}"] if peer == OURS else notes


def _check(case: Case) -> tuple[dict[str, str], dict[str, str]]:
    """Whether each system's voxels and affine are those of dcm2niix, and dcm2niix's those that were written.

    This round is not timed; it also brings the files into the page cache.

    Returns:
        System to the answer, and system to why it refused.
    """
    reference = case.written.canonical()
    agrees, refusals = {}, {}
    for system in (DCM2NIIX, *(name for name in SYSTEMS if name != DCM2NIIX)):
        measure(_command(case, system, 0, save=True))
        refusal = read_account(case.account(system, 0)).refusal
        if refusal:
            refusals[system] = refusal
            continue
        made = nib.as_closest_canonical(nib.load(case.volume(system)))
        agrees[system] = _compare(made, reference)
        if system == DCM2NIIX and agrees[system] == "yes":
            reference = made
    if OURS in refusals:
        raise RuntimeError(f"{case.name}: {refusals[OURS]}")
    return {system: agrees[system] for system in SYSTEMS if system in agrees}, refusals


def _compare(made: nib.Nifti1Image, reference: nib.Nifti1Image) -> str:
    if made.shape != reference.shape:
        return f"shape {made.shape}"
    off_mm = float(np.abs(made.affine - reference.affine).max())
    if off_mm > AFFINE_TOLERANCE_MM:
        return f"affine {off_mm:.3g} mm off"
    pairs = zip(*(np.moveaxis(np.asanyarray(image.dataobj), -1, 0) for image in (made, reference)), strict=True)
    n_different = sum(int((one != other).sum()) for one, other in pairs)
    return "yes" if n_different == 0 else f"{n_different} voxels differ"


def _command(case: Case, system: str, number: int, *, save: bool = False) -> Command:
    folder, account = str(case.written.paths[0].parent), str(case.account(system, number))
    if system == DCM2NIIX:
        case.volume(system).unlink(missing_ok=True)
        arguments = ["benchmarks.peer_dcm2niix", folder, str(case.scratch), account]
    else:
        arguments = ["benchmarks.peer_decode", SYSTEMS[system], folder, account]
        arguments += ["--save", str(case.volume(system))] if save else []
    return Command(argv=(sys.executable, "-W", "ignore", "-m", *arguments), environment=_ONE_THREAD)


def _work(item: Account) -> Measurement:
    return Measurement(seconds=item.work_seconds, peak_rss_mb=item.peak_mb)


def _start_up(measured: Sequence[Measurement], told: Sequence[Account]) -> float:
    pairs = zip(measured, told, strict=True)
    return statistics.median(run.seconds - item.work_seconds for run, item in pairs)


def _goals(rows: Sequence[Row]) -> list[str]:
    """Each goal beside what was found."""
    ours = [row for row in rows if row.system == OURS]
    read_by_peer = {row.case for row in rows if row.system == DCM2NIIX}
    uncompressed, others = ours[0], [row for row in ours[1:] if row.case in read_by_peer]
    slowest = min(others, key=lambda row: row.ratio)
    fullest = max(ours, key=lambda row: float(row.figures["memory_ratio"]))
    fullness = float(fullest.figures["memory_ratio"])
    return [
        _goal(f"{uncompressed.case}: {UNCOMPRESSED_GOAL:g} x dcm2niix", uncompressed.ratio, UNCOMPRESSED_GOAL),
        _goal(f"other syntaxes: never slower than dcm2niix; least, {slowest.case}", slowest.ratio, OTHERS_GOAL),
        f"goal, memory at most {MEMORY_GOAL} x the int16 volume; most, {fullest.case}: {fullness:.2f} x, "
        + ("met" if fullness <= MEMORY_GOAL else "missed"),
    ]


def _goal(words: str, ratio: float, goal: float) -> str:
    return f"goal, {words}: {ratio:.2f} x, {'met' if ratio >= goal else 'missed'}"


def _explanations() -> list[str]:
    return [
        "seconds, cpu_s: the work without start-up; whole_process_s, start_up_s: with it, and it alone (imports, exit)",
        "memory_ratio: peak resident size less that after imports, over the voxels as int16; dcm2niix: its whole peak",
        f"agrees: voxels equal and affines within {AFFINE_TOLERANCE_MM} mm of dcm2niix's in canonical axes; "
        "its own, and where it refuses: of what was written",
    ]


if __name__ == "__main__":
    main()
