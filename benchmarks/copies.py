"""Many studies from one: copies of a study under identifiers of their own."""

import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pydicom
from pydicom.dataset import FileDataset
from pydicom.errors import InvalidDicomError
from pydicom.uid import UID, generate_uid

from benchmarks.measure import Measurement

Runs = Mapping[str, tuple[Measurement, ...]]

_UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID")
_FEWEST_SLICES = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Copies:
    """Copies of a study.

    Attributes:
        studies: All files, a folder for each copy, series mixed as in the original.
        split: The same files (hard links), volumes only, a folder for each series.
        series: Series Instance UID (0020,000E) of each volume → name of its folder in `split`.
    """

    studies: Path
    split: Path
    series: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Instance:
    name: str
    dataset: FileDataset
    uids: dict[str, str]
    series_number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A number of copies, and where results of working on them go."""

    copies: Copies
    results: Path

    @property
    def name(self) -> str:
        """What the table calls it."""
        return f"{len(self.copies.series)} series"

    def key(self, system: str) -> str:
        """Name of a system's runs on this case."""
        return f"{self.name}, {system}"

    def out(self, system: str, number: int) -> Path:
        """Output folder of a system in a round."""
        return self.results / f"{''.join(filter(str.isalnum, system))}_round{number}"

    def runs(self, runs: Runs, systems: Iterable[str]) -> Runs:
        """System to its runs on this case."""
        return {system: runs[self.key(system)] for system in systems}


def make_case(sample: Path, n: int, where: Path) -> Case:
    """Copies of a study, and a folder beside them for temporary files."""
    (where / "tmp").mkdir(parents=True)
    return Case(copies=make_copies(sample, n, where), results=where / "results")


def make_copies(study: Path, n: int, where: Path) -> Copies:
    """Copy a study: new Study, Series, SOP Instance and Frame of Reference UIDs and Patient IDs, pixels as they are.

    A series of fewer than 10 slices, such as a localizer, is no volume and gets no folder in `split`.

    Args:
        study: Folder of one study's files.
        n: Copies to make.
        where: Folder to make them in.
    """
    instances = [found for path in sorted(study.rglob("*")) if (found := _read(path)) is not None]
    slices = Counter(instance.uids["SeriesInstanceUID"] for instance in instances)
    copies = Copies(studies=where / "studies", split=where / "split", series={})
    for number in range(n):
        for instance in instances:
            path = _write(instance, number, copies.studies / f"copy{number:03d}")
            if slices[instance.uids["SeriesInstanceUID"]] >= _FEWEST_SLICES:
                folder = f"copy{number:03d}_series{instance.series_number}"
                copies.series[instance.dataset.SeriesInstanceUID] = folder
                (copies.split / folder).mkdir(parents=True, exist_ok=True)
                os.link(path, copies.split / folder / path.name)
    return copies


def _read(path: Path) -> _Instance | None:
    try:
        dataset = pydicom.dcmread(path) if path.is_file() else None
    except InvalidDicomError:
        return None
    if dataset is None:
        return None
    uids = {keyword: str(dataset[keyword].value) for keyword in _UIDS if keyword in dataset}
    return _Instance(name=path.name, dataset=dataset, uids=uids, series_number=int(dataset.SeriesNumber))


def _write(instance: _Instance, number: int, folder: Path) -> Path:
    dataset = instance.dataset
    for keyword, uid in instance.uids.items():
        setattr(dataset, keyword, _new_uid(uid, number))
    dataset.PatientID = f"COPY{number:03d}"
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    folder.mkdir(parents=True, exist_ok=True)
    dataset.save_as(folder / instance.name)
    return folder / instance.name


def _new_uid(uid: str, number: int) -> UID:
    """The same for the same identifier and copy, so that references within a copy hold."""
    return generate_uid(entropy_srcs=[uid, str(number)])
