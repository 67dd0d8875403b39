"""DICOM outputs of series from many scanners: valid by an independent validator, read back by independent readers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from imaging_pipeline.errors import Code
from imaging_pipeline.intake.series import Grouped
from tests.dicom_objects import (
    Made,
    by_dcmqi,
    by_dcmrtstruct2nii,
    complaints,
    dice,
    images_of,
    make,
    on_grid,
    points_of_rtstruct,
    points_of_seg,
)
from tests.test_conformance import SETS

Group = Callable[..., Grouped]
Find = Callable[[str], Path]

NO_VOLUMES = ("ct_transfer_syntaxes", "seg_rtstruct")
REFUSED = {
    "ct_head64_slicer": Code.NO_FRAME_OF_REFERENCE,
    "dicom2nifti": Code.NO_FRAME_OF_REFERENCE,
    "ct_siemens_mct_j2k_totalseg": Code.MISSING_UID,
}
"""De-identified beyond what an object could refer to."""
ALIKE = 3
"""Of a set's tiny series (19 volumes of 4 slices that differ in values alone) so many are enough."""


@pytest.fixture(scope="module")
def made(dicom_set: Find, grouped: Group, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Made]]:
    """Outputs of every volume of every set."""
    folder, outputs = tmp_path_factory.mktemp("outputs"), dict[str, list[Made]]()
    for name in SETS:
        tasks = sorted(grouped(dicom_set(name)).tasks, key=lambda task: -task.n_voxels)
        tiny = [task for task in tasks if task.n_voxels < 100]
        chosen = [task for task in tasks if task not in tiny[ALIKE:]]
        outputs[name] = [make(task, folder / name / task.identity.series_key) for task in chosen]
    return outputs


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in SETS if name not in NO_VOLUMES])
def test_the_validator_finds_no_error_that_the_source_does_not_have_itself(
    name: str, made: dict[str, list[Made]]
) -> None:
    for outputs in made[name]:
        for path in outputs.outputs.paths.values():
            new = _told(complaints(outputs.folder / path))
            if new := new - _told(complaints(outputs.source)):
                new -= {line for ref in outputs.task.slices for line in _told(complaints(Path(ref.path)))}
            assert not new


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in SETS if name not in NO_VOLUMES])
def test_every_voxel_of_every_scanner_comes_back_to_its_place_or_the_object_is_refused(
    name: str, made: dict[str, list[Made]]
) -> None:
    for outputs in made[name]:
        if name in REFUSED:
            assert {item.code for item in outputs.outputs.refused} == {REFUSED[name]}
            assert not outputs.outputs.paths
            continue
        assert not outputs.outputs.refused
        points = points_of_seg(outputs.file("seg"))
        np.testing.assert_array_equal(on_grid(points, outputs.mask), outputs.mask.array)
        points = points_of_rtstruct(outputs.file("rtstruct"), outputs.task)
        np.testing.assert_array_equal(on_grid(points, outputs.mask), outputs.mask.array)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ct_philips_ingenuity", "mr_patient_position", "mr_enhanced_siemens_xa30"])
def test_dcmqi_reads_the_same_labels_on_the_source_grid(name: str, made: dict[str, list[Made]], tmp_path: Path) -> None:
    outputs = made[name][0]
    labels = by_dcmqi(outputs.file("seg"), tmp_path / "dcmqi", outputs.mask)
    np.testing.assert_array_equal(labels, outputs.mask.array)


@pytest.mark.slow
def test_the_structures_of_ibsis_patients_survive_as_seg_and_rtstruct(
    dicom_set: Find, grouped: Group, tmp_path: Path
) -> None:
    """Their RTSTRUCT, made a mask by dcmrtstruct2nii, through our SEG: the NIfTI masks that IBSI published."""
    folder = dicom_set("ibsi_sts")
    checked = 0
    for structures in sorted(folder.glob("dicom/*/*/mask/RS.dcm")):
        patient, modality = structures.parts[-4:-2]
        place = tmp_path / f"{patient}_{modality}"
        published = nib.as_closest_canonical(nib.load(folder / "nifti" / patient / f"{modality}_mask.nii.gz"))
        truth = np.asanyarray(published.dataobj) > 0
        (task,) = grouped(structures.parents[1] / "image").tasks
        (theirs,) = by_dcmrtstruct2nii(structures, structures.parents[1] / "image", place / "theirs").values()
        outputs = make(task, place, (theirs.get_fdata() > 0).astype(np.uint8), {"seg": "binary", "rtstruct": ""})
        np.testing.assert_allclose(outputs.mask.affine, published.affine, atol=1e-3)
        np.testing.assert_array_equal(on_grid(points_of_seg(outputs.file("seg")), outputs.mask) > 0, truth)
        images = images_of(task, place / "in")
        (ours,) = by_dcmrtstruct2nii(outputs.file("rtstruct"), images, place / "ours").values()
        assert dice(ours.get_fdata() > 0, truth) >= 0.98
        checked += 1
    assert checked == 9


def _told(lines: Iterable[str]) -> set[str]:
    """What is wrong, without the path in the object: a bad UID of the source is as bad where it is referred to."""
    return {line.partition("> - ")[2] if "Value invalid" in line else line for line in lines}
