"""The attributes of a generated series that are neither pixels nor frames."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, generate_uid
from pydicom.valuerep import format_number_as_ds

from sample_data.ct_spec import CtSpec

IMPLEMENTATION_UID = generate_uid(entropy_srcs=["imaging_pipeline phantom"])
DATE, TIME = "20200102", "030405"


def common_header(spec: CtSpec, sop_class: UID, sop_instance: UID) -> Dataset:
    """Patient, study, series, frame of reference and equipment of one instance."""
    ds = Dataset()
    ds.ImageType = list(spec.image_type)
    ds.SOPClassUID, ds.SOPInstanceUID = sop_class, sop_instance
    ds.StudyDate = ds.SeriesDate = ds.AcquisitionDate = ds.ContentDate = DATE
    ds.StudyTime = ds.SeriesTime = ds.AcquisitionTime = ds.ContentTime = TIME
    ds.AccessionNumber = ds.ReferringPhysicianName = ds.StudyID = ""
    ds.Modality = spec.modality
    ds.Manufacturer, ds.ManufacturerModelName = "Phantom", "Ellipsoids"
    ds.StudyDescription, ds.SeriesDescription = "Phantom study", spec.description
    ds.PatientName, ds.PatientID = spec.patient_name, spec.patient_id
    ds.PatientBirthDate, ds.PatientSex = "19000101", "O"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = spec.study_instance_uid, spec.series_instance_uid
    ds.FrameOfReferenceUID = generate_uid(entropy_srcs=["frame of reference", spec.study_instance_uid])
    ds.PositionReferenceIndicator = ""
    ds.PatientPosition = "HFS"
    ds.SeriesNumber, ds.AcquisitionNumber = spec.series_number, 1
    if spec.modality == "CT":
        ds.KVP = "120"
        ds.GantryDetectorTilt = format_number_as_ds(float(spec.tilt_deg))
    return ds


def place(ds: Dataset, spec: CtSpec, k: int) -> None:
    """Where slice `k` lies: the Image Plane module (PS3.3 C.7.6.2), or a part of it in a functional group."""
    ds.ImagePositionPatient = position(spec, k)
    ds.ImageOrientationPatient = orientation(spec)
    ds.PixelSpacing = decimals(spec.spacing_mm[:2])
    ds.SliceThickness = format_number_as_ds(float(spec.spacing_mm[2]))
    row, column = np.reshape(np.asarray(ds.ImageOrientationPatient, float), (2, 3))
    ds.SliceLocation = format_number_as_ds(float(np.cross(row, column) @ np.asarray(ds.ImagePositionPatient, float)))


def position(spec: CtSpec, k: int) -> list[str]:
    """Image Position (Patient) (0020,0032) of slice `k`."""
    return decimals((spec.affine_lps() @ (0, 0, k, 1))[:3])


def orientation(spec: CtSpec) -> list[str]:
    """Image Orientation (Patient) (0020,0037), tilt included."""
    directions = spec.affine_lps()[:3, :2]
    return decimals((directions / np.linalg.norm(directions, axis=0)).T.ravel())


def pixel_header(ds: Dataset, spec: CtSpec) -> None:
    """The Image Pixel module (PS3.3 C.7.6.3) without the pixels."""
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.Rows, ds.Columns = spec.shape[:2]
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, spec.bits_stored, spec.bits_stored - 1
    ds.PixelRepresentation = int(spec.signed)


def file_meta(spec: CtSpec, ds: Dataset) -> FileMetaDataset:
    """File Meta Information (PS3.10 7.1) that does not depend on the library that writes it."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
    meta.TransferSyntaxUID = UID(spec.transfer_syntax)
    meta.ImplementationClassUID, meta.ImplementationVersionName = IMPLEMENTATION_UID, "PHANTOM_1"
    return meta


def decimals(values: Iterable[float]) -> list[str]:
    """Numbers as Decimal Strings of at most 16 characters."""
    return [format_number_as_ds(float(value)) for value in values]
