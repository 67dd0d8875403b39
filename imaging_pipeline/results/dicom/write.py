"""The DICOM outputs of one mask: those that can be made are written, the others refused with their reason."""

import hashlib
import logging
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import FileDataset

from imaging_pipeline.errors import Code, PipelineError
from imaging_pipeline.records import Refusal
from imaging_pipeline.results.dicom.coding import Coded, coded
from imaging_pipeline.results.dicom.frames import labels_by_plane
from imaging_pipeline.results.dicom.rtstruct import make_rtstruct
from imaging_pipeline.results.dicom.seg import make_seg
from imaging_pipeline.results.dicom.source import Origin
from imaging_pipeline.results.dicom.sr import make_sr
from imaging_pipeline.results.dicom.stamp import Maker
from imaging_pipeline.results.measure import Measurement
from imaging_pipeline.segment.labels import Label
from imaging_pipeline.stores import Store
from imaging_pipeline.stores.store import cannot_write
from imaging_pipeline.volume import Volume
from imaging_pipeline.volume.geometry import to_planes

_REFUSALS = frozenset(
    (Code.NO_FRAME_OF_REFERENCE, Code.MISSING_UID, Code.NOTHING_FOUND, Code.SEG_TOO_LARGE, Code.NOT_ENCODABLE)
)
_FAULTS = (ValueError, TypeError, LookupError, AttributeError, OverflowError, struct.error)
"""What highdicom and pydicom raise over attributes that they make no valid object of."""


@dataclass(slots=True, kw_only=True)
class DicomOutputs:
    """What was written of one mask.

    Attributes:
        paths: Format to path relative to RESULTS.
        digests: Path to SHA-256.
        refused: Formats that this series allows no valid object of.
    """

    paths: dict[str, str] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)
    refused: list[Refusal] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class DicomWriter:
    """Writes the DICOM outputs of one mask.

    Attributes:
        out: RESULTS.
        path_of: Path of a format relative to it.
        formats: What is wanted: format to the settings that it is made by.
        labels: Structures that the model names.
        maker: What made the mask.
    """

    out: Store
    path_of: Callable[[str], str]
    formats: dict[str, str]
    labels: tuple[Label, ...]
    maker: Maker

    def write(self, mask: Volume, measurements: Sequence[Measurement], origin: Origin) -> DicomOutputs:
        """Write what is wanted.

        Args:
            mask: Label numbers.
            measurements: Of its labels.
            origin: The series.

        Raises:
            PipelineError: `write-failed` or `grid-mismatch`.
        """
        outputs, made = DicomOutputs(), dict[str, FileDataset]()
        planes = to_planes(mask, origin.task)
        content = hashlib.sha256(planes.data).hexdigest()
        found = labels_by_plane(planes)
        structures = self._structures(found)
        measures = {item.label: item for item in measurements if item.n_voxels}

        def make(name: str) -> FileDataset:
            if name == "seg":
                return make_seg(planes, found, structures, origin, self.maker, content, self.formats[name])
            if name == "rtstruct":
                return make_rtstruct(planes, structures, origin, self.maker, content)
            return make_sr(made["seg"], structures, measures, origin, self.maker)

        for name in self.formats:
            with _refusing(name, outputs):
                origin.check()
                if name == "sr" and "seg" not in made:
                    raise _without_seg(outputs)
                dataset = make(name)
                self._publish(name, dataset, outputs)
                if name == "seg":
                    made[name] = _without_pixels(dataset)
        return outputs

    def _structures(self, found: NDArray[np.bool_]) -> tuple[Coded, ...]:
        """All labels of the model, and those of the mask that its table does not name."""
        named = {label.index: label for label in self.labels}
        for index in np.flatnonzero(found.any(axis=0)).tolist():
            if index and index not in named:
                named[index] = Label(index=index, name=f"label {index}")
        return tuple(coded(named[index], self.maker.model_name) for index in sorted(named))

    def _publish(self, name: str, dataset: FileDataset, outputs: DicomOutputs) -> None:
        path = self.path_of(name)
        try:
            scratch = self.out.scratch(path)
            try:
                dataset.save_as(scratch, enforce_file_format=True)
                digest = self.out.publish_scratch(path)
            finally:
                scratch.unlink(missing_ok=True)
        except OSError as error:
            raise cannot_write(path.rsplit("/", 1)[-1], error, "free space on the disk that it is written to") from None
        outputs.paths[name] = path
        outputs.digests[path] = digest


def _without_pixels(seg: FileDataset) -> FileDataset:
    """What a report needs of a SEG."""
    for keyword in ("PixelData", "PerFrameFunctionalGroupsSequence"):
        seg.pop(keyword, None)
    return seg


def _without_seg(outputs: DicomOutputs) -> PipelineError:
    refused = outputs.refused[0]
    return PipelineError(refused.code, f"no SEG to refer to: {refused.message}", refused.hint)


@contextmanager
def _refusing(name: str, outputs: DicomOutputs) -> Iterator[None]:
    """What keeps one object from being valid leaves the others, and the NIfTI, as they are."""
    try:
        yield
    except PipelineError as error:
        if error.code not in _REFUSALS:
            raise
        outputs.refused.append(Refusal(format=name, code=error.code, message=error.message, hint=error.hint))
    except _FAULTS as error:
        logging.getLogger(__name__).warning("no valid %s", name, exc_info=error)
        message = f"{type(error).__name__}: {error}"[:300]
        hint = "the NIfTI is right; see the run's log, and report it if the source is valid"
        outputs.refused.append(Refusal(format=name, code=Code.NOT_ENCODABLE, message=message, hint=hint))
