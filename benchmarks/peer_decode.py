"""One reader of DICOM folders, in a process and on a thread of its own: folder to oriented volume with affine.

    python -m benchmarks.peer_decode READER FOLDER ACCOUNT [--save VOLUME]

Each reader imports its libraries first; what follows counts as work. All hand out a view on the axes closest to RAS+.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np

from benchmarks.peer_account import account

Reader = Callable[[Path], nib.Nifti1Image]

_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def main() -> None:
    """Read FOLDER once and leave the figures in ACCOUNT."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reader", choices=READERS)
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("account", type=Path, metavar="ACCOUNT")
    parser.add_argument("--save", type=Path, metavar="VOLUME", help="also write the volume, outside the time")
    arguments = parser.parse_args()
    reader = READERS[arguments.reader]()
    figures, volume = account(lambda: nib.as_closest_canonical(reader(arguments.folder)))
    figures.write(arguments.account)
    if arguments.save is not None and volume is not None:
        nib.save(volume, arguments.save)


def imaging_pipeline() -> Reader:
    """Listing, headers, grouping and decoding, as a run without Spark does it."""
    from imaging_pipeline.identity import Keys
    from imaging_pipeline.intake.headers import read_header
    from imaging_pipeline.intake.listing import list_files
    from imaging_pipeline.intake.series import group_series
    from imaging_pipeline.settings import resolve
    from imaging_pipeline.volume.decode import decode

    settings = resolve(None, ())
    keys = Keys(b"benchmark" * 4)

    def read(folder: Path) -> nib.Nifti1Image:
        rows = (row for file in list_files(folder) for row in read_header(file))
        grouped = group_series((row.plane for row in rows if row.plane is not None), keys, settings)
        (task,) = grouped.tasks
        volume = decode(task)
        return nib.Nifti1Image(volume.array, volume.affine)

    return read


def simpleitk() -> Reader:
    """SimpleITK's ImageSeriesReader (GDCM)."""
    import SimpleITK as sitk  # noqa: N813

    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    kept = []  # an array view does not keep its image

    def read(folder: Path) -> nib.Nifti1Image:
        reader = sitk.ImageSeriesReader()
        reader.SetFileNames(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder)))
        image = reader.Execute()
        affine = np.eye(4)
        affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
        affine[:3, 3] = image.GetOrigin()
        kept.append(image)
        return nib.Nifti1Image(sitk.GetArrayViewFromImage(image).transpose(2, 1, 0), _LPS_TO_RAS @ affine)

    return read


def dicom2nifti() -> Reader:
    """dicom2nifti in memory, its reorientation of the voxels left out."""
    from dicom2nifti.convert_dicom import dicom_series_to_nifti

    return lambda folder: dicom_series_to_nifti(str(folder), reorient_nifti=False)["NII"]


def monai() -> Reader:
    """MONAI's PydicomReader."""
    import torch
    from monai.data.image_reader import PydicomReader

    torch.set_num_threads(1)

    def read(folder: Path) -> nib.Nifti1Image:
        reader = PydicomReader()
        array, metadata = reader.get_data(reader.read(str(folder)))
        return nib.Nifti1Image(array, metadata["affine"], dtype=array.dtype)

    return read


READERS: dict[str, Callable[[], Reader]] = {
    "imaging_pipeline": imaging_pipeline,
    "simpleitk": simpleitk,
    "dicom2nifti": dicom2nifti,
    "monai": monai,
}

if __name__ == "__main__":
    main()
