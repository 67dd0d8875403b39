"""Names of everything below RESULTS: BIDS derivatives, built from digests and checked parts only."""

import hashlib
import re

from imaging_pipeline.errors import Code, PipelineError
from imaging_pipeline.records import SeriesIdentity
from imaging_pipeline.stores import Store

INDEX = "index"
LOCK = "lock"
LOGS = "logs"
MEASUREMENTS = "measurements"
MEASUREMENTS_COLUMNS = "measurements.json"
RECEIPTS = "receipts"
REVIEWS = "reviews"
SENT = "sent"
RUN = "run.json"
DATASET_DESCRIPTION = "dataset_description.json"
LABEL_TABLE = "dseg.tsv"
REPORT = "report.html"
REVIEWS = "reviews"
VOLUMES_ONLY = "none"


def open_results(out: Store) -> None:
    """Make RESULTS and the folders that every run needs, and see that it can be written to.

    Raises:
        PipelineError: `out-not-writable`.
    """
    try:
        out.prepare((LOGS, RECEIPTS, LOCK))
    except OSError as error:
        raise PipelineError(
            Code.OUT_NOT_WRITABLE, f"cannot write to {out}: {error.strerror}", "name a place that you may write to"
        ) from None


def image_path(identity: SeriesIdentity) -> str:
    """Path of the image NIfTI relative to RESULTS."""
    return f"{_stem(identity)}_{_modality(identity)}.nii.gz"


def mask_path(identity: SeriesIdentity, model: str) -> str:
    """Path of the mask NIfTI relative to RESULTS."""
    return f"{_stem(identity)}_seg-{label_of(model)}_dseg.nii.gz"


def probabilities_path(identity: SeriesIdentity, model: str) -> str:
    """Path of the class probabilities relative to RESULTS."""
    return f"{_stem(identity)}_seg-{label_of(model)}_probseg.npy"


def dicom_path(identity: SeriesIdentity, model: str, kind: str) -> str:
    """Path of a DICOM output relative to RESULTS; the SEG is called as the mask that it holds."""
    return f"{_stem(identity)}_seg-{label_of(model)}_{'dseg' if kind == 'seg' else kind}.dcm"


def preview_path(identity: SeriesIdentity, model: str) -> str:
    """Path of the picture for the report relative to RESULTS."""
    return f"{_stem(identity)}_seg-{label_of(model)}_preview.png"


def measurements_path(mask: str) -> str:
    """Path of the measurements that belong to a mask."""
    return mask.removesuffix("_dseg.nii.gz") + "_measurements.tsv"


def sidecar_path(nifti: str) -> str:
    """Path of the JSON that belongs to a NIfTI."""
    return nifti.removesuffix(".nii.gz") + ".json"


def receipt_path(series_key: str, model: str) -> str:
    """Path of a series' receipt for one model, relative to RESULTS."""
    return f"{RECEIPTS}/{series_key}_{label_of(model)}.json"


def sent_folder(destination: str) -> str:
    """Folder of what is known to be at a destination, relative to RESULTS."""
    return f"{SENT}/{label_of(destination)[:40]}x{hashlib.sha256(destination.encode()).hexdigest()[:8]}"


def sent_path(destination: str, digest: str) -> str:
    """Path of the record of one object at a destination, relative to RESULTS."""
    return f"{sent_folder(destination)}/{digest}.json"


def label_of(text: str) -> str:
    """A BIDS label: letters and digits only."""
    return re.sub(r"[^A-Za-z0-9]", "", text) or "x"


def _stem(identity: SeriesIdentity) -> str:
    subject, session = f"sub-{identity.subject_key}", f"ses-{identity.session_key}"
    number = "" if identity.series_number is None else f"{abs(identity.series_number)}x"
    name = f"{subject}_{session}_acq-{number}{identity.series_key}"
    return f"{subject}/{session}/{_modality(identity)}/{name}"


def _modality(identity: SeriesIdentity) -> str:
    return label_of(identity.modality.lower())[:16]  # Code String (CS), PS3.5 table 6.2-1
